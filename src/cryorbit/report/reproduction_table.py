"""The paper's Table 1 with our numbers: one row for each set, way of reading and choice of particles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.estimation.evaluation import roc
from cryorbit.estimation.outliers import DETECTORS, find_outliers
from cryorbit.report.comparison import evaluate_reading
from cryorbit.report.paper import TABLE_1, PaperRow
from cryorbit.report.reproduction_record import TEACHER, ReproducedSet
from cryorbit.report.wording import NOTHING

READINGS = {"latent_": "latent orbits", "plane_": "paper's PCA formula", TEACHER: "alignment (the teacher)"}
ALL, HELD_OUT = "all", "held out"
ORDER = ("simulated", "view_93", "view_39", "view_30")


def table_rows(sets: Sequence[ReproducedSet], seed: int) -> pd.DataFrame:
    """All numbers, a row for each set, reading and choice of particles; areas stand in the rows of the latent orbits.

    ``auc_z_*`` are the areas under the ROC curves against the Z-score, ``auc_true_*`` against the truth;
    ``auc_z_isolation_forest_points`` has the forest look at the latent points themselves, as the paper's does, and
    ``auc_z_truth`` is what a detector that knows the truth would reach against the Z-score.
    """
    rows = []
    for one in sorted(sets, key=lambda item: ORDER.index(item.name)):
        points = find_outliers(one.latent("z"), "isolation_forest", seed).score if one.z_score is not None else None
        for particles, chosen in ((ALL, np.ones(len(one.run), dtype=bool)), (HELD_OUT, one.held_out)):
            some = one.rows(chosen)
            for prefix, reading in READINGS.items():
                if f"{prefix}psi_deg" not in one.run.estimates:
                    continue
                found = evaluate_reading(some.run, some.truth, prefix)
                folded = evaluate_reading(some.up_to_symmetry(), some.truth, prefix)
                rows.append({
                    "set": one.name, "title": one.title, "particles": particles, "reading": reading,
                    "images": found.particles, "good_images": found.inliers,
                    "angle_rmse_weighted_deg": found.angle_rmse_weighted_deg, "angle_rmse_deg": found.angle_rmse_deg,
                    "angle_median_deg": found.angle_median_deg, "defocus_rmse_um": found.defocus_rmse_um,
                    "defocus_rmse_weighted_um": found.defocus_rmse_weighted_um,
                    "isotropy_order": some.run.isotropy_order, "symmetry_order": one.symmetry_order,
                    "angle_rmse_weighted_up_to_symmetry_deg": folded.angle_rmse_weighted_deg,
                    **(_areas(some, None if points is None else points[chosen]) if prefix == "latent_" else {}),
                    **_paper(TABLE_1[one.name]),
                })  # fmt: skip
    return pd.DataFrame(rows)


def _areas(some: ReproducedSet, points: FloatArray | None) -> dict[str, float | None]:
    """Areas under the ROC curves of a set with junk."""
    beyond = some.beyond_z
    if beyond is None or points is None:
        return {}
    scores = {name: some.run.column(name) for name in DETECTORS}
    areas = {f"auc_z_{name}": _auc(score, beyond) for name, score in scores.items()}
    areas |= {f"auc_true_{name}": _auc(score, some.is_junk) for name, score in scores.items()}
    areas["auc_z_isolation_forest_points"] = _auc(points, beyond)
    areas["auc_z_truth"] = _auc(some.is_junk.astype(np.float64), beyond)
    return areas


def _auc(score: FloatArray, label: NDArray[np.bool_]) -> float | None:
    return roc(score, label).auc if label.any() and not label.all() and np.isfinite(score).all() else None


def _paper(row: PaperRow) -> dict[str, float | None]:
    return {"paper_auc": row.auc, "paper_angle_deg": row.angle_deg, "paper_defocus_um": row.defocus_um}


HEAD = (
    "Set", "AUC: ours", "paper", "Angle (degrees): ours", "held out", "paper's formula here", "paper",
    "Defocus (µm): ours", "held out", "paper's formula here", "paper",
)  # fmt: skip


def shown_rows(table: pd.DataFrame) -> list[list[str]]:
    """The rows of the paper's table with ours beside them, as text, in the columns of :data:`HEAD`."""
    shown = []
    for _, of_set in table.groupby("set", sort=False):
        cell = {(row["particles"], row["reading"]): row for _, row in of_set.iterrows()}
        ours, held_out = cell[ALL, READINGS["latent_"]], cell[HELD_OUT, READINGS["latent_"]]
        plane = cell[ALL, READINGS["plane_"]]
        defocus = "defocus_rmse_um"
        shown.append([
            str(ours["title"]), number(ours.get("auc_z_isolation_forest")), number(ours["paper_auc"]),
            _angle(ours), _angle(held_out), _angle(plane), number(ours["paper_angle_deg"]),
            number(ours[defocus]), number(held_out[defocus]), number(plane[defocus]), number(ours["paper_defocus_um"]),
        ])  # fmt: skip
    return shown


def _angle(row: pd.Series) -> str:
    """The error of the angle; also up to the symmetry of the view where the run did not find that."""
    text, order = number(row["angle_rmse_weighted_deg"]), int(row["symmetry_order"])
    if order == row["isotropy_order"]:
        return text
    return f"{text} ({number(row['angle_rmse_weighted_up_to_symmetry_deg'])} modulo {360 // order})"


AREA_NAMES = {
    "isolation_forest": "isolation forest",
    "robust_covariance": "robust covariance",
    "local_outlier_factor": "local outlier factor",
    "isolation_forest_points": "isolation forest on latent points",
    "truth": "who knows the truth",
}
AREA_HEAD = ("Set", *AREA_NAMES.values())


def area_rows(table: pd.DataFrame) -> list[list[str]]:
    """Areas against the Z-score and, where there is one, the truth, as text, in the columns of :data:`AREA_HEAD`."""
    if "auc_z_truth" not in table:
        return []
    ours = table[(table["particles"] == ALL) & table["auc_z_truth"].notna()]
    rows = []
    for _, row in ours.iterrows():
        pairs = [[row.get(f"auc_{label}_{name}") for label in ("z", "true")] for name in AREA_NAMES]
        cells = [" / ".join(number(value) for value in pair if value is not None) for pair in pairs]
        rows.append([str(row["title"]), *cells])
    return rows


def number(value: object) -> str:
    """Two decimals, as the paper has them, or three below 0.1."""
    if not isinstance(value, int | float) or not np.isfinite(value):
        return NOTHING
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"
