"""What the best pose leaves unexplained in an image: evidence on whether it shows the particle at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.polar import squared
from cryorbit.alignment.refine import Batch, Comparison, OwnPart, Poses, compare, in_average_frame
from cryorbit.alignment.templates import Geometry, Template
from cryorbit.estimation.outliers import ImageEvidence, evidence_log_odds, probability_of_log_odds

# First ring of each band, as parts of the number of rings; the last band ends with the last ring.
CHI_BANDS = (0.0, 2 / 44, 4 / 44, 8 / 44, 12 / 44, 16 / 44, 24 / 44)
AMPLITUDE_BANDS = (1 / 44, 6 / 44, 12 / 44, 20 / 44)


@dataclass(frozen=True)
class Evidence:
    """Of a batch; every measure is free of the image's own part in the average.

    Attributes
    ----------
    likelihood_ratio
        Log-likelihood of the particle at its best pose over none, in nats, shape (batch,).
    promise
        What it would be if the image showed the average, shape (batch,).
    amplitude, amplitude_std
        Strength of the average in the image, 1 for a perfect particle, and the deviation that noise gives it, shape
        (batch,).
    residual
        Power of what is left over that of the noise in bands of rings from the centre outwards, shape (batch, bands).
    second_particle
        Log-likelihood that what is left is noise and a second, unaligned particle of the same kind over noise alone, in
        nats, shape (batch,).
    second_mean, second_std
        Its mean and deviation where there is only noise left, shape (batch,).
    other_object
        Log-likelihood that the whole image is noise and an unaligned particle-like object over noise alone.
    band_amplitude, band_amplitude_std
        The strength in bands of rings, shape (batch, bands).
    """

    likelihood_ratio: Float[Tensor, " batch"]
    promise: Float[Tensor, " batch"]
    amplitude: Float[Tensor, " batch"]
    amplitude_std: Float[Tensor, " batch"]
    residual: Float[Tensor, "batch bands"]
    second_particle: Float[Tensor, " batch"]
    second_mean: Float[Tensor, " batch"]
    second_std: Float[Tensor, " batch"]
    other_object: Float[Tensor, " batch"]
    band_amplitude: Float[Tensor, "batch wide"]
    band_amplitude_std: Float[Tensor, "batch wide"]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the attributes."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def concatenate(cls, parts: list[Evidence]) -> Evidence:
        """Evidence of several batches."""
        return cls(*(torch.cat(same) for same in zip(*(part.tensors() for part in parts), strict=True)))

    def judged(self) -> ImageEvidence:
        """The part that outliers are judged by."""
        names = [field.name for field in fields(ImageEvidence)]
        return ImageEvidence(**{name: getattr(self, name).cpu().double().numpy() for name in names})

    def of_rows(self, rows: Tensor) -> Evidence:
        """Of some of the images."""
        return Evidence(*(field[rows] for field in self.tensors()))


def examine(batch: Batch, template: Template, poses: Poses, geometry: Geometry, own: OwnPart | None = None) -> Evidence:
    """Compare images with the average at their poses.

    Parameters
    ----------
    batch, template, poses, own
        As for :func:`cryorbit.alignment.refine.refine`.
    geometry
        Of the alignment.
    """
    batch = batch.inner(template.rings)
    harmonics = in_average_frame(batch, poses, geometry.grid, template.harmonics.shape[1])
    return judge(batch, template, poses, compare(harmonics, template, batch, own, poses, geometry.grid), geometry)


def judge(batch: Batch, template: Template, poses: Poses, found: Comparison, geometry: Geometry) -> Evidence:
    """Evidence from a comparison that has been made already; see :func:`examine`."""
    batch = batch.inner(template.rings)
    weight = batch.ring_weight()
    amplitude = batch.transfer.amplitude(poses.defocus_um)
    gain = (amplitude * found.correlation).sum(dim=1)
    energy = batch.transfer.power(poses.defocus_um) * found.energy
    power = squared(batch.samples).mean(dim=3).sum(dim=1)
    noise = batch.noise * geometry.noise_power
    left = (power - 2 * gain + energy) / noise
    # Ring k has as many free coefficients as cycles fit around it.
    members = torch.arange(1, template.rings + 1, device=left.device).to(left)
    residual = _by_band(left * members, CHI_BANDS) / _by_band(members.expand_as(left), CHI_BANDS)
    # A random image with the spectrum of the particle, of which nothing but the spectrum is known; ``members`` degrees
    # of freedom, each one a complex number.
    free = math.pi * members * geometry.noise_power / geometry.grid.box_size**2
    ratio = batch.transfer.power(poses.defocus_um) * template.energy / noise
    shrunk = ratio / (1 + ratio)
    second = (free * (left * shrunk - torch.log1p(ratio))).sum(dim=1)
    other = (free * (power / noise * shrunk - torch.log1p(ratio))).sum(dim=1)
    strength, scale = gain * weight, energy * weight
    bands_gain, bands_scale = _by_band(strength, AMPLITUDE_BANDS)[:, :-1], _by_band(scale, AMPLITUDE_BANDS)[:, :-1]
    total, expected = strength.sum(dim=1), scale.sum(dim=1).clamp(min=1e-9)
    return Evidence(
        likelihood_ratio=total - 0.5 * expected, promise=0.5 * expected, amplitude=total / expected,
        amplitude_std=expected.rsqrt(), residual=residual, second_particle=second,
        second_mean=(free * (shrunk - torch.log1p(ratio))).sum(dim=1),
        second_std=(free * shrunk.square()).sum(dim=1).sqrt(),
        other_object=other,
        band_amplitude=bands_gain / bands_scale.clamp(min=1e-9), band_amplitude_std=bands_scale.clamp(min=1e-9).rsqrt(),
    )  # fmt: skip


def particle_probability(evidence: Evidence) -> Float[Tensor, " batch"]:
    """Probability of each image to show the particle, as far as the alignment can tell."""
    junk = probability_of_log_odds(evidence_log_odds(evidence.judged()))
    return torch.from_numpy(1 - junk).to(evidence.amplitude)


def _by_band(values: Float[Tensor, "batch rings"], first: tuple[float, ...]) -> Float[Tensor, "batch bands"]:
    rings = values.shape[1]
    edges = [round(part * rings) for part in first] + [rings]
    return torch.stack([values[:, low:high].sum(dim=1) for low, high in pairwise(edges)], dim=1)
