"""In-plane angle from the latent space, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.estimation.lesson import Lesson, error_ratio
from cryorbit.latent.axes import VARIANCE_FLOOR, polar
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG, circular_std_deg
from cryorbit.latent.embed import Embedding
from cryorbit.latent.harmonics import HarmonicChart, orbit_angles, orbit_coefficients
from cryorbit.latent.orbits import PlaneChart, plane_polar

SMALLEST_RADIUS = 1e-6
SMALLEST_STD_DEG = 1e-3


@dataclass(frozen=True)
class AngleEstimate:
    """In-plane angle of every particle.

    Attributes
    ----------
    psi_deg
        Shape (n,), in [-180, 180), up to one offset for the whole set; its sign is that of RELION.
    std_deg
        Shape (n,), circular standard deviation, at most 103.9 (nothing known).
    isotropy_order
        n where angles are known modulo 360 / n only.
    """

    psi_deg: FloatArray
    std_deg: FloatArray
    isotropy_order: int = 1


def orbit_angle(embedding: Embedding, chart: HarmonicChart) -> AngleEstimate:
    """Angle as the group coordinate of each particle's latent orbit, however the orbit winds.

    Where the orbits are no rings (a near-round particle), the uncertainty says that nothing is known.
    """

    def angle_and_std(orbit: FloatArray) -> FloatArray:
        found = orbit_angles(orbit_coefficients(orbit), chart)
        return np.stack([found.psi_deg, found.std_deg], axis=1)

    psi_deg, std_deg = embedding.by_parts(angle_and_std).T
    if not chart.identifiable:
        return AngleEstimate(psi_deg, np.full_like(std_deg, UNKNOWN_ANGLE_STD_DEG))
    return AngleEstimate(psi_deg, std_deg, chart.isotropy_order)


def cone_angle(embedding: Embedding, lesson: Lesson) -> AngleEstimate:
    """Angle around the cone of a guided latent space, every turned copy turned back and all averaged.

    Returns
    -------
    AngleEstimate
        In the frame of the class average. The deviations are the encoder's own, brought to the size of the errors on
        particles that were held out from the training.
    """
    order, found = lesson.cone.order, _turned_back(embedding, lesson.cone.order)
    variance = np.exp(embedding.orbit_log_variance[:, :2].astype(np.float64)).mean(axis=1)
    own = np.degrees(np.sqrt(variance) / np.maximum(np.abs(found), SMALLEST_RADIUS)) / order
    psi_deg = wrap_deg(np.degrees(np.angle(found)) / order, 360.0 / order)
    errors = wrap_deg(psi_deg[lesson.rows] - lesson.psi_deg, 360.0 / order)
    std = np.maximum(own * error_ratio(errors, own[lesson.rows]), SMALLEST_STD_DEG)
    return AngleEstimate(psi_deg, np.minimum(std, UNKNOWN_ANGLE_STD_DEG / order), order)


def _turned_back(embedding: Embedding, order: int) -> NDArray[np.complex128]:
    """Mean over the turned copies of ``z1 + i z2`` after its turn is taken off, shape (n,)."""
    back = np.exp(-1j * order * np.radians(embedding.turns_deg))
    return embedding.by_parts(lambda orbit: ((orbit[..., 0] + 1j * orbit[..., 1]) * back).mean(axis=1))


def plane_angle(embedding: Embedding, chart: PlaneChart) -> AngleEstimate:
    """Polar angle in the plane of the first two principal components, the paper's estimate (equation 6).

    Returns
    -------
    AngleEstimate
        The sign is that of the group's action, which turned copies show. The uncertainty adds what the latent
        posterior says to how far turned copies miss the known turn; where the polar angle does not run around
        exactly once, it says that the angle is unknown.
    """
    direction = -1.0 if chart.winding < 0 else 1.0

    def spread_of_turns(orbit: FloatArray) -> FloatArray:
        angle_deg = polar(chart.axes.reduce(orbit)).angle_deg
        return circular_std_deg(wrap_deg(direction * angle_deg - embedding.turns_deg))

    coordinates = plane_polar(embedding, chart)
    posterior = _posterior_angle_std_deg(embedding, chart, coordinates.angle_deg, coordinates.radius)
    std = np.hypot(embedding.by_parts(spread_of_turns), posterior)
    if not chart.is_simple:
        std = np.full_like(std, UNKNOWN_ANGLE_STD_DEG)
    return AngleEstimate(wrap_deg(direction * coordinates.angle_deg), np.minimum(std, UNKNOWN_ANGLE_STD_DEG))


def _posterior_angle_std_deg(
    embedding: Embedding, chart: PlaneChart, angle_deg: FloatArray, radius: FloatArray
) -> FloatArray:
    """Posterior standard deviation across the radius, seen from the centre, shape (n,)."""
    across = np.radians(angle_deg)
    first, second = chart.axes.axes[:2] / np.sqrt(np.maximum(chart.axes.variance[:2, None], VARIANCE_FLOOR))
    tangent = -np.sin(across)[:, None] * first + np.cos(across)[:, None] * second
    variance = (tangent**2 * np.exp(embedding.log_variance.astype(np.float64))).sum(axis=1)
    return np.asarray(np.degrees(np.sqrt(variance) / np.maximum(radius, 1e-6)))
