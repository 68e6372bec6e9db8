"""What a run found, in plain sentences and in the numbers that the page's tables repeat."""

from __future__ import annotations

import numpy as np

from cryorbit.conventions import FloatArray
from cryorbit.estimation.defocus import WEAK_EVIDENCE
from cryorbit.estimation.evaluation import Evaluation
from cryorbit.report.comparison import NO_JUNK, Comparison
from cryorbit.report.record import RunRecord

NOTHING = "–"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{int(value):,}"


def degrees(value: float | None) -> str:
    """An angle with its unit."""
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.2f}°"


def micrometres(value: float | None) -> str:
    """A defocus with its unit."""
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.3f} µm"


def ratio(value: float | None) -> str:
    """A number without unit."""
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.3f}"


def percent(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100.0 * part / whole:.1f} %" if whole else NOTHING


def particles(number: int) -> str:
    """A number of particles, in words that agree with it."""
    return "1 particle" if number == 1 else f"{number:,} particles"


def typical(values: FloatArray) -> float | None:
    """Median of the finite values; None without any."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def angle_deviation_deg(run: RunRecord) -> float | None:
    """Median predicted deviation of the angle of kept particles; None where no angle can be read."""
    return None if run.fact("chart", "identifiable") is False else typical(run.column("psi_std_deg")[run.kept])


def written_defocus_kept(run: RunRecord) -> bool:
    """Whether the defocus in the output is the input file's own."""
    prior = run.fact("defocus", "prior") or run.fact("configuration", "estimation", "defocus_prior")
    return prior in ("given", "micrograph")


def defocus_deviation_um(run: RunRecord) -> float | None:
    """Median predicted deviation of the latent's defocus of kept particles."""
    return None if same_defoci(run) else typical(run.column(f"{run.reading}defocus_std_um")[run.kept])


def same_defoci(run: RunRecord) -> bool:
    """Whether the known defoci do not differ, so that nothing can be learnt about them."""
    quartiles = run.fact("defocus", "quartiles_um")
    return isinstance(quartiles, list) and len(quartiles) == 2 and quartiles[0] == quartiles[1]


def key_numbers(run: RunRecord, comparison: Comparison | None) -> dict[str, str]:
    """The four numbers at the head of the page, and the errors where the truth is known."""
    numbers = {
        "particles": count(len(run)),
        f"kept ({percent(float(run.kept.sum()), len(run))})": count(run.kept.sum()),
        "predicted angle deviation (median)": degrees(angle_deviation_deg(run)),
        "predicted defocus deviation (median)": micrometres(defocus_deviation_um(run)),
    }
    if comparison is not None:
        latent = comparison.readings[run.reading]
        numbers["true error of the latent angle (rms)"] = degrees(latent.angle_rmse_deg)
        numbers["true error of the latent defocus (rms)"] = micrometres(latent.defocus_rmse_um)
    return numbers


def summary(run: RunRecord, comparison: Comparison | None) -> list[str]:
    """The result in plain sentences, the most important first."""
    sentences = [_dropping(run), _angles(run), _plane(run), _defocus(run)]
    if comparison is not None:
        sentences.append(_truth(comparison, run.reading))
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
    method = str(run.fact("outliers", "method") or "outlier detector").replace("_", " ")
    limit = run.number("configuration", "estimation", "outlier_threshold")
    rule = f"an outlier probability above {limit:g}" if limit is not None else "the outlier probability"
    return (
        f"{begin}, {kept:,} are kept and {dropped:,} ({percent(dropped, len(run))}) dropped. The rule is {rule}, "
        f"from the scores of the {method}. Dropped particles are listed, not lost."
    )


def _angles(run: RunRecord) -> str:
    if run.fact("chart", "identifiable") is False:
        return (
            "No in-plane angle can be read from these particles: their orbits are no rings. The particle looks "
            "round to the network, or training was too short or the images too noisy. An angle that the input "
            "had was left as it was; one that it had not has a deviation that says so: do not use it."
        )
    median = angle_deviation_deg(run)
    if median is None:
        return "The run stored no deviations of its angles, so it is not known how well they are known."
    text = (
        f"Angles of kept particles have a median predicted deviation of {degrees(median)}; what the file says of "
        "each particle is its own. They share one arbitrary offset."
    )
    if run.isotropy_order > 1:
        text += (
            f" The isotropy order is {run.isotropy_order}: angles are known modulo "
            f"{360.0 / run.isotropy_order:g} degrees, because the encoder finds the particle the same after such "
            "a turn. That is a symmetry of the view, or of what the network resolves of it."
        )
    return text


