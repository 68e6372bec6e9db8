"""Where the grid leaves a doubt about the class: the best few are refined and compared on all rings.

An image that has put its own noise into an average looks more like that one than it is; its part is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorbit.alignment.average import State, refined
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses
from cryorbit.alignment.search import CircleSearch
from cryorbit.alignment.templates import Geometry
from cryorbit.classification.joint import Assignment, batch_for, compare_with_all, known_defocus
from cryorbit.classification.mirror import reflected, reflected_shift
from cryorbit.classification.model import ClassModel

# Probability of the class beyond which there is no doubt, and how many classes are tried where there is.
SURE, MOST_RIVALS = 0.999, 4
# Further behind the best on the grid than this, a class does not come back.
MARGIN_NATS = 30.0
NEWTON_STEPS = 2


@dataclass(frozen=True)
class Membership:
    """How images are in the averages that they are compared with.

    Attributes
    ----------
    number
        The class, reflections after all classes, shape (n,).
    poses
        In the frame of that class.
    weight
        How much each counts, shape (n,).
    """

    number: Int[Tensor, " n"]
    poses: Poses
    weight: Float[Tensor, " n"]

    def of_rows(self, rows: Tensor) -> Membership:
        """Of some of the images."""
        return Membership(self.number[rows], self.poses.of_rows(rows), self.weight[rows])


@dataclass(frozen=True)
class Rivals:
    """The few classes that are most like each image.

    Attributes
    ----------
    number
        Classes, their reflections after them, the best on the grid first, -1 for those too far behind; shape (n,
        rivals).
    among
        The share of the posterior on the grid that they have together, shape (n,).
    psi, shift
        The best pose in each, in radians and pixels, shapes (n, rivals) and (n, rivals, 2).
    log_likelihood
        There, over that of noise; of the grid's poses not known yet; shape (n, rivals).
    """

    number: Int[Tensor, "n rivals"]
    among: Float[Tensor, " n"]
    psi: Float[Tensor, "n rivals"]
    shift: Float[Tensor, "n rivals 2"]
    log_likelihood: Float[Tensor, "n rivals"]


def contested(
    images: RingImages,
    assigned: Assignment,
    model: ClassModel,
    search: CircleSearch,
    geometry: Geometry,
    own: Membership | None = None,
) -> Assignment:
    """Assignments with doubts about the class settled.

    Parameters
    ----------
    images
        As they are, none reflected.
    assigned
        By the grid; reflections of classes are counted after all classes.
    model
        What they are compared with.
    search
        The grid.
    geometry
        Of the alignment.
    own
        How the images are in the averages; None where they are in none.
    """
    doubtful = torch.nonzero(assigned.probability < SURE).flatten()
    if not len(doubtful):
        return assigned
    few = images.of_rows(doubtful)
    rivals = compared(few, model, search, geometry, None if own is None else own.of_rows(doubtful))
    return _decided(assigned, doubtful, rivals, model)


def compared(
    images: RingImages, model: ClassModel, search: CircleSearch, geometry: Geometry, own: Membership | None
) -> Rivals:
    """The classes that are most like each image, refined on all rings, without the image's own part.

    Parameters
    ----------
    images, model, search, geometry, own
        As for :func:`contested`.
    """
    rivals = _rivals(images, model, search)
    classes, psi, shift, log_p = len(model), rivals.psi, rivals.shift, rivals.log_likelihood
    for rank in range(rivals.number.shape[1]):
        for number in torch.unique(rivals.number[:, rank]).tolist():
            if number < 0 or model.templates[number % classes] is None:
                continue
            rows = torch.nonzero(rivals.number[:, rank] == number).flatten()
            which = torch.full((len(rows),), number >= classes, device=images.device)
            some = images.of_rows(rows)
            some = reflected(some, which) if number >= classes else some
            turn = torch.where(which, -psi[rows, rank], psi[rows, rank])
            start = Poses.at(turn, reflected_shift(shift[rows, rank], which), known_defocus(some.defocus))
            poses = _refined(some, number, start, model, geometry, None if own is None else own.of_rows(rows))
            log_p[rows, rank] = poses.log_likelihood
            psi[rows, rank] = torch.where(which, -poses.psi, poses.psi)
            shift[rows, rank] = reflected_shift(poses.shift, which)
    return rivals


def _refined(
    images: RingImages, number: int, start: Poses, model: ClassModel, geometry: Geometry, own: Membership | None
) -> Poses:
    """Poses against one average, from which the images that are in it are taken out."""
    template = model.templates[number % len(model)]
    if template is None:
        raise ValueError(f"class {number} has no average")
    inside = torch.zeros(len(images), dtype=torch.bool, device=images.device) if own is None else own.number == number
    parts, order = [], []
    for is_inside in (True, False):
        chosen = torch.nonzero(inside == is_inside).flatten()
        if not len(chosen):
            continue
        poses, weight = start.of_rows(chosen), torch.ones(len(chosen), device=images.device)
        if is_inside and own is not None:
            poses, weight = own.poses.of_rows(chosen), own.weight[chosen]
        state = State(poses, weight, model.noise, model.shift_spread_px)
        parts.append(refined(images.of_rows(chosen), state, template, geometry, NEWTON_STEPS, own=is_inside)[0])
        order.append(chosen)
    return Poses.concatenate(parts).of_rows(torch.cat(order).argsort())


def _rivals(images: RingImages, model: ClassModel, search: CircleSearch) -> Rivals:
    """The best classes of each image on the grid, and the peak in each."""
    bank = model.search_bank
    n, most = len(images), min(MOST_RIVALS, len(bank))
    rivals = torch.full((n, most), -1, device=images.device)
    among = torch.zeros(n, device=images.device)
    psi, shift = torch.zeros(n, most, device=images.device), torch.zeros(n, most, 2, device=images.device)
    for rows, batch in images.batches(model.noise, model.shift_spread_px, batch_for(len(bank)), search.rings):
        nowhere = torch.zeros(len(batch), 2, device=images.device)
        scores = compare_with_all(search, batch, bank, nowhere)
        likeness, number = scores.likeness.topk(most, dim=1)
        rivals[rows] = torch.where(likeness > likeness[:, :1] - MARGIN_NATS, number, -1)
        among[rows] = scores.by_class.gather(1, number).sum(dim=1)
        angles = scores.posterior.shape[3]
        every = torch.arange(len(batch), device=images.device)
        for rank in range(most):
            peak = scores.posterior[every, :, number[:, rank]].flatten(1).argmax(dim=1)
            psi[rows, rank], shift[rows, rank] = search.psi[peak % angles], search.shifts[peak // angles]
    return Rivals(rivals, among, psi, shift, torch.full((n, most), -torch.inf, device=images.device))


def _decided(assigned: Assignment, doubtful: Tensor, rivals: Rivals, model: ClassModel) -> Assignment:
    """Assignments with the winners in place; what the grid gives to other classes stays theirs."""
    log_share = model.search_bank.log_share[rivals.number.clamp(min=0)]
    log_p = torch.where(rivals.number >= 0, rivals.log_likelihood + log_share, -torch.inf)
    shares = torch.softmax(log_p, dim=1) * rivals.among[:, None].clamp(max=1.0)
    winner = shares.argmax(dim=1)
    # A class and its reflection are one.
    same = rivals.number % len(model) == (rivals.number.gather(1, winner[:, None]) % len(model))
    best = (shares * (same & (rivals.number >= 0))).sum(dim=1)
    decided = torch.isfinite(log_p).any(dim=1)
    rows, winner, best = doubtful[decided], winner[decided], best[decided]
    number, probability, pose_probability, psi, shift = (values.clone() for values in assigned.tensors()[:5])
    at = torch.nonzero(decided).flatten()
    pose_probability[rows] = best * (pose_probability[rows] / probability[rows].clamp(min=1e-6)).clamp(max=1.0)
    number[rows], probability[rows] = rivals.number[at, winner], best
    psi[rows], shift[rows] = rivals.psi[at, winner], rivals.shift[at, winner]
    return replace(
        assigned, number=number, probability=probability, pose_probability=pose_probability, psi=psi, shift=shift
    )
