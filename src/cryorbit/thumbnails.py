"""Particle images of a run for people to look at: as they are, turned into place, and as the decoder draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryorbit.config import RunConfig
from cryorbit.conventions import FloatArray
from cryorbit.errors import CryorbitError
from cryorbit.io import ImageStack
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import network_box_size, open_cache, prepare_images
from cryorbit.report.pictures import Pictures, cached_pictures
from cryorbit.training.checkpoint import BEST, load_autoencoder

# Width of the images where the run kept no copy of them.
LOOKED_AT_PX = 64


def pictures_of(folder: Path, config: RunConfig, particles: ParticleTable) -> Pictures:
    """Images of a run: from its cache, else from the stacks, as far as these are still there."""
    cache = open_cache(folder / "cache")
    drawn = _drawn(folder / "checkpoint" / BEST, config)
    if cache is not None and len(cache) == len(particles):
        return cached_pictures(cache, drawn)
    try:
        stack = ImageStack(particles.locations)
        pixel_size_A = float(particles.imaging.pixel_size_A[0])
        size = network_box_size(stack.box_size, LOOKED_AT_PX, 2)
        names = particles.image_names
        prepared = prepare_images(stack, pixel_size_A, size, config.preprocessing, names)
    except (CryorbitError, OSError):
        return Pictures(drawn=drawn)

    def read(rows: NDArray[np.int64]) -> FloatArray:
        return np.asarray(prepared.read(rows).numpy(), dtype=np.float64)

    return Pictures(read, prepared.info.pixel_size_A, prepared.info.noise_free, drawn)


def _drawn(checkpoint: Path, config: RunConfig) -> Callable[[FloatArray], FloatArray] | None:
    """The decoder of a run; None where there is none, or none that fits."""
    try:
        autoencoder = load_autoencoder(checkpoint, config.model)
    except CryorbitError:
        return None

    def draw(points: FloatArray) -> FloatArray:
        with torch.no_grad():
            latent = torch.from_numpy(np.asarray(points, dtype=np.float32))
            images = autoencoder.expected_images(autoencoder.decoder(latent))
        return np.asarray(images.reshape(len(points), *images.shape[-2:]).cpu().numpy(), dtype=np.float64)

    return draw
