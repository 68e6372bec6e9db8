"""Locating particles against an average: the whole circle, then the best of its modes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorbit.alignment.images import RingImages
from cryorbit.alignment.polar import PolarGrid
from cryorbit.alignment.refine import Batch, OwnPart, Poses, refine
from cryorbit.alignment.search import CircleSearch, Modes, defocus_step_um, shift_grid
from cryorbit.alignment.templates import Geometry, Template

# Expected log-likelihood of the right pose over none that the search should have, and the rings it may take for it.
SEARCH_NATS = 45.0
SEARCH_RINGS = (12, 16, 20, 24)
SHIFT_STEP_px = 2.0
# Shift search reaches this many standard deviations and half a step more, from where refinement still gets back; and
# so many times further for images that it may have missed.
SHIFT_SPREADS = 2.5
FURTHER = 2.5
# Share of the promised log-likelihood below which an image may have been missed.
POOR_SHARE = 0.5
WIDER_THAN_MEASURED = 1.3
LEAST_SHIFT_SPREAD_px = 0.5
MOST_MODES = 4
MODE_MARGIN_nats = 15.0
# Rings and Newton steps of the refinement of every mode.
MIDDLE_RINGS = ((16, 1), (24, 2))
# What refinement adds to the log-likelihood of a wrong pose.
REFINEMENT_NATS = 3.0
# An image's own part in the average matters within this turn of the pose with which it entered.
OWN_TURN_rad = 0.1
# Complex numbers in one batch of the search: 16 MB; several arrays of that size are needed at a time, by each thread.
SEARCH_BATCH_SIZE = 2_000_000
MOST_IN_BATCH = 128


@dataclass(frozen=True)
class Model:
    """What locating particles needs.

    Attributes
    ----------
    geometry
        Rings and orders.
    template
        The average.
    noise
        Variance of each optics group on each ring, shape (groups, rings).
    shift_spread_px
        Standard deviation of the prior of the shift.
    isotropy_order
        n where turns by 360 / n degrees cannot be told apart.
    """

    geometry: Geometry
    template: Template
    noise: Float[Tensor, "groups rings"]
    shift_spread_px: float
    isotropy_order: int = 1


@dataclass(frozen=True)
class Located:
    """Poses of images found by searching the whole circle.

    Attributes
    ----------
    poses
        Of the best mode.
    mode_probability
        Its share of the posterior, shape (n,).
    resultant
        Mean resultant length of n times the angle over all modes, where n is the isotropy order, shape (n,).
    support
        Log-likelihood over what the average promises, shape (n,): about 1 for a particle, 0 for noise.
    """

    poses: Poses
    mode_probability: Float[Tensor, " n"]
    resultant: Float[Tensor, " n"]
    support: Float[Tensor, " n"]

    def of_rows(self, rows: Tensor) -> Located:
        """Some of the images."""
        return Located(self.poses.of_rows(rows), self.mode_probability[rows], self.resultant[rows], self.support[rows])

    @classmethod
    def concatenate(cls, parts: list[Located]) -> Located:
        """Several batches."""
        return cls(
            Poses.concatenate([part.poses for part in parts]),
            torch.cat([part.mode_probability for part in parts]),
            torch.cat([part.resultant for part in parts]),
            torch.cat([part.support for part in parts]),
        )

    def diluted(self, elsewhere: Float[Tensor, " n"]) -> Located:
        """The same where a share of the posterior is spread over all other angles."""
        left = 1 - elsewhere
        return Located(self.poses, self.mode_probability * left, self.resultant * left, self.support)

    def replaced(self, rows: Int[Tensor, " rows"], by: Located) -> Located:
        """The same with other poses for some images."""
        order = torch.arange(len(self.poses), device=rows.device)
        order[rows] = len(order) + torch.arange(len(rows), device=rows.device)
        return Located.concatenate([self, by]).of_rows(order)


def search_rings(images: RingImages, model: Model) -> int:
    """Fewest rings on which the right pose of an average image stands out by enough."""
    k = torch.arange(1, model.template.rings + 1, device=images.device)
    few = images.defocus.coarser(0.1).values_um
    defocus = images.defocus.fixed_um if images.defocus.fixed_um is not None else few
    power = torch.stack([t.rings(len(k)).amplitude(defocus)[:, 0].square().mean(dim=0) for t in images.transfers])
    weight = 2 * math.pi * k / (images.grid.box_size**2 * model.noise[:, : len(k)])
    nats = 0.5 * ((power * weight).mean(dim=0) * model.template.energy).cumsum(dim=0)
    for rings in SEARCH_RINGS:
        if rings >= len(k) or nats[rings - 1] >= SEARCH_NATS:
            return min(rings, len(k))
    return min(SEARCH_RINGS[-1], len(k))


def locate(images: RingImages, model: Model, own: OwnPart | None = None) -> Located:
    """Search circle, shifts and defoci for every image, refine all modes, and keep the best.

    Shifts are sought as far as the prior makes likely; an image that ends at the edge of that, or whose likelihood is
    far less than its average promises, is sought again further out.

    Parameters
    ----------
    images
        To be located.
    model
        The average and what belongs to it.
    own
        What the images put into the average, where they did.
    """
    scale = images.grid.box_size / 128
    step = SHIFT_STEP_px * scale
    spread = model.shift_spread_px / WIDER_THAN_MEASURED
    reach = max(SHIFT_SPREADS * spread, step) + 0.5 * step
    found = _locate_within(images, model, reach, step, own)
    edge = torch.linalg.vector_norm(found.poses.shift, dim=1) > reach - 0.5 * step
    log_likelihood = found.poses.log_likelihood
    # An image that is off its centre may well seem to have next to no defocus, and then promises next to nothing.
    poor = (found.support < POOR_SHARE) | (log_likelihood < POOR_SHARE**2 * log_likelihood.median())
    again = torch.nonzero(edge | poor).flatten()
    if not len(again):
        return found
    part = None if own is None else own.of_rows(again)
    further = _locate_within(images.of_rows(again), model, FURTHER * reach + step, step, part)
    better = further.poses.log_likelihood > found.poses.log_likelihood[again]
    return found.replaced(again[better], further.of_rows(better))


def _locate_within(images: RingImages, model: Model, reach_px: float, step_px: float, own: OwnPart | None) -> Located:
    """Poses within a distance."""
    grid, rings = images.grid, search_rings(images, model)
    step_um = defocus_step_um(images.transfers, rings)
    search = CircleSearch(grid, rings, shift_grid(reach_px, step_px), step_um, images.device)
    size = max(1, min(MOST_IN_BATCH, SEARCH_BATCH_SIZE // search.size))
    inner = model.template.inner(rings)
    found, order = [], []
    for rows, batch in images.batches(model.noise, model.shift_spread_px, size, model.template.rings):
        scores = search.scores(batch, inner.harmonics, inner.energy)
        modes = search.modes(batch, scores, MOST_MODES, MODE_MARGIN_nats)
        found.append(_refined_modes(batch, modes, model, grid, None if own is None else own.of_rows(rows)))
        order.append(rows)
    back = torch.cat(order).argsort()
    return Located.concatenate(found).of_rows(back)


def _refined_modes(batch: Batch, modes: Modes, model: Model, grid: PolarGrid, own: OwnPart | None) -> Located:
    """The best mode of each image after refinement; where there are several, they are compared on all rings."""
    template = model.template
    repeated = batch if len(modes.image) == len(batch) else batch.of_rows(modes.image)
    poses = Poses.at(modes.psi, modes.shift, modes.defocus_um)
    for count, steps in MIDDLE_RINGS:
        inner = template.inner(min(count, template.rings))
        poses = refine(repeated, inner, poses, grid, steps, _near_own(own, modes, poses))
    support = poses.log_likelihood / _promised(repeated, inner, poses)
    # On more rings, the best mode stands out more against all that was not refined.
    gain = (poses.log_likelihood - modes.log_p - REFINEMENT_NATS).clamp(min=0)
    best_gain = torch.zeros(len(batch), device=gain.device).scatter_reduce(0, modes.image, gain, "amax")
    several = torch.bincount(modes.image, minlength=len(batch))[modes.image] > 1
    if bool(several.any()) and inner.rings < template.rings:
        rows = torch.nonzero(several).flatten()
        part = _near_own(own, modes, poses)
        fine = refine(
            repeated.of_rows(rows), template, poses.of_rows(rows), grid, 1, None if part is None else part.of_rows(rows)
        )
        order = torch.arange(len(poses), device=rows.device)
        order[rows] = len(poses) + torch.arange(len(rows), device=rows.device)
        poses = Poses.concatenate([poses, fine]).of_rows(order)
    best = _best_modes(poses, support, modes.image, len(batch), model.isotropy_order)
    elsewhere = modes.elsewhere / (modes.elsewhere + (1 - modes.elsewhere) * best_gain.exp())
    return best.diluted(elsewhere)


def _near_own(own: OwnPart | None, modes: Modes, poses: Poses) -> OwnPart | None:
    """What the images put into the average, for each of their modes: nothing that matters but near the pose there."""
    if own is None:
        return None
    part = own.of_rows(modes.image)
    turn = poses.psi - part.poses.psi
    near = torch.atan2(torch.sin(turn), torch.cos(turn)).abs() < OWN_TURN_rad
    return OwnPart(part.poses, part.weight * near)


def _promised(batch: Batch, template: Template, poses: Poses) -> Tensor:
    """Log-likelihood that each image would have if it were the average and no noise."""
    inner = batch.inner(template.rings)
    power = inner.transfer.power(poses.defocus_um) * inner.ring_weight()
    return (0.5 * power @ template.energy).clamp(min=1e-6)


def _best_modes(
    poses: Poses, support: Float[Tensor, " modes"], image: Int[Tensor, " modes"], count: int, isotropy_order: int
) -> Located:
    """The likeliest mode of each image, and how sure it is among the others."""
    log_p = poses.log_likelihood
    best = torch.full((count,), -torch.inf, device=log_p.device).scatter_reduce(0, image, log_p, "amax")
    share = (log_p - best[image]).exp()
    # Two starts that ended in one maximum are one mode.
    rows = torch.arange(len(log_p), device=log_p.device)
    winner = torch.full((count,), len(log_p), device=log_p.device).scatter_reduce(
        0, image, torch.where(log_p >= best[image], rows, len(log_p)), "amin"
    )
    apart = poses.psi - poses.psi[winner[image]]
    apart = torch.atan2(torch.sin(apart), torch.cos(apart)).abs()
    same = (apart < 3 * poses.covariance[:, 0, 0].clamp(min=0).sqrt() + 1e-3) & (rows != winner[image])
    share = torch.where(same, 0.0, share)
    total = torch.zeros(count, device=log_p.device).index_add_(0, image, share)
    angle = isotropy_order * poses.psi
    cosine = torch.zeros_like(total).index_add_(0, image, share * torch.cos(angle)) / total
    sine = torch.zeros_like(total).index_add_(0, image, share * torch.sin(angle)) / total
    return Located(poses.of_rows(winner), 1 / total, torch.hypot(cosine, sine), support[winner])


def spread_of(poses: Poses, box_size: int) -> float:
    """Standard deviation of the shifts, robust, a little widened: a prior that is too narrow does more harm."""
    scale = box_size / 128
    deviation = (poses.shift - poses.shift.median(dim=0).values).abs()
    return max(WIDER_THAN_MEASURED * 1.4826 * float(deviation.median()), LEAST_SHIFT_SPREAD_px * scale)
