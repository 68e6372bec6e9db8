"""Where the grid leaves a doubt about the class: the best few are refined and compared on all rings.

An image that has put its own noise into an average looks more like that one than it is; its part is taken out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorbit.alignment.average import State, refined
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses
from cryorbit.alignment.search import CircleSearch
from cryorbit.alignment.templates import Geometry, Template
from cryorbit.classification.bank import Bank
from cryorbit.classification.joint import Assignment, batch_for, compare_with_all, known_defocus
from cryorbit.classification.mirror import reflected, reflected_shift

# Probability of the class beyond which there is no doubt, and how many classes are tried where there is.
SURE, MOST_RIVALS = 0.999, 4
# Further behind the best on the grid than this, a class does not come back.
MARGIN_NATS = 30.0
NEWTON_STEPS = 2


def contested(
    images: RingImages,
    assigned: Assignment,
    bank: Bank,
    templates: tuple[Template | None, ...],
    noise: Float[Tensor, "groups rings"],
    shift_spread_px: float,
    search: CircleSearch,
    geometry: Geometry,
    own: Poses | None = None,
) -> Assignment:
    """Assignments with doubts about the class settled.

    Parameters
    ----------
    images
        As they are, none reflected.
    assigned
        By the grid; reflections of classes are counted after all classes.
    bank
        What they were compared with there.
    templates
        Averages of the classes on all rings.
    noise, shift_spread_px
        Of the images.
    search
        The grid.
    geometry
        Of the alignment.
    own
        Poses with which the images are in the average of their class, in its frame; None where they are in none.
    """
    doubtful = torch.nonzero(assigned.probability < SURE).flatten()
    if not len(doubtful):
        return assigned
    few, before = images.of_rows(doubtful), assigned.of_rows(doubtful)
    rivals, among, psi, shift = _rivals(few, bank, noise, shift_spread_px, search)
    log_p = torch.full(rivals.shape, -torch.inf, device=images.device)
    for rank in range(rivals.shape[1]):
        for number in torch.unique(rivals[:, rank]).tolist():
            template = templates[number % len(templates)] if number >= 0 else None
            if template is None:
                continue
            rows = torch.nonzero(rivals[:, rank] == number).flatten()
            which = torch.full((len(rows),), number >= len(templates), device=images.device)
            some = few.of_rows(rows)
            some = reflected(some, which) if number >= len(templates) else some
            start = Poses.at(
                torch.where(which, -psi[rows, rank], psi[rows, rank]), reflected_shift(shift[rows, rank], which),
                known_defocus(some.defocus),
            )  # fmt: skip
            inside = (before.number[rows] == number) & (own is not None)
            poses = _refined(some, start, None if own is None else own.of_rows(doubtful[rows]), inside, before, rows,
                             template, noise, shift_spread_px, geometry)  # fmt: skip
            log_p[rows, rank] = poses.log_likelihood + bank.log_share[number]
            psi[rows, rank] = torch.where(which, -poses.psi, poses.psi)
            shift[rows, rank] = reflected_shift(poses.shift, which)
    return _decided(assigned, doubtful, rivals, among, log_p, psi, shift, len(templates))


def _refined(
    images: RingImages,
    start: Poses,
    own: Poses | None,
    inside: Tensor,
    before: Assignment,
    rows: Tensor,
    template: Template,
    noise: Tensor,
    shift_spread_px: float,
    geometry: Geometry,
) -> Poses:
    """Poses against one average, from which the images that are in it are taken out."""
    parts, order = [], []
    for is_inside in (True, False):
        chosen = torch.nonzero(inside == is_inside).flatten()
        if not len(chosen):
            continue
        poses = own.of_rows(chosen) if is_inside and own is not None else start.of_rows(chosen)
        state = State(poses, before.probability[rows[chosen]], noise, shift_spread_px)
        found = refined(images.of_rows(chosen), state, template, geometry, NEWTON_STEPS, own=is_inside)[0]
        parts.append(found)
        order.append(chosen)
    return Poses.concatenate(parts).of_rows(torch.cat(order).argsort())


def _rivals(
    images: RingImages, bank: Bank, noise: Tensor, shift_spread_px: float, search: CircleSearch
) -> tuple[
    Int[Tensor, "images rivals"], Float[Tensor, " images"], Float[Tensor, "images rivals"],
    Float[Tensor, "images rivals 2"],
]:  # fmt: skip
    """The best classes of each image, -1 for those too far behind, their share on the grid, and the peak in each."""
    n, most = len(images), min(MOST_RIVALS, len(bank))
    rivals = torch.full((n, most), -1, device=images.device)
    among = torch.zeros(n, device=images.device)
    psi, shift = torch.zeros(n, most, device=images.device), torch.zeros(n, most, 2, device=images.device)
    for rows, batch in images.batches(noise, shift_spread_px, batch_for(len(bank)), search.rings):
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
    return rivals, among, psi, shift


def _decided(
    assigned: Assignment, doubtful: Tensor, rivals: Tensor, among: Tensor, log_p: Tensor, psi: Tensor, shift: Tensor,
    classes: int,
) -> Assignment:  # fmt: skip
    """Assignments with the winners in place; what the grid gives to other classes stays theirs."""
    shares = torch.softmax(log_p, dim=1) * among[:, None].clamp(max=1.0)
    winner = shares.argmax(dim=1)
    # A class and its reflection are one.
    same = rivals % classes == (rivals.gather(1, winner[:, None]) % classes)
    best = (shares * (same & (rivals >= 0))).sum(dim=1)
    decided = torch.isfinite(log_p).any(dim=1)
    rows, winner, best = doubtful[decided], winner[decided], best[decided]
    number, probability, pose_probability, new_psi, new_shift, log_evidence, likeness = (
        values.clone() for values in assigned.tensors()
    )
    at = torch.nonzero(decided).flatten()
    pose_probability[rows] = best * (pose_probability[rows] / probability[rows].clamp(min=1e-6)).clamp(max=1.0)
    number[rows], probability[rows] = rivals[at, winner], best
    new_psi[rows], new_shift[rows] = psi[at, winner], shift[at, winner]
    return Assignment(number, probability, pose_probability, new_psi, new_shift, log_evidence, likeness)
