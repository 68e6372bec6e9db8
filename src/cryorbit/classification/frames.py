"""Poses against one average said against another average of the same view."""

from __future__ import annotations

import numpy as np

from cryorbit.conventions import FloatArray, wrap_deg

# Differences of angles are counted in bins of this width, and averaged within it of the fullest one: where the view has
# a symmetry they come in several groups, each of which is as good.
BIN_DEG = 5.0


def in_frame_of(
    psi_deg: FloatArray, shift: FloatArray, other_psi_deg: FloatArray, other_shift: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Poses in the frame of the average that the other poses of the same images are against.

    With ``image(x) = average(R(psi) (x - shift))`` and two averages of which one is the other turned and moved, angles
    differ by one turn, and shifts by one vector in the frame of the other average.

    Parameters
    ----------
    psi_deg, shift
        Poses to be said anew, shapes (n,) and (n, 2).
    other_psi_deg, other_shift
        Poses of the same images in the frame that is wanted, less exact perhaps; of the same units.
    """
    apart = np.mod(psi_deg - other_psi_deg, 360.0)
    counts = np.bincount((apart / BIN_DEG).astype(int) % round(360 / BIN_DEG), minlength=round(360 / BIN_DEG))
    around = counts + np.roll(counts, 1) + np.roll(counts, -1)
    middle = (int(around.argmax()) + 0.5) * BIN_DEG
    near = np.abs(wrap_deg(apart - middle)) < 2 * BIN_DEG
    turn = middle + float(np.median(wrap_deg(apart[near] - middle))) if near.any() else 0.0
    psi = np.mod(psi_deg - turn, 360.0)
    # A few images that either has wrong do not move the frame.
    move = np.median(_turned(shift - other_shift, psi)[near], axis=0) if near.any() else np.zeros(2)
    return psi, shift - _turned(np.broadcast_to(move, shift.shape), -psi)


def _turned(vectors: FloatArray, angle_deg: FloatArray) -> FloatArray:
    """``R(angle) v`` for each, shape (n, 2)."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    x, y = vectors[:, 0], vectors[:, 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
