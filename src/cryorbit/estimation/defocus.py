"""Defocus from the latent space, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.estimation.lesson import Lesson, common_error, error_ratio
from cryorbit.latent.embed import Embedding
from cryorbit.latent.orbits import PlaneChart, orbit_radius, plane_polar
from cryorbit.optics.ctf import Optics, ctf_1d
from cryorbit.preprocessing.spectrum import RingSpectra

LOWEST_DEFOCUS_UM = 0.05
FEWEST_REPEATS = 20
# Evidence below which the direction of the radius is called uncertain: well above what chance gives with a hundred
# particles, and an eighth of what simulated sets gave.
WEAK_EVIDENCE = 0.05
QUANTILES = 201
SMALLEST_STD_UM = 1e-3
# Midpoints of eight equally likely parts of the normal distribution.
NORMAL_STEPS = norm.ppf((np.arange(8) + 0.5) / 8)


@dataclass(frozen=True)
class KnownDefocus:
    """Distribution of the defocus of a data set, which is known while the defocus of each particle is not.

    Attributes
    ----------
    levels_um
        Quantiles at evenly spaced probabilities from 0 to 1, in micrometres.
    """

    levels_um: FloatArray

    @classmethod
    def of_range(cls, low_um: float, high_um: float) -> KnownDefocus:
        """Uniform on a known range, as the paper assumes."""
        return cls(np.array([low_um, high_um]))

    @classmethod
    def of_values(cls, defocus_um: FloatArray) -> KnownDefocus:
        """That of known values, such as the micrographs' own fits."""
        return cls(np.quantile(defocus_um, np.linspace(0.0, 1.0, QUANTILES)))

    def quantile(self, probability: ArrayLike) -> FloatArray:
        """Defocus below which this share of the particles lies."""
        evenly = np.linspace(0.0, 1.0, len(self.levels_um))
        return np.interp(np.asarray(probability, dtype=np.float64), evenly, self.levels_um)


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
class Radii:
    """The coordinate across the orbits, by which the defocus is read.

    Attributes
    ----------
    radius
        Shape (n,).
    std
        Its standard deviation over exposures of one particle; NaN where there are too few to tell.
    """

    radius: FloatArray
    std: float


@dataclass(frozen=True)
class RadialDirection:
    """Whether the latent radius grows or falls with the defocus.

    Attributes
    ----------
    sign
        +1 if it grows, -1 if it falls.
    evidence
        By how much the better direction explains the ring powers, as a mean squared correlation.
    """

    sign: int
    evidence: float


def plane_radii(embedding: Embedding, chart: PlaneChart, rows: NDArray[np.int64], repeats: Embedding) -> Radii:
    """Radius in the plane of the first two principal components (equation 6).

    Parameters
    ----------
    embedding
        Of all particles.
    chart
        The plane.
    rows, repeats
        Some particles, and the embedding of repeated exposures of them.
    """
    radius = plane_polar(embedding, chart).radius
    return Radii(radius, _repeat_std(radius[rows], plane_polar(repeats, chart).radius))


def orbit_radii(embedding: Embedding, rows: NDArray[np.int64], repeats: Embedding) -> Radii:
    """Root mean square radius of the whole orbit, which no turn of the particle changes; parameters as above."""
    radius = orbit_radius(embedding)
    return Radii(radius, _repeat_std(radius[rows], orbit_radius(repeats)))


def _repeat_std(first: FloatArray, again: FloatArray) -> float:
    """Spread of repeated radii around a straight line through the first: a common shrinkage does no harm."""
    if len(first) < FEWEST_REPEATS or np.ptp(first) == 0:
        return float("nan")
    slope, offset = np.polyfit(first, again, 1)
    return float(np.std(again - slope * first - offset))


def match_quartiles(
    radii: Radii, known: KnownDefocus, direction: RadialDirection, use: NDArray[np.bool_]
) -> DefocusEstimate:
    """Map the latent radius to defocus along the straight line that matches the quartiles.

    Parameters
    ----------
    radii
        Coordinate across the orbits.
    known
        Distribution of the defocus.
    direction
        Which way the radius runs.
    use
        Particles whose radii are matched, shape (n,): junk has radii of its own.

    Returns
    -------
    DefocusEstimate
        The uncertainty is that of the radius. It does not know how far the true relation is from a straight line; NaN
        where quartiles coincide or the radius' own is not known.

    References
    ----------
    Equation 7 of the paper, there for a uniform distribution on [0.5, 2.5] um and a growing radius.
    """
    first, third = np.percentile(radii.radius[use] if use.any() else radii.radius, [25, 75])
    first_um, third_um = known.quantile([0.25, 0.75])
    slope = direction.sign * (third_um - first_um) / (third - first) if third > first else 0.0
    defocus = 0.5 * (first_um + third_um) + slope * (radii.radius - 0.5 * (first + third))
    # A radius that does not vary, or a distribution without width, leaves no scale to measure a deviation by.
    std = abs(slope) * radii.std if slope else np.nan
    return DefocusEstimate(np.maximum(defocus, LOWEST_DEFOCUS_UM), np.full(len(defocus), std))


