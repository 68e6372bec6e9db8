"""Figures of the particles: the best, the doubtful and the worst; histograms of score, deviation and defocus."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryorbit.conventions import FloatArray
from cryorbit.estimation.truth import Truth
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.report.drawing import COLOURS, LINES, LeftOut, Plot, middle_range, new_figure, say_nothing
from cryorbit.report.record import RunRecord

COLUMNS = 12
ROWS_OF_A_SECTION = 2
SECTION = COLUMNS * ROWS_OF_A_SECTION
GAP_PX = 2
# The doubtful particles are a random sample of this many times as many that lie nearest to the threshold.
DOUBTFUL_POOL = 4
BINS = 60
SMOOTHING_PX = 1.0


def montage(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """The best, the doubtful and the worst particles by outlier score."""
    name, title = "montage", "Best, doubtful and worst particles"
    if run.cache is None:
        reason = "The cache of images was deleted or does not fit the estimates, so no particles can be shown."
        return LeftOut(name, title, reason)
    sections = choose_particles(run)
    images = {label: _smoothed(run.cache, rows) for label, rows in sections.items()}
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
        f"One pixel is {_pixel_size(run.cache)}."
    )
    return Plot(name, title, figure, caption, "Montage of particle images: " + "; ".join(sections) + ".")


def _smoothed(cache: ParticleCache, rows: NDArray[np.int64]) -> FloatArray:
    """Images of these rows, shape (m, h, w), with less noise than the eye can bear."""
    images = cache.read(rows).numpy().astype(np.float64)
    if cache.info.noise_free:
        return images
    return np.asarray(gaussian_filter(images, (0.0, SMOOTHING_PX, SMOOTHING_PX)))


def _pixel_size(cache: ParticleCache) -> str:
    return f"{cache.info.pixel_size_A:.3g} Å"


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


def histograms(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:
    """Histograms of outlier score, predicted angle deviation and defocus."""
    figure = new_figure(11.0, 3.8)
    panels = figure.subplots(1, 3)
    _scores(panels[0], run, truth)
    deviations = {"orbits": run.column("latent_psi_std_deg"), "plane": run.column("plane_psi_std_deg")}
    _deviations(panels[1], {label: values[run.kept] for label, values in deviations.items()})
    defoci = {label: values[run.kept] for label, values in _defocus_columns(run, truth).items()}
    _defoci(panels[2], defoci)
    caption = (
        "Left, the outlier score of all particles on a logarithmic scale of counts; particles right of the dashed "
        "line were dropped. A second hump on the right is a group of junk; without one, the threshold is a matter "
        "of taste. Middle, the predicted standard deviation of the angle of kept particles, read from the orbits "
        f"and by the paper's plane formula; {UNKNOWN_ANGLE_STD_DEG / run.isotropy_order:.1f} degrees means that "
        "nothing is known. "
        "Right, the defocus of kept particles. The latent's defocus is matched to a known distribution, so its "
        "spread agrees by construction and is no test. Extreme values are counted in the outermost bins."
    )
    title = "Histograms of score, angle deviation and defocus"
    return Plot("histograms", title, figure, caption, "Histograms of outlier score, angle deviation and defocus.")


def _defocus_columns(run: RunRecord, truth: Truth | None) -> dict[str, FloatArray]:
    """Every opinion of the defocus by its name; the one that was written is marked."""
    columns = {"orbits": "latent_defocus_um", "plane": "plane_defocus_um", "input file": "file_defocus_um"}
    written = run.column("defocus_um")
    found = {}
    for label, column in columns.items():
        values = run.column(column)
        same = np.isfinite(written).any() and np.allclose(values, written, equal_nan=True)
        found[f"{label} (written)" if same else label] = values
    if not any(label.endswith("(written)") for label in found):
        found["written"] = written
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
    _steps(axes, groups, np.geomspace(low * 0.9, high * 1.1, BINS + 1))
    axes.set_xscale("log")
    axes.legend(fontsize=8)


def _defoci(axes: Axes, groups: dict[str, FloatArray]) -> None:
    axes.set_xlabel("defocus (µm)")
    values = np.concatenate(list(groups.values()))
    if not np.isfinite(values).any():
        say_nothing(axes, "no defocus")
        return
    _steps(axes, groups, np.linspace(*middle_range(values, 0.25), BINS + 1))
    axes.legend(fontsize=8)
