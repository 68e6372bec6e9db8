"""Defocus from the latent space, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cryorbit.conventions import FloatArray
from cryorbit.latent.embed import Embedding
from cryorbit.latent.orbits import PlaneChart, orbit_radius, plane_polar

LOWEST_DEFOCUS_UM = 0.05


@dataclass(frozen=True)
class DefocusQuartiles:
    """First and third quartile of the defocus of a data set, in micrometres."""

    first_um: float
    third_um: float

    @classmethod
    def of_range(cls, low_um: float, high_um: float) -> DefocusQuartiles:
        """Quartiles of the uniform distribution on a known range, as the paper assumes."""
        return cls(low_um + 0.25 * (high_um - low_um), low_um + 0.75 * (high_um - low_um))

    @classmethod
    def of_values(cls, defocus_um: FloatArray) -> DefocusQuartiles:
        """Quartiles of a known distribution, such as the micrographs' own fits."""
        first, third = np.percentile(defocus_um, [25, 75])
        return cls(float(first), float(third))


@dataclass(frozen=True)
class DefocusEstimate:
    """Defocus of every particle.

    Attributes
    ----------
    defocus_um
        Shape (n,), positive: underfocus.
    std_um
        Shape (n,), standard deviation.
    """

    defocus_um: FloatArray
    std_um: FloatArray


@dataclass(frozen=True)
class RadialDirection:
    """Whether the latent radius grows or falls with the defocus.

    Attributes
    ----------
    sign
        +1 if it grows, -1 if it falls.
    correlation
        Rank correlation behind that: of the radius with the mean spatial frequency of the decoded images.
    """

    sign: int
    correlation: float


def radial_direction(radius: FloatArray, decoded: NDArray[np.floating]) -> RadialDirection:
    """Find which way the radius runs, without labels: a larger defocus moves contrast to lower frequencies.

    The first maximum of ``|CTF|`` lies near ``k = 1 / sqrt(2 lambda df)``, so the power-weighted mean frequency
    of noise-free images falls as the defocus grows.

    Parameters
    ----------
    radius
        Latent radius of some particles, shape (m,).
    decoded
        What the decoder draws for them, shape (m, h, w).
    """
    box_size = decoded.shape[-1]
    images = decoded.astype(np.float64)
    images = images - images.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.rfft2(images)) ** 2
    frequency = np.hypot(np.fft.fftfreq(box_size)[:, None], np.fft.rfftfreq(box_size)[None, :])
    total = power.sum(axis=(1, 2))
    mean_frequency = (power * frequency).sum(axis=(1, 2)) / np.where(total > 0, total, 1.0)
    if len(radius) < 3 or np.ptp(mean_frequency) == 0 or np.ptp(radius) == 0:
        return RadialDirection(1, 0.0)
    correlation = float(spearmanr(radius, mean_frequency).statistic)
    return RadialDirection(1 if correlation <= 0 else -1, correlation)


@dataclass(frozen=True)
class Radii:
    """The coordinate across the orbits, by which the defocus is read.

    Attributes
    ----------
    radius
        Shape (n,).
    std
        Its uncertainty from the latent posterior and from turned copies of the particle, shape (n,).
    """

    radius: FloatArray
    std: FloatArray


def plane_radius(embedding: Embedding, chart: PlaneChart) -> Radii:
    """Radius in the plane of the first two principal components (equation 6)."""
    radii = plane_polar(embedding, chart).radius
    variance = np.exp(embedding.log_variance.astype(np.float64)) @ (chart.axes.axes[:2] ** 2).T
    return Radii(radii[:, 0], np.sqrt(radii.std(axis=1) ** 2 + variance.mean(axis=1)))


def whole_orbit_radius(embedding: Embedding) -> Radii:
    """Root mean square radius of the whole orbit, which no turn of the particle changes."""
    variance = np.exp(embedding.orbit_log_variance.astype(np.float64)).mean(axis=1)
    return Radii(orbit_radius(embedding), np.sqrt(variance))


def radius_to_defocus(
    radii: Radii, quartiles: DefocusQuartiles, direction: RadialDirection, use: NDArray[np.bool_]
) -> DefocusEstimate:
    """Map the latent radius to defocus by matching quartiles.

    Parameters
    ----------
    radii
        Coordinate across the orbits.
    quartiles
        Of the known distribution of the defocus.
    direction
        Which way the radius runs.
    use
        Particles whose radii give the quartiles, shape (n,): junk has radii of its own.

    Returns
    -------
    DefocusEstimate
        The uncertainty is that of the radius. It does not know how far the true relation is from a straight
        line; NaN where quartiles coincide.

    References
    ----------
    Equation 7 of the paper, there for a uniform distribution on [0.5, 2.5] um and a growing radius.
    """
    first, third = np.percentile(radii.radius[use] if use.any() else radii.radius, [25, 75])
    width = third - first
    spread_um = quartiles.third_um - quartiles.first_um
    middle_um = 0.5 * (quartiles.first_um + quartiles.third_um)
    slope = direction.sign * spread_um / width if width > 0 else 0.0
    defocus = middle_um + slope * (radii.radius - 0.5 * (first + third))
    # A radius that does not vary, or a distribution without width, leaves no scale to measure a deviation by.
    std = abs(slope) * radii.std if slope else np.full_like(radii.std, np.nan)
    return DefocusEstimate(np.maximum(defocus, LOWEST_DEFOCUS_UM), std)
