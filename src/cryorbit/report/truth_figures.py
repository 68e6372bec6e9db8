"""Figures that need the truth: predicted against true (paper, Figure 8), ROC curves (Figure 5), calibration."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryorbit.conventions import FloatArray
from cryorbit.estimation.evaluation import RocCurve, root_mean_square
from cryorbit.estimation.truth import Truth
from cryorbit.report.comparison import (
    DETECTORS,
    READINGS,
    Errors,
    angle_errors,
    angles_of,
    compare,
    defoci_of,
    defocus_errors,
    distinct_readings,
    readings_of,
)
from cryorbit.report.drawing import (
    COLOURS,
    LINES,
    LeftOut,
    Plot,
    count_bar,
    middle_range,
    new_figure,
    plain_label,
    say_nothing,
)
from cryorbit.report.record import RunRecord

NO_TRUTH = "No truth was given, so estimates cannot be compared with it."
CURVE_POINTS = 1000
WIDEST_SIGMAS = 6.0


def predicted_against_true(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Angles and defoci of every reading against the truth, the written one first."""
    name, title = "predicted_against_true", "Predicted against true angle and defocus"
    if truth is None or (truth.psi_deg is None and truth.defocus_um is None):
        return LeftOut(name, title, NO_TRUTH)
    called = {"angle": distinct_readings(run, angles_of), "defocus": distinct_readings(run, defoci_of)}
    readings = [prefix for prefix in readings_of(run) if any(prefix in names for names in called.values())]
    shape, width = ((2, len(readings)), 4.1) if len(readings) > 1 else ((1, 2), 4.8)
    figure = new_figure(width * shape[1] + 0.4, width * shape[0])
    panels = figure.subplots(*shape, squeeze=False).reshape(2, len(readings))
    angle = {prefix: angle_errors(run, truth, prefix) for prefix in readings}
    defocus = {prefix: defocus_errors(run, truth, prefix) for prefix in readings}
    half = 180.0 / run.isotropy_order
    rows = (
        ("angle", "degrees", angle, ((-180.0, 180.0), (-half, half))),
        ("defocus", "µm", defocus, _defocus_limits(list(defocus.values()))),
    )
    for row, (what, unit, errors, limits) in enumerate(rows):
        for axes, prefix in zip(panels[row], readings, strict=True):
            if prefix not in called[what]:
                axes.set_axis_off()
                say_nothing(axes, f"this {what}\nis what was written")
                continue
            hexagons(figure, axes, errors[prefix], limits, what, unit)
            axes.set_title(f"{called[what][prefix]}\n{axes.get_title()}", fontsize=10)
    caption = (
        f"Horizontally {truth.source}, vertically the estimate: first what was written to the file, then the run's "
        "other readings. Bins with at least one true particle are shown, "
        "brighter where there are more. Angles after one shift and one sign for the whole set (equation 8), because "
        "nothing in the images fixes either. All particles should lie on the dashed line. A line that is broken in "
        "parallel pieces shows angles that are known up to a symmetry; an angle that crosses the square twice as "
        "fast as it should is one from a plane that folds. Defocus axes span the middle 99 % of all values."
    )
    return Plot(name, title, figure, caption, "Predicted against true angle and defocus for every reading.")


def _defocus_limits(errors: list[Errors | None]) -> tuple[tuple[float, float], tuple[float, float]]:
    values = [v for e in errors if e is not None for v in (e.truth, e.estimate)]
    limits = middle_range(np.concatenate(values) if values else np.empty(0), 0.5)
    return limits, limits


def hexagons(
    figure: Figure,
    axes: Axes,
    errors: Errors | None,
    limits: tuple[tuple[float, float], tuple[float, float]],
    what: str,
    unit: str,
) -> None:
    """Hexagonal bins of estimate against truth on a logarithmic scale, with the line of no error."""
    axes.set_xlabel(f"true {what} ({unit})")
    axes.set_ylabel(f"predicted {what} ({unit})")
    if errors is None:
        say_nothing(axes, f"no {what} to compare")
        return
    (left, right), (bottom, top) = limits
    inside = (errors.truth >= left) & (errors.truth <= right) & (errors.estimate >= bottom) & (errors.estimate <= top)
    if inside.any():
        drawn = axes.hexbin(
            errors.truth[inside], errors.estimate[inside], gridsize=60, mincnt=1, bins="log", cmap="viridis",
            extent=(left, right, bottom, top), linewidths=0.1,
        )  # fmt: skip
        count_bar(figure, axes, drawn)
    height = top - bottom
    for shift in np.arange(-round((right - left) / height), round((right - left) / height) + 1) * height:
        axes.plot([left, right], [left + shift, right + shift], color="black", linestyle="--", linewidth=0.8)
    axes.set(xlim=(left, right), ylim=(bottom, top), facecolor="#e4e6e8")
    axes.set_title(f"rms error {root_mean_square(errors.error):.3g} {unit}")


