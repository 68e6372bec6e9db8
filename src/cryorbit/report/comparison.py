"""Estimates of a run against the truth: every reading of angle and defocus, all detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.errors import ParticleDataError
from cryorbit.estimation.evaluation import Evaluation, RocCurve, align_angles, evaluate, origin_errors_A
from cryorbit.estimation.truth import Truth, detector_curves
from cryorbit.report.record import RunRecord

# Angles in degrees or defoci in micrometres that differ by less are one and the same, stored in two ways.
SAME = 1e-4
# Prefix of a reading's columns, and how the page calls it; what was written comes first.
READINGS = {
    "": "Written to the file",
    "orbit_": "Aligned (orbit)",
    "latent_": "Latent orbits",
    "plane_": "Paper's plane formula",
}
DETECTORS = {
    "outlier_score": "Score used",
    "evidence": "Evidence of the alignment",
    "isolation_forest": "Isolation forest",
    "robust_covariance": "Robust covariance",
    "local_outlier_factor": "Local outlier factor",
}
NO_JUNK = "none"
Values = Callable[[RunRecord, str], FloatArray]


@dataclass(frozen=True)
class Errors:
    """Errors of one reading over the true particles for which it has a value; arrays of one length.

    Attributes
    ----------
    row
        Of the particles in the estimates.
    truth, estimate
        In degrees or micrometres; estimated angles after the global shift and sign of equation 8.
    error
        Estimate minus truth; angles wrapped.
    std
        The deviation that was predicted, NaN where there is none.
    """

    row: NDArray[np.int64]
    truth: FloatArray
    estimate: FloatArray
    error: FloatArray
    std: FloatArray

    @property
    def normalised(self) -> FloatArray:
        """Error over predicted deviation, where that is above zero."""
        usable = np.isfinite(self.std) & (self.std > 0)
        return self.error[usable] / self.std[usable]


@dataclass(frozen=True)
class KindOfJunk:
    """How many particles of one kind there are and were dropped."""

    kind: str
    particles: int
    dropped: int


@dataclass(frozen=True)
class Comparison:
    """All numbers of the page's tables against the truth.

    Attributes
    ----------
    source
        What the truth is called.
    readings
        Metrics by the prefix of the reading's columns, for those that the run has.
    curves
        ROC curves by the detector's column; empty unless there are both junk and true particles.
    kinds
        True particles first (kind "none"), then junk by kind; empty where the truth does not tell.
    """

    source: str
    readings: dict[str, Evaluation]
    curves: dict[str, RocCurve]
    kinds: tuple[KindOfJunk, ...]


def compare(run: RunRecord, truth: Truth) -> Comparison:
    """Compare a run with the truth.

    Raises
    ------
    ParticleDataError
        If the truth has another number of rows.
    """
    for values in (truth.psi_deg, truth.defocus_um, truth.origin_A, truth.is_outlier, truth.kind):
        if values is not None and len(values) != len(run):
            raise ParticleDataError(
                f"{truth.source}: has {len(values)} rows where {run.folder} has {len(run)} particles; "
                "give the truth of the same particles in the same order."
            )
    return Comparison(
        source=truth.source,
        readings={prefix: evaluate_reading(run, truth, prefix) for prefix in readings_of(run)},
        curves=_curves(run, truth),
        kinds=_kinds(run, truth),
    )


def readings_of(run: RunRecord) -> list[str]:
    """Column prefixes of the readings that a run has, the one that was written first."""
    return [prefix for prefix in READINGS if not prefix or f"{prefix}psi_deg" in run.estimates]


def angles_of(run: RunRecord, prefix: str) -> FloatArray:
    """Angles of a reading, shape (n,)."""
    return run.column("file_psi_deg" if not prefix and run.keeps_file_psi else f"{prefix}psi_deg")


def defoci_of(run: RunRecord, prefix: str) -> FloatArray:
    """Defoci of a reading, shape (n,); NaN for an alignment that took the file's as given."""
    if prefix == "orbit_" and run.keeps_file_defocus:
        return np.full(len(run), np.nan)
    return run.column(f"{prefix}defocus_um")


