"""What a run found, in plain sentences and in the numbers that the page's tables repeat."""

from __future__ import annotations

import numpy as np

from cryorbit.estimation.evaluation import Evaluation
from cryorbit.report import alignment_summary, latent_summary
from cryorbit.report.alignment_summary import Precision, possible_precision, predicted_precision
from cryorbit.report.comparison import NO_JUNK, Comparison
from cryorbit.report.record import RunRecord
from cryorbit.report.wording import (
    angstrom,
    count,
    degrees,
    micrometres,
    particles,
    percent,
    ratio,
    resolution,
    typical,
)


def key_numbers(run: RunRecord, comparison: Comparison | None) -> dict[str, str]:
    """The numbers at the head of the page: of what was written, and its errors where the truth is known."""
    known = predicted_precision(run)
    numbers = {
        "particles": count(len(run)),
        f"kept ({percent(float(run.kept.sum()), len(run))})": count(run.kept.sum()),
        "predicted angle deviation (median)": degrees(known.psi_deg),
    }
    if run.has_alignment:
        numbers["predicted shift deviation (median, along an axis)"] = angstrom(known.origin_A)
    if run.keeps_file_defocus:
        numbers["defocus in the output"] = "the file's"
    else:
        numbers["predicted defocus deviation (median)"] = micrometres(known.defocus_um)
    if run.has_alignment:
        better = ", or better" if alignment_summary.reaches_the_finest(run) else ""
        numbers[f"resolution of the class average{better}"] = resolution(run.number("alignment", "resolution_A"))
    if comparison is not None:
        written = comparison.readings[""]
        whose = "file's defocus, kept" if run.keeps_file_defocus else "written defocus"
        numbers["true error of the written angle (rms)"] = degrees(written.angle_rmse_deg if run.angle_known else None)
        numbers[f"true error of the {whose} (rms)"] = micrometres(written.defocus_rmse_um)
    return numbers


def summary(run: RunRecord, comparison: Comparison | None) -> list[str]:
    """The result in plain sentences, the most important first."""
    if run.has_alignment:
        found = [
            *alignment_summary.sentences(run), latent_summary.for_comparison(run), alignment_summary.agreement(run),
        ]  # fmt: skip
    else:
        found = [latent_summary.angles(run), latent_summary.plane(run), latent_summary.defocus(run)]
    sentences = [_dropping(run), *found]
    if comparison is not None:
        sentences.append(_truth(run, comparison))
    return [sentence for sentence in sentences if sentence]


def _dropping(run: RunRecord) -> str:
    kept, dropped = int(run.kept.sum()), int((~run.kept).sum())
    source = run.fact("input", "path")
    begin = f"Of the {particles(len(run))}" + (f" of {source}" if source else "")
    if not run.has_scores:
        return (
            f"{begin}, {kept:,} are kept. There are no outlier scores that mean anything (too few particles to "
            "compare with one another, or none stored), so junk could not be told from particles."
        )
    limit = run.number("configuration", "estimation", "outlier_threshold")
    rule = f"an outlier probability above {limit:g}" if limit is not None else "the outlier probability"
    lost = run.number("outliers", "false_rejection")
    cost = (
        f" By these probabilities, {percent(lost, 1.0)} of the true particles are lost with them."
        if lost is not None
        else ""
    )
    return (
        f"{begin}, {kept:,} are kept and {dropped:,} ({percent(dropped, len(run))}) dropped. The rule is {rule}, "
        f"from {_judge(run)}.{cost} Dropped particles are listed, not lost."
    )


def _judge(run: RunRecord) -> str:
    """What the outlier probability was made from."""
    method = run.fact("outliers", "method")
    if method != "evidence":
        return f"the scores of the {str(method or 'outlier detector').replace('_', ' ')}"
    evidence = "the alignment's evidence (is there the particle, is there something else)"
    return f"{evidence} together with the latent space" if run.has_latent else evidence


