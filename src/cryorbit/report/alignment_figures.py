"""Figures of the alignment: the class average, what the data allow, and how far the latent space says the same."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from cryorbit.alignment.orbit import FRC_THRESHOLD
from cryorbit.conventions import FloatArray
from cryorbit.estimation.evaluation import root_mean_square
from cryorbit.estimation.truth import Truth
from cryorbit.report.agreement import Difference, agreement_period_deg, angle_agreement, defocus_agreement
from cryorbit.report.alignment_summary import nothing_learnt, reaches_the_finest
from cryorbit.report.comparison import Errors, angle_errors, defocus_errors, shift_errors_A
from cryorbit.report.drawing import (
    COLOURS,
    LeftOut,
    Plot,
    count_bar,
    middle_range,
    new_figure,
    plain_ticks,
    say_nothing,
    spreads,
)
from cryorbit.report.record import NO_ALIGNMENT, NO_LATENT_SPACE, RunRecord
from cryorbit.report.wording import resolution

TOO_FEW = "There were too few particles to learn an average from."
HALF = 0.5
SHOWN_RESOLUTIONS_A = (100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2)
MOST_BINS = 14
FEWEST_IN_A_BIN = 15
MOST_CURVES = 2000
# More particles than this are counted in bins.
MOST_SINGLE_DOTS = 3000


def class_average(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """The class average beside its Fourier ring correlation."""
    name, title = "class_average", "Class average and its resolution"
    image, frequency = run.average.image, run.average.spatial_frequency_per_A
    if nothing_learnt(run):
        return LeftOut(name, title, TOO_FEW)
    if image is None and not len(frequency):
        missing = "average.mrc and average_frc.csv are missing or damaged."
        return LeftOut(name, title, missing if run.has_alignment else NO_ALIGNMENT)
    figure = new_figure(9.6, 4.4)
    panels = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    average_image(panels[0], image, run.number("alignment", "pixel_size_A"))
    _correlation(panels[1], run)
    reached = run.number("alignment", "resolution_A")
    said = resolution(reached)
    caption = (
        "Left, the average of all particles, each weighed by its probability to be one, turned and shifted into place, "
        "with the oscillations of the contrast transfer function undone and every ring filtered by its own "
        "signal-to-noise ratio; protein is white. It is what every particle was compared with. Right, "
        "the Fourier ring correlation of two halves of the set, averaged and aligned apart. "
        f"The dashed line is the usual threshold of {FRC_THRESHOLD:g}, the dotted one is {HALF:g}."
    )
    if reached is not None:
        caption += f" The curve says {said}" + (
            " or better: it is still above the threshold in the finest ring that the alignment looked at."
            if reaches_the_finest(run)
            else "."
        )
    return Plot(name, title, figure, caption, f"Class average, and its Fourier ring correlation: {said}.")


def average_image(axes: Axes, image: FloatArray | None, pixel_size_A: float | None) -> None:
    """An image with a bar that tells its scale."""
    axes.set(xticks=[], yticks=[])
    if image is None:
        say_nothing(axes, "average.mrc is missing or damaged")
        return
    low, high = middle_range(image.ravel(), 0.05)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high)
    if pixel_size_A is None:
        return
    width = image.shape[1]
    length_A = _round_length(0.25 * width * pixel_size_A)
    bar = length_A / pixel_size_A
    left, bottom = 0.05 * width, 0.95 * image.shape[0]
    axes.plot([left, left + bar], [bottom, bottom], color="white", linewidth=3.0, solid_capstyle="butt")
    axes.text(left, bottom - 0.02 * width, f"{length_A:g} Å", color="white", fontsize=9, va="bottom")


def _round_length(value: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... below a length."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(decade * max(step for step in (1, 2, 5) if step * decade <= value))


def _correlation(axes: Axes, run: RunRecord) -> None:
    frequency, correlation = run.average.spatial_frequency_per_A, run.average.correlation
    axes.set_ylabel("Fourier ring correlation of two halves")
    axes.set_xlabel("resolution (Å)")
    if not len(frequency):
        say_nothing(axes, "average_frc.csv is missing or damaged")
        return
    axes.plot(frequency, correlation, color=COLOURS[0], linewidth=2.0)
    axes.axhline(FRC_THRESHOLD, color="black", linestyle="--", linewidth=1.0)
    axes.axhline(HALF, color="black", linestyle=":", linewidth=1.0)
    end = 1.08 * float(frequency[-1])
    for level in (FRC_THRESHOLD, HALF):
        axes.text(0.01 * end, level + 0.012, f"{level:g}", fontsize=8, va="bottom")
    reached = run.number("alignment", "resolution_A")
    if reached is not None:
        better = " or better" if reaches_the_finest(run) else ""
        axes.axvline(1 / reached, color=COLOURS[1], linewidth=1.2)
        axes.text(
            1 / reached - 0.012 * end, 0.03, f"{resolution(reached)}{better}", color=COLOURS[1], ha="right", fontsize=10
        )
    shown = [r for r in SHOWN_RESOLUTIONS_A if 0.08 * end < 1 / r < end]
    while len(shown) > 8:
        shown = shown[::2]
    axes.set_xlim(0.0, end)
    axes.xaxis.set_major_locator(FixedLocator([1 / r for r in shown]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{1 / position:.3g}"))
    axes.set_ylim(min(-0.05, float(correlation.min()) - 0.02), 1.05)
    axes.grid(alpha=0.25)


def possible(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Predicted deviations by defocus, with the bound that no estimator can pass, and the true errors."""
    name, title = "what_the_data_allow", "How well it is known, and what the data allow"
    if not run.has_alignment:
        return LeftOut(name, title, NO_ALIGNMENT)
    if nothing_learnt(run):
        return LeftOut(name, title, TOO_FEW)
    angle = shift = defocus = None
    if truth is not None:
        angle, defocus = (_by_row(run, found(run, truth, "orbit_")) for found in (angle_errors, defocus_errors))
        shift = shift_errors_A(run, truth, "orbit_")
    shown = [
        ("angle (degrees)", "psi_std_deg", "psi_limit_deg", angle),
        ("shift along an axis (Å)", "origin_std_A", "origin_limit_A", shift),
        ("defocus (µm)", "defocus_std_um", "defocus_limit_um", defocus),
    ]
    if run.keeps_file_defocus:
        shown.pop()
    figure = new_figure(3.6 * len(shown), 4.0)
    panels = figure.subplots(1, len(shown))
    for axes, (label, deviation, bound, errors) in zip(panels, shown, strict=True):
        _precision(axes, run, deviation, bound, errors)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("defocus (µm)")
    panels[0].set_ylabel("deviation")
    caption = (
        "By defocus of the kept particles: the median predicted deviation in bins of equally many particles (dots; the "
        "shade holds the middle 68 %), and the Cramér-Rao bound (black), which no unbiased estimate can pass. The "
        "bound follows from the average and the noise alone: it is what these images allow if they are as the model "
        "says. Where the dots lie on the line, nothing but better images would help; far above it, images are "
        "ambiguous or the particles are not all alike."
    )
    if angle is not None or defocus is not None:
        caption += (
            " Crosses are the true errors (root mean square in a bin, over true particles that were kept): they should "
            "lie on the dots."
        )
    return Plot(name, title, figure, caption, "Predicted deviations against defocus, and what the data allow.")


