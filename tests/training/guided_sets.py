"""Small sets whose poses and class average are known exactly, as caches for a guided training."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from cryorbit.config import PreprocessingConfig
from cryorbit.io.mrc import ImageStack
from cryorbit.particles import ImageLocations
from cryorbit.preprocessing.dataset import build_cache
from cryorbit.preprocessing.normalise import IntensityScale, standardise
from cryorbit.preprocessing.resample import fourier_crop
from cryorbit.simulation import make_simulation_config, phantom_projection
from cryorbit.simulation.rendering import clean_image, make_renderer, turned_image
from cryorbit.simulation.truth import TruthTable
from cryorbit.training.aligned import AlignedSet, KnownPoses

from ..io.conftest import write_stack

# Simulated at a size fine enough for the specimen; cached at one that trains in a blink.
BOX, PIXEL_A, SMALL = 96, 3.6, 24
CONFIG = make_simulation_config(
    "demo", {"box": BOX, "pixel_size_A": PIXEL_A, "particle_diameter_A": 270.0, "outliers": 0.0, "snr": 0.0}
)
# Of the particle, as a part of the box.
RADIUS_OF_BOX = 0.5 * 270.0 / (BOX * PIXEL_A)
RENDERER = make_renderer(phantom_projection(), CONFIG)


def simulated(psi_deg, defocus_um, shift_px):
    """The simulator's images of known poses, shifts in its own pixels, float64, shape (n, 96, 96)."""
    n = len(psi_deg)
    defocus_A, zeros = 1e4 * np.asarray(defocus_um), np.zeros(n)
    truth = TruthTable(
        np.asarray(psi_deg), defocus_A, defocus_A, zeros, np.asarray(shift_px), np.full(n, "none"),
        zeros.astype(np.int64), np.zeros((n, 2)), zeros.astype(np.int64), np.ones(n),
    )  # fmt: skip
    return np.stack([clean_image(RENDERER, truth, row) for row in range(n)])


def true_average(size=2 * SMALL):
    """The specimen before the microscope, of the same field of view."""
    fine = turned_image(RENDERER.particle, BOX, PIXEL_A, 0.0, np.zeros(2))
    return fourier_crop(torch.from_numpy(fine)[None], size)[0].numpy()


def draw_poses(n, seed, shift_px=0.3):
    """Poses drawn at random, shifts in pixels of the cache."""
    random = np.random.default_rng(seed)
    return KnownPoses(
        random.uniform(-180, 180, n), random.uniform(0.8, 2.4, n), shift_px * random.standard_normal((n, 2)), np.ones(n)
    )


def small_images(poses, size=SMALL):
    """The simulator's images at the cache's size, float32."""
    images = simulated(poses.psi_deg, poses.defocus_um, poses.shift_px * (BOX / size))
    return fourier_crop(torch.from_numpy(images), size).float()


@dataclass(frozen=True)
class HeldImages:
    """Images in memory, read as those of a cache are: nothing is done to them."""

    images: torch.Tensor

    @classmethod
    def standardised(cls, images):
        """Images to which is done what a cache does."""
        return cls(standardise(images, RADIUS_OF_BOX * images.shape[-1], IntensityScale(False, 1.0, 1)))

    def __len__(self):
        return len(self.images)

    @property
    def box_size(self):
        return self.images.shape[-1]

    @property
    def info(self):
        return SimpleNamespace(
            pixel_size_A=PIXEL_A * BOX / self.box_size,
            particle_radius_px=RADIUS_OF_BOX * self.box_size,
            noise_free=False,
        )

    def read(self, rows):
        return self.images[torch.from_numpy(np.asarray(rows))]


def aligned(poses, order=1, average=None):
    """What a perfect alignment leaves."""
    return AlignedSet(poses, true_average() if average is None else average, CONFIG.optics, order)


def cached_set(folder, poses, noise=0.05, seed=0):
    """A cache of simulated images in white noise, its deviation as a part of the brightest pixel."""
    images = simulated(poses.psi_deg, poses.defocus_um, poses.shift_px * (BOX / SMALL))
    random = np.random.default_rng(seed)
    images = images + noise * np.abs(images).max() * random.standard_normal(images.shape)
    path = write_stack(folder / "a.mrcs", images.astype(np.float32), PIXEL_A)
    rows = np.arange(len(images))
    stack = ImageStack(ImageLocations((path,), np.zeros_like(rows), rows))
    names = np.array([f"{i}@a.mrcs" for i in rows], dtype=object)
    return build_cache(stack, PIXEL_A, folder / "shards", PreprocessingConfig(box_size=SMALL, invert=False), names)