def _truth(run: RunRecord, comparison: Comparison) -> str:
    """The errors, in the very numbers of the table."""
    written, parts = comparison.readings[""], []
    if written.angle_rmse_deg is not None and run.angle_known:
        parts.append(
            f"the written angles are wrong by {degrees(written.angle_median_deg)} (median) and "
            f"{degrees(written.angle_rmse_deg)} (rms){_honesty(written.angle_calibration)}"
        )
    latent = comparison.readings.get(run.reading)
    if not run.keeps_file_defocus and written.defocus_rmse_um is not None:
        parts.append(
            f"the written defoci by {micrometres(written.defocus_rmse_um)} (rms){_honesty(written.defocus_calibration)}"
        )
    elif not run.has_alignment and latent is not None and latent.defocus_rmse_um is not None:
        parts.append(
            f"the latent's defoci by {micrometres(latent.defocus_rmse_um)} (rms){_honesty(latent.defocus_calibration)}"
        )
    if written.origin_rmse_A is not None:
        parts.append(
            f"the written shifts by {angstrom(written.origin_rmse_A)} (rms along an axis)"
            f"{_honesty(written.origin_calibration)}"
        )
    junk = [kind for kind in comparison.kinds if kind.kind != NO_JUNK]
    if junk:
        found, there = sum(kind.dropped for kind in junk), sum(kind.particles for kind in junk)
        lost = next((kind.dropped for kind in comparison.kinds if kind.kind == NO_JUNK), 0)
        parts.append(f"{found:,} of {there:,} junk particles were dropped, and {lost:,} true particles with them")
    compared = {written.angle_rmse_deg, written.defocus_rmse_um} != {None}
    if not parts:
        return "" if compared else f"There is nothing in {comparison.source} that the estimates could be compared with."
    return f"Against {comparison.source}: {'; '.join(parts)}."


def _honesty(calibration: float | None) -> str:
    if calibration is None or not np.isfinite(calibration) or calibration == 0:
        return ""
    return f", {calibration:.2f} times the predicted deviation"


def precision_columns(run: RunRecord, comparison: Comparison | None) -> dict[str, list[str]]:
    """Columns of the table of what is known, by their heads: angle, shift along an axis, defocus."""
    if not run.has_alignment or alignment_summary.nothing_learnt(run):
        return {}
    columns = {
        "Predicted deviation (median of kept)": predicted_precision(run).words(),
        "What these data allow (Cramér-Rao, rms)": possible_precision(run).words(),
    }
    if comparison is not None:
        written = comparison.readings[""]
        columns["True error of what was written (rms)"] = Precision(
            written.angle_rmse_deg if run.angle_known else None,
            written.origin_rmse_A,
            None if run.keeps_file_defocus else written.defocus_rmse_um,
        ).words()
    if run.has_latent:
        latent = typical(run.column("latent_psi_std_deg")[run.kept]) if latent_summary.identifiable(run) else None
        defocus = latent_summary.latent_defocus_deviation_um(run)
        columns["Latent orbits' predicted deviation (median of kept)"] = Precision(latent, None, defocus).words()
    return columns


def evaluation_rows(readings: dict[str, Evaluation]) -> list[list[str]]:
    """Rows of the table against the truth: a heading, then one cell for each reading."""
    chosen = list(readings.values())
    rows = [
        ["Angle error, rms", *(degrees(e.angle_rmse_deg) for e in chosen)],
        [
            "Angle error, rms weighted by exp(defocus in µm) − 1",
            *(degrees(e.angle_rmse_weighted_deg) for e in chosen),
        ],
        ["Angle error, median", *(degrees(e.angle_median_deg) for e in chosen)],
        ["Angle error / predicted deviation (1 is honest)", *(ratio(e.angle_calibration) for e in chosen)],
        ["Defocus error, rms", *(micrometres(e.defocus_rmse_um) for e in chosen)],
        ["Defocus error, rms weighted", *(micrometres(e.defocus_rmse_weighted_um) for e in chosen)],
        [
            "Defocus error / predicted deviation (1 is honest)",
            *(ratio(e.defocus_calibration) for e in chosen),
        ],
    ]
    if any(e.origin_rmse_A is not None for e in chosen):
        rows += [
            ["Shift error along an axis, rms", *(angstrom(e.origin_rmse_A) for e in chosen)],
            ["Shift error / predicted deviation (1 is honest)", *(ratio(e.origin_calibration) for e in chosen)],
        ]
    return rows
