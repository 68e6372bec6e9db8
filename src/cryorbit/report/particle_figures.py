"""Figures of the particles: the best, the doubtful and the worst; and how they fall into place."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.estimation.truth import Truth
from cryorbit.report.drawing import LeftOut, Plot, middle_range, new_figure
from cryorbit.report.pictures import SMOOTHING_PX, put_into_place
from cryorbit.report.record import RunRecord

COLUMNS = 12
ROWS_OF_A_SECTION = 2
SECTION = COLUMNS * ROWS_OF_A_SECTION
GAP_PX = 2
# The doubtful particles are a random sample of this many times as many that lie nearest to the threshold.
DOUBTFUL_POOL = 4
# Particles that the plain means are of.
MEANS_OF = (10, 100, 1000)


def why_no_images() -> str:
    """Why no particle can be shown."""
    return "The run's copy of the images is gone, and so are their stacks, so no particles can be shown."


def montage(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """The best, the doubtful and the worst particles by outlier score."""
    name, title = "montage", "Best, doubtful and worst particles"
    if run.pictures.images is None:
        return LeftOut(name, title, why_no_images())
    sections = choose_particles(run)
    images = {label: run.pictures.smoothed(rows) for label, rows in sections.items()}
    # The first section has the best particles: junk may be too bright for the scale, but must not set it.
    limits = middle_range(next(iter(images.values())).ravel(), 0.1)
    heights = [-(-len(part) // COLUMNS) for part in images.values()]
    figure = new_figure(10.0, 0.86 * sum(heights) + 0.45 * len(heights))
    panels = figure.subplots(len(images), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, part) in zip(panels, images.items(), strict=True):
        axes.imshow(mosaic(part), cmap="gray", vmin=limits[0], vmax=limits[1])
        axes.set_axis_off()
        axes.set_title(label, fontsize=10, loc="left")
    caption = (
        f"Particles as the network sees them, smoothed a little (Gaussian of {SMOOTHING_PX:g} pixel) unless the set "
        "has no noise, on one grey scale that fits the best, in rows from left to right. The best should "
        "look like particles and the worst like junk: if good particles are among the worst, drop fewer "
        "(--threshold of `cryorbit outliers`). "
        "The doubtful ones are an unbiased random sample of those whose score lies nearest to the threshold, on "
        "either side; the score's rule can be judged by them. "
        f"One pixel is {run.pictures.pixel_size_A:.3g} Å."
    )
    return Plot(name, title, figure, caption, "Montage of particle images: " + "; ".join(sections) + ".")


def choose_particles(run: RunRecord) -> dict[str, NDArray[np.int64]]:
    """Rows to show, by the heading over them; a plain random sample where there is no ranking."""
    random = np.random.default_rng(0)
    score = run.column("outlier_score")
    ranked = np.flatnonzero(np.isfinite(score))
    ranked = ranked[np.argsort(score[ranked], kind="stable")]
    if not run.has_scores or len(ranked) < 3:
        rows = np.sort(random.choice(len(run), min(len(run), 3 * SECTION), replace=False))
        return {f"{len(rows)} particles, not ranked (there are too few to compare, or no scores)": rows}
    count = min(SECTION, len(ranked) // 3)
    border = _border(run, ranked)
    pool = ranked[np.argsort(np.abs(np.arange(len(ranked)) + 0.5 - border), kind="stable")[: DOUBTFUL_POOL * count]]
    doubtful = random.choice(pool, min(count, len(pool)), replace=False)
    doubtful = doubtful[np.argsort(score[doubtful], kind="stable")]
    parts = {"best": ranked[:count], "near the threshold": doubtful, "worst": ranked[::-1][:count]}
    return {
        f"{label}: {len(rows)} particles, score {score[rows].min():.3g} to {score[rows].max():.3g}, "
        f"{int((~run.kept[rows]).sum())} dropped": rows
        for label, rows in parts.items()
    }  # fmt: skip


def _border(run: RunRecord, ranked: NDArray[np.int64]) -> int:
    """Rank at which dropping begins; the end where nothing is dropped."""
    return int(run.kept[ranked].sum())


def mosaic(images: FloatArray) -> FloatArray:
    """Images side by side, ``COLUMNS`` in a row with gaps of NaN; shape (rows * (h + gap), COLUMNS * (w + gap))."""
    n, height, width = images.shape
    rows = -(-n // COLUMNS)
    sheet = np.full((rows, height + GAP_PX, COLUMNS, width + GAP_PX), np.nan)
    for k, image in enumerate(images):
        sheet[k // COLUMNS, :height, k % COLUMNS, :width] = image
    return sheet.reshape(rows * (height + GAP_PX), COLUMNS * (width + GAP_PX))


def aligned(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """Some good particles as they are and put into place, and means of more and more of them."""
    name, title = "aligned", "Particles put into place"
    psi, good = run.column("psi_deg"), run.kept & np.isfinite(run.column("psi_deg"))
    if run.pictures.images is None:
        return LeftOut(name, title, why_no_images())
    if not run.angle_known or not good.any():
        return LeftOut(name, title, "No angle of a kept particle is known, so none can be turned into place.")
    rows = np.flatnonzero(good)
    best = rows[np.argsort(run.column("outlier_score")[rows], kind="stable")][:COLUMNS]
    drawn = np.random.default_rng(0).permutation(rows)[: MEANS_OF[-1]]
    shift = shifts_px(run, run.pictures.pixel_size_A)
    raw = run.pictures.smoothed(best)
    parts = {"as they are": raw, "put into place": put_into_place(raw, psi[best], shift[best])}
    figure = new_figure(10.0, 4.4)
    parts_of_page = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.3, 2.1))[:, 0]
    panels = parts_of_page[0].subplots(2, 1)
    limits = middle_range(raw.ravel(), 0.1)
    for axes, (label, part) in zip(panels, parts.items(), strict=True):
        axes.imshow(mosaic(part), cmap="gray", vmin=limits[0], vmax=limits[1])
        axes.set_axis_off()
        axes.set_title(f"{label}: {len(best)} of the best", fontsize=10, loc="left")
    images = run.pictures.images(drawn)
    _draw_means(
        parts_of_page[1], {"as they are": images, "put into place": put_into_place(images, psi[drawn], shift[drawn])}
    )
    how = "turned and shifted" if (shift != 0).any() else "turned (no shift was estimated)"
    caption = (
        f"Above, particles with the lowest outlier scores, as they are and then {how} by what was written to the "
        "file. Below, plain means of more and more kept particles, drawn at random, each on its own grey "
        "scale: as they are they become a blur, put into place they should show the particle. The contrast transfer "
        "function is not corrected here, so fine details of different defoci cancel."
        + (" The class average above has it corrected." if run.has_alignment else "")
    )
    return Plot(name, title, figure, caption, "Particles as they are and put into place, and their means.")


def _draw_means(figure: SubFigure, groups: dict[str, FloatArray]) -> None:
    """Means of the first 10, 100, ... images of each group, side by side."""
    n = len(next(iter(groups.values())))
    counts = [k for k in MEANS_OF if k < n] + [n]
    panels = figure.subplots(1, len(counts) * len(groups), squeeze=False)[0]
    shown = [(label, images[:k].mean(axis=0), k) for label, images in groups.items() for k in counts]
    for axes, (label, mean, k) in zip(panels, shown, strict=True):
        low, high = middle_range(mean.ravel(), 0.1)
        axes.imshow(mean, cmap="gray", vmin=low, vmax=high)
        axes.set_axis_off()
        axes.set_title(f"{label}:\nmean of {k:,}", fontsize=10)


def shifts_px(run: RunRecord, pixel_size_A: float) -> FloatArray:
    """Where each particle lies relative to the centre of its box, shape (n, 2); zero where that is not known."""
    origin_A = np.stack([run.column("origin_x_A"), run.column("origin_y_A")], axis=1)
    return np.nan_to_num(-origin_A / pixel_size_A)
