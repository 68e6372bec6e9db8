"""Orbit alignment: learn the average from a sample of a data set, then locate every particle against it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorbit.alignment.average import Geometry, State, improved, mean_noise, recentre, refined, sums_of
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import OwnPart, Poses, refine
from cryorbit.alignment.search import CircleSearch, shift_grid
from cryorbit.alignment.start import Start, first_state
from cryorbit.alignment.templates import AverageSums, Template

# Expected log-likelihood of the right pose over none that the search should have, and the rings it may take for it.
SEARCH_NATS = 30.0
SEARCH_RINGS = (12, 16, 20, 24)
SEARCH_DEFOCUS_STEP_um = 0.3
SHIFT_STEP_px = 2.0
# Shift search reaches this many standard deviations, and a step more.
SHIFT_SPREADS = 3.5
WIDER_THAN_MEASURED = 1.3
LEAST_SHIFT_SPREAD_px = 0.5
MOST_MODES = 4
MODE_MARGIN_nats = 15.0
MIDDLE_RINGS = (16, 24)
# Complex numbers in one batch of the search: 32 MB.
SEARCH_BATCH_SIZE = 4_000_000
MOST_IN_BATCH = 64
FINAL_ROUNDS = 2
# Mean share of the best mode below which the average is good enough to be worth a second search.
DOUBTFUL_MODES = 0.995


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
    """

    geometry: Geometry
    template: Template
    noise: Float[Tensor, "groups rings"]
    shift_spread_px: float


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
        Mean resultant length of the angle over all modes and their widths, shape (n,).
    """

    poses: Poses
    mode_probability: Float[Tensor, " n"]
    resultant: Float[Tensor, " n"]


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
    """Search circle, shifts and defoci for every image, refine all modes, and keep the best."""
    grid = images.grid
    rings = search_rings(images, model)
    scale = grid.box_size / 128
    step = SHIFT_STEP_px * scale
    shifts = shift_grid(max(SHIFT_SPREADS * model.shift_spread_px, step) + step, step)
    search = CircleSearch(grid, rings, shifts, SEARCH_DEFOCUS_STEP_um, images.device)
    size = max(1, min(MOST_IN_BATCH, SEARCH_BATCH_SIZE // search.size))
    inner = model.template.inner(rings)
    outer = [model.template.inner(min(count, model.template.rings)) for count in MIDDLE_RINGS]
    found, order = [], []
    for rows, batch in images.batches(model.noise, model.shift_spread_px, size, outer[-1].rings):
        scores = search.scores(batch, inner.harmonics, inner.energy)
        modes = search.modes(batch, scores, MOST_MODES, MODE_MARGIN_nats)
        repeated = batch if len(modes.image) == len(batch) else batch.of_rows(modes.image)
        if repeated is batch:
            modes = replace(modes, **_by_image(modes.image, modes.psi, modes.shift, modes.defocus_um, modes.log_p))
        poses = Poses.at(modes.psi, modes.shift, modes.defocus_um)
        poses = refine(repeated, outer[0], poses, grid, 1)
        poses = refine(repeated, outer[1], poses, grid, 2)
        found.append(_best_modes(poses, modes.image, len(batch)))
        order.append(rows)
    back = torch.cat(order).argsort()
    return Located(
        Poses.concatenate([part.poses for part in found]).of_rows(back),
        torch.cat([part.mode_probability for part in found])[back],
        torch.cat([part.resultant for part in found])[back],
    )


def _by_image(image: Int[Tensor, " n"], *fields: Tensor) -> dict[str, Tensor]:
    order = image.argsort()
    names = ("image", "psi", "shift", "defocus_um", "log_p")
    return dict(zip(names, (field[order] for field in (image, *fields)), strict=True))


def _best_modes(poses: Poses, image: Int[Tensor, " modes"], count: int) -> Located:
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
    width = poses.covariance[:, 0, 0].clamp(min=0).sqrt()
    same = (apart < 3 * width + 1e-3) & (rows != winner[image])
    share = torch.where(same, 0.0, share)
    total = torch.zeros(count, device=log_p.device).index_add_(0, image, share)
    weighted = share * torch.exp(-0.5 * width**2)
    cosine = torch.zeros_like(total).index_add_(0, image, weighted * torch.cos(poses.psi)) / total
    sine = torch.zeros_like(total).index_add_(0, image, weighted * torch.sin(poses.psi)) / total
    return Located(poses.of_rows(winner), 1 / total, torch.hypot(cosine, sine))


def spread_of(poses: Poses, box_size: int) -> float:
    """Standard deviation of the shifts, robust, a little widened: a prior that is too narrow does more harm."""
    scale = box_size / 128
    deviation = (poses.shift - poses.shift.median(dim=0).values).abs()
    return max(WIDER_THAN_MEASURED * 1.4826 * float(deviation.median()), LEAST_SHIFT_SPREAD_px * scale)


@dataclass(frozen=True)
class Learned:
    """The average of a sample, and the sample's own estimates."""

    model: Model
    sums: AverageSums
    located: Located
    state: State
    start: Start


def learn(images: RingImages, geometry: Geometry, rounds: int, first_images: int, starts: int, seed: int) -> Learned:
    """Learn the average from images alone.

    Parameters
    ----------
    images
        A sample of the data set.
    geometry
        Rings and orders.
    rounds, first_images, starts
        Of the soft start: iterations, images, and how many starts to choose from.
    seed
        Of all that is random.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:first_images].sort().values.to(images.device)
    few = images.of_rows(chosen)
    start = first_state(few, geometry, rounds, starts, seed)
    rings = min(36, images.grid.rings)
    state = replace(start.state, poses=recentre(start.state.poses, start.state.weight))
    model = _model(few, state, geometry, rings, spread_of(state.poses, images.grid.box_size))
    located = locate(images, model)
    everyone = State(located.poses, located.mode_probability, model.noise, model.shift_spread_px)
    if float(located.mode_probability.mean()) < DOUBTFUL_MODES:
        model = _model(images, everyone, geometry, rings, spread_of(located.poses, images.grid.box_size))
        located = locate(images, model)
        everyone = State(located.poses, located.mode_probability, model.noise, model.shift_spread_px)
    for _ in range(FINAL_ROUNDS):
        everyone, template = improved(images, everyone, geometry, images.grid.rings, steps=2)
    sums = sums_of(images, everyone, images.grid.rings)
    model = Model(geometry, template, everyone.noise, everyone.shift_spread_px)
    return Learned(model, sums, replace(located, poses=everyone.poses), everyone, start)


def _model(images: RingImages, state: State, geometry: Geometry, rings: int, spread_px: float) -> Model:
    sums = sums_of(images, state, rings)
    template = geometry.template(sums, mean_noise(images, state.noise), rings)
    return Model(geometry, template, state.noise, spread_px)
