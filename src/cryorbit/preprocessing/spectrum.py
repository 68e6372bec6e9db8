"""Power of particle images by Fourier ring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.conventions import FloatArray
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.normalise import disc_mask

BATCH = 256


@dataclass(frozen=True)
class RingSpectra:
    """Power spectra of some particles.

    Attributes
    ----------
    rows
        The particles, shape (m,).
    power
        Mean power in each ring, shape (m, rings).
    frequency_per_A
        Spatial frequency of each ring, shape (rings,); the first ring is one cycle per box.
    """

    rows: np.ndarray
    power: FloatArray
    frequency_per_A: FloatArray


def ring_power(images: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch rings"]:
    """Mean power in the Fourier rings of radius 1 to n // 2 - 1."""
    n = images.shape[-1]
    power = torch.fft.rfft2(images, norm="forward").abs().square()
    radius = torch.hypot(torch.fft.fftfreq(n, 1.0 / n)[:, None], torch.fft.rfftfreq(n, 1.0 / n)[None, :])
    ring = radius.round().long().flatten()
    # Every column but the first stands for its conjugate as well.
    multiplicity = torch.full((n, n // 2 + 1), 2.0)
    multiplicity[:, 0] = 1.0
    total = power.new_zeros(len(images), int(ring.max()) + 1)
    total.index_add_(1, ring, (power * multiplicity).flatten(1))
    count = power.new_zeros(total.shape[1]).index_add_(0, ring, multiplicity.flatten())
    rings: Tensor = (total / count)[:, 1 : n // 2]
    return rings


def sample_spectra(cache: ParticleCache, rows: np.ndarray) -> RingSpectra:
    """Ring spectra of these particles, seen through the particle's disc.

    Parameters
    ----------
    cache
        Standardised images.
    rows
        Which of them, shape (m,).
    """
    mask = disc_mask(cache.box_size, cache.info.particle_radius_px, soft_px=2.0)
    parts = [ring_power(cache.read(rows[start : start + BATCH]) * mask) for start in range(0, len(rows), BATCH)]
    field_of_view_A = cache.box_size * cache.info.pixel_size_A
    frequency = np.arange(1, cache.box_size // 2) / field_of_view_A
    return RingSpectra(rows, torch.cat(parts).double().numpy(), frequency)
