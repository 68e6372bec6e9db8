"""Images for people to look at, from wherever a run has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from cryorbit.conventions import FloatArray
from cryorbit.preprocessing.dataset import ParticleCache

SMOOTHING_PX = 1.0


@dataclass(frozen=True)
class Pictures:
    """Where images for people come from; None where a run has no such images.

    Attributes
    ----------
    images
        Standardised images of some rows, shape (k, h, w).
    pixel_size_A
        Of these images.
    noise_free
        Whether they have no noise.
    drawn
        What the decoder draws at latent points of shape (k, latent), shape (k, h, w).
    """

    images: Callable[[NDArray[np.int64]], FloatArray] | None = None
    pixel_size_A: float = float("nan")
    noise_free: bool = False
    drawn: Callable[[FloatArray], FloatArray] | None = None

    def smoothed(self, rows: NDArray[np.int64]) -> FloatArray:
        """Images of these rows, shape (k, h, w), with less noise than the eye can bear.

        Raises
        ------
        ValueError
            If there are no images.
        """
        if self.images is None:
            raise ValueError("there are no images")
        images = self.images(rows)
        return images if self.noise_free else np.asarray(gaussian_filter(images, (0.0, SMOOTHING_PX, SMOOTHING_PX)))


def cached_pictures(cache: ParticleCache, drawn: Callable[[FloatArray], FloatArray] | None = None) -> Pictures:
    """Pictures from a run's own copy of its images, and from its decoder if there is one."""

    def read(rows: NDArray[np.int64]) -> FloatArray:
        return np.asarray(cache.read(rows).numpy(), dtype=np.float64)

    return Pictures(read, cache.info.pixel_size_A, cache.info.noise_free, drawn)


def put_into_place(images: FloatArray, psi_deg: FloatArray, shift_px: FloatArray) -> FloatArray:
    """Images turned and shifted so that they all lie like the reference; signs as in :mod:`cryorbit.conventions`.

    Parameters
    ----------
    images
        Shape (m, h, w).
    psi_deg, shift_px
        Of each, shapes (m,) and (m, 2).
    """
    centre = np.array([images.shape[1] // 2, images.shape[2] // 2], dtype=np.float64)
    placed = np.empty_like(images)
    for k, angle in enumerate(np.radians(psi_deg)):
        # reference(y) = image(R(psi)^T y + t), here with the rows first.
        back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        placed[k] = affine_transform(images[k], back, centre + shift_px[k, ::-1] - back @ centre, order=1)
    return placed
