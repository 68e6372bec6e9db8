"""Histograms of outlier score, predicted deviation of the angle, and defocus."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from cryorbit.conventions import FloatArray
from cryorbit.estimation.truth import Truth
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.report.comparison import READINGS, readings_of
from cryorbit.report.drawing import (
    COLOURS,
    LINES,
    LeftOut,
    Plot,
    middle_range,
    new_figure,
    plain_ticks,
    say_nothing,
    spreads,
)
from cryorbit.report.record import RunRecord

BINS = 60


def histograms(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Histograms of outlier score, predicted angle deviation and defocus."""
    figure = new_figure(11.0, 3.8)
    panels = figure.subplots(1, 3)
    _scores(panels[0], run, truth)
    deviations = {READINGS[prefix]: f"{prefix}psi_std_deg" for prefix in readings_of(run)[1:]}
    deviations = deviations or {READINGS[""]: "psi_std_deg"}
    _deviations(panels[1], {label: run.column(name)[run.kept] for label, name in deviations.items()})
    _defoci(panels[2], {label: values[run.kept] for label, values in _defocus_columns(run, truth).items()})
    caption = (
        "Left, the outlier score of all particles on a logarithmic scale of counts; particles right of the dashed "
        "line were dropped. A second hump on the right is a group of junk; without one, the threshold is a matter "
        "of taste. Middle, the predicted standard deviation of the angle of kept particles; "
        f"{UNKNOWN_ANGLE_STD_DEG / run.isotropy_order:.1f} degrees means that nothing is known. "
        "Right, the defocus of kept particles."
    )
    if run.has_latent:
        caption += (
            " The latent's defocus is matched to a known distribution, so its spread agrees by construction and is no "
            "test."
        )
    caption += " Extreme values are counted in the outermost bins."
    title = "Histograms of score, angle deviation and defocus"
    return Plot("histograms", title, figure, caption, "Histograms of outlier score, angle deviation and defocus.")


def _defocus_columns(run: RunRecord, truth: Truth | None) -> dict[str, FloatArray]:
    """Every opinion of the defocus by its name; the one that was written is marked and comes first."""
    written = run.column("defocus_um")
    others = {"input file": run.column("file_defocus_um")}
    others |= {READINGS[prefix]: run.column(f"{prefix}defocus_um") for prefix in readings_of(run)[1:]}
    same = [label for label, values in others.items() if np.allclose(values, written, equal_nan=True)]
    found = {f"{same[0]}, written" if same else READINGS[""]: written}
    found |= {label: values for label, values in others.items() if label not in same}
    if truth is not None and truth.defocus_um is not None:
        found["truth"] = truth.defocus_um
    return found


def _steps(axes: Axes, groups: dict[str, FloatArray], edges: FloatArray) -> None:
    for number, (label, values) in enumerate(groups.items()):
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        counts, _ = np.histogram(finite.clip(edges[0], edges[-1]), edges)
        axes.stairs(
            counts, edges, label=label, color=COLOURS[number % len(COLOURS)], linestyle=LINES[number % len(LINES)],
            linewidth=1.8,
        )  # fmt: skip
    axes.set_ylabel("particles")


def _scores(axes: Axes, run: RunRecord, truth: Truth | None) -> None:
    axes.set_xlabel("outlier score (no unit)")
    score = run.column("outlier_score")
    if not run.has_scores:
        say_nothing(axes, "no meaningful scores")
        return
    threshold = run.number("outliers", "threshold")
    low, high = middle_range(score, 0.25)
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold + 0.25 * abs(threshold - low))
    groups = {"kept": score[run.kept], "dropped": score[~run.kept]}
    if truth is not None and truth.is_outlier is not None:
        groups["true junk"] = score[truth.is_outlier]
    _steps(axes, groups, np.linspace(low, high, BINS + 1))
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")
    axes.set_yscale("log", nonpositive="clip")
    axes.legend(fontsize=8)


def _deviations(axes: Axes, groups: dict[str, FloatArray]) -> None:
    axes.set_xlabel("predicted angle deviation (degrees)")
    values = np.concatenate(list(groups.values()))
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        say_nothing(axes, "no angle deviations")
        return
    low, high = middle_range(positive, 0.25)
    if spreads(low, high):
        _steps(axes, groups, np.geomspace(low * 0.9, high * 1.1, BINS + 1))
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    else:
        _steps(axes, groups, np.linspace(low, high, BINS + 1))
    axes.legend(fontsize=8)


def _defoci(axes: Axes, groups: dict[str, FloatArray]) -> None:
    axes.set_xlabel("defocus (µm)")
    values = np.concatenate(list(groups.values()))
    if not np.isfinite(values).any():
        say_nothing(axes, "no defocus")
        return
    _steps(axes, groups, np.linspace(*middle_range(values, 0.25), BINS + 1))
    axes.set_ylim(0.0, 1.4 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=8)
