"""Facts of classes, from their averages, their halves, and the images in them."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.orbit import FRC_THRESHOLD, geometry_of, ring_correlation
from cryorbit.alignment.polar import PolarTransform, to_samples
from cryorbit.alignment.reader import RingReader
from cryorbit.alignment.templates import AverageSums, Geometry, Template, order_weight
from cryorbit.classification.assign import Halves
from cryorbit.classification.bank import Bank
from cryorbit.classification.lines import agreement, common_lines
from cryorbit.classification.poses import ClassPoses
from cryorbit.classification.quality import ClassFacts, shown
from cryorbit.conventions import FloatArray

HIGHEST_ISOTROPY = 12
# Turns that change the expected log-likelihood of an image by less than this cannot be told apart.
INDISTINCT_NATS = 3.0
# Mean of the squared transfer function over defoci.
MEAN_TRANSFER_POWER = 0.5
# Rings on which every compact object is round.
FIRST_RINGS = 3


def averages_of(
    halves: list[Halves], noise: Float[Tensor, " rings"], geometry: Geometry
) -> tuple[tuple[Template | None, ...], Bank]:
    """Templates of all classes, and what images can be compared with.

    Parameters
    ----------
    halves
        Sums of each class.
    noise
        Variance of the noise on each ring, as if in a pixel.
    geometry
        Of the alignment.
    """
    rings, orders = geometry.grid.rings, geometry.grid.orders
    harmonics = torch.zeros(len(halves), rings, orders, dtype=torch.complex64, device=noise.device)
    templates: list[Template | None] = []
    for number, (first, second) in enumerate(halves):
        whole = first + second
        template = geometry.template(whole, noise, rings) if whole.particles > 0 else None
        if template is not None:
            harmonics[number, :, : template.harmonics.shape[1]] = template.harmonics
        templates.append(template)
    particles = torch.tensor([first.particles + second.particles for first, second in halves], device=noise.device)
    return tuple(templates), Bank(harmonics, ((particles + 1) / (particles.sum() + len(halves))).log())


def images_of(bank: Bank, geometry: Geometry, transform: PolarTransform) -> FloatArray:
    """Averages as images, shape (classes, box, box)."""
    wide = bank.of_shape(geometry.grid.rings, geometry.grid.orders)
    # One at a time: a transform asks for some copies of all its samples.
    pictures = [transform.image(to_samples(one, geometry.grid.angles)[None])[0] for one in wide]
    return torch.stack(pictures).cpu().double().numpy()


def class_facts(
    halves: list[Halves],
    poses: ClassPoses,
    bank: Bank,
    images: FloatArray,
    noise: Float[Tensor, " rings"],
    geometry: Geometry,
    pixel_size_A: float,
    particle_radius_px: float,
) -> ClassFacts:
    """What is known of each class.

    Parameters
    ----------
    halves
        Sums of each class.
    poses
        Of all particles.
    bank, images
        Of :func:`averages_of` and :func:`images_of`.
    noise
        Variance of the noise on each ring, as if in a pixel.
    geometry
        Of the alignment.
    pixel_size_A, particle_radius_px
        Of the images.
    """
    classes, box = len(halves), geometry.grid.box_size
    counts = np.bincount(poses.number, minlength=classes).astype(np.float64)
    weight = torch.from_numpy(counts).to(bank.log_share)
    here = torch.nonzero(weight > 0).flatten()
    lines = common_lines(Bank(bank.harmonics[here], bank.log_share[here]), box, particle_radius_px)
    columns = {name: np.full(classes, np.nan) for name in (
        "resolution_A", "agreement", "offset", "extent", "outside", "nats", "psi_std_deg", "roundness",
        "isotropy_order",
    )}  # fmt: skip
    rows = here.cpu().numpy()
    columns["agreement"][rows] = agreement(lines, weight[here]).cpu().numpy()
    for name, values in zip(("offset", "extent", "outside"), shown(images[rows], particle_radius_px), strict=True):
        columns[name][rows] = values
    for number in rows:
        own = poses.number == number
        columns["resolution_A"][number] = _resolution_A(halves[number], geometry, box * pixel_size_A)
        columns["nats"][number] = np.median(poses.evidence.promise[own])
        columns["psi_std_deg"][number] = np.median(poses.psi_std_deg[own])
        roundness, order = _turning(bank.harmonics[number], halves[number], noise, geometry)
        columns["roundness"][number], columns["isotropy_order"][number] = roundness, order
    return ClassFacts(particles=counts, **columns)


def facts_and_images(
    halves: list[Halves], poses: ClassPoses, noise: Float[Tensor, " rings"], reader: RingReader
) -> tuple[ClassFacts, FloatArray]:
    """What is known of each class, and the averages as images, shape (classes, box, box).

    Parameters
    ----------
    halves, poses, noise
        As for :func:`class_facts`.
    reader
        Of the images.
    """
    geometry, info = geometry_of(reader), reader.images.info
    bank = averages_of(halves, noise, geometry)[1]
    images = images_of(bank, geometry, reader.transform)
    return class_facts(halves, poses, bank, images, noise, geometry, info.pixel_size_A, info.particle_radius_px), images


def _resolution_A(halves: Halves, geometry: Geometry, box_A: float) -> float:
    """Where the correlation of two halves falls below 0.143; that of the last ring where it does not."""
    frc = ring_correlation(list(halves), geometry)
    below = np.flatnonzero(~(frc >= FRC_THRESHOLD))
    return box_A / (int(below[0]) + 1 if len(below) else len(frc))


def _turning(
    harmonics: Tensor, halves: Halves, noise: Float[Tensor, " rings"], geometry: Geometry
) -> tuple[float, float]:
    """Share of the power that no turn changes, and the order of the isotropy about the centre.

    A turn by t changes the expected log-likelihood of an image by ``sum w |H_m|^2 (1 - cos m t)``; what the noise that
    is left in the average adds to that is taken off.
    """
    sums = halves[0] + halves[1]
    rings, orders = harmonics.shape
    k = torch.arange(1, rings + 1, device=noise.device)
    weight = 2 * math.pi * k / (geometry.grid.box_size**2 * noise[:rings]) * MEAN_TRANSFER_POWER
    by_order = weight[:, None] * order_weight(orders).to(noise.device)
    left = _noise_left(sums, noise, geometry)[:, :orders]
    power = by_order * (harmonics.abs().square() - left).clamp(min=0)
    inner = power[FIRST_RINGS:]
    roundness = float(inner[:, 0].sum() / inner.sum().clamp(min=1e-12))
    order = torch.arange(orders, device=noise.device)
    isotropy = 1
    if float(power[:, 1:].sum()) < INDISTINCT_NATS:
        return roundness, float("nan")  # round, or nothing at all
    for n in range(2, HIGHEST_ISOTROPY + 1):
        changed = by_order * (harmonics.abs().square() - left) * (1 - torch.cos(2 * math.pi / n * order))
        if float(changed.sum()) < INDISTINCT_NATS:
            isotropy = n
    return roundness, isotropy


def _noise_left(sums: AverageSums, noise: Float[Tensor, " rings"], geometry: Geometry) -> Tensor:
    """Power of each harmonic of an average that is noise."""
    template = geometry.template(sums, noise, geometry.grid.rings)
    orders = template.harmonics.shape[1]
    one_image = noise[:, None] * geometry.noise_orders[:, :orders] * template.limit
    left = torch.zeros(geometry.grid.rings, geometry.grid.orders, device=noise.device)
    left[:, :orders] = one_image * sums.power[:, None] / template.total.square()
    return left
