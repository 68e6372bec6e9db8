"""Made-up particles: pseudo-atoms along short helical rods, packed into domains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryorbit.conventions import FloatArray

PhantomKind = Literal["particle", "other"]

# An alpha helix: rise and turn per residue, radius of the backbone.
RISE_A = 1.5
TURN_RAD = math.radians(100.0)
HELIX_RADIUS_A = 2.3
ROD_LENGTH_A = (18.0, 50.0)


@dataclass(frozen=True)
class Domain:
    """An ellipsoid filled with rods: its centre and half-axes in Angstrom, and the number of rods."""

    centre_A: tuple[float, float, float]
    half_axes_A: tuple[float, float, float]
    rods: int


# Four domains of unequal size and place, so that no view along an axis has a symmetry or a mirror; about 250
# A.
PARTICLE = (
    Domain((-30.0, 15.0, 6.0), (70.0, 60.0, 74.0), 150),
    Domain((62.0, -40.0, -13.0), (47.0, 62.0, 51.0), 85),
    Domain((24.0, 94.0, 15.0), (51.0, 22.0, 26.0), 30),
    Domain((-70.0, -70.0, -21.0), (26.0, 32.0, 30.0), 20),
)
# The other particle is an open ring of rods: a horseshoe of about 150 A.
HORSESHOE_RADIUS_A = 54.0
HORSESHOE_OPENING_RAD = math.radians(80.0)
HORSESHOE_THICKNESS_A = 9.0
HORSESHOE_RODS = 110


def phantom_atoms_A(kind: PhantomKind = "particle", seed: int = 0) -> FloatArray:
    """Pseudo-atoms of a made-up particle in Angstrom, their mean at the origin, shape (atoms, 3), x y z.

    Parameters
    ----------
    kind
        ``particle``: four unequal domains, about 250 Angstrom wide, without symmetry; ``other``: a horseshoe
        of about 150 Angstrom.
    seed
        Decides how the rods lie; the domains are the same for all seeds.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0 if kind == "particle" else 1,)))
    atoms = _horseshoe(rng) if kind == "other" else np.concatenate([_domain(rng, domain) for domain in PARTICLE])
    centred: FloatArray = atoms - atoms.mean(axis=0)
    return centred


def _domain(rng: np.random.Generator, domain: Domain) -> FloatArray:
    half_axes = np.array(domain.half_axes_A)
    centres = _in_unit_ball(rng, domain.rods) * half_axes
    atoms = np.concatenate([centre + _rod(rng, _direction(rng)) for centre in centres])
    inside = ((atoms / half_axes) ** 2).sum(axis=1) < 1.0
    placed: FloatArray = atoms[inside] + np.array(domain.centre_A)
    return placed


def _horseshoe(rng: np.random.Generator) -> FloatArray:
    rods = []
    for _ in range(HORSESHOE_RODS):
        angle = rng.uniform(0.5 * HORSESHOE_OPENING_RAD, 2.0 * math.pi - 0.5 * HORSESHOE_OPENING_RAD)
        radial = np.array([math.cos(angle), math.sin(angle), 0.0])
        centre = radial * HORSESHOE_RADIUS_A + rng.normal(0.0, HORSESHOE_THICKNESS_A, 3)
        rods.append(centre + _rod(rng, np.array([-radial[1], radial[0], rng.normal(0.0, 0.5)])))
    return np.concatenate(rods)


def _rod(rng: np.random.Generator, direction: FloatArray) -> FloatArray:
    along = direction / np.linalg.norm(direction)
    # Any vector that is not along the rod gives two axes across it.
    helper = np.eye(3)[int(np.argmin(np.abs(along)))]
    first = np.cross(along, helper)
    first /= np.linalg.norm(first)
    second = np.cross(along, first)
    length_A = rng.uniform(*ROD_LENGTH_A)
    height = np.arange(0.0, length_A, RISE_A) - 0.5 * length_A
    phase = np.arange(len(height)) * TURN_RAD + rng.uniform(0.0, 2.0 * math.pi)
    circle = np.cos(phase)[:, None] * first + np.sin(phase)[:, None] * second
    rod: FloatArray = height[:, None] * along + HELIX_RADIUS_A * circle
    return rod


def _direction(rng: np.random.Generator) -> FloatArray:
    vector = rng.normal(size=3)
    unit: FloatArray = vector / np.linalg.norm(vector)
    return unit


def _in_unit_ball(rng: np.random.Generator, count: int) -> FloatArray:
    vectors = rng.normal(size=(count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    points: FloatArray = vectors * np.cbrt(rng.uniform(size=(count, 1)))
    return points
