"""Every image to its class: the joint posterior on a grid, then the alignment's own refinement within the class.

The images that the classes were learnt from are compared with averages that lack their own part; all others
stream past. Where the grid leaves a doubt, the best few classes are compared on all rings (``contest.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.alignment.average import State, mean_noise, refined, sums_of
from cryorbit.alignment.evidence import Evidence
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses
from cryorbit.alignment.templates import AverageSums, Geometry, Template
from cryorbit.classification.bank import Bank
from cryorbit.classification.contest import contested
from cryorbit.classification.joint import Assignment, known_defocus
from cryorbit.classification.learn import Classes
from cryorbit.classification.merge import Members, merged
from cryorbit.classification.mirror import in_class_frame, reflected
from cryorbit.classification.model import ClassModel, classify
from cryorbit.classification.poses import ClassPoses, as_array
from cryorbit.classification.view_map import ViewMap

# Rounds of average and Newton steps within each class, before and after doubts about classes are settled.
FIRST_ROUNDS, LAST_ROUNDS, NEWTON_STEPS = 1, 2, 2

Halves = tuple[AverageSums, AverageSums]


@dataclass(frozen=True)
class Settled:
    """Classes as they end, with the images that they were learnt from.

    Attributes
    ----------
    model
        For all further particles.
    view_map
        Of all views.
    halves
        Sums of the even and the odd ones of each class's images.
    poses
        Of the images that they were learnt from.
    likeness
        Of these images to all classes, as in :class:`cryorbit.classification.joint.Assignment`; None where this was
        read from a file.
    """

    model: ClassModel
    view_map: ViewMap
    halves: list[Halves]
    poses: ClassPoses
    likeness: Float[Tensor, "images classes"] | None = None


def settle(images: RingImages, classes: Classes, geometry: Geometry, particle_radius_px: float) -> Settled:
    """Refine the poses of the images of each class, each against the average of the others.

    Parameters
    ----------
    images
        Those that the classes were learnt from.
    classes
        Of :func:`cryorbit.classification.learn.learn_classes`.
    geometry
        Of the alignment.
    particle_radius_px
        Of the particle.
    """
    noise, spread_px, tied = mean_noise(images, classes.noise), classes.shift_spread_px, classes.tied
    model = ClassModel(classes.bank, (), classes.noise, noise, spread_px, tied)
    within = _within(images, classes.assigned, model, len(classes), geometry, FIRST_ROUNDS)
    model = replace(model, templates=within.templates)
    search = model.search(images, geometry, particle_radius_px)
    members = merged(images, Members(classes.assigned, within.poses, model), search, geometry)
    if members.model is not model:
        model = members.model
        likeness = classify(images, model, search).likeness
        members = replace(members, assigned=replace(members.assigned, likeness=likeness))
    assigned = contested(images, members.assigned, model, search, geometry, members.own)
    within = _within(images, assigned, model, len(classes), geometry, LAST_ROUNDS)
    # Nobody can be sent to a class that has no average.
    there = torch.tensor([template is not None for template in within.templates], device=images.device)
    bank = Bank(model.bank.harmonics, torch.where(there, within.log_share, -torch.inf))
    model = replace(model, templates=within.templates, bank=bank)
    assigned, mirrored = in_class_frame(assigned, len(classes))
    view_map = ViewMap.of(assigned.likeness, torch.nonzero(there).flatten())
    poses = ClassPoses.of(assigned, mirrored, within.poses, within.judged, view_map)
    return Settled(model, view_map, within.halves, poses, assigned.likeness)


@dataclass(frozen=True)
class _Within:
    """Images refined within their classes; poses in the frame of the class, in the order of the images."""

    templates: tuple[Template | None, ...]
    halves: list[Halves]
    poses: Poses
    judged: Evidence
    log_share: Float[Tensor, " classes"]


def _within(
    images: RingImages, assigned: Assignment, model: ClassModel, classes: int, geometry: Geometry, rounds: int
) -> _Within:
    """Rounds of averages of all classes, and of each image against the average of the others in its class."""
    assigned, mirrored = in_class_frame(assigned, classes)
    images = reflected(images, mirrored) if model.tied else images
    templates: list[Template | None] = []
    halves: list[Halves] = []
    found, evidence, order = [], [], []
    rings = geometry.grid.rings
    for number in range(classes):
        rows = torch.nonzero(assigned.number == number).flatten()
        if not len(rows):
            templates.append(None)
            halves.append((AverageSums.empty(geometry.grid, images.device),) * 2)
            continue
        few, own = images.of_rows(rows), assigned.of_rows(rows)
        poses = Poses.at(own.psi, own.shift, known_defocus(few.defocus))
        state = State(poses, own.probability, model.noise, model.shift_spread_px)
        for _ in range(rounds):
            template = geometry.template(sums_of(few, state, rings), model.mean_noise, rings)
            poses, judged = refined(few, state, template, geometry, NEWTON_STEPS, own=True)
            state = replace(state, poses=poses)
        pair = half_sums(few, state, rows)
        templates.append(geometry.template(pair[0] + pair[1], model.mean_noise, rings))
        halves.append(pair)
        found.append(poses)
        evidence.append(judged)
        order.append(rows)
    back = torch.cat(order).argsort()
    particles = torch.tensor([first.particles + second.particles for first, second in halves], device=images.device)
    log_share = ((particles + 1) / (particles.sum() + classes)).log()
    return _Within(
        tuple(templates),
        halves,
        Poses.concatenate(found).of_rows(back),
        Evidence.concatenate(evidence).of_rows(back),
        log_share,
    )


def charted(settled: Settled, good: NDArray[np.bool_]) -> Settled:
    """The same with a map of those classes alone that are of particles.

    Parameters
    ----------
    settled
        Of :func:`settle`.
    good
        Which classes are of particles, shape (classes,).
    """
    if settled.likeness is None:
        raise ValueError("how alike the images are to the classes is not known any more")
    device = settled.likeness.device
    counted = torch.from_numpy(np.flatnonzero(good)).to(device)
    members = torch.from_numpy(np.flatnonzero(good[settled.poses.number])).to(device)
    view_map = ViewMap.of(settled.likeness[members], counted)
    poses = replace(settled.poses, place=as_array(view_map.coordinates(settled.likeness)))
    return replace(settled, view_map=view_map, poses=poses)


def half_sums(images: RingImages, state: State, row: Int[Tensor, " n"]) -> Halves:
    """Sums of the images of even rows, and of odd ones."""
    found = []
    for parity in (0, 1):
        rows = torch.nonzero(row % 2 == parity).flatten()
        if not len(rows):
            found.append(AverageSums.empty(images.grid, images.device))
            continue
        part = replace(state, poses=state.poses.of_rows(rows), weight=state.weight[rows])
        found.append(sums_of(images.of_rows(rows), part, images.grid.rings))
    return found[0], found[1]


def assign(
    images: RingImages, settled: Settled, geometry: Geometry, particle_radius_px: float
) -> tuple[ClassPoses, list[Halves]]:
    """Class and pose of images that the classes were not learnt from, and their sums for each class.

    Parameters
    ----------
    images
        With known defoci, or a prior around them.
    settled
        The classes.
    geometry
        Of the alignment.
    particle_radius_px
        Of the particle.
    """
    model = settled.model
    search = model.search(images, geometry, particle_radius_px)
    assigned = contested(images, classify(images, model, search), model, search, geometry)
    assigned, mirrored = in_class_frame(assigned, len(model))
    images = reflected(images, mirrored) if model.tied else images
    nothing = (AverageSums.empty(geometry.grid, images.device),) * 2
    halves: list[Halves] = [nothing] * len(model)
    found, evidence, order = [], [], []
    for number in torch.unique(assigned.number).tolist():
        template = model.templates[number]
        if template is None:
            raise ValueError(f"images belong to class {number}, which has no average")
        rows = torch.nonzero(assigned.number == number).flatten()
        few, own = images.of_rows(rows), assigned.of_rows(rows)
        start = Poses.at(own.psi, own.shift, known_defocus(few.defocus))
        state = State(start, own.probability, model.noise, model.shift_spread_px)
        poses, judged = refined(few, state, template, geometry, NEWTON_STEPS, own=False)
        halves[number] = half_sums(few, replace(state, poses=poses), rows)
        found.append(poses)
        evidence.append(judged)
        order.append(rows)
    back = torch.cat(order).argsort()
    poses, judged = Poses.concatenate(found).of_rows(back), Evidence.concatenate(evidence).of_rows(back)
    return ClassPoses.of(assigned, mirrored, poses, judged, settled.view_map), halves
