"""Intensities: background outside the particle, contrast, and the scales that the likelihoods expect."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import skew
from torch import Tensor

# Signal this much stronger than the background, and the background is ringing, not noise.
NOISE_FREE_CONTRAST = 4.0
# Standard errors above which the sign of the contrast is taken as known.
CONTRAST_SIGNIFICANCE = 3.0
# Width of the smoothing before the skewness is taken, as a part of the box.
SMOOTHING_OF_BOX = 1.0 / 32.0


def radius_px(box_size: int) -> Float[Tensor, "n n"]:
    """Distance of every pixel from pixel ``(n // 2, n // 2)``."""
    offset = torch.arange(box_size, dtype=torch.float32) - box_size // 2
    return torch.hypot(offset[:, None], offset[None, :])


@lru_cache(maxsize=16)
def _disc_mask(box_size: int, radius: float, soft_px: float) -> Tensor:
    distance = radius_px(box_size) - radius
    return (0.5 - distance / soft_px).clamp(0.0, 1.0) if soft_px > 0 else (distance <= 0).float()


def disc_mask(box_size: int, radius: float, soft_px: float = 0.0) -> Float[Tensor, "n n"]:
    """One inside the centred disc of ``radius`` pixels, zero outside, with a linear edge ``soft_px`` wide."""
    return _disc_mask(box_size, radius, soft_px).clone()


def scale_to_unit_range(images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
    """Each image scaled so that its darkest pixel is 0 and its brightest 1; a constant image becomes 0."""
    low = images.amin(dim=(1, 2), keepdim=True)
    high = images.amax(dim=(1, 2), keepdim=True)
    return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)


@dataclass(frozen=True)
class IntensityStatistics:
    """Per-image statistics inside and outside the particle's disc, from which the normalisation follows.

    Attributes
    ----------
    background_mean, background_std
        Outside the disc, shape (n,).
    disc_mean, disc_std
        Inside the disc, shape (n,); the mean is taken in its inner half, where the particle is.
    """

    background_mean: np.ndarray
    background_std: np.ndarray
    disc_mean: np.ndarray
    disc_std: np.ndarray


def intensity_statistics(images: Float[Tensor, "batch h w"], particle_radius_px: float) -> IntensityStatistics:
    """Measure mean and standard deviation of each image inside and outside the particle's disc."""
    box_size = images.shape[-1]
    disc = disc_mask(box_size, particle_radius_px) > 0
    core = disc_mask(box_size, 0.5 * particle_radius_px) > 0
    regions = torch.stack([~disc, disc, core]).flatten(1).to(images.dtype)
    counts = regions.sum(dim=1)
    pixels = images.flatten(1)
    # Sums of squares lose digits where the mean is large.
    middle = pixels.mean(dim=1, keepdim=True)
    pixels = pixels - middle
    mean = pixels @ (regions / counts[:, None]).T
    variance = (pixels.square() @ (regions / (counts - 1).clamp(min=1)[:, None]).T).double()
    variance = variance - mean.double().square() * (counts / (counts - 1).clamp(min=1)).double()
    std = variance.clamp(min=0).sqrt().numpy()
    level = (mean + middle).double().numpy()
    return IntensityStatistics(
        background_mean=level[:, 0], background_std=std[:, 0], disc_mean=level[:, 2], disc_std=std[:, 1]
    )


@dataclass(frozen=True)
class Contrast:
    """Whether the particles are brighter than their background.

    Attributes
    ----------
    dark_particles
        True if the particles are darker than the background, so that the images must change sign.
    significance
        Standard errors by which the skewness differs from zero; below 3 the sign is a guess.
    doubtful
        Whether the sign is a guess, or a second look says the opposite: the mean of the particle against its
        background, which hollow particles and crowded neighbours can fool.
    """

    dark_particles: bool
    significance: float
    doubtful: bool


def detect_contrast(images: Float[Tensor, "batch h w"], statistics: IntensityStatistics) -> Contrast:
    """Sign of the particles: matter fills the smaller part of its box, so smoothed images are skewed towards it.

    Parameters
    ----------
    images
        A sample of the set.
    statistics
        Of the same images.

    Notes
    -----
    Medians over the images decide, which junk cannot move. The skewness has the right sign for solid and hollow discs
    up to three quarters of the box wide, and on each of the real sets that we know the sign of.
    """
    sigma_px = SMOOTHING_OF_BOX * images.shape[-1]
    # Every pixel of a smoothed image says what its neighbours say.
    every = max(1, int(sigma_px / 2))
    smooth = gaussian_smooth(images, sigma_px)[:, ::every, ::every]
    middle, significance = _median_in_errors(skew(smooth.flatten(1).double().numpy(), axis=1))
    noise = np.where(statistics.background_std > 0, statistics.background_std, 1.0)
    mean, mean_significance = _median_in_errors((statistics.disc_mean - statistics.background_mean) / noise)
    disagree = mean * middle < 0 and mean_significance >= CONTRAST_SIGNIFICANCE
    return Contrast(middle < 0, significance, significance < CONTRAST_SIGNIFICANCE or disagree)


def _median_in_errors(values: np.ndarray) -> tuple[float, float]:
    """Median, and its size in standard errors."""
    middle = float(np.median(values))
    # Standard error of a median: 1.2533 sigma / sqrt(n), with sigma from the interquartile range.
    spread = float(np.subtract(*np.percentile(values, [75, 25]))) / 1.349
    error = 1.2533 * spread / float(np.sqrt(len(values)))
    return middle, abs(middle) / error if error > 0 else (float("inf") if middle else 0.0)


def gaussian_smooth(images: Float[Tensor, "batch h w"], sigma_px: float) -> Float[Tensor, "batch h w"]:
    """Images blurred by a Gaussian, periodic at the edges of the box."""
    n_rows, n_columns = images.shape[-2:]
    k2 = torch.fft.fftfreq(n_rows)[:, None] ** 2 + torch.fft.rfftfreq(n_columns)[None, :] ** 2
    filtered: Tensor = torch.fft.irfft2(
        torch.fft.rfft2(images) * torch.exp(-2.0 * (torch.pi * sigma_px) ** 2 * k2), s=(n_rows, n_columns)
    )
    return filtered


@dataclass(frozen=True)
class IntensityScale:
    """Affine map to standardised intensities.

    Attributes
    ----------
    noise_free
        True if the set has no noise worth the name: then one scale serves the whole set, since the background
        is only the ringing of the contrast transfer function, which differs with defocus.
    set_std
        That one scale, in the units of the file.
    sign
        +1, or -1 where dark particles are turned white.
    """

    noise_free: bool
    set_std: float
    sign: int


def choose_scale(statistics: IntensityStatistics, invert: bool) -> IntensityScale:
    """Decide how a set is standardised, from the statistics of a sample of it."""
    disc, background = np.median(statistics.disc_std), np.median(statistics.background_std)
    return IntensityScale(
        noise_free=bool(disc > NOISE_FREE_CONTRAST * background),
        set_std=float(disc) or 1.0,
        sign=-1 if invert else 1,
    )


def standardise(
    images: Float[Tensor, "batch h w"], particle_radius_px: float, scale: IntensityScale
) -> Float[Tensor, "batch h w"]:
    """Background of mean 0 and standard deviation 1 outside the particle, protein white.

    References
    ----------
    RELION's particle extraction normalises in the same way (Scheres 2012).
    """
    statistics = intensity_statistics(images, particle_radius_px)
    mean = torch.from_numpy(statistics.background_mean).float()[:, None, None]
    std = torch.from_numpy(statistics.background_std).float()[:, None, None]
    divisor = torch.full_like(std, scale.set_std) if scale.noise_free else torch.where(std > 0, std, 1.0)
    return scale.sign * (images - mean) / divisor
