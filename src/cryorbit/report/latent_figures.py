"""Figures of the latent space: orbits coloured by angle and defocus (paper, Figures 4 and 6), and where junk lies."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.estimation.truth import Truth
from cryorbit.report.comparison import NO_JUNK, junk_kinds
from cryorbit.report.drawing import (
    CLOUD_BACKGROUND,
    COLOURS,
    MARKERS,
    MOST_DOTS,
    ColourScale,
    LeftOut,
    Plot,
    angle_scale,
    cloud,
    linear_scale,
    new_figure,
    plain_label,
)
from cryorbit.report.record import NO_LATENT_SPACE, RunRecord

NO_LATENT = "latent.parquet is missing or does not fit the estimates, so the latent space cannot be drawn."
MOST_KINDS = 7
MOST_MARKS = 2_000


def why_no_latent(run: RunRecord) -> str:
    """Why the latent space cannot be drawn."""
    return NO_LATENT if run.has_latent or not run.has_alignment else NO_LATENT_SPACE


def latent_plane(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Latent points coloured by what was estimated."""
    name, title = "latent_plane", "Latent space, coloured by the estimates"
    if run.principal is None:
        return LeftOut(name, title, why_no_latent(run))
    period = 360.0 / run.isotropy_order
    psi, defocus = run.column("psi_deg"), run.column("defocus_um")
    scales = (
        angle_scale("angle written (degrees)", period),
        _defocus_scale("defocus written (µm)", run, truth),
    )
    caption = (
        "Each point is a particle, placed by its principal coordinates in the latent space; kept particles only. "
        "Left, colour is the in-plane angle, right, the defocus, both as written to the file. Where the "
        "encoder learnt orbits one sees rings: the angle runs through all colours along a ring, and rings of "
        "different defocus lie inside or beside one another. Colours that run round twice in the upper plane mean "
        "that it folds the orbits, which then often separate along the third axis (lower row). "
    )
    caption += (
        "The colours come from the alignment, which compares the images with their average and takes from this space "
        "no more than a start: where they are smooth, the network has found the same geometry."
        if run.has_alignment
        else "Estimates colour their own latent space here: smooth colours show that they are consistent, not that "
        "they are right."
    )
    return _clouds(run, name, title, (wrap_deg(psi, period), defocus), scales, run.kept, caption)


