"""The joint posterior of class, angle and shift of every image, on a grid, and the sums it gives to the averages.

On rings a turn is a phase of each order, so one product of matrices for each order compares all images, at all shifts,
with all averages, and one Fourier transform gives all angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.refine import Batch, centred
from cryorbit.alignment.search import CircleSearch
from cryorbit.classification.bank import Bank, ClassSums

# Images that are compared at once with so many classes, and fewer with more.
BATCH, MANY_CLASSES = 64, 64
# Points of the grid to both sides of the best angle that are the same pose.
NEAR_ANGLES = 2


def batch_for(classes: int) -> int:
    """Images to compare at once, so that memory does not grow with the number of classes."""
    return max(1, min(BATCH, BATCH * MANY_CLASSES // max(classes, 1)))


@dataclass(frozen=True)
class JointScores:
    """Posterior of a batch on the grid.

    Attributes
    ----------
    posterior
        Shape (batch, shifts, classes, angles); adds up to 1 for each image.
    log_evidence
        Log-likelihood of each image over that of noise alone, averaged over the prior, shape (batch,).
    likeness
        Log-posterior of each class at its best angle and shift, up to a constant for each image, shape (batch,
        classes).
    image
        Harmonics of the shifted images times their transfer function, shape (batch, rings, shifts, orders).
    power
        Square of the transfer function, shape (batch, rings).
    centre
        Shift that the grid of shifts is around, in pixels, shape (batch, 2).
    """

    posterior: Float[Tensor, "batch shifts classes angles"]
    log_evidence: Float[Tensor, " batch"]
    likeness: Float[Tensor, "batch classes"]
    image: Complex[Tensor, "batch rings shifts orders"]
    power: Float[Tensor, "batch rings"]
    centre: Float[Tensor, "batch 2"]

    @property
    def by_class(self) -> Float[Tensor, "batch classes"]:
        """Probability of each class."""
        return self.posterior.sum(dim=(1, 3))


@dataclass(frozen=True)
class Assignment:
    """What the posterior says of each image.

    Attributes
    ----------
    number, probability
        The most likely class, from 0, and its probability, shape (images,).
    pose_probability
        Of that class and an angle near the most likely one, at any shift, shape (images,).
    psi
        The most likely angle, shape (images,), in radians.
    shift
        The most likely shift in pixels, shape (images, 2).
    log_evidence, likeness
        As in :class:`JointScores`, shapes (images,) and (images, classes).
    """

    number: Int[Tensor, " images"]
    probability: Float[Tensor, " images"]
    pose_probability: Float[Tensor, " images"]
    psi: Float[Tensor, " images"]
    shift: Float[Tensor, "images 2"]
    log_evidence: Float[Tensor, " images"]
    likeness: Float[Tensor, "images classes"]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the attributes."""
        return (
            self.number, self.probability, self.pose_probability, self.psi, self.shift, self.log_evidence,
            self.likeness,
        )  # fmt: skip

    @classmethod
    def concatenate(cls, parts: list[Assignment]) -> Assignment:
        """Of several batches."""
        return cls(*(torch.cat(same) for same in zip(*(part.tensors() for part in parts), strict=True)))

    def of_rows(self, rows: Tensor) -> Assignment:
        """Of some of the images."""
        return Assignment(*(values[rows] for values in self.tensors()))


def known_defocus(told: DefocusRange) -> Float[Tensor, " images"]:
    """What is known of the defocus before the image is seen: the value itself, or the middle of its prior.

    Raises
    ------
    ValueError
        If nothing is known.
    """
    known = told.fixed_um if told.fixed_um is not None else told.centre_um
    if known is None:
        raise ValueError("Classes are compared at defoci that are known.")
    return known


