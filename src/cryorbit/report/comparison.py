"""Estimates of a run against the truth: every reading of angle and defocus, all detectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.errors import ParticleDataError
from cryorbit.estimation.evaluation import Evaluation, RocCurve, align_angles, evaluate, roc
from cryorbit.estimation.truth import Truth
from cryorbit.report.record import RunRecord

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
    for values in (truth.psi_deg, truth.defocus_um, truth.is_outlier, truth.kind):
        if values is not None and len(values) != len(run):
            raise ParticleDataError(
                f"{truth.source}: has {len(values)} rows where {run.folder} has {len(run)} particles; "
                "give the truth of the same particles in the same order."
            )
    return Comparison(
        source=truth.source,
        readings={prefix: _evaluate(run, truth, prefix) for prefix in readings_of(run)},
        curves=_curves(run, truth),
        kinds=_kinds(run, truth),
    )


def readings_of(run: RunRecord) -> list[str]:
    """Column prefixes of the readings that a run has, the one that was written first."""
    return [prefix for prefix in READINGS if not prefix or f"{prefix}psi_deg" in run.estimates]


def distinct_readings(run: RunRecord) -> dict[str, str]:
    """Readings that differ, by column prefix, and how a figure calls each: what was written is shown once."""
    names = {
        "": f"{READINGS['']}: {READINGS[run.reading].lower()}" if run.reading in readings_of(run) else READINGS[""]
    }
    for prefix in readings_of(run)[1:]:
        columns = ("psi_deg", "defocus_um")
        if not all(np.array_equal(run.column(prefix + c), run.column(c), equal_nan=True) for c in columns):
            names[prefix] = READINGS[prefix]
    return names


def _evaluate(run: RunRecord, truth: Truth, prefix: str) -> Evaluation:
    """Metrics of one reading: angles over the rows that have both angles, defoci over those that have both."""
    defocus = run.column(f"{prefix}defocus_um")
    angle_rows, defocus_rows = (
        np.isfinite(estimate) & np.isfinite(true) if true is not None else np.zeros(len(run), dtype=bool)
        for estimate, true in ((run.column(f"{prefix}psi_deg"), truth.psi_deg), (defocus, truth.defocus_um))
    )
    angle = evaluate(
        psi_deg=run.column(f"{prefix}psi_deg")[angle_rows] if angle_rows.any() else None,
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
    return replace(
        angle,
        particles=len(run),
        inliers=int(true_particles(run, truth).sum()),
        defocus_rmse_um=across.defocus_rmse_um,
        defocus_rmse_weighted_um=across.defocus_rmse_weighted_um,
        defocus_calibration=across.defocus_calibration,
    )


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
    estimate = run.column(f"{prefix}psi_deg")
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
    estimate = run.column(f"{prefix}defocus_um")
    rows = np.isfinite(estimate) & np.isfinite(truth.defocus_um) & true_particles(run, truth)
    if not rows.any():
        return None
    true, std = truth.defocus_um[rows], run.column(f"{prefix}defocus_std_um")[rows]
    return Errors(np.flatnonzero(rows), true, estimate[rows], estimate[rows] - true, std)


def _curves(run: RunRecord, truth: Truth) -> dict[str, RocCurve]:
    if truth.is_outlier is None or not run.has_scores:
        return {}
    curves = {}
    for name in DETECTORS:
        score = run.column(name)
        rows = np.isfinite(score)
        junk = truth.is_outlier[rows]
        if junk.any() and not junk.all():
            curves[name] = roc(score[rows], junk)
    return curves


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