def _plane(run: RunRecord) -> str:
    """What the group's action says about the paper's polar formula."""
    winding = run.number("chart", "winding")
    if winding is None or run.fact("chart", "identifiable") is False:
        return ""
    closure = run.number("chart", "closure_deg")
    if abs(winding) == 1:
        missed = f", missing known turns by {degrees(closure)} (rms)" if closure is not None else ""
        return f"In the plane of the first two principal components the orbits are simple rings{missed}."
    if winding == 0:
        meaning = "orbits do not run around its centre, so the polar angle there is no angle of the particle"
    else:
        meaning = (
            f"orbits run around {abs(winding):g} times while the particle turns once, so particles that are "
            f"{360.0 / abs(winding):g} degrees apart share a polar angle"
        )
    remedy = (
        "Columns named after the plane are kept for comparison only; the written angles are read from the whole "
        "orbits, which do not need that plane."
        if run.reading != "plane_"
        else "The written angles are of this kind, as the configuration asked (chart = pca): do not use them."
    )
    return (
        f"The paper's polar formula folds here: in the plane of the first two principal components {meaning}. {remedy}"
    )


def _defocus(run: RunRecord) -> str:
    text = _defocus_deviation(run)
    if same_defoci(run):
        return f"{text} All defoci that are known are the same, so nothing can be learnt about the latent's."
    known_from = run.fact("defocus", "known_from")
    if known_from:
        text += (
            " The scale of the latent's defocus comes from a distribution taken as known "
            f"({known_from}), not from the images."
        )
    evidence = run.number("chart", "radial_evidence")
    if evidence is not None and evidence < WEAK_EVIDENCE:
        text += (
            f" The latent radius hardly follows the defocus (squared correlation {evidence:.3f}), so even the "
            "direction of the latent's defocus is uncertain."
        )
    return text


def _defocus_deviation(run: RunRecord) -> str:
    median = defocus_deviation_um(run)
    if written_defocus_kept(run):
        text = "The input file's defocus was kept in the output; the latent's own estimate is beside it"
        return text + (f", with a median predicted deviation of {micrometres(median)}." if median is not None else ".")
    if median is None:
        return "Defoci are read from the latent space; it is not known how well."
    return (
        f"Defoci are read from the latent space, with a median predicted deviation of {micrometres(median)}; "
        "that is how well it repeats, not how right the distribution is from which its scale comes."
    )


def _truth(comparison: Comparison, reading: str) -> str:
    """The errors, in the very numbers of the table."""
    latent = comparison.readings[reading]
    parts = []
    if latent.angle_rmse_deg is not None:
        parts.append(
            f"the angles read from the latent space are wrong by {degrees(latent.angle_median_deg)} (median) and "
            f"{degrees(latent.angle_rmse_deg)} (rms){_honesty(latent.angle_calibration)}"
        )
    if latent.defocus_rmse_um is not None:
        parts.append(
            f"the latent's defoci by {micrometres(latent.defocus_rmse_um)} (rms){_honesty(latent.defocus_calibration)}"
        )
    junk = [kind for kind in comparison.kinds if kind.kind != NO_JUNK]
    if junk:
        found, there = sum(kind.dropped for kind in junk), sum(kind.particles for kind in junk)
        lost = next((kind.dropped for kind in comparison.kinds if kind.kind == NO_JUNK), 0)
        parts.append(f"{found:,} of {there:,} junk particles were dropped, and {lost:,} true particles with them")
    if not parts:
        return f"There is nothing in {comparison.source} that the estimates could be compared with."
    return f"Against {comparison.source}: {'; '.join(parts)}."


def _honesty(calibration: float | None) -> str:
    if calibration is None or not np.isfinite(calibration) or calibration == 0:
        return ""
    return f", {calibration:.2f} times the predicted deviation"


def evaluation_rows(readings: dict[str, Evaluation]) -> list[list[str]]:
    """Rows of the table against the truth: a heading, then one cell for each reading."""
    chosen = list(readings.values())
    return [
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
