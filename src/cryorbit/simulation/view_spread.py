"""Particles of one 2D class are not seen from one direction: projections from all over a narrow cone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from cryorbit.conventions import FloatArray
from cryorbit.errors import ConfigurationError
from cryorbit.simulation.phantom import phantom_atoms_A
from cryorbit.simulation.settings import SimulationConfig
from cryorbit.simulation.specimens import (
    Projection,
    View,
    choose_projection,
    project_atoms,
    project_volume,
    read_map,
    structure_volume,
    view_matrix,
)

# From the rotation that brings a specimen into a view, and the view's name, to what is seen.
Specimen = Callable[[FloatArray, View], Projection]

GOLDEN_ANGLE_DEG = 180.0 * (3.0 - math.sqrt(5.0))
# An atomic model is put on a grid once, fine enough for images of 2.9 Angstrom, and the grid is turned.
MODEL_SPACING_A = 2.0


@dataclass(frozen=True)
class Tips:
    """Directions in a cone about a view; arrays of shape (n,).

    Attributes
    ----------
    tip_deg
        Angle from the view.
    direction_deg
        To which side in the image, from x to y.
    """

    tip_deg: FloatArray
    direction_deg: FloatArray

    def matrices(self) -> FloatArray:
        """Rotations that follow the one into the view, shape (n, 3, 3).

        The axis of each lies in the image, so that nothing turns within it: in-plane angles of all directions mean the
        same.
        """
        tip, direction = np.radians(self.tip_deg), np.radians(self.direction_deg)
        zero, one = np.zeros_like(tip), np.ones_like(tip)
        side = _matrices([np.cos(direction), -np.sin(direction), zero], [np.sin(direction), np.cos(direction), zero])
        lean = _matrices([np.cos(tip), zero, np.sin(tip)], [zero, one, zero])
        lean[:, 2] = np.stack([-np.sin(tip), zero, np.cos(tip)], axis=1)
        return np.asarray(side @ lean @ side.transpose(0, 2, 1))


def _matrices(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    rows = [np.stack(row, axis=1) for row in (first, second)]
    third = np.tile([0.0, 0.0, 1.0], (len(rows[0]), 1))
    return np.stack([*rows, third], axis=1)


def cone_tips(count: int, half_angle_deg: float) -> Tips:
    """Directions spread evenly over a cone: equal solid angles along a spiral of golden angles.

    Parameters
    ----------
    count
        Number of directions; a single one is the view itself.
    half_angle_deg
        The farthest from the view.
    """
    if count == 1:
        return Tips(np.zeros(1), np.zeros(1))
    share = (np.arange(count) + 0.5) / count
    cosine = 1.0 - share * (1.0 - math.cos(math.radians(half_angle_deg)))
    return Tips(np.asarray(np.degrees(np.arccos(cosine))), np.asarray(np.arange(count) * GOLDEN_ANGLE_DEG % 360.0))


def spread_projections(specimen: Specimen, view: View, tips: Tips) -> list[Projection]:
    """The specimen seen from every direction of a cone about a view.

    Parameters
    ----------
    specimen
        From :func:`choose_specimen`.
    view
        Rot and tilt of the cone's axis in degrees.
    tips
        From :func:`cone_tips`.
    """
    return [specimen(tip @ view_matrix(view), view) for tip in tips.matrices()]


def nearly_symmetric(projection: Projection, order: int, asymmetry: float) -> Projection:
    """A projection brought close to C_n: copies turned about the centre, and a weak part of what it was.

    Parameters
    ----------
    projection
        Of any specimen.
    order
        n of C_n.
    asymmetry
        Weight of the projection itself, 0 to 1; the copies have the rest.
    """
    image = projection.image
    centre = np.full(2, len(image) // 2)
    copies = np.zeros_like(image)
    for turn in 2.0 * np.pi * np.arange(order) / order:
        matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        copies += ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=3) / order
    return replace(projection, image=(1.0 - asymmetry) * copies + asymmetry * image)


def choose_specimen(map_path: Path | None, structure_path: Path | None) -> Specimen:
    """The one specimen that was named, to be seen from any side; the phantom where none was.

    Raises
    ------
    ConfigurationError
        If both were named.
    ParticleDataError
        If the file cannot be read.
    """
    if map_path is not None and structure_path is not None:
        raise ConfigurationError("--map and --structure exclude each other: give one of them.")
    if map_path is not None:
        return partial(_project_volume, *read_map(map_path))
    if structure_path is not None:
        density = structure_volume(structure_path, np.eye(3), MODEL_SPACING_A)
        return partial(_project_volume, density.volume.astype(np.float64), density.voxel_A)
    return partial(project_atoms, phantom_atoms_A())


def _project_volume(volume: FloatArray, voxel_A: float, matrix: FloatArray, view: View) -> Projection:
    return project_volume(volume, voxel_A, matrix, view)


def choose_projections(
    map_path: Path | None, structure_path: Path | None, phantom: bool, view: View, config: SimulationConfig
) -> Projection | list[Projection]:
    """The one specimen that was named, from the view, or from as many directions as a configuration has.

    Raises
    ------
    ConfigurationError
        If more than one was named.
    ParticleDataError
        If the file cannot be read.
    """
    if config.views == 1:
        return choose_projection(map_path, structure_path, phantom, view)
    if phantom and (map_path is not None or structure_path is not None):
        raise ConfigurationError("--map, --structure and --phantom exclude each other: give one of them.")
    tips = cone_tips(config.views, config.view_spread_deg)
    return spread_projections(choose_specimen(map_path, structure_path), view, tips)
