"""The truth, or another program's opinion, brought to the rows of a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.conditions import Condition
from cryorbit.conventions import ANGSTROM_PER_UM, IMAGE_NAME, FloatArray
from cryorbit.errors import ParticleDataError
from cryorbit.estimation.evaluation import Evaluation, RocCurve, evaluate, roc
from cryorbit.estimation.outliers import ALL_DETECTORS
from cryorbit.io import read_particles
from cryorbit.io.matching import comparable_names
from cryorbit.io.runs import read_table
from cryorbit.io.star_columns import unquoted
from cryorbit.particles import ParticleTable

# The paper calls a particle an outlier if RELION's Z-score is larger than this in absolute value (section 3.2.1).
PAPER_ZSCORE = 2.0
# Scores of all detectors in a run folder.
SCORES = "outliers.parquet"


@dataclass(frozen=True)
class Truth:
    """What is known of the particles of a result; arrays of shape (n,) in its row order, or None.

    Attributes
    ----------
    psi_deg, defocus_um
        In-plane angle and mean defocus.
    is_outlier
        Whether the particle is junk.
    kind
        Kind of junk, "none" for true particles.
    source
        How messages and the page call it.
    origin_A
        RELION's origin in Angstrom, shape (n, 2).
    """

    psi_deg: FloatArray | None
    defocus_um: FloatArray | None
    is_outlier: NDArray[np.bool_] | None
    kind: NDArray[np.str_] | None
    source: str
    origin_A: FloatArray | None = None


def read_truth(path: Path, result: ParticleTable, outlier_column: str | None = None) -> Truth:
    """Read the truth for the rows of a result, matched by image name.

    Parameters
    ----------
    path
        STAR or .cs file with ``rlnAnglePsi`` and ``rlnDefocusU``. Outliers come from ``outlier_column`` (a
        :class:`cryorbit.conditions.Condition`; a name alone: where it is not 0), else from
        ``cryorbitTruthOutlier``, else from a ``truth.csv`` beside the file with a column ``outlier``, else from
        ``|rlnParticleSelectZScore| > 2`` as in the paper.
    result
        The rows to match.

    Raises
    ------
    ParticleDataError
        If a row of the result has no counterpart, or the outlier column does not exist.
    """
    table = read_particles(path, check_images=False)
    rows = _matching_rows(table, result)
    truth = table.take(rows)
    psi = truth.psi_deg if conventions.PSI in truth else None
    defocus = truth.defocus_A / ANGSTROM_PER_UM if truth.has_defocus else None
    kind = unquoted(truth.frame[conventions.TRUTH_KIND]) if conventions.TRUTH_KIND in truth else None
    return Truth(
        psi_deg=psi,
        defocus_um=defocus,
        is_outlier=_outliers(path, table, rows, outlier_column),
        kind=None if kind is None else kind.to_numpy(dtype=str),
        source=path.name,
        origin_A=_origins_A(truth),
    )


def outlier_remark(truth: Truth, outlier_column: str | None) -> str | None:
    """A sentence where a rule for outliers that the user gave tells none apart; None where it does."""
    junk = truth.is_outlier
    if outlier_column is None or junk is None or (junk.any() and not junk.all()):
        return None
    which = "every one" if junk.all() else "none"
    return (
        f"{truth.source}: '{outlier_column}' makes {which} of the {len(junk):,} particles an outlier: no detector "
        "can be judged by it."
    )


def _origins_A(table: ParticleTable) -> FloatArray | None:
    names = (conventions.ORIGIN_X, conventions.ORIGIN_Y)
    if any(name not in table for name in names):
        return None
    values = np.stack([table.numbers(name) for name in names], axis=1)
    return values if np.isfinite(values).all() else None


def _matching_rows(truth: ParticleTable, result: ParticleTable) -> NDArray[np.int64]:
    """Row of the truth for each row of the result; names that repeat are taken in their order."""
    names = [values.astype(str) for values in comparable_names(truth, result)]
    keys = [_occurrences(values) for values in names]
    rows = keys[0].get_indexer(keys[1])
    same_length = len(truth) == len(result)
    counts = [values.value_counts() for values in names]
    # Of several rows of one image, the first of a part of the file need not be the first of all.
    unclear = counts[1].index[(counts[0].reindex(counts[1].index, fill_value=1) != counts[1]).to_numpy()]
    if len(unclear):
        many, few = (values.get(unclear[0], 0) for values in counts)
        raise ParticleDataError(
            f"{truth.name}: image {unclear[0]} stands there in {many} rows and in {result.name} in {few}; which is "
            f"which cannot be told ({len(unclear)} such images): give a truth of the same rows."
        )
    # The same set under another folder's name: file names and image numbers must then agree row by row.
    if (rows < 0).any() and same_length and _file_and_number(truth) == _file_and_number(result):
        return np.arange(len(result), dtype=np.int64)
    if (rows < 0).any():
        missing = int(np.flatnonzero(rows < 0)[0])
        raise ParticleDataError(
            f"{truth.name}: has no row for {result.frame[IMAGE_NAME].iloc[missing]} of {result.name} "
            f"({int((rows < 0).sum())} of {len(result)} rows are missing); give the truth of the same particles."
        )
    return rows.astype(np.int64)


def _file_and_number(table: ParticleTable) -> list[tuple[str, int]]:
    names = [path.name for path in table.locations.stacks]
    return [
        (names[stack], index)
        for stack, index in zip(table.locations.stack.tolist(), table.locations.slice_index.tolist(), strict=True)
    ]


def _occurrences(names: pd.Series) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([names, names.groupby(names).cumcount()])


def _outliers(
    path: Path, table: ParticleTable, rows: NDArray[np.int64], column: str | None
) -> NDArray[np.bool_] | None:
    if column is not None:
        return Condition.parse(column, "--outlier-column").holds(table)[rows]
    if conventions.TRUTH_OUTLIER in table:
        return np.asarray(table.numbers(conventions.TRUTH_OUTLIER)[rows] != 0)
    beside = path.with_name("truth.csv")
    if beside.is_file():
        found = _outlier_column(beside)
        if found is not None and len(found) == len(table):
            return np.asarray(found[rows] != 0)
    if conventions.SELECT_ZSCORE in table:
        return np.asarray(np.abs(table.numbers(conventions.SELECT_ZSCORE)[rows]) > PAPER_ZSCORE)
    return None


def _outlier_column(path: Path) -> FloatArray | None:
    """The column ``outlier`` of a table beside a truth; None where it has none."""
    try:
        frame = pd.read_csv(path)
    except ValueError as error:
        raise ParticleDataError(
            f"{path}: is not a readable table ({str(error).strip()}); mend it, or take it away from beside the truth."
        ) from error
    if "outlier" not in frame:
        return None
    values = pd.to_numeric(frame["outlier"], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ParticleDataError(f"{path}, row {row + 1}: outlier is {frame['outlier'].iloc[row]!r}; expected 0 or 1.")
    return values


def evaluate_tables(result: ParticleTable, truth: Truth, symmetry_order: int = 1) -> Evaluation:
    """Compare the columns of a result with the truth; a column that the result lacks is left out."""

    def numbers(column: str, scale: float = 1.0) -> FloatArray | None:
        if column not in result:
            return None
        values = result.numbers(column) / scale
        return values if np.isfinite(values).all() else None

    score = numbers(conventions.OUTLIER_SCORE)
    return evaluate(
        psi_deg=numbers(conventions.PSI),
        true_psi_deg=truth.psi_deg,
        defocus_um=result.defocus_A / ANGSTROM_PER_UM if result.has_defocus else None,
        true_defocus_um=truth.defocus_um,
        psi_std_deg=numbers(conventions.PSI_STD),
        defocus_std_um=numbers(conventions.DEFOCUS_STD, ANGSTROM_PER_UM),
        outlier_score=score if score is not None else numbers(conventions.SELECT_ZSCORE),
        is_outlier=truth.is_outlier,
        symmetry_order=symmetry_order,
        origin_A=_origins_A(result) if conventions.ORIGIN_STD in result else None,
        true_origin_A=truth.origin_A,
        origin_std_A=numbers(conventions.ORIGIN_STD),
    )


def detector_curves(scores: Mapping[str, FloatArray], is_outlier: NDArray[np.bool_]) -> dict[str, RocCurve]:
    """Receiver operating characteristic of detectors by their scores (high = outlier), rows without a score left out.

    A detector is left out where the rest is all junk, or none is.
    """
    curves = {}
    for name, score in scores.items():
        known = np.isfinite(score)
        junk = is_outlier[known]
        if junk.any() and not junk.all():
            curves[name] = roc(score[known], junk)
    return curves


def detector_aucs(folder: Path, truth: Truth) -> dict[str, float]:
    """Area under the curve of every detector that a run has scores of, as ``outlier_auc_NAME``."""
    path = folder / SCORES
    if truth.is_outlier is None or not path.is_file():
        return {}
    frame = read_table(path)
    if len(frame) != len(truth.is_outlier):
        return {}
    scores = {name: frame[name].to_numpy(dtype=np.float64) for name in ALL_DETECTORS if name in frame}
    return {f"outlier_auc_{name}": curve.auc for name, curve in detector_curves(scores, truth.is_outlier).items()}
