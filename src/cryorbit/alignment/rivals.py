"""Angles at which an average looks nearly the same: symmetries, and turns that may be mistaken for one another."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.average import BATCH, State, mean_noise
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.locate import Located, Model
from cryorbit.alignment.refine import Poses, refine
from cryorbit.alignment.templates import Template, order_weight

HIGHEST_ISOTROPY = 12
# Turns that change the expected log-likelihood by less than this cannot be told apart.
INDISTINCT_NATS = 3.0
TURNS = 720
# Turns that change it by less than this may have been mistaken for one another where the average was still poor.
RIVAL_NATS = 60.0
MOST_RIVALS = 5


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
    peaks = torch.nonzero((change > before) & (change >= after)).flatten()
    if not len(peaks):
        return []
    first_peak = int(peaks[0])
    lowest = torch.nonzero((change <= before) & (change < after) & (change < RIVAL_NATS)).flatten()
    apart = [int(turn) for turn in lowest if first_peak < int(turn) < TURNS - first_peak]
    apart.sort(key=lambda turn: float(change[turn]))
    return [2 * math.pi * turn / TURNS for turn in apart[:MOST_RIVALS]]


def rivals_tried(
    images: RingImages, located: Located, state: State, template: Template, turns: list[float]
) -> tuple[Located, State, float]:
    """Try other angles at which the average looks nearly the same.

    Parameters
    ----------
    images, located, state
        Images, their estimates, and how they are in the average; their log-likelihoods are free of their own part.
    template
        The average.
    turns
        Of :func:`rival_turns`.

    Returns
    -------
    Located, State
        The likelier poses, with the probability of each among those tried.
    float
        Share of the images that changed theirs.
    """
    best = located.poses
    log_likelihoods = [best.log_likelihood]
    changed = torch.zeros(len(best), dtype=torch.bool, device=images.device)
    for turn in turns:
        other = _turned(images, located.poses, state, template, turn)
        log_likelihoods.append(other.log_likelihood)
        better = other.log_likelihood > best.log_likelihood
        rows = torch.arange(len(best), device=images.device)
        best = Poses.concatenate([best, other]).of_rows(torch.where(better, rows + len(best), rows))
        changed |= better
    sure = torch.softmax(torch.stack(log_likelihoods), dim=0).amax(dim=0)
    probability = torch.minimum(located.mode_probability, sure)
    resultant = torch.minimum(located.resultant, (2 * probability - 1).clamp(min=0))
    weight = state.weight * probability / located.mode_probability.clamp(min=1e-6)
    located = replace(located, poses=best, mode_probability=probability, resultant=resultant)
    return located, replace(state, poses=best, weight=weight), float(changed.float().mean())


def _turned(images: RingImages, poses: Poses, state: State, template: Template, turn: float) -> Poses:
    """Poses refined from a turn away; at that distance an image's own part in the average does not matter."""
    parts, order = [], []
    for rows, batch in images.batches(state.noise, state.shift_spread_px, BATCH, template.rings):
        start = poses.of_rows(rows)
        parts.append(refine(batch, template, replace(start, psi=start.psi + turn), images.grid, 1))
        order.append(rows)
    return Poses.concatenate(parts).of_rows(torch.cat(order).argsort())
