"""Signs, units and handedness: RELION's, the particle table's and ours. Nothing else decides them.

Pixels
    ``x = column - n // 2`` and ``y = row - n // 2``; row 0 is the first row in the MRC file.
In-plane turn and shift
    ``image(x) = reference(R(psi) (x - t))`` with ``R(psi) = [[cos, -sin], [sin, cos]]``.
    ``rlnAnglePsi = psi`` in degrees; ``rlnOriginXAngst = -t_x * pixel size``: RELION's origin is what must be
    added to a particle to centre it.
Defocus
    Positive is underfocus. ``CTF = +sin(pi lambda df k^2 - pi/2 Cs lambda^3 k^4 + asin(A))``: the protein of
    particles whose contrast is right for this sign is white.
Units
    Angstrom and degrees at every boundary; micrometres only where a name ends in ``_um``.

The signs of psi, origin and CTF agree with RELION 3.1.3 (``relion_project``, ``relion_ctf_toolbox``); the tests
in ``tests/relion`` hold this module to that program.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

ANGSTROM_PER_UM = 1.0e4

# Columns that cryorbit writes, with the meaning that DESIGN gives them.
IMAGE_NAME = "rlnImageName"
PSI = "rlnAnglePsi"
ORIGIN_X = "rlnOriginXAngst"
ORIGIN_Y = "rlnOriginYAngst"
# RELION up to 3.0 gave origins in pixels.
ORIGIN_PIXELS = ("rlnOriginX", "rlnOriginY")
DEFOCUS_U = "rlnDefocusU"
DEFOCUS_V = "rlnDefocusV"
DEFOCUS_ANGLE = "rlnDefocusAngle"
SELECT_ZSCORE = "rlnParticleSelectZScore"
PSI_STD = "cryorbitAnglePsiStd"
DEFOCUS_STD = "cryorbitDefocusStd"
ORIGIN_STD = "cryorbitOriginStd"
# RELION's name for the probability of the best pose among all.
POSE_PROBABILITY = "rlnMaxValueProbDistribution"
OUTLIER_PROBABILITY = "cryorbitOutlierProbability"
OUTLIER_SCORE = "cryorbitOutlierScore"
WEIGHT = "cryorbitWeight"
LATENT_DEFOCUS = "cryorbitLatentDefocus"
LATENT_DEFOCUS_STD = "cryorbitLatentDefocusStd"

# The view that a particle shows, and whether angle and origin are against its reflection.
CLASS_NUMBER = "rlnClassNumber"
CLASS_PROBABILITY = "cryorbitClassProbability"
MIRRORED = "cryorbitMirrored"

# The truth of a simulated particle, written to truth.star only.
TRUTH_OUTLIER = "cryorbitTruthOutlier"
TRUTH_KIND = "cryorbitTruthKind"


def wrap_deg(angle_deg: ArrayLike, period_deg: float = 360.0) -> FloatArray:
    """Angles brought into ``[-period / 2, period / 2)``, in degrees."""
    half = period_deg / 2.0
    return np.mod(np.asarray(angle_deg, dtype=np.float64) + half, period_deg) - half


def origin_from_shift_A(shift_px: ArrayLike, pixel_size_A: ArrayLike) -> FloatArray:
    """RELION's origin in Angstrom, from where the particle lies relative to the centre of its box in pixels."""
    return -np.asarray(shift_px, dtype=np.float64) * np.asarray(pixel_size_A, dtype=np.float64)


def pixel_size_from_magnification_A(detector_pixel_um: ArrayLike, magnification: ArrayLike) -> FloatArray:
    """Pixel size in the specimen, from RELION 3.0's detector pixel and magnification."""
    return (
        np.asarray(detector_pixel_um, dtype=np.float64) * ANGSTROM_PER_UM / np.asarray(magnification, dtype=np.float64)
    )


def particle_weight(defocus_um: ArrayLike) -> FloatArray:
    """Weight of an orientation estimate, ``exp(defocus in um) - 1``.

    References
    ----------
    Miolane et al. 2020, section 3.2.2 (arXiv:1911.08121).
    """
    return np.expm1(np.asarray(defocus_um, dtype=np.float64))
