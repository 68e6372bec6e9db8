"""Locating particles against an average: the whole circle, then the best of its modes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses, refine
from cryorbit.alignment.search import CircleSearch, shift_grid
from cryorbit.alignment.templates import Geometry, Template

# Expected log-likelihood of the right pose over none that the search should have, and the rings it may take for it.
SEARCH_NATS = 30.0
SEARCH_RINGS = (12, 16, 20, 24)
SEARCH_DEFOCUS_STEP_um = 0.3
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
MIDDLE_RINGS = (16, 24)
# Complex numbers in one batch of the search: 32 MB.
SEARCH_BATCH_SIZE = 4_000_000
MOST_IN_BATCH = 32


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


def locate(images: RingImages, model: Model) -> Located:
    """Search circle, shifts and defoci for every image, refine all modes, and keep the best.

    Shifts are sought as far as the prior makes likely; an image that ends at the edge of that, or whose likelihood is
    far less than its average promises, is sought again further out.
    """
    scale = images.grid.box_size / 128
    step = SHIFT_STEP_px * scale
    spread = model.shift_spread_px / WIDER_THAN_MEASURED
    reach = max(SHIFT_SPREADS * spread, step) + 0.5 * step
    found = _locate_within(images, model, reach, step)
    edge = torch.linalg.vector_norm(found.poses.shift, dim=1) > reach - 0.5 * step
    log_likelihood = found.poses.log_likelihood
    # An image that is off its centre may well seem to have next to no defocus, and then promises next to nothing.
    poor = (found.support < POOR_SHARE) | (log_likelihood < POOR_SHARE**2 * log_likelihood.median())
    again = torch.nonzero(edge | poor).flatten()
    if not len(again):
        return found
    further = _locate_within(images.of_rows(again), model, FURTHER * reach + step, step)
    better = further.poses.log_likelihood > found.poses.log_likelihood[again]
    return found.replaced(again[better], further.of_rows(better))


def _locate_within(images: RingImages, model: Model, reach_px: float, step_px: float) -> Located:
    """Poses within a distance."""
    grid, rings = images.grid, search_rings(images, model)
    search = CircleSearch(grid, rings, shift_grid(reach_px, step_px), SEARCH_DEFOCUS_STEP_um, images.device)
    size = max(1, min(MOST_IN_BATCH, SEARCH_BATCH_SIZE // search.size))
    inner = model.template.inner(rings)
    outer = [model.template.inner(min(count, model.template.rings)) for count in MIDDLE_RINGS]
    found, order = [], []
    for rows, batch in images.batches(model.noise, model.shift_spread_px, size, outer[-1].rings):
        scores = search.scores(batch, inner.harmonics, inner.energy)
        modes = search.modes(batch, scores, MOST_MODES, MODE_MARGIN_nats)
        repeated = batch if len(modes.image) == len(batch) else batch.of_rows(modes.image)
        poses = Poses.at(modes.psi, modes.shift, modes.defocus_um)
        poses = refine(repeated, outer[0], poses, grid, 1)
        poses = refine(repeated, outer[1], poses, grid, 2)
        promised = 0.5 * (repeated.transfer.power(poses.defocus_um) * repeated.ring_weight()) @ outer[-1].energy
        support = poses.log_likelihood / promised.clamp(min=1e-6)
        best = _best_modes(poses, support, modes.image, len(batch), model.isotropy_order)
        found.append(best.diluted(modes.elsewhere))
        order.append(rows)
    back = torch.cat(order).argsort()
    return Located.concatenate(found).of_rows(back)


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
