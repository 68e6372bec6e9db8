"""Results: what a run says of every particle, brought together and written as columns and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.alignment.orbit import ParticlePoses
from cryorbit.config import EstimationConfig
from cryorbit.conventions import ANGSTROM_PER_UM, IMAGE_NAME, FloatArray, origin_from_shift_A, particle_weight
from cryorbit.io import particles_suffix, write_particles
from cryorbit.io.star_columns import unquoted
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.particles import ParticleTable, as_numbers, input_column
from cryorbit.readings import Outcome, resolve_prior

SMALLEST_DEFOCUS_A = 100.0
# Columns of the input that the estimates have, and most others that are kept for looking at.
_IN_ESTIMATES = (
    IMAGE_NAME, conventions.PSI, conventions.DEFOCUS_U, conventions.DEFOCUS_V, conventions.ORIGIN_X,
    conventions.ORIGIN_Y,
)  # fmt: skip
MOST_FILE_COLUMNS = 24


def orientation_warnings(particles: ParticleTable, angle_known: bool) -> tuple[str, ...]:
    """What a user must know whose file had 3D orientations."""
    tilted = [name for name in ("rlnAngleRot", "rlnAngleTilt") if name in particles]
    if not angle_known or not any((particles.numbers(name) != 0).any() for name in tilted):
        return ()
    return (
        "The file has 3D orientations (_rlnAngleRot, _rlnAngleTilt); _rlnAnglePsi was replaced by the in-plane angle "
        "against this set's own average and does not belong to them. The old one is _cryorbitInputAnglePsi.",
    )


@dataclass(frozen=True)
class Aligned:
    """An alignment, with what its numbers mean.

    Attributes
    ----------
    poses
        Of every particle.
    pixel_size_A
        Of the pixels that shifts are counted in.
    identifiable
        Whether angles can be known at all.
    """

    poses: ParticlePoses
    pixel_size_A: float
    identifiable: bool

    @property
    def psi_std_deg(self) -> FloatArray:
        """Deviation of the angles, shape (n,); that of a guess where the set has none that can be known."""
        if self.identifiable:
            return self.poses.psi_std_deg
        return np.full(len(self.poses), UNKNOWN_ANGLE_STD_DEG)

    @property
    def origin_A(self) -> FloatArray:
        """RELION's origins in Angstrom, shape (n, 2)."""
        return origin_from_shift_A(self.poses.shift_px, self.pixel_size_A)

    @property
    def origin_std_A(self) -> FloatArray:
        """Their deviation along one axis, shape (n,)."""
        return self.poses.shift_std_px * self.pixel_size_A


@dataclass(frozen=True)
class Written:
    """The estimates that go into the particle files.

    Attributes
    ----------
    psi_deg, psi_std_deg
        Shape (n,).
    angle_known
        Whether an angle can be read at all.
    defocus_um
        Shape (n,); the file's own where that is trusted.
    defocus_std_um
        Shape (n,); None where the file's is trusted.
    latent_defocus_um, latent_defocus_std_um
        The latent space's own reading where the file's defocus is trusted; None otherwise.
    origin_A, origin_std_A
        RELION's origin and its deviation, shapes (n, 2) and (n,); None where nothing was found of it.
    probability
        Of the angle among all others, shape (n,); None likewise.
    """

    psi_deg: FloatArray
    psi_std_deg: FloatArray
    angle_known: bool
    defocus_um: FloatArray
    defocus_std_um: FloatArray | None
    latent_defocus_um: FloatArray | None = None
    latent_defocus_std_um: FloatArray | None = None
    origin_A: FloatArray | None = None
    origin_std_A: FloatArray | None = None
    probability: FloatArray | None = None


def choose_written(
    particles: ParticleTable, latent: Outcome | None, aligned: Aligned | None, settings: EstimationConfig
) -> Written:
    """Choose what is written: the alignment where there is one, else the latent space's reading.

    Parameters
    ----------
    particles
        As read.
    latent, aligned
        What each method found; one of them may be None.
    settings
        Of the estimates.
    """
    prior = resolve_prior(particles, settings)
    file_um = particles.defocus_A / ANGSTROM_PER_UM if particles.has_defocus else None
    if aligned is not None:
        poses, found = aligned.poses, bool(np.isfinite(aligned.poses.shift_std_px).all())
        trusted = file_um is not None and (prior == "given" or not found)
        beside = latent.chosen.defocus if latent is not None and trusted else None
        return Written(
            poses.psi_deg, aligned.psi_std_deg, aligned.identifiable,
            file_um if trusted and file_um is not None else poses.defocus_um,
            None if trusted else poses.defocus_std_um,
            None if beside is None else beside.defocus_um, None if beside is None else beside.std_um,
            aligned.origin_A if found else None, aligned.origin_std_A if found else None,
            poses.mode_probability if found and aligned.identifiable else None,
        )  # fmt: skip
    if latent is None:
        raise ValueError("Neither method has found anything.")
    angle, defocus = latent.chosen.angle, latent.chosen.defocus
    if latent.keeps_file_defocus and file_um is not None:
        return Written(
            angle.psi_deg, angle.std_deg, latent.angle_known, file_um, None, defocus.defocus_um, defocus.std_um
        )
    return Written(angle.psi_deg, angle.std_deg, latent.angle_known, defocus.defocus_um, defocus.std_um)