def compare_with_all(search: CircleSearch, batch: Batch, bank: Bank, centre: Float[Tensor, "batch 2"]) -> JointScores:
    """Compare images of a known defocus with all classes, at all angles and at shifts around what is known of each.

    Parameters
    ----------
    search
        The grid of angles and shifts.
    batch
        The images.
    bank
        The averages.
    centre
        Shift of each image, in pixels, around which shifts are tried.
    """
    rings, orders, shifts = search.rings, search.orders, search.shifts
    inner = batch.inner(rings)
    weight = inner.ring_weight()
    defocus = known_defocus(batch.defocus)
    amplitude, power = inner.transfer.amplitude(defocus), inner.transfer.power(defocus)
    harmonics = search.shifted(centred(inner.samples, centre, search.grid))
    image = (harmonics * amplitude[..., None, None]).sum(dim=1)
    n = len(image)
    left = (image.conj() * weight[:, None, None]).permute(3, 0, 2, 1).reshape(orders, n * len(shifts), rings)
    model = bank.of_shape(rings, orders).permute(2, 1, 0).contiguous()
    products = torch.bmm(left, model).permute(1, 2, 0).reshape(n, len(shifts), len(bank), orders)
    log_p = torch.fft.irfft(products, n=search.angles, dim=-1, norm="forward")
    energy = torch.nn.functional.pad(bank.energy, (0, max(0, rings - bank.rings)))[:, :rings]
    norm = 0.5 * (power * weight) @ energy.T
    where = -0.5 * ((shifts + centre[:, None]) / batch.shift_spread_px).square().sum(dim=2)
    where = where + math.log(_cell_px2(shifts) / (2 * math.pi * batch.shift_spread_px**2))
    log_p += (bank.log_share - norm)[:, None, :, None] + where[:, :, None, None]
    likeness = log_p.amax(dim=(1, 3))
    top = likeness.amax(dim=1)
    posterior = log_p.sub_(top[:, None, None, None]).exp_()
    total = posterior.sum(dim=(1, 2, 3))
    posterior /= total[:, None, None, None]
    log_evidence = top + total.log() - math.log(search.angles)
    return JointScores(posterior, log_evidence, likeness, image, power, centre)


def _cell_px2(shifts: Float[Tensor, "shifts 2"]) -> float:
    """Area that each shift of a square grid stands for; a single one is taken to be the only possible one."""
    values = torch.unique(shifts[:, 0])
    return float(values.diff().min()) ** 2 if len(values) > 1 else 1.0


def sums_of_all(scores: JointScores) -> ClassSums:
    """Sums of all classes over a batch, weighted by the whole posterior."""
    n, rings, shifts, orders = scores.image.shape
    turns = torch.fft.rfft(scores.posterior, dim=-1)[..., :orders]
    right = turns.permute(3, 0, 1, 2).reshape(orders, n * shifts, -1)
    left = scores.image.permute(3, 1, 0, 2).reshape(orders, rings, n * shifts)
    by_class = scores.by_class
    return ClassSums(torch.bmm(left, right).permute(2, 1, 0), by_class.T @ scores.power, by_class.sum(dim=0))


def most_likely(search: CircleSearch, scores: JointScores, tied: bool = False) -> Assignment:
    """The peak of each image's posterior, and the probability of its class.

    Parameters
    ----------
    search, scores
        The grid, and what was found on it.
    tied
        Whether the second half of the classes are reflections of the first: then a class is both of them.
    """
    angles = scores.posterior.shape[3]
    by_class = scores.by_class
    if tied:
        of_pair = by_class.reshape(len(by_class), 2, -1)
        probability, number = of_pair.sum(dim=1).max(dim=1)
        number = number + of_pair.shape[2] * of_pair.gather(2, number[:, None, None].expand(-1, 2, 1))[..., 0].argmax(1)
    else:
        probability, number = by_class.max(dim=1)
    rows = torch.arange(len(number), device=number.device)
    own = scores.posterior[rows, :, number]
    within = own.flatten(1).argmax(dim=1)
    shift, turn = search.shifts[within // angles] + scores.centre, within % angles
    near = torch.arange(-NEAR_ANGLES, NEAR_ANGLES + 1, device=number.device) + turn[:, None]
    pose_probability = own.sum(dim=1).gather(1, near % angles).sum(dim=1)
    psi = search.psi[turn]
    return Assignment(number, probability, pose_probability, psi, shift, scores.log_evidence, scores.likeness)