def _bins(defocus_um: FloatArray) -> NDArray[np.int64]:
    """Which of some equally full bins each particle is in, shape (n,)."""
    bins = int(np.clip(len(defocus_um) // FEWEST_IN_A_BIN, 1, MOST_BINS))
    edges = np.quantile(defocus_um, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, defocus_um, side="right").astype(np.int64)


def _by_row(run: RunRecord, errors: Errors | None) -> FloatArray | None:
    """Errors in row order, shape (n,), NaN where there is none; None without any."""
    if errors is None:
        return None
    error = np.full(len(run), np.nan)
    error[errors.row] = errors.error
    return error


def _precision(axes: Axes, run: RunRecord, deviation: str, bound: str, errors: FloatArray | None) -> None:
    """One quantity's predicted deviation, bound and true error, of which there may be one along each axis."""
    std, defocus = run.column(f"orbit_{deviation}"), run.column("orbit_defocus_um")
    rows = run.kept & np.isfinite(std) & np.isfinite(defocus)
    if not rows.any():
        say_nothing(axes, "no deviations")
        return
    member, values, x = _bins(defocus[rows]), std[rows], defocus[rows]
    groups = np.unique(member)
    centre = np.array([np.median(x[member == g]) for g in groups])
    low, middle, high = (np.array([np.percentile(values[member == g], p) for g in groups]) for p in (16, 50, 84))
    axes.fill_between(centre, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(centre, middle, "o-", color=COLOURS[0], markersize=4, linewidth=1.2, label="predicted (median)")
    seen = [low, high]
    bound_x, bound_y = _bound(run, bound, (float(x.min()), float(x.max())))
    if len(bound_x):
        axes.plot(bound_x, bound_y, color="black", linewidth=1.6, label="Cramér-Rao bound")
        seen.append(bound_y)
    if errors is not None:
        true = np.array([_rms(errors[rows][member == g]) for g in groups])
        axes.plot(centre, true, "x", color=COLOURS[1], markersize=6, markeredgewidth=1.6, label="true error (rms)")
        seen.append(true)
    _deviation_axis(axes, np.concatenate(seen))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _bound(run: RunRecord, name: str, ends: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Bound by defocus within the range of the particles, and a little beyond so that a narrow range shows a line."""
    if run.limits is None:
        return np.empty(0), np.empty(0)
    x, y = run.limits["defocus_um"].to_numpy(), run.limits[name].to_numpy()
    margin = max(0.02 * (ends[1] - ends[0]), 0.05)
    within = np.linspace(max(ends[0] - margin, x.min()), min(ends[1] + margin, x.max()), 100)
    return within, np.interp(within, x, y)


def _rms(errors: FloatArray) -> float:
    """Root mean square of the finite ones; NaN without any."""
    known = errors[np.isfinite(errors)]
    return root_mean_square(known) if len(known) else float("nan")


def _deviation_axis(axes: Axes, values: FloatArray) -> None:
    """Linear from zero where values are alike, logarithmic where they are not."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return
    low, high = float(positive.min()), float(positive.max())
    if spreads(low, high):
        axes.set_yscale("log")
        axes.set_ylim(0.7 * low, 2.5 * high)
        plain_ticks(axes.yaxis)
    else:
        axes.set_ylim(0.0, 1.35 * high)


def agreement(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """The alignment against the latent orbits: angle differences, and the two defoci."""
    name, title = "agreement", "Alignment and latent orbits compared"
    if not run.has_alignment:
        return LeftOut(name, title, NO_ALIGNMENT)
    if not run.has_latent:
        return LeftOut(name, title, NO_LATENT_SPACE)
    angle, defocus = angle_agreement(run), defocus_agreement(run)
    if angle is None and defocus is None:
        return LeftOut(name, title, "There is no angle or defocus that both methods know.")
    figure = new_figure(9.6, 4.4)
    panels = figure.subplots(1, 2)
    _angle_differences(panels[0], angle, agreement_period_deg(run))
    _two_defoci(figure, panels[1], defocus, "the file's" if run.keeps_file_defocus else "aligned")
    caption = (
        "Two methods that read the same images in different ways: the alignment compares them with an average, the "
        "latent orbits are what a network made of them. Left, by how much their angles differ for kept particles, "
        "after one turn and one sign for the whole set; the line is what the two predicted deviations "
        "together lead one to expect. Right, the two defoci; the dashed line "
        "is where they are the same. The scale of the latent's is matched to a distribution taken as known. "
        "Where the methods differ by more than expected, one of them is too sure of itself; which, only a truth can "
        "tell."
    )
    return Plot(name, title, figure, caption, "Differences in the angle, and defocus against defocus.")


def _angle_differences(axes: Axes, found: Difference | None, period_deg: float) -> None:
    axes.set_xlabel("latent angle − aligned angle (degrees)")
    axes.set_ylabel("particles")
    if found is None:
        say_nothing(axes, "no angles to compare")
        return
    half = float(
        min(0.5 * period_deg, max(5.0 * np.median(found.expected_std), np.percentile(abs(found.difference), 98)))
    )
    edges = np.linspace(-half, half, 61)
    counts, _ = np.histogram(found.difference.clip(-half, half), edges)
    axes.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.75, label="found")
    std = found.expected_std[found.expected_std > 0]
    std = std[:: max(1, len(std) // MOST_CURVES)]
    if len(std):
        x = np.linspace(-half, half, 241)
        density = np.mean(np.exp(-0.5 * (x[:, None] / std) ** 2) / (np.sqrt(2 * np.pi) * std), axis=1)
        axes.plot(x, density * counts.sum() * (edges[1] - edges[0]), color="black", linewidth=1.3, label="expected")
    axes.set_title(
        f"rms {found.rms:.3g}°, median {found.median:.3g}° (expected rms {found.expected_rms:.3g}°)", fontsize=10
    )
    axes.set_xlim(-half, half)
    axes.legend(fontsize=9)


def _two_defoci(figure: Figure, axes: Axes, found: Difference | None, whose: str) -> None:
    axes.set_xlabel(f"defocus, {whose} (µm)")
    axes.set_ylabel("defocus, latent orbits (µm)")
    if found is None:
        say_nothing(axes, "no defoci to compare")
        return
    low, high = middle_range(np.concatenate([found.aligned, found.latent]), 0.25)
    x, y = found.aligned.clip(low, high), found.latent.clip(low, high)
    if len(x) <= MOST_SINGLE_DOTS:
        axes.scatter(x, y, s=12, color=COLOURS[0], alpha=0.6, linewidths=0, rasterized=True)
    else:
        drawn = axes.hexbin(
            x, y, gridsize=60, mincnt=1, bins="log", cmap="viridis", extent=(low, high, low, high), linewidths=0.1
        )
        axes.set_facecolor("#e4e6e8")
        count_bar(figure, axes, drawn)
    axes.plot([low, high], [low, high], color="black", linestyle="--", linewidth=0.9)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_title(f"rms {found.rms:.3g} µm (expected {found.expected_rms:.3g} µm)", fontsize=10)