def estimates_table(
    particles: ParticleTable,
    chosen: Written,
    latent: Outcome | None,
    aligned: Aligned | None,
    scores: pd.DataFrame,
    kept: NDArray[np.bool_],
) -> pd.DataFrame:
    """All estimates as numbers, one row per particle: the content of ``estimates.parquet``."""
    unknown = np.full(len(particles), np.nan)
    origin = np.full((len(particles), 2), np.nan) if chosen.origin_A is None else chosen.origin_A
    columns: dict[str, Any] = {
        "id": particles.ids,
        "image": particles.frame[IMAGE_NAME].to_numpy(dtype=object),
        "psi_deg": chosen.psi_deg,
        "psi_std_deg": chosen.psi_std_deg,
        "defocus_um": chosen.defocus_um,
        "defocus_std_um": unknown if chosen.defocus_std_um is None else chosen.defocus_std_um,
        "origin_x_A": origin[:, 0],
        "origin_y_A": origin[:, 1],
        "origin_std_A": unknown if chosen.origin_std_A is None else chosen.origin_std_A,
    }
    if aligned is not None:
        columns |= _aligned_columns(aligned)
    if latent is not None:
        for name, reading in (("latent", latent.orbit), ("plane", latent.plane)):
            columns[f"{name}_psi_deg"] = reading.angle.psi_deg
            columns[f"{name}_psi_std_deg"] = reading.angle.std_deg
            columns[f"{name}_defocus_um"] = reading.defocus.defocus_um
            columns[f"{name}_defocus_std_um"] = reading.defocus.std_um
    columns["file_psi_deg"] = particles.numbers(conventions.PSI, default=float("nan"))
    columns["file_defocus_um"] = particles.defocus_A / ANGSTROM_PER_UM if particles.has_defocus else unknown
    for name in scores.columns.drop("id"):
        columns[name] = scores[name].to_numpy()
    columns["weight"] = particle_weight(chosen.defocus_um)
    columns["kept"] = kept
    return pd.DataFrame(columns)


def _aligned_columns(aligned: Aligned) -> dict[str, Any]:
    """Columns of the alignment; the bounds beside what was reached."""
    poses, origin = aligned.poses, aligned.origin_A
    return {
        "orbit_psi_deg": poses.psi_deg, "orbit_psi_std_deg": aligned.psi_std_deg,
        "orbit_defocus_um": poses.defocus_um, "orbit_defocus_std_um": poses.defocus_std_um,
        "orbit_origin_x_A": origin[:, 0], "orbit_origin_y_A": origin[:, 1], "orbit_origin_std_A": aligned.origin_std_A,
        "orbit_mode_probability": poses.mode_probability, "orbit_amplitude": poses.amplitude,
        "orbit_log_likelihood_ratio": poses.evidence.likelihood_ratio, "orbit_residual": poses.residual[:, 0],
        "limit_psi_deg": poses.psi_limit_deg, "limit_defocus_um": poses.defocus_limit_um,
        "limit_origin_A": poses.shift_limit_px * aligned.pixel_size_A,
    }  # fmt: skip


def file_columns(particles: ParticleTable) -> pd.DataFrame:
    """Columns of the input that the estimates have no version of: the content of ``file_columns.parquet``.

    Numbers where all values are, else words; those that are the same everywhere, or different everywhere as names of
    images are, are left out.
    """
    columns: dict[str, Any] = {"id": particles.ids}
    for name in particles.frame.columns:
        if name in _IN_ESTIMATES or len(columns) > MOST_FILE_COLUMNS:
            continue
        text = unquoted(particles.frame[name])
        different = text.nunique()
        numbers = as_numbers(text)
        if different < 2 or (different == len(text) and np.isnan(numbers).all()):
            continue
        columns[str(name)] = text.astype("category") if np.isnan(numbers).any() else numbers.astype(np.float32)
    return pd.DataFrame(columns)


