"""Learning the average of a data set from a sample of its images, from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.average import State, improved, mean_noise, recentre, refined, sums_of
from cryorbit.alignment.evidence import Evidence, particle_probability
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.locate import Located, Model, locate, spread_of
from cryorbit.alignment.refine import OwnPart
from cryorbit.alignment.rivals import isotropy_evidence, isotropy_order, rival_turns, rivals_tried
from cryorbit.alignment.start import Start, first_state
from cryorbit.alignment.templates import AverageSums, Geometry

# Share of particles with another angle nearly as likely above which it is worth searching again for them.
DOUBTFUL_SHARE = 0.02
DOUBTFUL_MODE = 0.9
CLEAR_MODE = 0.99
# Rounds in which doubts are settled with a better average, as long as they become fewer.
MOST_ROUNDS = 6
STALLED = 0.8
GOOD_SUPPORT = 0.5
FIRST_MODEL_RINGS = 36
CHANGED_SHARE = 0.002

Notify = Callable[[str, float], None]


@dataclass(frozen=True)
class LearnSettings:
    """How to learn.

    Attributes
    ----------
    first_images, rounds, starts
        Images and rounds of the soft start, and how many starts to choose from.
    seed
        Of all that is random.
    """

    first_images: int
    rounds: int
    starts: int
    seed: int


@dataclass(frozen=True)
class Learned:
    """The average of a sample, and the sample's own estimates.

    Attributes
    ----------
    model
        The average and all that locating other particles needs.
    halves
        Sums of two halves of the sample that were aligned apart from each other.
    state
        Poses and weights with which the images entered the average.
    located
        Estimates of the sample's images, each against the average of the others.
    evidence
        Of the same images.
    start
        How it began.
    isotropy
        Evidence against each C_n, in nats.
    """

    model: Model
    halves: tuple[AverageSums, AverageSums]
    state: State
    located: Located
    evidence: Evidence
    start: Start
    isotropy: dict[int, float]


def settings_for(snr: float, seed: int, starts: int) -> LearnSettings:
    """Images and rounds that a soft start needs at a signal-to-noise ratio: few where it is high."""
    snr = max(snr, 1e-3)
    return LearnSettings(
        first_images=int(np.clip(round(12 / snr), 300, 1000)), rounds=int(np.clip(round(0.12 / snr), 3, 12)),
        starts=starts, seed=seed,
    )  # fmt: skip


def learn(
    images: RingImages,
    geometry: Geometry,
    settings: LearnSettings,
    prior_weight: Float[Tensor, " n"] | None = None,
    hint_psi: Float[Tensor, " n"] | None = None,
    notify: Notify = lambda _note, _part: None,
) -> Learned:
    """Learn the average from images alone.

    Parameters
    ----------
    images
        A sample of the data set.
    geometry
        Rings and orders.
    settings
        How.
    prior_weight
        Probability of each image to be a particle, from elsewhere.
    hint_psi
        Angles from elsewhere, for one more start, in radians.
    notify
        Told what is going on and what part is done.
    """
    n, rings = len(images), images.grid.rings
    weight = torch.ones(n, device=images.device) if prior_weight is None else prior_weight.to(images.device)
    notify("first average", 0.0)
    generator = torch.Generator().manual_seed(settings.seed)
    likely = torch.nonzero(weight.cpu() >= min(0.5, float(weight.max()))).flatten()
    chosen = likely[torch.randperm(len(likely), generator=generator)[: settings.first_images]].sort().values
    few = images.of_rows(chosen.to(images.device))
    hint = None if hint_psi is None else hint_psi.to(images.device)[chosen.to(images.device)]
    start = first_state(few, geometry, settings.rounds, settings.starts, settings.seed, hint)
    state = replace(start.state, poses=recentre(start.state.poses, start.state.weight))
    model = model_of(few, state, geometry, min(FIRST_MODEL_RINGS, rings), spread_of(state.poses, images.grid.box_size))
    notify("every particle", 0.3)
    own = _own_of_few(n, chosen.to(images.device), state)
    located, everyone = _every_particle(images, model, geometry, weight, own)
    notify("refinement", 0.6)
    everyone, _, evidence = improved(images, everyone, geometry, rings, steps=2)
    particle = weight * particle_probability(evidence)
    everyone = replace(everyone, weight=located.mode_probability * particle)
    located, everyone = _doubts_settled(images, replace(located, poses=everyone.poses), everyone, geometry, particle)
    notify("junk weighed", 0.75)
    located, everyone = _rivals_settled(images, located, everyone, geometry)
    everyone, template, evidence = improved(images, everyone, geometry, rings, steps=1)
    notify("halves", 0.9)
    halves = independent_halves(images, everyone, geometry)
    model = Model(geometry, template, everyone.noise, everyone.shift_spread_px)
    isotropy = isotropy_evidence(images, model)
    model = replace(model, isotropy_order=isotropy_order(isotropy))
    if model.isotropy_order > 1:
        located = locate(images, model)
    return Learned(model, halves, everyone, replace(located, poses=everyone.poses), evidence, start, isotropy)


def _every_particle(
    images: RingImages, model: Model, geometry: Geometry, weight: Tensor, own: OwnPart
) -> tuple[Located, State]:
    """Locate all images, and again those in doubt, as long as they become fewer."""
    located = locate(images, model, own)
    everyone = State(located.poses, located.mode_probability * weight, model.noise, model.shift_spread_px)
    share = _doubtful_share(located)
    for _ in range(MOST_ROUNDS):
        if share < DOUBTFUL_SHARE:
            break
        located, everyone = _doubts_settled(images, located, everyone, geometry, weight)
        before, share = share, _doubtful_share(located)
        if share > STALLED * before:
            break
    return located, everyone


def _rivals_settled(images: RingImages, located: Located, everyone: State, geometry: Geometry) -> tuple[Located, State]:
    """Try every image at the angles that look alike, with ever better averages, until hardly any changes."""
    rings = images.grid.rings
    for _ in range(MOST_ROUNDS):
        turns = rival_turns(images, model_of(images, everyone, geometry, rings, everyone.shift_spread_px))
        if not turns:
            break
        everyone, template, _ = improved(images, everyone, geometry, rings, steps=1)
        located = replace(located, poses=everyone.poses)
        located, everyone, changed = rivals_tried(images, located, everyone, template, turns)
        if changed < CHANGED_SHARE:
            break
    return located, everyone


def _own_of_few(n: int, rows: Tensor, state: State) -> OwnPart:
    """What the images of a start put into its average; nothing for all others."""
    every = torch.zeros(n, dtype=torch.long, device=rows.device)
    every[rows] = torch.arange(len(rows), device=rows.device)
    weight = torch.zeros(n, device=rows.device)
    weight[rows] = state.weight
    return OwnPart(state.poses.of_rows(every), weight)


def _doubts_settled(
    images: RingImages, located: Located, state: State, geometry: Geometry, particle: Tensor
) -> tuple[Located, State]:
    """Search again, with the sharper average, for images with another angle nearly as likely."""
    doubtful = torch.nonzero((located.mode_probability < CLEAR_MODE) & (located.support > GOOD_SUPPORT)).flatten()
    if not len(doubtful):
        return located, state
    model = model_of(images, state, geometry, images.grid.rings, state.shift_spread_px)
    own = OwnPart(state.poses.of_rows(doubtful), state.weight[doubtful])
    found = locate(images.of_rows(doubtful), model, own)
    located = located.replaced(doubtful, found)
    return located, replace(state, poses=located.poses, weight=located.mode_probability * particle)


def _doubtful_share(located: Located) -> float:
    """Share of the particles that have another angle nearly as likely."""
    particles = located.support > GOOD_SUPPORT
    doubtful = located.mode_probability[particles] < DOUBTFUL_MODE
    return float(doubtful.float().mean()) if len(doubtful) else 0.0


def model_of(images: RingImages, state: State, geometry: Geometry, rings: int, spread_px: float) -> Model:
    """Model of a state on the innermost rings."""
    sums = sums_of(images, state, rings)
    template = geometry.template(sums, mean_noise(images, state.noise), rings)
    return Model(geometry, template, state.noise, spread_px)


def independent_halves(images: RingImages, state: State, geometry: Geometry) -> tuple[AverageSums, AverageSums]:
    """Sums of two halves, each aligned once more to its own average only.

    Halves that were aligned to a common average share its noise, and their correlation would say that this noise is
    signal.
    """
    sums = []
    for parity in (0, 1):
        rows = torch.arange(parity, len(images), 2, device=images.device)
        part = images.of_rows(rows)
        own = State(state.poses.of_rows(rows), state.weight[rows], state.noise, state.shift_spread_px)
        template = geometry.template(sums_of(part, own, images.grid.rings), mean_noise(images, state.noise),
                                     images.grid.rings)  # fmt: skip
        apart = replace(own, poses=refined(part, own, template, geometry, steps=1, own=True)[0])
        sums.append(sums_of(part, apart, images.grid.rings))
    return sums[0], sums[1]
