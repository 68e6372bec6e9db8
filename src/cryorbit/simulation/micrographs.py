"""Whole micrographs: particles placed in ice, seen through the microscope and counted by the detector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cryorbit.conventions import FloatArray
from cryorbit.errors import ConfigurationError, ParticleDataError
from cryorbit.optics.ctf import electron_wavelength_A
from cryorbit.optics.microscope import ANGSTROM_PER_MM, aperture_cutoff_per_A
from cryorbit.simulation.contaminants import ice_image
from cryorbit.simulation.exposure import (
    Defocus,
    boxed_noise_variance,
    contrast,
    count_electrons,
    expected_count,
    ice_phase,
    lone_box,
)
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.noise import Intensities, disc
from cryorbit.simulation.potential import phase_projection
from cryorbit.simulation.rendering import (
    FloatImage,
    Renderer,
    SplineImage,
    junk_rng,
    make_renderer,
    placed_particles,
    turned_image,
)
from cryorbit.simulation.specimens import Projection
from cryorbit.simulation.truth import TruthTable

# Kinds of chance, beside those of truth, junk and noise of single boxes.
ICE_STREAM, COUNT_STREAM = 3, 4


@dataclass(frozen=True)
class Scene:
    """What is needed to make any micrograph of a set.

    Attributes
    ----------
    config
        The simulation.
    truth
        How every particle lies.
    renderer
        The specimen, in radians of phase.
    intensities
        Signal and noise of the boxes, in parts of the mean intensity.
    """

    config: MicrographConfig
    truth: TruthTable
    renderer: Renderer
    intensities: Intensities


@dataclass(frozen=True)
class Micrograph:
    """One exposure.

    Attributes
    ----------
    number
        From 0.
    rows
        Rows of the truth table that lie in it.
    intensity
        Counted electrons, or their expected number where there is no noise; protein is dark; shape (h, w).
    contrast
        Missing part of the electrons without noise and ice: the particles alone, white; shape (h, w).
    """

    number: int
    rows: NDArray[np.intp]
    intensity: FloatImage
    contrast: FloatImage


def make_scene(
    truth: TruthTable, projection: Projection, config: MicrographConfig, other: Projection | None = None
) -> Scene:
    """Prepare a specimen for micrographs: its contrast in radians, and the set's signal and noise.

    Parameters
    ----------
    truth
        From :func:`cryorbit.simulation.draw_truth` with the same configuration.
    projection
        The specimen, in any units.
    config
        The simulation.
    other
        Another particle for the junk; by default a phantom.

    Raises
    ------
    ConfigurationError
        If the particle takes away more electrons than there are.
    ParticleDataError
        If the particle has no contrast, or its scale cannot be found.
    """
    phase = phase_projection(projection, config)
    renderer = make_renderer(phase, config, other)
    intensities, strongest = _measure(renderer.particle, config, truth)
    if config.snr:
        scale = math.sqrt(config.snr * intensities.noise_std**2 / intensities.signal_variance)
        renderer = make_renderer(replace(phase, image=phase.image * scale), config, other)
        intensities, strongest = _measure(renderer.particle, config, truth)
    if strongest > 1 and not config.noise_free:
        raise ConfigurationError(
            f"The particle's contrast is {strongest:.2g}, more electrons than there are (1): lower snr or "
            "contrast_potential_V, or raise dose_per_nm2 and lower ice_nm, which is the noise."
        )
    return Scene(config, truth, renderer, intensities)


def iter_micrographs(scene: Scene) -> Iterator[Micrograph]:
    """Make the micrographs of a set one by one; each depends on the seed, its number and its particles alone.

    Parameters
    ----------
    scene
        From :func:`make_scene`.
    """
    truth = scene.truth
    for number in range(int(truth.micrograph.max()) + 1):
        yield make_micrograph(scene, number, np.flatnonzero(truth.micrograph == number))


def make_micrograph(scene: Scene, number: int, rows: NDArray[np.intp]) -> Micrograph:
    """Make one micrograph.

    Parameters
    ----------
    scene
        From :func:`make_scene`.
    number
        Which one, from 0; with the seed it decides the noise.
    rows
        Rows of the truth table that lie in it.
    """
    config, width, height = scene.config, *scene.config.detector_px
    defocus = _defocus_of(scene.truth, int(rows[0]))
    phase = draw_particles(scene, rows, padded_shape(config, defocus))
    particles = contrast(phase, config.micrograph_pixel_A, config, defocus)[:height, :width]
    count = expected_count(config)
    if config.noise_free:
        return Micrograph(number, rows, np.float32(count) * (1.0 - particles), particles)
    seen = particles
    if config.ice_nm:
        phase += ice_phase(phase.shape, config, _noise_rng(config, ICE_STREAM, number))
        seen = contrast(phase, config.micrograph_pixel_A, config, defocus)[:height, :width]
    return Micrograph(number, rows, count_electrons(seen, count, _noise_rng(config, COUNT_STREAM, number)), particles)


def padded_shape(config: MicrographConfig, defocus: Defocus) -> tuple[int, int]:
    """Height and width of a canvas so wide that nothing comes back in at the opposite edge, fast to transform.

    The transfer function moves detail of frequency k by the slope of the wave aberration, ``df lambda k - Cs lambda^3
    k^3``.
    """
    wavelength_A = electron_wavelength_A(config.optics.voltage_kV)
    cutoff_per_A = math.inf if config.microscope is None else aperture_cutoff_per_A(config.microscope)
    k = np.linspace(0.0, min(0.5 / config.micrograph_pixel_A, cutoff_per_A), 200)
    slope_A = max(defocus[:2]) * wavelength_A * k - config.optics.cs_mm * ANGSTROM_PER_MM * wavelength_A**3 * k**3
    reach_px = math.ceil(np.abs(slope_A).max() / config.micrograph_pixel_A)
    width, height = (fft.next_fast_len(size + reach_px, real=True) for size in config.detector_px)
    return height, width


def draw_particles(scene: Scene, rows: NDArray[np.intp], shape: tuple[int, int]) -> FloatImage:
    """Phase in radians of the particles of a micrograph before the microscope.

    Parameters
    ----------
    scene
        The specimen and how its particles lie.
    rows
        Which particles.
    shape
        Height and width of the canvas, of which the micrograph is the first part.
    """
    config, truth = scene.config, scene.truth
    canvas = np.zeros(shape, dtype=np.float32)
    for row in rows:
        centre = truth.coordinate_px[row]
        if truth.kind[row] == "ice":
            blobs = ice_image(junk_rng(config, int(row)), config.extracted_px, scene.renderer.particle.peak)
            _add(canvas, blobs, centre)
        for placed in placed_particles(scene.renderer, truth, int(row)):
            # The pixel nearest to the particle's place; what is left of a pixel goes into the rendering.
            place = centre + placed.shift_px * config.extracted_over_box
            nearest = np.rint(place)
            size = 2 * math.ceil(placed.spline.radius_A / config.micrograph_pixel_A) + 3
            patch = turned_image(placed.spline, size, config.micrograph_pixel_A, placed.psi_deg, place - nearest)
            _add(canvas, patch, nearest)
    return canvas


def _measure(spline: SplineImage, config: MicrographConfig, truth: TruthTable) -> tuple[Intensities, float]:
    """Signal and noise of a lone particle, mean over the micrographs, and its strongest contrast."""
    first_rows = np.unique(truth.micrograph, return_index=True)[1]
    exposures = [_defocus_of(truth, int(row)) for row in first_rows]
    inside = disc(config.box, config.particle_diameter_A / config.pixel_size_A)
    boxes = {defocus: lone_box(spline, config, defocus) for defocus in set(exposures)}
    signal = {defocus: image[inside].astype(np.float64) for defocus, image in boxes.items()}
    noise_variance = {defocus: boxed_noise_variance(config, defocus) for defocus in boxes}
    signal_variance = float(np.mean([signal[defocus].var() for defocus in exposures]))
    if signal_variance == 0:
        raise ParticleDataError(
            "The simulated particles have no contrast inside their disc: give a larger particle_diameter_A."
        )
    intensities = Intensities(
        signal_variance=signal_variance,
        noise_std=math.sqrt(np.mean([noise_variance[defocus] for defocus in exposures])),
        clean_std=float(np.concatenate([signal[defocus] for defocus in exposures]).std()),
    )
    return intensities, max(float(image.max()) for image in boxes.values())


def _defocus_of(truth: TruthTable, row: int) -> Defocus:
    return float(truth.defocus_u_A[row]), float(truth.defocus_v_A[row]), float(truth.defocus_angle_deg[row])


def _noise_rng(config: MicrographConfig, stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(config.seed, spawn_key=(stream, number))))


def _add(canvas: FloatImage, patch: FloatArray, centre: FloatArray) -> None:
    """Add a square patch whose middle lies at pixel ``centre``, x and y; what is outside of the canvas is left out."""
    size = len(patch)
    left, top = (int(value) - size // 2 for value in centre)
    rows = slice(max(top, 0), min(top + size, canvas.shape[0]))
    columns = slice(max(left, 0), min(left + size, canvas.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        canvas[rows, columns] += patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
