"""A specimen of Gaussian blobs, whose images on rings are known exactly at every pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.polar import PolarGrid, PolarTransform, to_harmonics
from cryorbit.alignment.refine import Batch, Poses, accumulate
from cryorbit.alignment.templates import AverageSums, Geometry, Template
from cryorbit.alignment.transfer import RingTransfer
from cryorbit.optics import Optics

BOX, RINGS, PIXEL_A, RADIUS_px = 64, 22, 4.0, 18.0
GRID = PolarGrid(BOX, RINGS)
GEOMETRY = Geometry.of(GRID, RADIUS_px)
TRANSFORM = PolarTransform(GRID)
TRANSFER = RingTransfer.of_optics(GRID, PIXEL_A, Optics())
SEARCHED_um = torch.arange(0.2, 4.21, 0.02)


@dataclass(frozen=True)
class Specimen:
    """Gaussian blobs: places in pixels from the centre, shape (blobs, 2), heights, and their common width in pixels."""

    place_px: np.ndarray
    height: np.ndarray
    sigma_px: float

    def placed(self, psi: float, shift_px: np.ndarray) -> np.ndarray:
        """Places in an image at a pose: from image(x) = reference(R(psi) (x - t)), q appears at R(psi)^T q + t."""
        cosine, sine = math.cos(psi), math.sin(psi)
        return self.place_px @ np.array([[cosine, -sine], [sine, cosine]]) + shift_px

    def image(self, box: int, psi: float = 0.0, shift_px: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """Pixels, float64, shape (box, box)."""
        axis = np.arange(box) - box // 2
        distance = axis - self.placed(psi, np.asarray(shift_px))[:, :, None]
        x, y = np.exp(-0.5 * (distance / self.sigma_px) ** 2).swapaxes(0, 1)
        return (self.height[:, None] * y).T @ x

    def samples(self, grid: PolarGrid, psi: np.ndarray, shift_px: np.ndarray) -> Tensor:
        """Fourier transform on rings at many poses, complex128, shape (batch, rings, half)."""
        k = np.arange(1, grid.rings + 1)
        phi = np.arange(grid.angles // 2) * (2 * math.pi / grid.angles)
        place = np.stack([self.placed(p, t) for p, t in zip(psi, shift_px, strict=True)])
        along = place @ np.stack([np.cos(phi), np.sin(phi)])
        q = 2 * math.pi * k / grid.box_size
        first = np.exp(-2j * math.pi / grid.box_size * along)
        waves = np.empty((len(place), grid.rings, len(phi)), dtype=np.complex128)
        wave = np.ones_like(first)
        for ring in range(grid.rings):
            wave *= first
            waves[:, ring] = np.einsum("j,bjp->bp", self.height, wave)
        decay = 2 * math.pi * self.sigma_px**2 * np.exp(-0.5 * (q * self.sigma_px) ** 2)
        return torch.from_numpy(waves * decay[:, None])


def make_specimen(seed: int = 3, sigma_px: float = 1.3, blobs: int = 24, radius_px: float = RADIUS_px - 4) -> Specimen:
    """Blobs strewn over a disc, none like its mirror or a turned copy of itself."""
    random = np.random.default_rng(seed)
    radius, angle = radius_px * np.sqrt(random.uniform(0, 1, blobs)), random.uniform(0, 2 * math.pi, blobs)
    place = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return Specimen(place, random.uniform(0.4, 1.0, blobs), sigma_px)


SPECIMEN = make_specimen()


@dataclass(frozen=True)
class Truth:
    """Poses that images were made with: radians, pixels and micrometres."""

    psi: np.ndarray
    shift_px: np.ndarray
    defocus_um: np.ndarray

    def poses(self) -> Poses:
        return Poses.at(*(torch.from_numpy(v).float() for v in (self.psi, self.shift_px, self.defocus_um)))


def draw_truth(n: int, seed: int, shift_px: float = 1.0, defocus_um: tuple[float, float] = (0.8, 2.8)) -> Truth:
    random = np.random.default_rng(seed)
    return Truth(
        random.uniform(-math.pi, math.pi, n), shift_px * random.standard_normal((n, 2)), random.uniform(*defocus_um, n)
    )


def white_noise(n: int, seed: int, grid_transform: PolarTransform = TRANSFORM) -> Tensor:
    """Samples of images of white noise of variance 1."""
    box = grid_transform.grid.box_size
    generator = torch.Generator().manual_seed(1000 + seed)
    return grid_transform(torch.randn(n, box, box, generator=generator))


def seen(truth: Truth, specimen: Specimen = SPECIMEN, astigmatism: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Samples of noise-free images seen through the microscope, with the exact transfer function at every sample."""
    defocus = torch.from_numpy(truth.defocus_um)[:, None, None]
    if astigmatism is not None:
        half, angle = (v.double()[:, None, None] for v in astigmatism)
        phi = torch.arange(GRID.angles // 2).double() * (2 * math.pi / GRID.angles)
        defocus = defocus + half * torch.cos(2 * (phi - angle))
    chi = defocus * TRANSFER.slope_per_um.double()[:, None] + TRANSFER.offset.double()[:, None]
    return (specimen.samples(GRID, truth.psi, truth.shift_px) * torch.sin(chi)).to(torch.complex64)


def ring_images(samples: Tensor, defocus: DefocusRange | None = None, **changes) -> RingImages:
    """One optics group without astigmatism, unless changed."""
    n = len(samples)
    plain = RingImages(
        samples, torch.zeros(n, dtype=torch.long), (TRANSFER,), torch.zeros(n), torch.zeros(n),
        defocus or DefocusRange(SEARCHED_um), GRID,
    )  # fmt: skip
    return replace(plain, **changes)


def make_batch(
    samples: Tensor, noise: float, shift_spread_px: float = 2.0, defocus: DefocusRange | None = None
) -> Batch:
    """A batch of one group without astigmatism, in noise of one variance."""
    return Batch(
        samples[:, None], TRANSFER, defocus or DefocusRange(SEARCHED_um), torch.full((RINGS,), noise), shift_spread_px,
        BOX,
    )  # fmt: skip


def exact_template(specimen: Specimen = SPECIMEN) -> Template:
    """The specimen itself as an average, as if of infinitely many images."""
    harmonics = to_harmonics(specimen.samples(GRID, np.zeros(1), np.zeros((1, 2)))[0], GRID.orders)
    limit = GEOMETRY.limit
    template = Template(harmonics.to(torch.complex64) * limit, torch.full(limit.shape, 1e12), limit, BOX)
    return template.inner(RINGS)


def average_of(batch: Batch, poses: Poses, noise: Tensor | None = None) -> tuple[AverageSums, Template]:
    """Sums and average of a batch at given poses, every image with weight 1."""
    sums = accumulate(batch, poses, torch.ones(len(batch)), GRID)
    return sums, GEOMETRY.template(sums, batch.noise if noise is None else noise, RINGS)


def wrapped(angle: Tensor | np.ndarray) -> np.ndarray:
    """Angles in radians brought into [-pi, pi)."""
    return (np.asarray(angle, dtype=np.float64) + math.pi) % (2 * math.pi) - math.pi