def roc_curves(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """ROC curves of all detectors and of the score that decided."""
    name, title = "roc", "Outlier detectors (ROC)"
    if truth is None or truth.is_outlier is None:
        return LeftOut(name, title, "It is not known which particles are junk.")
    curves = compare(run, truth).curves
    if not curves:
        return LeftOut(name, title, "There are no scores, or not both junk and true particles, to compare.")
    figure = new_figure(5.4, 5.1)
    axes = figure.subplots()
    for number, (detector, curve) in enumerate(curves.items()):
        false_rate, true_rate = thinned(curve)
        axes.plot(
            false_rate, true_rate, color=COLOURS[number], linestyle=LINES[number % len(LINES)],
            linewidth=3.0 if detector == "outlier_score" else 1.6, alpha=0.85,
            label=f"{DETECTORS[detector]}: AUC {curve.auc:.3f}",
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":", label="guessing: AUC 0.500")
    axes.set(xlabel="true particles rejected (fraction)", ylabel="junk rejected (fraction)", aspect="equal")
    axes.legend(loc="lower right", fontsize=9)
    caption = (
        f"As the threshold on a score is lowered, more junk is rejected (up) and more true particles with it (right). "
        f"What is junk is taken from {truth.source}. A perfect score goes straight up the left edge, with an area "
        "under the curve (AUC) of 1. The thick line is the score that decided in this run."
    )
    if run.has_latent:
        caption += (
            " Three detectors are the paper's and look at the latent space (isolation forest, robust covariance, local "
            "outlier factor)."
        )
    areas = ", ".join(f"{DETECTORS[detector]} {curve.auc:.3f}" for detector, curve in curves.items())
    return Plot(name, title, figure, caption, f"ROC curves; areas: {areas}.")


def thinned(curve: RocCurve) -> tuple[FloatArray, FloatArray]:
    """At most a thousand points of a curve, evenly along its length."""
    rates = curve.false_positive_rate, curve.true_positive_rate
    if len(rates[0]) <= CURVE_POINTS:
        return rates
    length = rates[0] + rates[1]
    points = np.unique(np.searchsorted(length, np.linspace(0.0, 2.0, CURVE_POINTS)).clip(max=len(length) - 1))
    return rates[0][points], rates[1][points]


def calibration(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Errors over predicted deviations against the normal curve."""
    name, title = "calibration", "Are the predicted deviations honest?"
    if truth is None or (truth.psi_deg is None and truth.defocus_um is None):
        return LeftOut(name, title, NO_TRUTH)
    figure = new_figure(10.0, 4.4)
    panels = figure.subplots(1, 2)
    quantities = (("angle", angles_of, angle_errors), ("defocus", defoci_of, defocus_errors))
    for axes, (what, values_of, errors) in zip(panels, quantities, strict=True):
        called = distinct_readings(run, values_of)
        found = {prefix: errors(run, truth, prefix) for prefix in called}
        scaled = {prefix: e.normalised for prefix, e in found.items() if e is not None and len(e.normalised)}
        _against_normal(axes, scaled, called)
        axes.set_xlabel(f"{what}: error / predicted standard deviation")
        axes.set_ylabel("density")
    caption = (
        "Errors of true particles, divided by the deviation that was predicted for each. If the predictions are "
        "honest the steps follow the normal curve and their standard deviation is 1: wider means overconfident, "
        "narrower too cautious. The robust deviation (from the median absolute deviation) says the same for the "
        f"bulk without the gross errors. Values beyond {WIDEST_SIGMAS:.0f} are counted in the last bins."
    )
    if run.has_latent:
        caption += " Where the plane folds its predicted deviation is that of an unknown angle, by intent."
    return Plot(name, title, figure, caption, "Histograms of error over predicted deviation for angle and defocus.")


def _against_normal(axes: Axes, scaled: dict[str, FloatArray], called: dict[str, str]) -> None:
    """Histograms of normalised errors by reading, with the normal curve."""
    if not scaled:
        say_nothing(axes, "nothing to compare")
        return
    edges = np.linspace(-WIDEST_SIGMAS, WIDEST_SIGMAS, 61)
    for prefix, values in scaled.items():
        number = list(READINGS).index(prefix)
        robust = 1.4826 * float(np.median(np.abs(values - np.median(values))))
        counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
        axes.stairs(
            counts / (len(values) * (edges[1] - edges[0])), edges, color=COLOURS[number],
            linestyle=LINES[number], linewidth=1.8,
            label=f"{plain_label(called[prefix])}\n(deviation {values.std():.2f}, robust {robust:.2f})",
        )  # fmt: skip
    centre = np.linspace(-WIDEST_SIGMAS, WIDEST_SIGMAS, 241)
    axes.plot(centre, np.exp(-0.5 * centre**2) / np.sqrt(2 * np.pi), color="black", linewidth=1, label="normal")
    axes.set_ylim(0.0, (1.2 + 0.15 * len(scaled)) * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=8, loc="upper right")
