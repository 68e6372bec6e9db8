"""Latent orbits: what the group of in-plane turns does to the points of the latent space.

An image can be turned by a known angle and encoded again, so every particle's orbit is labelled by construction.
This module traces the orbits in the paper's chart, the plane of the first two principal components, and says how
far that chart can be trusted; and it gives the features of an orbit that no turn can change.
:mod:`cryorbit.latent.harmonics` reads the angle from the orbits themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.latent.axes import PolarCoordinates, PrincipalAxes, polar, principal_axes
from cryorbit.latent.circle import circular_mean_deg
from cryorbit.latent.embed import Embedding
from cryorbit.latent.harmonics import MOST_FITTED, evenly

EIGENVALUE_FLOOR = 1e-6


@dataclass(frozen=True)
class PlaneChart:
    """The paper's chart of the latent space: principal axes, and how the group acts in their plane.

    Attributes
    ----------
    axes
        Principal axes of the latent points.
    winding
        Turns of the polar angle while the particle turns once, with sign: +1 or -1 for a simple circle, 2 for a
        curve that passes twice, 0 for one that does not enclose the centre.
    winding_share
        Share of the particles whose own orbit winds that often.
    closure_deg
        Root mean square of what the polar angle misses when it should follow a known turn ``winding`` times.
    """

    axes: PrincipalAxes
    winding: int
    winding_share: float
    closure_deg: float

    @property
    def is_simple(self) -> bool:
        """Whether the polar angle runs around once, so that it can be read as the particle's angle."""
        return abs(self.winding) == 1


def fit_plane(embedding: Embedding, use: NDArray[np.bool_]) -> PlaneChart:
    """Fit the principal axes to the latent points and trace the group's action in their plane.

    Parameters
    ----------
    embedding
        Latent points and their turned copies.
    use
        Particles to fit with, shape (n,): junk tilts the axes. All are used where it has fewer than two.
    """
    chosen = np.flatnonzero(use) if use.sum() >= 2 else np.arange(len(embedding))
    axes = principal_axes(embedding.mean[chosen])
    angle = polar(axes.reduce(embedding.orbit[evenly(chosen, MOST_FITTED)])).angle_deg
    windings = orbit_windings(angle)
    values, counts = np.unique(windings, return_counts=True)
    winding = int(values[counts.argmax()])
    residual = wrap_deg(angle - winding * embedding.turns_deg)
    missed = wrap_deg(residual - circular_mean_deg(residual)[:, None])
    return PlaneChart(axes, winding, float(counts.max() / len(windings)), float(np.sqrt(np.mean(missed**2))))


def orbit_windings(angle_deg: FloatArray) -> NDArray[np.int64]:
    """How often a closed curve of polar angles, shape (n, turns), runs around; shape (n,)."""
    steps = wrap_deg(np.diff(angle_deg, axis=1, append=angle_deg[:, :1]))
    return np.asarray(np.rint(steps.sum(axis=1) / 360.0), dtype=np.int64)


def plane_polar(embedding: Embedding, chart: PlaneChart) -> PolarCoordinates:
    """Polar coordinates of every particle in the plane, arrays of shape (n,)."""
    return polar(chart.axes.reduce(embedding.mean))


def orbit_radius(embedding: Embedding) -> FloatArray:
    """Root mean square distance of a particle's orbit from the orbit's own centre, shape (n,).

    The radius of equation 6 without its plane: it sees the whole orbit, whichever way that winds through the
    latent space, and does not depend on how the particle is turned.
    """

    def radius(orbit: FloatArray) -> FloatArray:
        deviation = orbit - orbit.mean(axis=1, keepdims=True)
        return np.asarray(np.sqrt((deviation**2).sum(axis=2).mean(axis=1)))

    return embedding.by_parts(radius)


def orbit_invariants(embedding: Embedding) -> FloatArray:
    """Features of each particle's latent orbit that do not depend on how the particle is turned.

    The centre of the orbit, the logarithms of the eigenvalues of its covariance (its radii), and the mean
    log-variance of the posterior. Good particles share them up to defocus and noise; junk does not, even where
    its single latent point lies among theirs: inside the ring, for instance, which is dense in every projection.

    Returns
    -------
    array of shape (n, 3 * latent)
    """

    def centre_and_radii(orbit: FloatArray) -> FloatArray:
        centre = orbit.mean(axis=1)
        deviation = orbit - centre[:, None]
        covariance = np.einsum("nki,nkj->nij", deviation, deviation) / orbit.shape[1]
        radii = np.linalg.eigvalsh(covariance)[:, ::-1]
        return np.concatenate([centre, np.log(radii + EIGENVALUE_FLOOR)], axis=1)

    return np.concatenate([embedding.by_parts(centre_and_radii), embedding.orbit_log_variance], axis=1)