def match_quantiles(
    radii: Radii, known: KnownDefocus, direction: RadialDirection, use: NDArray[np.bool_]
) -> DefocusEstimate:
    """Map the latent radius to defocus along the curve that matches all quantiles, not the quartiles alone.

    The relation of radius and defocus is monotone but not straight: it flattens where contrast no longer grows.
    Parameters and returns as for :func:`match_quartiles`; the uncertainty is how far a repeated
    radius moves along the curve.
    """
    ordered = np.sort(direction.sign * (radii.radius[use] if use.any() else radii.radius))
    shares = (np.arange(len(ordered)) + 0.5) / len(ordered)

    def defocus_at(shift: float) -> FloatArray:
        return known.quantile(np.interp(direction.sign * radii.radius + shift, ordered, shares))

    defocus = defocus_at(0.0)
    std_um = np.nan
    if ordered[0] < ordered[-1] and np.ptp(known.levels_um) > 0 and np.isfinite(radii.std):
        # One deviation for all: where the curve flattens at its ends, its slope would promise too much.
        moves = np.stack([defocus_at(step * radii.std) - defocus for step in NORMAL_STEPS])
        std_um = max(float(np.sqrt(np.mean((moves[:, use] if use.any() else moves) ** 2))), SMALLEST_STD_UM)
    return DefocusEstimate(np.maximum(defocus, LOWEST_DEFOCUS_UM), np.full(len(defocus), std_um))


def cone_defocus(embedding: Embedding, lesson: Lesson) -> DefocusEstimate:
    """Defocus of a guided latent space: the height on the cone, averaged over the turned copies.

    Returns
    -------
    DefocusEstimate
        The deviations are the encoder's own, brought to the size of the errors on particles that were held out from
        the training.
    """
    defocus = lesson.cone.defocus_um(embedding.by_parts(lambda orbit: orbit[..., 2].mean(axis=1)))
    # Junk among the drawn images, of which nothing is to be known, pulls all heights a little towards the tip.
    defocus = defocus - common_error(defocus[lesson.rows] - lesson.defocus_um)
    own = lesson.cone.um_per_height * np.exp(0.5 * embedding.orbit_log_variance[:, 2].astype(np.float64))
    std = own * error_ratio(defocus[lesson.rows] - lesson.defocus_um, own[lesson.rows])
    return DefocusEstimate(np.maximum(defocus, LOWEST_DEFOCUS_UM), np.maximum(std, SMALLEST_STD_UM))


def radial_direction(
    radii: Radii, known: KnownDefocus, use: NDArray[np.bool_], spectra: RingSpectra, optics: Optics
) -> RadialDirection:
    """Find which way the radius runs, without labels, from the rings of the contrast transfer function.

    Each direction gives every particle a defocus, and so a ``CTF^2`` in every Fourier ring; the power of the
    particle's own image must go up and down with it: ``P_i(k) = S(k) CTF_i(k)^2 + N(k)`` with ``S(k) >= 0``. The
    direction whose correlations over the particles are the more positive is the right one.

    Parameters
    ----------
    radii, known, use
        As for :func:`match_quantiles`.
    spectra
        Ring powers of some particles.
    optics
        Of the microscope.
    """
    scores = []
    frequency = torch.from_numpy(spectra.frequency_per_A)
    for sign in (1, -1):
        defocus_A = match_quantiles(radii, known, RadialDirection(sign, 0.0), use).defocus_um * ANGSTROM_PER_UM
        transfer = ctf_1d(frequency, torch.from_numpy(defocus_A[spectra.rows]), optics).square().double().numpy()
        scores.append(_signed_explanation(spectra.power, transfer))
    return RadialDirection(1 if scores[0] >= scores[1] else -1, abs(scores[0] - scores[1]))


def known_radial_direction(radius: FloatArray, defocus_um: FloatArray) -> RadialDirection:
    """Which way the radius runs, from defoci that are known, each of shape (m,)."""
    ranks, known = rankdata(radius), rankdata(defocus_um)
    if len(radius) < FEWEST_REPEATS or np.ptp(ranks) == 0 or np.ptp(known) == 0:
        return RadialDirection(1, 0.0)
    correlation = float(np.corrcoef(ranks, known)[0, 1])
    return RadialDirection(1 if correlation >= 0 else -1, correlation**2)


def _signed_explanation(power: FloatArray, transfer: FloatArray) -> float:
    """Mean over rings of the squared rank correlation over particles, counted negative where it is negative."""
    ranks, expected = (rankdata(values, axis=0) for values in (power, transfer))
    ranks, expected = ranks - ranks.mean(axis=0), expected - expected.mean(axis=0)
    norm = np.sqrt((ranks**2).sum(axis=0) * (expected**2).sum(axis=0))
    correlation = (ranks * expected).sum(axis=0) / np.where(norm > 0, norm, 1.0)
    return float(np.mean(np.sign(correlation) * correlation**2))
