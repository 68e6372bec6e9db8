"""Statistics on the circle, where the mean of 359 and 1 degrees is 0."""

from __future__ import annotations

import numpy as np

from cryorbit.conventions import FloatArray

# Standard deviation of an angle of which nothing is known (uniform on the circle).
UNKNOWN_ANGLE_STD_DEG = 360.0 / float(np.sqrt(12.0))


def circular_mean_deg(angle_deg: FloatArray, axis: int = -1) -> FloatArray:
    """Direction of the mean of unit vectors along an axis, in degrees."""
    return np.asarray(np.degrees(np.angle(np.exp(1j * np.radians(angle_deg)).mean(axis=axis))))


def resultant_to_std_deg(resultant: FloatArray) -> FloatArray:
    """Circular standard deviation ``sqrt(-2 ln R)``, at most that of the uniform distribution.

    References
    ----------
    Mardia & Jupp 2000, "Directional statistics", section 2.3.
    """
    spread = np.degrees(np.sqrt(-2.0 * np.log(np.clip(resultant, 1e-12, 1.0))))
    return np.asarray(np.minimum(spread, UNKNOWN_ANGLE_STD_DEG))


def circular_std_deg(angle_deg: FloatArray, axis: int = -1) -> FloatArray:
    """Circular standard deviation along an axis, in degrees."""
    return resultant_to_std_deg(np.abs(np.exp(1j * np.radians(angle_deg)).mean(axis=axis)))
