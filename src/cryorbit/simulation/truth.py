"""The truth of a simulated set, drawn before any image is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.simulation.contaminants import KINDS, edge_shift_px
from cryorbit.simulation.layout import draw_layout
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.settings import DefocusQuantiles, DefocusRange, DefocusSeries, SimulationConfig

TRUE_PARTICLE = "none"
# Width in pixels of the micrographs that the particles are said to come from.
MICROGRAPH_WIDTH_PX = 4096
# Streams of chance that came later than the others, which must not change for it.
VIEW_STREAM, CONTRAST_STREAM = 5, 6


@dataclass(frozen=True)
class TruthTable:
    """How every particle was made; one row per image.

    Attributes
    ----------
    psi_deg
        In-plane turn in degrees, shape (n,).
    defocus_u_A, defocus_v_A, defocus_angle_deg
        Defocus in Angstrom and its direction in degrees, shape (n,).
    shift_px
        Where the particle lies relative to the centre of its box, x and y in pixels, shape (n, 2).
    kind
        ``none`` for a particle, else the kind of junk, shape (n,).
    micrograph
        Number of the micrograph, from 0, shape (n,).
    coordinate_px
        Centre of the box in the micrograph, x and y in pixels, shape (n, 2).
    view
        Number of the direction that each is seen from, from 0, shape (n,).
    contrast
        Factor of each particle's signal, shape (n,).
    """

    psi_deg: FloatArray
    defocus_u_A: FloatArray
    defocus_v_A: FloatArray
    defocus_angle_deg: FloatArray
    shift_px: FloatArray
    kind: np.ndarray
    micrograph: NDArray[np.int64]
    coordinate_px: FloatArray
    view: NDArray[np.int64]
    contrast: FloatArray

    def __len__(self) -> int:
        return len(self.psi_deg)

    @property
    def outlier(self) -> NDArray[np.bool_]:
        """Whether each image is junk, shape (n,)."""
        junk: NDArray[np.bool_] = self.kind != TRUE_PARTICLE
        return junk

    @property
    def defocus_A(self) -> FloatArray:
        """Mean of the two defoci in Angstrom, shape (n,)."""
        return 0.5 * (self.defocus_u_A + self.defocus_v_A)


def draw_truth(config: SimulationConfig) -> TruthTable:
    """Draw angle, defocus, shift, junk and micrograph of every particle.

    A micrograph holds particles of nearly equal defocus: particles are sorted by defocus and cut into groups of
    at most ``particles_per_micrograph``, inside each level of a defocus series. Rows and numbers of micrographs
    are in random order of defocus. Junk that is badly centred has its true offset as its shift.

    Where whole micrographs are simulated, all particles of one have the same defocus, and rows are ordered by
    micrograph, as an extraction leaves them.

    Parameters
    ----------
    config
        The simulation; the same seed gives the same truth.
    """
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(0,)))
    n = config.images
    psi_deg = rng.uniform(-180.0, 180.0, n)
    layout = draw_layout(config, rng) if isinstance(config, MicrographConfig) else None
    defocus_A = _draw_defocus_um(config, rng) * ANGSTROM_PER_UM if layout is None else layout.defocus_A
    shift_px = rng.normal(0.0, config.shift_px, (n, 2))
    kind = _draw_kinds(config, rng)
    for row in np.flatnonzero(kind == "edge"):
        shift_px[row] = edge_shift_px(rng, config.box)
    micrograph = _group_by_defocus(defocus_A, config, rng) if layout is None else layout.micrograph
    angle_by_micrograph = rng.uniform(0.0, 180.0, micrograph.max() + 1) * (config.astigmatism_A > 0)
    return TruthTable(
        psi_deg=psi_deg,
        defocus_u_A=defocus_A + 0.5 * config.astigmatism_A,
        defocus_v_A=defocus_A - 0.5 * config.astigmatism_A,
        defocus_angle_deg=angle_by_micrograph[micrograph],
        shift_px=shift_px,
        kind=kind,
        micrograph=micrograph,
        coordinate_px=_scatter_px(config, rng) if layout is None else layout.coordinate_px,
        view=_stream(config, VIEW_STREAM).integers(config.views, size=n),
        contrast=np.sqrt(config.snr_factor ** _stream(config, CONTRAST_STREAM).uniform(-1.0, 1.0, n)),
    )


def _stream(config: SimulationConfig, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(number,)))


def _draw_defocus_um(config: SimulationConfig, rng: np.random.Generator) -> FloatArray:
    if isinstance(config.defocus_um, DefocusRange):
        return rng.uniform(config.defocus_um.low_um, config.defocus_um.high_um, config.images)
    if isinstance(config.defocus_um, DefocusQuantiles):
        quantiles = np.asarray(config.defocus_um.values_um)
        probabilities = np.linspace(0.0, 1.0, len(quantiles))
        return np.asarray(np.interp(rng.uniform(size=config.images), probabilities, quantiles))
    return rng.permutation(np.resize(np.asarray(config.defocus_um.values_um, dtype=np.float64), config.images))


def _scatter_px(config: SimulationConfig, rng: np.random.Generator) -> FloatArray:
    half = config.box / 2
    return rng.uniform(half, MICROGRAPH_WIDTH_PX - half, (config.images, 2)).round(1)


def _draw_kinds(config: SimulationConfig, rng: np.random.Generator) -> np.ndarray:
    # Noise without noise is an empty image, which no program accepts.
    kinds = [kind for kind in KINDS if not (kind == "noise" and config.noise_free)]
    drawn = np.full(config.images, TRUE_PARTICLE, dtype="<U8")
    junk = rng.permutation(config.images)[: round(config.outliers * config.images)]
    drawn[junk] = np.resize(np.array(kinds), len(junk))
    return drawn


def _group_by_defocus(defocus_A: FloatArray, config: SimulationConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    order = np.argsort(defocus_A, kind="stable")
    levels = _split_levels(order, defocus_A) if isinstance(config.defocus_um, DefocusSeries) else [order]
    # Groups of nearly equal size: a last micrograph of one particle would give that particle's defocus away.
    size = config.particles_per_micrograph
    groups = [rows for level in levels for rows in np.array_split(level, math.ceil(len(level) / size))]
    micrograph = np.empty(len(defocus_A), dtype=np.int64)
    for number, rows in zip(rng.permutation(len(groups)), groups, strict=True):
        micrograph[rows] = number
    return micrograph


def _split_levels(order: NDArray[np.intp], defocus_A: FloatArray) -> list[NDArray[np.intp]]:
    return np.split(order, np.flatnonzero(np.diff(defocus_A[order])) + 1)
