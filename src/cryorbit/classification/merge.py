"""Classes of one view: two are merged unless the images of either are better explained by two averages than by one.

Learning leaves copies of a view, and blurred copies, some of the images of which it has turned wrongly. How far two
averages are apart does not tell such a copy from another view; what one average of all their images says of each of
them, without the image's own part, does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryorbit.alignment.average import State, refined, sums_of
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses
from cryorbit.alignment.search import CircleSearch
from cryorbit.alignment.templates import Geometry, Template
from cryorbit.classification.bank import Bank
from cryorbit.classification.choice import is_gain
from cryorbit.classification.contest import Membership, compared
from cryorbit.classification.joint import Assignment, known_defocus
from cryorbit.classification.mirror import in_class_frame, reflected, reflected_shift
from cryorbit.classification.model import ClassModel, classify

# Images of a class that say which other class is most like it, and the nats that they prefer their own by beyond which
# nobody needs to try: copies are 0 to 10 apart, views of some 10 degrees.
ASKED, CLOSE_NATS = 40, 20.0
# Rounds of one average of both and of poses against it.
TOGETHER_ROUNDS, NEWTON_STEPS = 2, 2


@dataclass(frozen=True)
class Members:
    """Who belongs where, so far.

    Attributes
    ----------
    assigned
        Of all images; reflections of classes are counted after all classes.
    poses
        Of all images in the frame of their class, as they are in its average.
    model
        The averages.
    """

    assigned: Assignment
    poses: Poses
    model: ClassModel

    @property
    def own(self) -> Membership:
        """How the images are in the averages."""
        return Membership(self.assigned.number, self.poses, self.assigned.probability)

    @property
    def number(self) -> Int[Tensor, " n"]:
        """Class of each image, whether reflected or not."""
        return self.assigned.number % len(self.model)


@dataclass(frozen=True)
class _Union:
    """Two classes as one, in the frame of the first."""

    rows: Int[Tensor, " n"]
    mirrored: Bool[Tensor, " n"]
    poses: Poses
    template: Template


def merged(images: RingImages, members: Members, search: CircleSearch, geometry: Geometry) -> Members:
    """The same without copies: a class that is merged into another has no average and no members afterwards.

    Parameters
    ----------
    images
        As they are, none reflected.
    members
        Their classes and poses.
    search
        The grid on which images are compared with classes.
    geometry
        Of the alignment.
    """
    different: set[tuple[int, int]] = set()
    while True:
        into: dict[int, int] = {}
        for pair in close_pairs(images, members, search, geometry):
            first, second = (_survivor(number, into) for number in pair)
            if first == second or (first, second) in different:
                continue
            union = _union(images, members, first, second, search, geometry)
            gain = _apart(images, members, union, geometry) - union.poses.log_likelihood
            number = members.number[union.rows]
            # Each class by its own images: those of a rare view would be trimmed away among those of its neighbour.
            if any(is_gain(gain[number == one]) for one in (first, second)):
                different.add((first, second))
            else:
                members = _without(members, first, second, union)
                into[second] = first
                different = {pair for pair in different if first not in pair}
        if not into:
            return members


def _survivor(number: int, into: dict[int, int]) -> int:
    """The class that has taken another one in."""
    while number in into:
        number = into[number]
    return number


def close_pairs(
    images: RingImages, members: Members, search: CircleSearch, geometry: Geometry
) -> list[tuple[int, int]]:
    """Each class with the one that is most like its images, if hardly less than itself; the larger first.

    Parameters
    ----------
    images, members, search, geometry
        As for :func:`merged`.
    """
    classes, number = len(members.model), members.number
    counts = torch.bincount(number, minlength=classes)
    rows = torch.cat([_some_of(torch.nonzero(number == one).flatten()) for one in range(classes)])
    rivals = compared(images.of_rows(rows), members.model, search, geometry, members.own.of_rows(rows))
    found = torch.full((len(rows), classes), -torch.inf, device=images.device)
    found.scatter_reduce_(1, rivals.number.clamp(min=0) % classes, rivals.log_likelihood, "amax")
    pairs = []
    for one in range(classes):
        own = found[number[rows] == one]
        if not len(own):
            continue
        lead = (own[:, one : one + 1] - own).nan_to_num(torch.inf, torch.inf, torch.inf).median(dim=0).values
        lead[one] = torch.inf
        nearest = int(lead.argmin())
        if lead[nearest] < CLOSE_NATS:
            larger, smaller = sorted((one, nearest), key=lambda number: (-int(counts[number]), number))
            pairs.append((float(lead[nearest]), larger, smaller))
    return list(dict.fromkeys((larger, smaller) for _, larger, smaller in sorted(pairs)))


def _some_of(rows: Tensor) -> Tensor:
    """A few of them, from all over."""
    return rows[:: max(1, len(rows) // ASKED)][:ASKED]


def _union(
    images: RingImages, members: Members, first: int, second: int, search: CircleSearch, geometry: Geometry
) -> _Union:
    """Two classes as one: those of the second are aligned to the first, then all to what they make together."""
    model, number = members.model, members.number
    alone = replace(
        model,
        bank=Bank(model.bank.harmonics[[first]], torch.zeros_like(model.bank.log_share[[first]])),
        templates=(model.templates[first],),
    )
    stay, come = (torch.nonzero(number == one).flatten() for one in (first, second))
    arrived, turned_over = in_class_frame(classify(images.of_rows(come), alone, search), 1)
    rows = torch.cat([stay, come])
    mirrored = torch.cat([members.assigned.number[stay] >= len(model), turned_over])
    few = reflected(images.of_rows(rows), mirrored) if model.tied else images.of_rows(rows)
    defocus = known_defocus(few.defocus)
    start = Poses.at(arrived.psi, arrived.shift, defocus[len(stay) :])
    state = State(
        Poses.concatenate([members.poses.of_rows(stay), start]), members.assigned.probability[rows], model.noise,
        model.shift_spread_px,
    )  # fmt: skip
    rings = geometry.grid.rings
    for _ in range(TOGETHER_ROUNDS):
        template = geometry.template(sums_of(few, state, rings), model.mean_noise, rings)
        state = replace(state, poses=refined(few, state, template, geometry, NEWTON_STEPS, own=True)[0])
    template = geometry.template(sums_of(few, state, rings), model.mean_noise, rings)
    return _Union(rows, mirrored, state.poses, template)


def _apart(images: RingImages, members: Members, union: _Union, geometry: Geometry) -> Float[Tensor, " n"]:
    """Log-likelihood of the images of a union in the two classes that it is of, and that of the choice between them."""
    number, model = members.number[union.rows], members.model
    found = torch.zeros(len(number), device=images.device)
    for one in torch.unique(number).tolist():
        template, at = model.templates[one], torch.nonzero(number == one).flatten()
        if template is None:
            raise ValueError(f"class {one} has no average")
        rows = union.rows[at]
        few = images.of_rows(rows)
        few = reflected(few, members.assigned.number[rows] >= len(model)) if model.tied else few
        poses, weight = members.poses.of_rows(rows), members.assigned.probability[rows]
        state = State(poses, weight, model.noise, model.shift_spread_px)
        alone = refined(few, state, template, geometry, NEWTON_STEPS, own=True)[0]
        found[at] = alone.log_likelihood + torch.log(torch.tensor(len(at) / len(number)))
    return found


def _without(members: Members, first: int, second: int, union: _Union) -> Members:
    """The members with the union in the place of the first class and nothing in that of the second."""
    model, rows, poses = members.model, union.rows, union.poses
    classes, harmonics = len(model), model.bank.harmonics.clone()
    part = union.template.harmonics[: harmonics.shape[1], : harmonics.shape[2]]
    harmonics[first] = 0
    harmonics[first, : part.shape[0], : part.shape[1]] = part
    log_share = model.bank.log_share.clone()
    log_share[first] = torch.logaddexp(log_share[first], log_share[second])
    log_share[second] = -torch.inf
    templates = list(model.templates)
    templates[first], templates[second] = union.template, None
    number, psi, shift = (values.clone() for values in (members.assigned.number, members.assigned.psi,
                                                         members.assigned.shift))  # fmt: skip
    number[rows] = torch.where(union.mirrored, first + classes, first)
    psi[rows] = torch.where(union.mirrored, -poses.psi, poses.psi)
    shift[rows] = reflected_shift(poses.shift, union.mirrored)
    new = [values.clone() for values in members.poses.fields()]
    for old, now in zip(new, poses.fields(), strict=True):
        old[rows] = now
    return Members(
        replace(members.assigned, number=number, psi=psi, shift=shift), Poses(*new),
        replace(model, bank=Bank(harmonics, log_share), templates=tuple(templates)),
    )  # fmt: skip
