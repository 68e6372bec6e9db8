"""Junk: what particle pickers take for particles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cryorbit.conventions import FloatArray
from cryorbit.simulation.specimens import Projection

# noise: nothing but noise; ice: blobs of crystalline ice or ethane; edge: a particle badly off centre;
# overlap: two particles over each other; other: another particle.
KINDS = ("noise", "ice", "edge", "overlap", "other")

# Lengths as fractions of the box: 30 to 48, 25 to 40, up to 45 and 3 to 14 pixels of 128.
EDGE_RADIUS = (30 / 128, 48 / 128)
OVERLAP_RADIUS = (25 / 128, 40 / 128)
ICE_REACH = 45 / 128
ICE_SIGMA = (3 / 128, 14 / 128)
ICE_STRENGTH = (1.0, 3.0)
MOST_ICE_BLOBS = 4
OTHER_CONTRAST = 0.5


@dataclass(frozen=True)
class Neighbour:
    """A second particle in the box.

    Attributes
    ----------
    psi_deg
        Its in-plane turn in degrees.
    shift_px
        Its place relative to the centre of the box, x and y in pixels, shape (2,).
    """

    psi_deg: float
    shift_px: FloatArray


def edge_shift_px(rng: np.random.Generator, box: int) -> FloatArray:
    """Draw the place of a particle picked at its edge, x and y in pixels from the box's centre."""
    return _on_ring(rng, EDGE_RADIUS, box)


def overlap_neighbour(rng: np.random.Generator, box: int) -> Neighbour:
    """Draw the second particle of a pair that lies one over the other."""
    return Neighbour(psi_deg=rng.uniform(-180.0, 180.0), shift_px=_on_ring(rng, OVERLAP_RADIUS, box))


def ice_image(rng: np.random.Generator, box: int, peak: float) -> FloatArray:
    """One to four smooth elliptic blobs before the contrast transfer function, shape (box, box).

    Parameters
    ----------
    rng
        Source of chance.
    box
        Width of the image in pixels.
    peak
        Brightest value of the particle; a blob is one to three times as bright.
    """
    offset = np.arange(box, dtype=np.float64) - box // 2
    image = np.zeros((box, box))
    for _ in range(rng.integers(1, MOST_ICE_BLOBS + 1)):
        x = offset[None, :] - rng.uniform(-ICE_REACH, ICE_REACH) * box
        y = offset[:, None] - rng.uniform(-ICE_REACH, ICE_REACH) * box
        long_px, short_px = rng.uniform(*ICE_SIGMA, 2) * box
        turn = rng.uniform(0.0, math.pi)
        along = (x * math.cos(turn) + y * math.sin(turn)) / long_px
        across = (y * math.cos(turn) - x * math.sin(turn)) / short_px
        image += peak * rng.uniform(*ICE_STRENGTH) * np.exp(-0.5 * (along**2 + across**2))
    return image


def weaken_to(other: Projection, particle: Projection) -> Projection:
    """Another particle, brought to half of the total contrast of ``particle``."""
    total = np.abs(particle.image).sum() * particle.pixel_size_A**2
    scale = OTHER_CONTRAST * total / (np.abs(other.image).sum() * other.pixel_size_A**2)
    return Projection(other.image * scale, other.pixel_size_A, other.rot_deg, other.tilt_deg)


def _on_ring(rng: np.random.Generator, radii: tuple[float, float], box: int) -> FloatArray:
    radius, angle = rng.uniform(*radii) * box, rng.uniform(0.0, 2.0 * math.pi)
    return np.array([radius * math.cos(angle), radius * math.sin(angle)])
