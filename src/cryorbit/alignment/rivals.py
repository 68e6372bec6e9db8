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
from cryorbit.alignment.templates import Template, noise_by_order, order_weight

HIGHEST_ISOTROPY = 12
# Turns that change the expected log-likelihood by less than this cannot be told apart.
INDISTINCT_NATS = 3.0
TURNS = 720
# Turns that change it by less than this may have been mistaken for one another where the average was still poor.
RIVAL_NATS = 60.0
MOST_RIVALS = 5


def ring_information(images: RingImages, model: Model) -> Float[Tensor, " rings"]:
    """What a power of 1 around each ring of the average adds to the log-likelihood, with defoci as they are."""
    rings = model.template.rings
    k = torch.arange(1, rings + 1, device=images.device)
    weight = 2 * math.pi * k / (images.grid.box_size**2 * mean_noise(images, model.noise)[:rings])
    return weight * _mean_transfer_power(images, rings)


def _mean_transfer_power(images: RingImages, rings: int) -> Float[Tensor, " rings"]:
    defoci = images.defocus.fixed_um if images.defocus.fixed_um is not None else images.defocus.values_um
    return images.transfers[0].rings(rings).amplitude(defoci)[:, 0].square().mean(dim=0)


def change_by_turn(images: RingImages, model: Model) -> Float[Tensor, " turns"]:
    """Expected log-likelihood by which an image tells the average from the average turned by each half degree."""
    template = model.template
    order = torch.arange(template.harmonics.shape[1], device=images.device)
    by_order = _information(images, model) * template.harmonics.abs().square()
    turn = torch.arange(TURNS, device=images.device) * (2 * math.pi / TURNS)
    return (1 - torch.cos(turn[:, None] * order)) @ by_order.sum(dim=0)


def change_about_any_axis(images: RingImages, model: Model, turn: float) -> float:
    """The same for one turn in radians about whichever point changes the average least, to first order in its place.

    The axis of a symmetry need not go through the centre of the box, and how far it is off is no sign against it.
    """
    template, weight = model.template, _information(images, model)
    order = torch.arange(template.harmonics.shape[1], device=images.device)
    turned = replace(template, harmonics=template.harmonics * torch.exp(-1j * turn * order))
    difference = template.harmonics - turned.harmonics
    shifts = 0.5 * (template.derivatives + turned.derivatives)[..., 2:]
    normal = torch.einsum("ko,koi,koj->ij", weight.to(shifts.dtype), shifts.conj(), shifts).real.double()
    products = torch.einsum("ko,koi,ko->i", weight.to(shifts.dtype), shifts.conj(), difference).real.double()
    explained = products @ torch.linalg.lstsq(normal, products[:, None]).solution[:, 0]
    return max(0.5 * float((weight * difference.abs().square()).sum() - explained), 0.0)


def _information(images: RingImages, model: Model) -> Float[Tensor, "rings orders"]:
    """What a power of 1 in each harmonic of the average adds to twice the log-likelihood."""
    weight = order_weight(model.template.harmonics.shape[1]).to(images.device)
    return ring_information(images, model)[:, None] * weight


def noise_change(images: RingImages, model: Model, n: int) -> float:
    """Part of the change by a turn of 360 / n degrees that the noise of the average makes up.

    The noise that is left in the average after so many images, and what an average gains where each image takes the
    likeliest of n angles that look alike: of n normal numbers the largest is about ``sqrt(2 ln n)`` at most.
    """
    template, rings = model.template, model.template.rings
    order = torch.arange(template.harmonics.shape[1], device=images.device)
    noise = mean_noise(images, model.noise)[:rings]
    power = len(images) * _mean_transfer_power(images, rings)
    by_order = noise_by_order(images.grid)[:rings, : len(order)].to(images.device)
    variance = (noise * power)[:, None] * by_order * template.limit / template.total.square()
    turned = 1 - torch.cos(2 * math.pi / n * order)
    return float((variance * _information(images, model) * turned).sum()) + 2.0 * math.log(n)


def isotropy_evidence(images: RingImages, model: Model) -> dict[int, float]:
    """How clearly one image tells the average from itself turned by 360 / n degrees, for each n from 2 on.

    Returns
    -------
    dict
        Log-likelihood in nats, free of what noise makes up; near 0 for a symmetry, hundreds where there is none.
    """
    turns = {n: 2 * math.pi / n for n in range(2, HIGHEST_ISOTROPY + 1)}
    return {n: change_about_any_axis(images, model, turn) - noise_change(images, model, n) for n, turn in turns.items()}


def isotropy_order(evidence: dict[int, float]) -> int:
    """Largest n for which a turn by 360 / n degrees changes the average by less than one image can show."""
    return max((n for n, nats in evidence.items() if nats < INDISTINCT_NATS), default=1)


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
