"""Reflections: the view from the other side is the mirror image, about the x axis and turned.

On rings a reflection takes the angle to its negative. Images are real, so that ``F(theta + pi)`` is the conjugate of
``F(theta)``, and the reflected harmonics are ``(-1)^m`` times the conjugates.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from cryorbit.alignment.images import RingImages
from cryorbit.classification.bank import Bank, ClassSums
from cryorbit.classification.joint import Assignment


def reflected_harmonics(
    harmonics: Complex[Tensor, "classes rings orders"],
) -> Complex[Tensor, "classes rings orders"]:
    """Harmonics of the images reflected about the x axis."""
    sign = 1.0 - 2.0 * (torch.arange(harmonics.shape[-1], device=harmonics.device) % 2)
    return harmonics.conj() * sign


def reflected(images: RingImages, which: Bool[Tensor, " n"]) -> RingImages:
    """The same images, some of them reflected about the x axis."""
    samples = images.samples
    # Sample j lies at the angle pi j / half; its negative is half a turn before the one at half - j.
    other = torch.cat([samples[..., :1], samples[..., 1:].flip(-1).conj()], dim=-1)
    return replace(
        images,
        samples=torch.where(which[:, None, None], other, samples),
        astigmatism_rad=torch.where(which, -images.astigmatism_rad, images.astigmatism_rad),
    )


def with_reflections(bank: Bank) -> Bank:
    """All averages, and then all of them reflected, each with half of its share."""
    half = bank.log_share - torch.log(torch.tensor(2.0))
    both = torch.cat([bank.harmonics, reflected_harmonics(bank.harmonics)])
    return Bank(both, torch.cat([half, half]))


def folded_sums(sums: ClassSums) -> ClassSums:
    """Sums over classes and their reflections as sums over the classes."""
    n = len(sums.particles) // 2
    numerator = sums.numerator[:n] + reflected_harmonics(sums.numerator[n:])
    return ClassSums(numerator, sums.power[:n] + sums.power[n:], sums.particles[:n] + sums.particles[n:])


def in_class_frame(assigned: Assignment, classes: int) -> tuple[Assignment, Bool[Tensor, " images"]]:
    """Poses of the images after those that belong to reflections were reflected, and which these are.

    Where ``image(x) = average(M R(psi) (x - t))`` with the reflection ``M``, the reflected image has the angle
    ``-psi`` and the shift ``M t``.

    Parameters
    ----------
    assigned
        Among all classes and their reflections.
    classes
        How many there are without reflections.
    """
    which = assigned.number >= classes
    likeness = assigned.likeness
    if likeness.shape[1] > classes:
        likeness = torch.maximum(likeness[:, :classes], likeness[:, classes:])
    psi = torch.where(which, -assigned.psi, assigned.psi)
    shift = reflected_shift(assigned.shift, which)
    return replace(assigned, number=assigned.number % classes, psi=psi, shift=shift, likeness=likeness), which


def reflected_shift(shift: Float[Tensor, "n 2"], which: Bool[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """Shifts, some of them reflected about the x axis."""
    return torch.stack([shift[:, 0], torch.where(which, -shift[:, 1], shift[:, 1])], dim=1)