def annotated(
    particles: ParticleTable, chosen: Written, scores: pd.DataFrame, scores_mean_something: bool
) -> ParticleTable:
    """The input's table with cryorbit's columns added or replaced.

    A RELION column that is replaced stays beside, as ``cryorbitInput...``; one about which nothing was found is not
    replaced. Astigmatism is kept: where the defocus is replaced, ``rlnDefocusU`` and ``rlnDefocusV`` move together.

    Parameters
    ----------
    particles
        As read.
    chosen
        Of :func:`choose_written`.
    scores
        Columns ``outlier_z``, ``outlier_score`` and ``outlier_probability``.
    scores_mean_something
        False where there were too few particles to compare.
    """
    columns: dict[str, Any] = {}
    if chosen.angle_known or conventions.PSI not in particles:
        columns[conventions.PSI] = chosen.psi_deg
    if chosen.origin_A is not None:
        columns |= {conventions.ORIGIN_X: chosen.origin_A[:, 0], conventions.ORIGIN_Y: chosen.origin_A[:, 1]}
        columns |= pixel_origins(particles, chosen.origin_A)
    if chosen.probability is not None:
        # A pose has a probability only where there is a particle.
        columns[conventions.POSE_PROBABILITY] = chosen.probability * (1.0 - scores["outlier_probability"].to_numpy())
    if scores_mean_something or conventions.SELECT_ZSCORE not in particles:
        columns[conventions.SELECT_ZSCORE] = scores["outlier_z"].to_numpy()
    if chosen.defocus_std_um is not None:
        columns |= _defocus_columns(particles, chosen.defocus_um * ANGSTROM_PER_UM)
    replaced = {
        input_column(name): particles.frame[name].to_numpy(dtype=object)
        for name in columns
        if name in particles and input_column(name) not in particles
    }
    if chosen.latent_defocus_um is not None and chosen.latent_defocus_std_um is not None:
        columns[conventions.LATENT_DEFOCUS] = chosen.latent_defocus_um * ANGSTROM_PER_UM
        columns[conventions.LATENT_DEFOCUS_STD] = chosen.latent_defocus_std_um * ANGSTROM_PER_UM
    if chosen.defocus_std_um is not None:
        columns[conventions.DEFOCUS_STD] = chosen.defocus_std_um * ANGSTROM_PER_UM
    if chosen.origin_std_A is not None:
        columns[conventions.ORIGIN_STD] = chosen.origin_std_A
    columns[conventions.PSI_STD] = chosen.psi_std_deg
    columns[conventions.OUTLIER_PROBABILITY] = scores["outlier_probability"].to_numpy()
    columns[conventions.OUTLIER_SCORE] = scores["outlier_score"].to_numpy()
    columns[conventions.WEIGHT] = particle_weight(chosen.defocus_um)
    return particles.with_columns(columns | replaced)


def pixel_origins(particles: ParticleTable, origin_A: FloatArray) -> dict[str, Any]:
    """RELION 3.0's origins in pixels, where the file has such columns: two that disagree would be a trap."""
    in_pixels = origin_A / particles.imaging.pixel_size_A[:, None]
    return {name: in_pixels[:, axis] for axis, name in enumerate(conventions.ORIGIN_PIXELS) if name in particles}


def _defocus_columns(particles: ParticleTable, mean_A: FloatArray) -> dict[str, Any]:
    half = 0.5 * (particles.defocus_u_A - particles.defocus_v_A) if particles.has_defocus else np.zeros(len(particles))
    # No file may say that a defocus is negative; only junk is found so close to focus.
    mean_A = np.maximum(mean_A, np.abs(half) + SMALLEST_DEFOCUS_A)
    columns: dict[str, Any] = {conventions.DEFOCUS_U: mean_A + half, conventions.DEFOCUS_V: mean_A - half}
    if conventions.DEFOCUS_ANGLE not in particles:
        columns[conventions.DEFOCUS_ANGLE] = np.zeros(len(particles))
    return columns


def write_particle_files(folder: Path, table: ParticleTable, kept: NDArray[np.bool_]) -> None:
    """Write all, the kept and the dropped particles as files of the input's format."""
    for name, chosen in (("", table), ("_kept", table.where(kept)), ("_dropped", table.where(~kept))):
        write_particles(folder / f"particles{name}{particles_suffix(table)}", chosen)
