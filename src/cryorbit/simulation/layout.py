"""Where particles lie: which micrograph, its defocus, and the centres of the boxes on a grid in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.simulation.micrograph_settings import MicrographConfig, grid_shape
from cryorbit.simulation.settings import DefocusRange


@dataclass(frozen=True)
class Layout:
    """Places of all particles of a set, micrograph by micrograph.

    Attributes
    ----------
    micrograph
        Number of the micrograph, from 0, ascending, shape (n,).
    defocus_A
        Its defocus in Angstrom, the same for all particles of a micrograph, shape (n,).
    coordinate_px
        Whole numbers: the pixel of the micrograph that is the centre of the box, x and y, shape (n, 2).
    """

    micrograph: NDArray[np.int64]
    defocus_A: FloatArray
    coordinate_px: FloatArray


def draw_layout(config: MicrographConfig, rng: np.random.Generator) -> Layout:
    """Spread particles over as few micrographs as hold them, and over the grid of each.

    Every level of a defocus series gets equally many micrographs, up to one; of a range each micrograph draws its own.
    No box leaves its micrograph, and no two overlap.

    Parameters
    ----------
    config
        The simulation.
    rng
        Source of chance.
    """
    count = math.ceil(config.images / config.particles_per_micrograph)
    # Groups of nearly equal size, so that the last micrograph is not an almost empty one.
    sizes = [len(rows) for rows in np.array_split(np.arange(config.images), count)]
    defocus_um = _draw_defocus_um(config, count, rng)
    micrograph = np.repeat(np.arange(count), sizes)
    return Layout(
        micrograph=micrograph,
        defocus_A=defocus_um[micrograph] * ANGSTROM_PER_UM,
        coordinate_px=np.concatenate([_draw_coordinates_px(config, size, rng) for size in sizes]),
    )


def _draw_defocus_um(config: MicrographConfig, count: int, rng: np.random.Generator) -> FloatArray:
    if isinstance(config.defocus_um, DefocusRange):
        return rng.uniform(config.defocus_um.low_um, config.defocus_um.high_um, count)
    return rng.permutation(np.resize(np.asarray(config.defocus_um.values_um, dtype=np.float64), count))


def _draw_coordinates_px(config: MicrographConfig, size: int, rng: np.random.Generator) -> FloatArray:
    """Draw the centres of the boxes in ``size`` cells of one micrograph's grid, row by row, shape (size, 2)."""
    extent = np.array(config.detector_px)
    shape = np.array(grid_shape(config.particles_per_micrograph, *config.detector_px))
    cells = np.sort(rng.permutation(config.particles_per_micrograph)[:size])
    place = np.stack([cells % shape[0], cells // shape[0]], axis=1)
    room_px = extent / shape - config.extracted_px
    offset_px = config.jitter * rng.uniform(-0.5, 0.5, (size, 2)) * room_px
    # The box's first pixel is a whole number from 0 to what leaves room for the box.
    first = np.rint((place + 0.5) * extent / shape - 0.5 * config.extracted_px + offset_px)
    corner: FloatArray = np.clip(first, 0, extent - config.extracted_px)
    return corner + config.extracted_px // 2