def distinct_readings(run: RunRecord, what: Values) -> dict[str, str]:
    """Readings that differ in angle or defocus, by column prefix, and how a figure calls each.

    What was written comes first; a reading that says the same is left out.

    Parameters
    ----------
    run
        The run.
    what
        :func:`angles_of` or :func:`defoci_of`.
    """
    written = what(run, "")
    from_input = run.keeps_file_defocus if what is defoci_of else run.keeps_file_psi
    names = {"": f"{READINGS['']}: {'the input' if from_input else READINGS[run.reading].lower()}"}
    for prefix in readings_of(run)[1:]:
        values = what(run, prefix)
        if np.isfinite(values).any() and not np.allclose(values, written, rtol=0.0, atol=SAME, equal_nan=True):
            names[prefix] = READINGS[prefix]
    return names


def evaluate_reading(run: RunRecord, truth: Truth, prefix: str) -> Evaluation:
    """Metrics of one reading: angles over the rows that have both angles, defoci over those that have both."""
    psi, defocus = angles_of(run, prefix), defoci_of(run, prefix)
    angle_rows, defocus_rows = (
        np.isfinite(estimate) & np.isfinite(true) if true is not None else np.zeros(len(run), dtype=bool)
        for estimate, true in ((psi, truth.psi_deg), (defocus, truth.defocus_um))
    )
    angle = evaluate(
        psi_deg=psi[angle_rows] if angle_rows.any() else None,
        true_psi_deg=_at(truth.psi_deg, angle_rows),
        # Only for the weights: the paper's are those of the estimated defocus.
        defocus_um=defocus[angle_rows] if np.isfinite(defocus[angle_rows]).all() else None,
        true_defocus_um=_at(truth.defocus_um, angle_rows),
        psi_std_deg=run.column(f"{prefix}psi_std_deg")[angle_rows],
        is_outlier=None if truth.is_outlier is None else truth.is_outlier[angle_rows],
        symmetry_order=run.isotropy_order,
    )
    across = evaluate(
        psi_deg=None,
        true_psi_deg=None,
        defocus_um=defocus[defocus_rows] if defocus_rows.any() else None,
        true_defocus_um=_at(truth.defocus_um, defocus_rows),
        defocus_std_um=run.column(f"{prefix}defocus_std_um")[defocus_rows],
        is_outlier=None if truth.is_outlier is None else truth.is_outlier[defocus_rows],
    )
    shift = _evaluate_origins(run, truth, prefix)
    return replace(
        angle,
        particles=len(run),
        inliers=int(true_particles(run, truth).sum()),
        defocus_rmse_um=across.defocus_rmse_um,
        defocus_rmse_weighted_um=across.defocus_rmse_weighted_um,
        defocus_calibration=across.defocus_calibration,
        origin_rmse_A=None if shift is None else shift.origin_rmse_A,
        origin_calibration=None if shift is None else shift.origin_calibration,
    )


def _evaluate_origins(run: RunRecord, truth: Truth, prefix: str) -> Evaluation | None:
    """Metrics of a reading's shifts; None where there is nothing to compare, or no frame to compare in."""
    rows, origin_A = _rows_with_origins(run, truth, prefix)
    if truth.origin_A is None or not rows.any():
        return None
    return evaluate(
        psi_deg=angles_of(run, prefix)[rows],
        true_psi_deg=None,
        defocus_um=None,
        true_defocus_um=None,
        origin_A=origin_A[rows],
        true_origin_A=truth.origin_A[rows],
        origin_std_A=run.column(f"{prefix}origin_std_A")[rows],
    )


