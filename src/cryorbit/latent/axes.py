"""Principal axes of the latent space and polar coordinates in their plane (the paper's chart)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray

VARIANCE_FLOOR = 1e-12


@dataclass(frozen=True)
class PrincipalAxes:
    """Centre and principal axes of a cloud of latent points.

    Attributes
    ----------
    centre
        Mean, shape (latent,).
    axes
        Orthonormal rows, by falling variance, shape (latent, latent).
    variance
        Along each axis, shape (latent,).
    """

    centre: FloatArray
    axes: FloatArray
    variance: FloatArray

    def project(self, points: NDArray[np.floating]) -> FloatArray:
        """Coordinates along the principal axes, shape (..., latent)."""
        return np.asarray((points.astype(np.float64) - self.centre) @ self.axes.T)

    def reduce(self, points: NDArray[np.floating]) -> FloatArray:
        """The same in units of the standard deviation along each axis: the paper's ``U`` up to one factor."""
        return self.project(points) / np.sqrt(np.maximum(self.variance, VARIANCE_FLOOR))


def principal_axes(points: NDArray[np.floating]) -> PrincipalAxes:
    """Principal component analysis, ``Z = U Sigma V^T`` (paper, section 3.2.2).

    Parameters
    ----------
    points
        Latent points, shape (n, latent); the sign of each axis is fixed so that its largest entry is positive.
    """
    cloud = points.astype(np.float64)
    centre = cloud.mean(axis=0)
    _, singular, axes = np.linalg.svd(cloud - centre, full_matrices=False)
    latent = cloud.shape[1]
    if len(axes) < latent:  # fewer points than axes
        complete, _ = np.linalg.qr(np.concatenate([axes.T, np.eye(latent)], axis=1))
        axes = complete.T[:latent]
        singular = np.pad(singular, (0, latent - len(singular)))
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    return PrincipalAxes(centre, axes, singular**2 / max(len(cloud) - 1, 1))


@dataclass(frozen=True)
class PolarCoordinates:
    """Radius and angle in the plane of the first two principal axes; arrays of the shape of the points.

    Attributes
    ----------
    radius
        In the units of the coordinates.
    angle_deg
        In [-180, 180].
    """

    radius: FloatArray
    angle_deg: FloatArray


def polar(coordinates: FloatArray) -> PolarCoordinates:
    """Polar coordinates of the first two columns (equation 6).

    Parameters
    ----------
    coordinates
        Reduced principal coordinates, shape (..., latent).
    """
    first, second = coordinates[..., 0], coordinates[..., 1]
    return PolarCoordinates(np.hypot(first, second), np.degrees(np.arctan2(second, first)))