def latent_plane_truth(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Latent points coloured by the truth."""
    name, title = "latent_plane_truth", "Latent space, coloured by the truth"
    if run.principal is None:
        return LeftOut(name, title, why_no_latent(run))
    if truth is None or (truth.psi_deg is None and truth.defocus_um is None):
        return LeftOut(name, title, "No true angles or defoci were given.")
    unknown = np.full(len(run), np.nan)
    psi = unknown if truth.psi_deg is None else wrap_deg(truth.psi_deg)
    defocus = unknown if truth.defocus_um is None else truth.defocus_um
    scales = angle_scale("true angle (degrees)"), _defocus_scale("true defocus (µm)", run, truth)
    good = np.ones(len(run), dtype=bool) if truth.is_outlier is None else ~truth.is_outlier
    caption = (
        f"The same points, coloured by {truth.source}, which the run did not see; true junk is left out. Compare "
        "with the figure before: the colours should run along the same rings, up to one shift and the direction "
        "of the angle. Mixed colours in one place mean that the latent space does not tell these particles apart."
    )
    return _clouds(run, name, title, (psi, defocus), scales, good, caption)


def _defocus_scale(label: str, run: RunRecord, truth: Truth | None) -> ColourScale:
    """One scale for estimates and truth, so that their colours can be compared."""
    true = np.empty(0) if truth is None or truth.defocus_um is None else truth.defocus_um
    return linear_scale(label, run.column("defocus_um"), true)


def _clouds(
    run: RunRecord,
    name: str,
    title: str,
    values: tuple[FloatArray, FloatArray],
    scales: tuple[ColourScale, ColourScale],
    shown: NDArray[np.bool_],
    caption: str,
) -> Plot | LeftOut:
    """Planes of the first two axes, and of the first and third, each coloured by angle and by defocus."""
    if run.principal is None:
        return LeftOut(name, title, why_no_latent(run))
    seconds = range(1, run.principal.shape[1])
    figure = new_figure(10.0, 4.4 * len(seconds))
    panels = figure.subplots(len(seconds), 2, squeeze=False)
    for row, second in enumerate(seconds):
        points = run.principal[:, [0, second]][shown]
        for column in range(2):
            axes = panels[row, column]
            cloud(figure, axes, points, values[column][shown], scales[column])
            name_axes(axes, second)
    if shown.sum() > MOST_DOTS:
        caption += (
            f" With {shown.sum():,} particles, colour is the mean over the particles in a small cell, and cells "
            "fade where their angles disagree."
        )
    alt = f"Scatter of {int(shown.sum()):,} particles in the latent space, by angle and by defocus."
    return Plot(name, title, figure, caption, alt)


def name_axes(axes: Axes, second: int) -> None:
    """Label a plane of the first principal coordinate and another one."""
    axes.set_xlabel("principal coordinate 1 (latent units)")
    axes.set_ylabel(f"principal coordinate {second + 1} (latent units)")


def outliers_plane(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Where the dropped particles lie, and the true junk (paper, Figure 5 right)."""
    name, title = "outliers", "Outliers in the latent space"
    if run.principal is None:
        return LeftOut(name, title, why_no_latent(run))
    kinds = None if truth is None else junk_kinds(truth)
    figure = new_figure(10.0 if kinds is not None else 6.0, 4.8)
    panels = figure.subplots(1, 1 if kinds is None else 2, squeeze=False)[0]
    decided = np.where(run.kept, NO_JUNK, "dropped")
    marked(panels[0], run.principal[:, :2], decided, "kept")
    panels[0].set_title("as decided", fontsize=10)
    caption = (
        "Kept particles in grey, dropped ones in colour. Much junk lies off the rings, outside them or in their "
        "middle; junk that lies among the particles in this plane is told from them by its orbit as a whole, which "
        "the plane does not show."
    )
    if kinds is not None and truth is not None:
        marked(panels[1], run.principal[:, :2], commonest(kinds), "true particle")
        panels[1].set_title(plain_label(f"according to {truth.source}"), fontsize=10)
        caption += f" Right: the kinds of junk according to {truth.source}; both panels should mark the same points."
    if len(run) > MOST_DOTS:
        caption += (
            f" At most {MOST_DOTS:,} good particles and {MOST_MARKS:,} of each other group, drawn at random, are shown."
        )
    alt = f"Latent plane with {int((~run.kept).sum()):,} dropped particles marked."
    return Plot(name, title, figure, caption, alt)


def commonest(kinds: NDArray[np.str_]) -> NDArray[np.str_]:
    """Kinds of junk with the rare ones put together, so that each has its own colour."""
    names, counts = np.unique(kinds[kinds != NO_JUNK], return_counts=True)
    shown = names[np.argsort(-counts)][:MOST_KINDS]
    return np.where((kinds == NO_JUNK) | np.isin(kinds, shown), kinds, "other junk")


def marked(axes: Axes, points: FloatArray, groups: NDArray[np.str_], good_name: str) -> None:
    """Dots by group, the good ones below in grey."""
    random = np.random.default_rng(0)
    size = float(np.clip(12_000 / len(points), 5.0, 25.0))
    names = [NO_JUNK, *sorted(set(groups.tolist()) - {NO_JUNK})]
    for number, name in enumerate(names):
        rows = np.flatnonzero(groups == name)
        if not len(rows):
            continue
        label = f"{good_name if name == NO_JUNK else plain_label(name)} ({len(rows):,})"
        most = MOST_DOTS if name == NO_JUNK or len(points) <= MOST_DOTS else MOST_MARKS
        chosen = random.choice(rows, min(len(rows), most), replace=False)
        colour = CLOUD_BACKGROUND if name == NO_JUNK else COLOURS[(number - 1) % len(COLOURS)]
        axes.scatter(
            points[chosen, 0], points[chosen, 1], s=size if name == NO_JUNK else 2.5 * size, color=colour, linewidths=0,
            marker="o" if name == NO_JUNK else MARKERS[(number - 1) % len(MARKERS)], label=label, rasterized=True,
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    name_axes(axes, 1)
    axes.legend(fontsize=8, markerscale=1.5, loc="best" if len(points) < 1000 else "upper right")
