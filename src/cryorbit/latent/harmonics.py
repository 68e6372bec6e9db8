"""The angle as the group coordinate: Fourier analysis of each particle's latent orbit.

Let ``z_i(a)`` be the latent point of particle i turned by ``a``. If the particle's own angle is ``psi_i``, then
``z_i(a) = gamma(psi_i + a)`` with one closed curve ``gamma`` for the whole set, up to defocus and noise. Its Fourier
coefficients over the turn are therefore ``F_m(i) = G_m exp(i m psi_i)`` with one complex vector ``G_m`` for each
harmonic: the irreducible representations of SO(2). However the curve winds or folds in the latent space, the angle
is the phase that all harmonics agree on. Harmonics that are missing, all but the multiples of n, mean that the view
has the isotropy group C_n, as far as the encoder can see (paper, section 2.2 and Proposition 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG, resultant_to_std_deg
from cryorbit.latent.embed import Embedding

ComplexArray = NDArray[np.complex128]

# Harmonics above this are weak and carry more noise than angle.
HIGHEST_ORDER = 6
ROUNDS = 4
GRID = 720
BATCH = 1024
# A harmonic counts as present when its phase follows that of the strongest one: mean resultant length above
# this, and above four standard errors of what noise gives.
LOCK = 0.2
LOCK_SIGMAS = 4.0
# Amplitudes of a direction without meaning are spread like those of Gaussian noise in the plane: their coefficient
# of variation is then 0.52 (Rayleigh distribution), far above that of a ring.
RING_VARIATION = 0.45
FEWEST_PARTICLES = 20
# Particles that the curve is fitted to, at most: more would not move it.
MOST_FITTED = 50_000
# Share of white noise mixed into the estimated covariance: angles were fitted to the same residuals, which makes
# them too small in just the direction that matters. Deviations come out honest to about 20 % on several molecules;
# angles hardly depend on it (docs/decisions/0001-orbit-harmonics.md).
SHRINKAGE = 0.5


@dataclass(frozen=True)
class HarmonicChart:
    """One closed curve in the latent space, given by its Fourier coefficients, and the noise around it.

    Attributes
    ----------
    harmonics
        Orders m that are present, shape (h,).
    curve
        Their coefficients ``G_m``, shape (h, latent); the phase of the set as a whole is arbitrary.
    precision
        Inverse covariance of the coefficients of one particle around the curve, shape (h * latent, h * latent).
    isotropy_order
        n of the isotropy group C_n: the greatest common divisor of the harmonics.
    locks
        Resultant length with which each order 1, 2, ... follows the strongest.
    variation
        Coefficient of variation of the strongest harmonic's amplitude over the particles.
    particles
        Number of particles that the curve was fitted to.
    """

    harmonics: NDArray[np.int64]
    curve: ComplexArray
    precision: ComplexArray
    isotropy_order: int
    locks: FloatArray
    variation: float
    particles: int

    @property
    def identifiable(self) -> bool:
        """Whether the orbits are rings, on which an angle means something, and enough of them to know."""
        return self.variation < RING_VARIATION and self.particles >= FEWEST_PARTICLES


@dataclass(frozen=True)
class OrbitAngle:
    """Posterior of the angle of every particle on the circle of ``360 / isotropy_order`` degrees.

    Attributes
    ----------
    psi_deg
        Posterior mean, shape (n,).
    std_deg
        Circular standard deviation, shape (n,).
    """

    psi_deg: FloatArray
    std_deg: FloatArray


def orbit_coefficients(orbit: FloatArray) -> ComplexArray:
    """Fourier coefficients over the turn, orders 1 to 6, shape (n, orders, latent), of orbits (n, turns, latent)."""
    turns = orbit.shape[1]
    coefficients = np.fft.fft(orbit.astype(np.float64), axis=1) / turns
    return np.asarray(coefficients[:, 1 : min(HIGHEST_ORDER + 1, (turns + 1) // 2)])


def fit_harmonics(embedding: Embedding, use: NDArray[np.bool_]) -> HarmonicChart:
    """Fit the common curve of all orbits, without labels.

    Parameters
    ----------
    embedding
        Latent points and their turned copies.
    use
        Particles to fit with, shape (n,); an even sample of them where they are very many.

    Notes
    -----
    The strongest harmonic gives first phases (principal direction of its coefficients over the particles), the others
    are locked to it, then curve, noise and angles are refined in turn. The noise is estimated jointly over harmonics.
    """
    rows = evenly(np.flatnonzero(use) if use.sum() >= FEWEST_PARTICLES else np.arange(len(embedding)), MOST_FITTED)
    coefficients = orbit_coefficients(embedding.orbit[rows])
    phases, amplitudes = _principal_phases(coefficients)
    strongest = int(amplitudes.mean(axis=0).argmax())
    locks = _phase_locks(phases, strongest)
    needed = max(LOCK, LOCK_SIGMAS / np.sqrt(len(phases)))
    others = [int(m) for m in np.argsort(-locks) if locks[m] >= needed and m != strongest]
    present = [strongest, *others]
    amplitude = amplitudes[:, strongest]
    psi_deg, order = _first_angles(phases, present)
    harmonics = np.sort(np.asarray(present, dtype=np.int64)) + 1
    variation = float(amplitude.std() / max(float(amplitude.mean()), 1e-12))
    for _ in range(ROUNDS):
        curve, precision = _curve_and_noise(coefficients, harmonics, psi_deg)
        chart = HarmonicChart(harmonics, curve, precision, order, locks, variation, len(phases))
        psi_deg = orbit_angles(coefficients, chart).psi_deg
    return chart


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many of the rows, spread evenly over them all; all of them where they are fewer."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _principal_phases(coefficients: ComplexArray) -> tuple[ComplexArray, FloatArray]:
    """Unit phase and amplitude of every particle along the principal direction of each order, (n, orders) each."""
    n, orders, _ = coefficients.shape
    along = np.empty((n, orders), dtype=np.complex128)
    for m in range(orders):
        _, _, rows = np.linalg.svd(coefficients[:, m], full_matrices=False)
        along[:, m] = coefficients[:, m] @ rows[0].conj()
    amplitude = np.abs(along)
    return along / np.maximum(amplitude, 1e-30), amplitude


def _phase_locks(phases: ComplexArray, strongest: int) -> FloatArray:
    """How well each order's phase agrees with others, shape (orders,); 1 for the strongest.

    Orders a and b are tied to a + b by the mean of ``p_a p_b conj(p_(a+b))``, the bispectrum, which no turn of a
    particle changes and which noise averages out.
    """
    orders = phases.shape[1]
    locks = np.zeros(orders)
    for a in range(1, orders + 1):
        for b in range(a, orders + 1 - a):
            tie = np.abs((phases[:, a - 1] * phases[:, b - 1] * phases[:, a + b - 1].conj()).mean())
            for m in (a, b, a + b):
                locks[m - 1] = max(locks[m - 1], tie)
    # Orders whose sums lie beyond the highest one are tied to the strongest by powers, which noise blurs more.
    reference = strongest + 1
    for m in range(1, orders + 1):
        common = gcd(m, reference)
        relative = phases[:, m - 1] ** (reference // common) * phases[:, strongest].conj() ** (m // common)
        locks[m - 1] = max(locks[m - 1], np.abs(relative.mean()))
    locks[strongest] = 1.0
    return locks


def _first_angles(phases: ComplexArray, present: list[int]) -> tuple[FloatArray, int]:
    """Angles of all particles from the orders present, the best tied first, and the isotropy order.

    One order m gives the angle modulo 360 / m. A further one is offset by a phase common to the set, which is
    known up to the turns that the angles so far leave open; then it tells those turns apart.
    """
    known = present[0] + 1
    psi = np.angle(phases[:, present[0]]) / known
    for m in present[1:]:
        harmonic, phase = m + 1, phases[:, m]
        left = gcd(known, harmonic)
        power = known // left
        relative = phase * np.exp(-1j * harmonic * psi)
        offset = np.angle((relative**power).mean()) / power
        turns = 2.0 * np.pi * np.arange(power) / known
        agreement = (relative[:, None] * np.exp(-1j * (offset + harmonic * turns))).real
        psi = psi + turns[agreement.argmax(axis=1)]
        known = left
    return np.asarray(np.degrees(psi)), known


def _turned_back(coefficients: ComplexArray, harmonics: NDArray[np.int64], psi_deg: FloatArray) -> ComplexArray:
    """Coefficients of each particle after its own angle is taken off, shape (n, h * latent)."""
    phase = np.exp(-1j * np.radians(psi_deg)[:, None] * harmonics)
    return (coefficients[:, harmonics - 1] * phase[:, :, None]).reshape(len(coefficients), -1)


def _curve_and_noise(
    coefficients: ComplexArray, harmonics: NDArray[np.int64], psi_deg: FloatArray
) -> tuple[ComplexArray, ComplexArray]:
    """Curve, and inverse covariance around it, from particles whose angle is known."""
    aligned = _turned_back(coefficients, harmonics, psi_deg)
    curve = aligned.mean(axis=0)
    residual = aligned - curve
    covariance = residual.T @ residual.conj() / len(residual)
    dimension = len(covariance)
    level = max(float(np.trace(covariance).real) / dimension, 1e-12)
    # Fewer particles than dimensions leave directions without any estimate of their noise.
    weight = max(SHRINKAGE, dimension / (dimension + len(residual)))
    covariance = (1.0 - weight) * covariance + weight * level * np.eye(dimension)
    return curve.reshape(len(harmonics), -1), np.linalg.inv(covariance)


def orbit_angles(coefficients: ComplexArray, chart: HarmonicChart) -> OrbitAngle:
    """Posterior of each particle's angle over the whole circle, from all harmonics at once.

    Parameters
    ----------
    coefficients
        Of :func:`orbit_coefficients`, shape (n, orders, latent).
    chart
        The common curve.
    """
    period_deg = 360.0 / chart.isotropy_order
    grid_deg = period_deg * np.arange(GRID) / GRID
    parts = [
        _angle_posterior(_log_likelihood(coefficients[start : start + BATCH], chart, grid_deg), grid_deg, period_deg)
        for start in range(0, len(coefficients), BATCH)
    ]
    psi = np.concatenate([part.psi_deg for part in parts])
    std = np.concatenate([part.std_deg for part in parts])
    return OrbitAngle(psi, std)


def _log_likelihood(coefficients: ComplexArray, chart: HarmonicChart, grid_deg: FloatArray) -> FloatArray:
    """Gaussian log-likelihood of each particle at each angle, shape (n, grid).

    It is a trigonometric polynomial in the angle: the linear term has the harmonics themselves, the quadratic term
    their differences, so a few coefficients per particle give the whole grid.
    """
    h, latent = chart.curve.shape
    precision = chart.precision.reshape(h, latent, h, latent)
    own = coefficients[:, chart.harmonics - 1]
    linear = np.einsum("ap,apbq,nbq->nb", chart.curve.conj(), precision, own)
    waves = np.exp(-1j * np.radians(grid_deg)[None, :] * chart.harmonics[:, None])
    log_likelihood = 2.0 * (linear @ waves).real
    # The quadratic form, (D c)^H P (D c) with D = diag(exp(-i m psi)).
    quadratic = np.einsum("nap,apbq,nbq->nab", own.conj(), precision, own)
    for a in range(h):
        for b in range(a + 1, h):
            cross = np.exp(-1j * np.radians(grid_deg) * (chart.harmonics[b] - chart.harmonics[a]))
            log_likelihood -= 2.0 * (quadratic[:, a, b, None] * cross).real
    return np.asarray(log_likelihood)


def _angle_posterior(log_likelihood: FloatArray, grid_deg: FloatArray, period_deg: float) -> OrbitAngle:
    """Mean and deviation of the posterior on the grid; a parabola where the peak is narrower than the grid sees."""
    top = log_likelihood.argmax(axis=1)
    density = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    density /= density.sum(axis=1, keepdims=True)
    moment = density @ np.exp(2j * np.pi * grid_deg / period_deg)
    scale = period_deg / 360.0
    psi = np.degrees(np.angle(moment)) * scale
    std = resultant_to_std_deg(np.abs(moment)) * scale
    step = grid_deg[1] - grid_deg[0]
    rows = np.arange(len(top))
    left, right = (log_likelihood[rows, (top + d) % len(grid_deg)] for d in (-1, 1))
    curvature = 2.0 * log_likelihood[rows, top] - left - right
    narrow = (std < 2.0 * step) & (curvature > 0)
    safe = np.where(curvature > 0, curvature, 1.0)
    psi = np.where(narrow, grid_deg[top] + 0.5 * step * (right - left) / safe, psi)
    std = np.where(narrow, step / np.sqrt(safe), std)
    return OrbitAngle(wrap_deg(psi, period_deg), np.minimum(std, scale * UNKNOWN_ANGLE_STD_DEG))
