"""How figures are made: paper, colours, clouds of a hundred or a million points, files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.io.runs import atomic_path

PNG_DPI = 130
RASTER_DPI = 180
MOST_DOTS = 20_000
CELLS = 200
LINEAR_SPREAD = 6.0
# Okabe & Ito's colours, told apart with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
# A circular colour map has light and dark ends; both must stand out from the paper.
CLOUD_BACKGROUND = "#a9aeb3"


@dataclass(frozen=True)
class Plot:
    """A figure, and what the page says beside it."""

    name: str
    title: str
    figure: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class LeftOut:
    """A figure that could not be drawn, and the sentence that says why."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class ColourScale:
    """What the colour of a point means.

    Attributes
    ----------
    label
        With unit.
    low, high
        Ends of the scale.
    circular
        Whether both ends are the same.
    """

    label: str
    low: float
    high: float
    circular: bool = False

    @property
    def colour_map(self) -> str:
        """Name of a colour map that is even to the eye, with or without colour vision."""
        return "twilight" if self.circular else "viridis"

    @property
    def norm(self) -> Normalize:
        """From values to the colour map."""
        return Normalize(self.low, self.high)


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """An empty figure that belongs to no global state."""
    return Figure(figsize=(width_inch, height_inch), layout="constrained", facecolor="white")


def plain_label(text: str) -> str:
    """Text of a file made safe for a figure: no mathematics, no glyph that the font may lack, not too long."""
    ascii_only = "".join(c if " " <= c <= "~" else "?" for c in text).replace("$", r"\$")
    return (ascii_only if len(ascii_only) <= 40 else ascii_only[:37] + "...").lstrip("_") or "?"


def angle_scale(label: str, period_deg: float = 360.0) -> ColourScale:
    """Colours of an angle on a circle of ``period_deg`` degrees."""
    return ColourScale(label, -0.5 * period_deg, 0.5 * period_deg, circular=True)


def linear_scale(label: str, *columns: FloatArray) -> ColourScale:
    """Colours of a quantity, from the 1st to the 99th percentile of all columns together."""
    values = np.concatenate(columns)
    low, high = middle_range(values, 1.0)
    return ColourScale(label, low, high)


def middle_range(values: FloatArray, cut_percent: float) -> tuple[float, float]:
    """Percentiles ``cut`` and ``100 - cut`` of the finite values, never the same."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, [cut_percent, 100.0 - cut_percent]))
    least = max(1e-3, 0.1 * abs(low)) if high == low else 0.0
    return (low, high) if high > low else (low - 0.5 * least, high + 0.5 * least)


def cloud(figure: Figure, axes: Axes, points: FloatArray, values: FloatArray, scale: ColourScale) -> None:
    """Draw points coloured by a value: dots, or above 20,000 points the mean value of small cells.

    Parameters
    ----------
    points
        Shape (n, 2).
    values
        Shape (n,); points without a value are left out.
    """
    axes.set_facecolor(CLOUD_BACKGROUND)
    usable = np.isfinite(values) & np.isfinite(points).all(axis=1)
    x, y, shown = points[usable, 0], points[usable, 1], values[usable]
    if not len(shown):
        say_nothing(axes, "no values")
    elif len(shown) <= MOST_DOTS:
        order = np.random.default_rng(0).permutation(len(shown))  # so that no row of the file lies on top
        size = float(np.clip(20_000 / len(shown), 3.0, 40.0))
        axes.scatter(
            x[order], y[order], c=shown[order], s=size, cmap=scale.colour_map, norm=scale.norm, linewidths=0,
            rasterized=True,
        )  # fmt: skip
    else:
        means, agreement, extent = cell_means(x, y, shown, scale.high - scale.low if scale.circular else None)
        axes.imshow(
            means, alpha=0.1 + 0.9 * agreement, extent=extent, cmap=scale.colour_map, norm=scale.norm,
            origin="lower", interpolation="nearest",
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.colour_map), ax=axes, label=scale.label, shrink=0.85)
    if scale.circular:
        bar.set_ticks([float(t) for t in np.linspace(scale.low, scale.high, 5)])


def cell_means(
    x: FloatArray, y: FloatArray, values: FloatArray, period_deg: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float, float, float]]:
    """Mean value of the points in each cell of a grid.

    Returns
    -------
    means, agreement : arrays of shape (cells, cells), rows along y
        NaN in empty cells. Agreement is the resultant length of angles (1 where all agree), 1 for other values.
    extent : left, right, bottom, top
    """
    edges = [np.linspace(v.min(), v.max() + 1e-9 * (1.0 + abs(v.max())), CELLS + 1) for v in (x, y)]
    weights = np.exp(2j * np.pi * values / period_deg) if period_deg else values.astype(np.complex128)
    parts = [np.histogram2d(y, x, bins=edges[::-1], weights=w)[0] for w in (weights.real, weights.imag)]
    counts = np.histogram2d(y, x, bins=edges[::-1])[0]
    mean = (parts[0] + 1j * parts[1]) / np.maximum(counts, 1.0)
    extent = (float(edges[0][0]), float(edges[0][-1]), float(edges[1][0]), float(edges[1][-1]))
    if period_deg:
        values_in_cells, agreement = np.angle(mean) * period_deg / (2.0 * np.pi), np.abs(mean).clip(max=1.0)
    else:
        values_in_cells, agreement = mean.real, np.ones_like(counts)
    return np.where(counts > 0, values_in_cells, np.nan), agreement, extent


def count_bar(figure: Figure, axes: Axes, drawn: ScalarMappable) -> None:
    """Colour bar of how many particles there are in a bin, in plain numbers on a logarithmic scale."""
    bar = figure.colorbar(drawn, ax=axes, label="particles in a bin", shrink=0.85)
    low, high = drawn.get_clim()
    steps = [k * 10**decade for decade in range(7) for k in (1, 2, 5)]
    shown = [step for step in steps if low <= step <= high]
    bar.set_ticks([float(step) for step in shown], labels=[f"{step:,}" for step in shown])
    bar.ax.minorticks_off()


def spreads(low: float, high: float) -> bool:
    """Whether positive values differ so much that their axis should be logarithmic."""
    return high > LINEAR_SPREAD * low


def plain_ticks(axis: XAxis | YAxis) -> None:
    """Numbers of a logarithmic axis as they are spoken, not as powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def say_nothing(axes: Axes, sentence: str) -> None:
    """Mark a panel for which there are no data."""
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", fontsize=10)


def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write ``name.png`` and ``name.pdf``; returns the bytes of the PNG."""
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # what was laid out for the one holds for the other
    figure.savefig(pdf, format="pdf", dpi=RASTER_DPI, metadata={"CreationDate": None})
    for suffix, content in (("png", png), ("pdf", pdf)):
        with atomic_path(folder / f"{name}.{suffix}") as beside:
            beside.write_bytes(content.getvalue())
    return png.getvalue()
