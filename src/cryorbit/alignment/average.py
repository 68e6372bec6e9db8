"""One pass of expectation-maximisation over images in memory: noise, average, poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.evidence import Evidence, judge
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.polar import squared
from cryorbit.alignment.refine import OwnPart, Poses, accumulate, in_average_frame, in_frame, refine_and_compare
from cryorbit.alignment.templates import (
    AverageSums,
    Geometry,
    Template,
    order_weight,
)

# Every operation costs some microseconds besides its work: with 32 images the alignment takes half as long again.
BATCH = 128
# Images that suffice for the noise of a group: its error is then far below a percent.
NOISE_SAMPLE = 640


@dataclass(frozen=True)
class State:
    """Where an alignment of images in memory has got to.

    Attributes
    ----------
    poses
        Of all images.
    weight
        Of each image in the average, shape (n,).
    noise
        Variance of each group on each ring, shape (groups, rings).
    shift_spread_px
        Standard deviation of the prior of the shift.
    """

    poses: Poses
    weight: Float[Tensor, " n"]
    noise: Float[Tensor, "groups rings"]
    shift_spread_px: float


def mean_noise(images: RingImages, noise: Float[Tensor, "groups rings"]) -> Float[Tensor, " rings"]:
    """Mean over the optics groups by their numbers of images."""
    counts = torch.bincount(images.group, minlength=len(noise)).to(noise)
    return (counts @ noise) / counts.sum()


def sums_of(images: RingImages, state: State, rings: int) -> AverageSums:
    """The M-step over all images."""
    total = AverageSums.empty(images.grid, images.device)
    for rows, batch in images.batches(state.noise, state.shift_spread_px, BATCH, rings):
        total = total + accumulate(batch, state.poses.of_rows(rows), state.weight[rows], images.grid)
    return total


def measured_noise(
    images: RingImages, state: State, template: Template, geometry: Geometry
) -> Float[Tensor, "groups rings"]:
    """Variance of each group on each ring: what the average leaves of the images; outer rings keep the old one."""
    rings, orders = template.rings, geometry.grid.orders
    weight = order_weight(orders).to(images.device)
    model = torch.nn.functional.pad(template.harmonics, (0, orders - template.harmonics.shape[1]))
    residual = torch.zeros(len(state.noise), rings, device=images.device)
    counted = torch.zeros(len(state.noise), device=images.device)
    for rows, batch in images.batches(state.noise, state.shift_spread_px, BATCH, rings):
        group = int(images.group[rows[0]])
        if counted[group] >= NOISE_SAMPLE:
            continue
        poses = state.poses.of_rows(rows)
        harmonics = in_average_frame(batch, poses, images.grid, orders)
        # With astigmatism, the mean power of the image is that of its channels together.
        amplitude = batch.transfer.amplitude(poses.defocus_um)
        correlation = torch.einsum("bqkm,km,bqk->bk", harmonics, (model.conj() * weight), amplitude.to(model)).real
        explained = 2 * correlation - batch.transfer.power(poses.defocus_um) * (squared(model) @ weight)
        power = (squared(harmonics) @ weight).sum(dim=1)
        residual[group] += ((power - explained) * state.weight[rows, None]).sum(dim=0)
        counted[group] += state.weight[rows].sum()
    noise = state.noise.clone()
    seen = counted > 0
    fresh = residual[seen] / counted[seen, None] / geometry.noise_power
    noise[seen, :rings] = torch.maximum(fresh, 1e-12 * noise[seen, :rings])
    return noise


def recentre(poses: Poses, weight: Float[Tensor, " n"]) -> Poses:
    """Move the average so that the median shift in its frame is zero: shifts and centre share a gauge."""
    trusted = weight > 0.5
    centre = in_frame(poses.psi, poses.shift)[trusted if bool(trusted.any()) else slice(None)].median(dim=0).values
    shift = poses.shift - in_frame(-poses.psi, centre.expand(len(poses), 2))
    return Poses(poses.psi, shift, *poses.fields()[2:])


def improved(
    images: RingImages, state: State, geometry: Geometry, rings: int, steps: int
) -> tuple[State, Template, Evidence]:
    """One round: average, noise, average again with that noise, and every image's pose against all others."""
    sums = sums_of(images, state, rings)
    template = geometry.template(sums, mean_noise(images, state.noise), rings)
    noise = measured_noise(images, state, template, geometry)
    state = State(state.poses, state.weight, noise, state.shift_spread_px)
    template = geometry.template(sums, mean_noise(images, noise), rings)
    poses, evidence = refined(images, state, template, geometry, steps, own=True)
    state = State(recentre(poses, state.weight), state.weight, noise, state.shift_spread_px)
    return state, template, evidence


def refined(
    images: RingImages, state: State, template: Template, geometry: Geometry, steps: int, own: bool
) -> tuple[Poses, Evidence]:
    """Refine every image, taking its own part out of the average where it is in it, and judge the result."""
    parts, judged, order = [], [], []
    for rows, batch in images.batches(state.noise, state.shift_spread_px, BATCH, template.rings):
        poses = state.poses.of_rows(rows)
        part = OwnPart(poses, state.weight[rows]) if own else None
        poses, found = refine_and_compare(batch, template, poses, images.grid, steps, part)
        parts.append(poses)
        judged.append(judge(batch, template, poses, found, geometry))
        order.append(rows)
    back = torch.cat(order).argsort()
    return Poses.concatenate(parts).of_rows(back), Evidence.concatenate(judged).of_rows(back)
