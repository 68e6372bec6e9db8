"""Learning the average of a data set from a sample of its images, from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.average import BATCH, State, improved, mean_noise, recentre, refined, sums_of
from cryorbit.alignment.evidence import Evidence, particle_probability
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.locate import Located, Model, locate, spread_of
from cryorbit.alignment.refine import OwnPart, Poses, refine
from cryorbit.alignment.start import Start, first_state
from cryorbit.alignment.templates import AverageSums, Geometry, Template, order_weight

# Share of particles with another angle nearly as likely above which it is worth searching again for them.
DOUBTFUL_SHARE = 0.02
DOUBTFUL_MODE = 0.9
CLEAR_MODE = 0.99
# Rounds in which doubts are settled with a better average, as long as they become fewer.
MOST_ROUNDS = 6
STALLED = 0.8
GOOD_SUPPORT = 0.5
FIRST_MODEL_RINGS = 36
HIGHEST_ISOTROPY = 12
# Turns that change the expected log-likelihood by less than this cannot be told apart.
INDISTINCT_NATS = 3.0
TURNS = 720
# Turns that change it by less than this may have been mistaken for one another where the average was still poor.
RIVAL_NATS = 60.0
MOST_RIVALS = 5
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
    """

    model: Model
    halves: tuple[AverageSums, AverageSums]
    state: State
    located: Located
    evidence: Evidence
    start: Start


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
    notify("refinement", 0.6)
    everyone, _, evidence = improved(images, everyone, geometry, rings, steps=2)
    particle = weight * particle_probability(evidence)
    everyone = replace(everyone, weight=located.mode_probability * particle)
    located, everyone = _doubts_settled(images, replace(located, poses=everyone.poses), everyone, geometry, particle)
    notify("junk weighed", 0.75)
    for _ in range(MOST_ROUNDS):
        model = model_of(images, everyone, geometry, rings, everyone.shift_spread_px)
        turns = rival_turns(images, model)
        if not turns:
            break
        everyone, template, _ = improved(images, everyone, geometry, rings, steps=1)
        located, everyone, changed = rivals_tried(
            images, replace(located, poses=everyone.poses), everyone, template, turns
        )
        if changed < CHANGED_SHARE:
            break
    everyone, template, evidence = improved(images, everyone, geometry, rings, steps=1)
    notify("halves", 0.9)
    halves = independent_halves(images, everyone, geometry)
    model = Model(geometry, template, everyone.noise, everyone.shift_spread_px)
    model = replace(model, isotropy_order=isotropy_order(images, model))
    if model.isotropy_order > 1:
        located = locate(images, model)
    return Learned(model, halves, everyone, replace(located, poses=everyone.poses), evidence, start)


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


def change_by_turn(images: RingImages, model: Model) -> Float[Tensor, " turns"]:
    """Expected log-likelihood by which an image tells the average from the average turned by each half degree."""
    template = model.template
    k = torch.arange(1, template.rings + 1, device=images.device)
    ring_weight = 2 * math.pi * k / (images.grid.box_size**2 * mean_noise(images, model.noise)[: template.rings])
    defoci = images.defocus.fixed_um if images.defocus.fixed_um is not None else images.defocus.values_um
    power = images.transfers[0].rings(template.rings).amplitude(defoci)[:, 0].square().mean(dim=0)
    order = torch.arange(template.harmonics.shape[1], device=images.device)
    by_order = (template.harmonics.abs().square() * (power * ring_weight)[:, None]).sum(dim=0)
    by_order = by_order * order_weight(len(order)).to(by_order)
    turn = torch.arange(TURNS, device=images.device) * (2 * math.pi / TURNS)
    return (1 - torch.cos(turn[:, None] * order)) @ by_order


def isotropy_order(images: RingImages, model: Model) -> int:
    """Largest n for which a turn by 360 / n degrees changes the average by less than one image can show."""
    change = change_by_turn(images, model)
    for n in range(HIGHEST_ISOTROPY, 1, -1):
        if TURNS % n == 0 and float(change[TURNS // n]) < INDISTINCT_NATS:
            return n
    return 1


def rival_turns(images: RingImages, model: Model) -> list[float]:
    """Turns in radians after which the average looks nearly as it did, so that an image may have been taken for it."""
    change = change_by_turn(images, model)
    before, after = change.roll(1), change.roll(-1)
    lowest = torch.nonzero((change <= before) & (change < after) & (change < RIVAL_NATS)).flatten()
    first_peak = int(torch.nonzero((change > before) & (change >= after)).flatten().min()) if len(change) else 0
    found = [int(turn) for turn in lowest if first_peak < int(turn) < TURNS - first_peak]
    best = sorted(found, key=lambda turn: float(change[turn]))[:MOST_RIVALS]
    return [2 * math.pi * turn / TURNS for turn in best]


def rivals_tried(
    images: RingImages, located: Located, state: State, template: Template, turns: list[float]
) -> tuple[Located, State, float]:
    """Try other angles at which the average looks nearly the same; also the share of the images that changed theirs."""
    poses = located.poses
    first = poses.log_likelihood
    total = torch.ones_like(first)
    best, changed = poses, torch.zeros(len(poses), dtype=torch.bool, device=first.device)
    for turn in turns:
        parts, order = [], []
        for rows, batch in images.batches(state.noise, state.shift_spread_px, BATCH, template.rings):
            now = poses.of_rows(rows)
            parts.append(refine(batch, template, replace(now, psi=now.psi + turn), images.grid, 1))
            order.append(rows)
        other = Poses.concatenate(parts).of_rows(torch.cat(order).argsort())
        total = total + (other.log_likelihood - first).clamp(max=50).exp()
        better = other.log_likelihood > best.log_likelihood
        chosen = torch.arange(len(poses), device=first.device) + len(poses) * better
        best = Poses.concatenate([best, other]).of_rows(chosen)
        changed |= better
    sure = (best.log_likelihood - first).clamp(max=50).exp() / total
    probability = torch.minimum(located.mode_probability, sure)
    known = replace(
        located, poses=best, mode_probability=probability,
        resultant=torch.minimum(located.resultant, (2 * probability - 1).clamp(min=0)),
    )  # fmt: skip
    weight = state.weight / located.mode_probability.clamp(min=1e-6) * probability
    return known, replace(state, poses=best, weight=weight), float(changed.float().mean())