def _rows_with_origins(run: RunRecord, truth: Truth, prefix: str) -> tuple[NDArray[np.bool_], FloatArray]:
    """True particles whose shift can be compared, shape (n,), and the reading's origins, shape (n, 2)."""
    origin_A = np.stack([run.column(f"{prefix}origin_{axis}_A") for axis in "xy"], axis=1)
    known = np.isfinite(origin_A).all(axis=1) & np.isfinite(angles_of(run, prefix)) & run.angle_known
    return known & true_particles(run, truth), origin_A


def shift_errors_A(run: RunRecord, truth: Truth, prefix: str) -> FloatArray | None:
    """Errors of a reading's shifts in the average's frame, shape (n, 2), NaN where there is none; None without any."""
    rows, origin_A = _rows_with_origins(run, truth, prefix)
    if truth.origin_A is None or not rows.any():
        return None
    error = np.full((len(run), 2), np.nan)
    error[rows] = origin_errors_A(origin_A[rows], truth.origin_A[rows], angles_of(run, prefix)[rows])
    return error


def _at(values: FloatArray | None, rows: NDArray[np.bool_]) -> FloatArray | None:
    """Finite values at these rows; None where some are not."""
    return values[rows] if values is not None and np.isfinite(values[rows]).all() else None


def true_particles(run: RunRecord, truth: Truth) -> NDArray[np.bool_]:
    """Which rows are no junk, shape (n,)."""
    return np.ones(len(run), dtype=bool) if truth.is_outlier is None else ~truth.is_outlier


def angle_errors(run: RunRecord, truth: Truth, prefix: str) -> Errors | None:
    """Errors of a reading's angles after the global shift and sign; None where there is nothing to compare."""
    if truth.psi_deg is None:
        return None
    estimate = angles_of(run, prefix)
    rows = np.isfinite(estimate) & np.isfinite(truth.psi_deg) & true_particles(run, truth)
    if not rows.any():
        return None
    order = run.isotropy_order
    found = align_angles(estimate[rows], truth.psi_deg[rows], None, order)
    aligned = wrap_deg(found.sign * estimate[rows] + found.offset_deg, 360.0 / order)
    std = run.column(f"{prefix}psi_std_deg")[rows]
    return Errors(np.flatnonzero(rows), wrap_deg(truth.psi_deg[rows]), aligned, found.residual_deg, std)


def defocus_errors(run: RunRecord, truth: Truth, prefix: str) -> Errors | None:
    """Errors of a reading's defocus; None where there is nothing to compare."""
    if truth.defocus_um is None:
        return None
    estimate = defoci_of(run, prefix)
    rows = np.isfinite(estimate) & np.isfinite(truth.defocus_um) & true_particles(run, truth)
    if not rows.any():
        return None
    true, std = truth.defocus_um[rows], run.column(f"{prefix}defocus_std_um")[rows]
    return Errors(np.flatnonzero(rows), true, estimate[rows], estimate[rows] - true, std)


def _curves(run: RunRecord, truth: Truth) -> dict[str, RocCurve]:
    if truth.is_outlier is None or not run.has_scores:
        return {}
    return detector_curves({name: run.column(name) for name in DETECTORS}, truth.is_outlier)


def junk_kinds(truth: Truth) -> NDArray[np.str_] | None:
    """Kind of every particle: "none", its kind of junk, or just "junk"; None where the truth does not tell."""
    if truth.is_outlier is None:
        return None
    if truth.kind is None:
        return np.where(truth.is_outlier, "junk", NO_JUNK)
    named = np.where(truth.kind == NO_JUNK, "junk", truth.kind)
    return np.where(truth.is_outlier, named, NO_JUNK)


def _kinds(run: RunRecord, truth: Truth) -> tuple[KindOfJunk, ...]:
    kinds = junk_kinds(truth)
    if kinds is None:
        return ()
    names = sorted(np.unique(kinds).tolist(), key=lambda kind: (kind != NO_JUNK, kind))
    return tuple(
        KindOfJunk(name, int((kinds == name).sum()), int(((kinds == name) & ~run.kept).sum())) for name in names
    )
