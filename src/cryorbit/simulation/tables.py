"""The tables of a simulated set: what an experimenter would have, and the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cryorbit.conventions import (
    ANGSTROM_PER_UM,
    DEFOCUS_ANGLE,
    DEFOCUS_U,
    DEFOCUS_V,
    ORIGIN_X,
    ORIGIN_Y,
    PSI,
    SELECT_ZSCORE,
    TRUTH_KIND,
    TRUTH_OUTLIER,
    FloatArray,
    origin_from_shift_A,
)
from cryorbit.io.star import write_star
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.noise import Intensities
from cryorbit.simulation.settings import SimulationConfig
from cryorbit.simulation.sorting import sorting_z_scores
from cryorbit.simulation.specimens import Projection
from cryorbit.simulation.truth import TruthTable
from cryorbit.simulation.view_spread import cone_tips


def optics_table(config: SimulationConfig) -> pd.DataFrame:
    """Make the optics block: one group, one row."""
    table = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [config.optics.voltage_kV],
            "rlnSphericalAberration": [config.optics.cs_mm],
            "rlnAmplitudeContrast": [config.optics.amplitude_contrast],
            "rlnImagePixelSize": [config.pixel_size_A],
            "rlnImageSize": [config.box],
            "rlnImageDimensionality": [2],
            "rlnCtfDataAreCtfPremultiplied": [0],
        }
    )
    if isinstance(config, MicrographConfig):
        # In which the coordinates count.
        table["rlnMicrographOriginalPixelSize"] = [config.micrograph_pixel_A]
    return table


def micrograph_name(number: int) -> str:
    """Path of a micrograph, counted from 0, inside the folder of the set."""
    return f"micrographs/micrograph_{number + 1:05d}.mrc"


def experimenter_table(truth: TruthTable) -> pd.DataFrame:
    """Tabulate what an experimenter has before any alignment; the defocus is the micrograph's mean."""
    n = len(truth)
    return pd.DataFrame(
        {
            "rlnImageName": [f"{row + 1:06d}@particles.mrcs" for row in range(n)],
            "rlnMicrographName": [micrograph_name(number) for number in truth.micrograph],
            "rlnCoordinateX": truth.coordinate_px[:, 0],
            "rlnCoordinateY": truth.coordinate_px[:, 1],
            "rlnOpticsGroup": np.ones(n, dtype=np.int64),
            DEFOCUS_U: _micrograph_mean(truth.defocus_u_A, truth),
            DEFOCUS_V: _micrograph_mean(truth.defocus_v_A, truth),
            # Astigmatism belongs to the micrograph: all its particles have one direction.
            DEFOCUS_ANGLE: truth.defocus_angle_deg,
        }
    )


def truth_table(truth: TruthTable, projection: Projection, config: SimulationConfig) -> pd.DataFrame:
    """Tabulate the experimenter's rows with the true defocus and what only the simulator knows."""
    table = experimenter_table(truth).assign(
        **{
            DEFOCUS_U: truth.defocus_u_A,
            DEFOCUS_V: truth.defocus_v_A,
            "rlnAngleRot": np.full(len(truth), float(projection.rot_deg)),
            "rlnAngleTilt": np.full(len(truth), float(projection.tilt_deg)),
            PSI: truth.psi_deg,
            ORIGIN_X: origin_from_shift_A(truth.shift_px[:, 0], config.pixel_size_A) + 0.0,
            ORIGIN_Y: origin_from_shift_A(truth.shift_px[:, 1], config.pixel_size_A) + 0.0,
            TRUTH_OUTLIER: truth.outlier.astype(np.int64),
            TRUTH_KIND: truth.kind.tolist(),
        }
    )
    if config.sorting_scores:
        table[SELECT_ZSCORE] = sorting_z_scores(truth.outlier, config.seed)
    return table


def plain_table(truth: TruthTable, snr: FloatArray, config: SimulationConfig) -> pd.DataFrame:
    """Tabulate the truth in plain numbers, one row per image, counted from 0.

    Where particles are seen from several directions, it says how far each is tipped from the view, and to which side.
    """
    table = pd.DataFrame(
        {
            "index": np.arange(len(truth)),
            "psi_deg": truth.psi_deg,
            "defocus_um": truth.defocus_A / ANGSTROM_PER_UM,
            "shift_x_px": truth.shift_px[:, 0],
            "shift_y_px": truth.shift_px[:, 1],
            "outlier": truth.outlier.astype(np.int64),
            "kind": truth.kind.tolist(),
            "snr": snr,
        }
    )
    if config.views > 1:
        tips = cone_tips(config.views, config.view_spread_deg)
        table["tip_deg"], table["tip_direction_deg"] = tips.tip_deg[truth.view], tips.direction_deg[truth.view]
    return table


def write_tables(
    folder: Path,
    truth: TruthTable,
    projection: Projection,
    config: SimulationConfig,
    signal_variance: FloatArray,
    intensities: Intensities,
) -> None:
    """Write ``particles.star``, ``truth.star`` and ``truth.csv``.

    Parameters
    ----------
    folder
        Where to.
    truth
        How every image was made.
    projection
        The specimen, for its view.
    config
        The simulation.
    signal_variance
        Variance of each image inside the disc before noise, shape (n,).
    intensities
        The noise.
    """
    optics = optics_table(config)
    write_star(folder / "particles.star", {"optics": optics, "particles": experimenter_table(truth)})
    write_star(folder / "truth.star", {"optics": optics, "particles": truth_table(truth, projection, config)})
    noise_variance = intensities.noise_std**2
    snr = signal_variance / noise_variance if noise_variance else np.full(len(truth), np.inf)
    plain_table(truth, snr, config).to_csv(folder / "truth.csv", index=False, float_format="%.9g")


def write_configuration(path: Path, projection: Projection, config: SimulationConfig, intensities: Intensities) -> None:
    """Write the configuration, the view and the measured intensities as JSON."""
    content = {
        "configuration": config.model_dump(mode="json"),
        "view_deg": [projection.rot_deg, projection.tilt_deg],
        "signal_variance": intensities.signal_variance,
        "noise_std_before_normalisation": intensities.noise_std,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _micrograph_mean(values: FloatArray, truth: TruthTable) -> FloatArray:
    count = np.bincount(truth.micrograph)
    mean: FloatArray = np.bincount(truth.micrograph, weights=values) / count
    return mean[truth.micrograph]
