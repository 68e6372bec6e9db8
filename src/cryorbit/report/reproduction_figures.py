"""The paper's Figures 3 to 8 from our runs, each with the numbers that it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from numpy.typing import NDArray

from cryorbit.conventions import wrap_deg
from cryorbit.estimation.evaluation import RocCurve, roc
from cryorbit.estimation.outliers import outlier_probability
from cryorbit.report.comparison import (
    DETECTORS,
    Errors,
    angle_errors,
    defocus_errors,
    evaluate_reading,
    junk_kinds,
)
from cryorbit.report.drawing import (
    CLOUD_BACKGROUND,
    COLOURS,
    LINES,
    ColourScale,
    LeftOut,
    Plot,
    angle_scale,
    cloud,
    linear_scale,
    middle_range,
    new_figure,
)
from cryorbit.report.latent_figures import commonest, marked
from cryorbit.report.paper import FIGURES
from cryorbit.report.record import Preview
from cryorbit.report.reproduction_record import SIMULATED, LatentPlane, ReproducedSet
from cryorbit.report.truth_figures import hexagons, thinned
from cryorbit.report.wording import listed

EPOCHS_SHOWN, PARTICLES_SHOWN = 4, 2
JUNK_DETECTORS = ("isolation_forest", "robust_covariance", "local_outlier_factor")
FOREST_THRESHOLD = 0.5
Sets = Mapping[str, ReproducedSet]


@dataclass(frozen=True)
class Reproduced:
    """A figure, and the numbers that it shows."""

    plot: Plot
    numbers: pd.DataFrame


def missing(name: str, needed: str) -> LeftOut:
    """A figure of sets that were not asked for."""
    return LeftOut(name, FIGURES[name].title, f"It needs the set {needed}, which was not asked for.")


def _good(one: ReproducedSet) -> NDArray[np.bool_]:
    return ~one.is_junk


# -- Figure 3 ----------------------------------------------------------------------------------------------------------


def reconstructions(sets: Sets, seed: int) -> Reproduced | LeftOut:  # noqa: ARG001
    """Particles, and what the decoder draws of them at four epochs."""
    name = "figure3"
    shown = [sets[key] for key in (SIMULATED, "view_93") if key in sets and sets[key].run.previews]
    if not shown:
        return missing(name, "simulated or view 93")
    columns = 1 + max(len(chosen_epochs(one)) for one in shown)
    figure = new_figure(1.8 * columns + 0.4, 4.4 * len(shown))
    tables = []
    for part, one in zip(figure.subfigures(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        part.suptitle(one.title, fontsize=10)
        rows = _particles_shown(one)
        for panels, row in zip(part.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            tables += _particle_and_drawings(list(panels), one, row)
    caption = (
        f"Two held-out particles of each set, and what the decoder draws of them. {_named(shown)} Every picture has a "
        "grey scale of its own. In the CSV file, epoch 0 is the particle itself."
    )
    return Reproduced(
        Plot(name, FIGURES[name].title, figure, caption, "Particles and their reconstructions at several epochs."),
        pd.concat(tables, ignore_index=True),
    )


def _particle_and_drawings(panels: list[Axes], one: ReproducedSet, row: int) -> list[pd.DataFrame]:
    """One line of the figure, and its pixels."""
    epochs = chosen_epochs(one)
    for axes in panels:
        axes.set_axis_off()
    pictures = [(0, "particle", epochs[-1].images[row])]
    pictures += [(preview.epoch, f"epoch {preview.epoch}", preview.drawn[row]) for preview in epochs]
    for axes, (_, title, image) in zip(panels, pictures, strict=False):
        low, high = middle_range(image.ravel(), 0.5)
        axes.imshow(image, cmap="gray", vmin=low, vmax=high)
        axes.set_title(title, fontsize=9)
    return [_pixels(image, set=one.name, particle=row, epoch=epoch) for epoch, _, image in pictures]


def chosen_epochs(one: ReproducedSet) -> list[Preview]:
    """Four of the epochs that were kept: the first, the last, and between them."""
    last = one.run.previews[-1]
    kept = [preview for preview in one.run.previews if preview.images.shape == last.images.shape]
    places = np.unique(np.linspace(0, len(kept) - 1, EPOCHS_SHOWN).round().astype(int))
    return [kept[place] for place in places]


def _particles_shown(one: ReproducedSet) -> list[int]:
    """Places of good particles in the previews."""
    last = one.run.previews[-1]
    junk = one.is_junk[last.rows] if len(last.rows) == len(last.images) else np.zeros(len(last.images), dtype=bool)
    order = [*np.flatnonzero(~junk), *np.flatnonzero(junk)]
    return [int(place) for place in order[:PARTICLES_SHOWN]]


def _pixels(image: NDArray[np.floating], **said: object) -> pd.DataFrame:
    row, column = np.indices(image.shape)
    return pd.DataFrame({**said, "row": row.ravel(), "column": column.ravel(), "value": image.ravel().round(6)})


def _named(shown: list[ReproducedSet]) -> str:
    like = [one.short for one in shown if not one.is_simulated]
    if not like:
        return ""
    return f"{listed(like).capitalize()}: {shown[-1].title.split('(')[1].rstrip(')')}."


# -- Figures 4 to 6 ----------------------------------------------------------------------------------------------------


def simulated_plane(sets: Sets, seed: int) -> Reproduced | LeftOut:  # noqa: ARG001
    """The simulated set on two principal components, coloured by true angle and defocus."""
    name = "figure4"
    if SIMULATED not in sets:
        return missing(name, "simulated")
    one = sets[SIMULATED]
    principal, psi, defocus = one.latent("pc")[:, :2], _true_psi(one), _true_defocus(one)
    planes = [LatentPlane(principal, "principal coordinate")]
    guided = bool(one.run.fact("chart", "guided"))
    if guided:
        planes.append(one.plane())
    figure = new_figure(10.4, 4.7 * len(planes))
    panels = figure.subplots(len(planes), 2, squeeze=False)
    for (left, right), plane in zip(panels, planes, strict=True):
        cloud(figure, left, plane.points, psi, angle_scale("true in-plane angle (degrees)"))
        cloud(figure, right, plane.points, defocus, linear_scale("true defocus (µm)", defocus))
        for axes in (left, right):
            axes.set(xlabel=f"{plane.axis} 1 (latent units)", ylabel=f"{plane.axis} 2 (latent units)")
    # Axes of one scale find their ticks when they are drawn, and the layout must know them.
    figure.draw_without_rendering()
    caption = (
        "Every particle of the simulated set on the first two principal axes of the latent space, left coloured by its "
        "true angle, right by its true defocus."
    )
    if guided:
        caption += (
            " Below, the same on the first two axes of the latent space itself, in whose plane a guided training lays "
            "the angle, and the defocus along the radius: that the rings are there was asked of it, that every "
            "particle finds its place on them was learnt."
        )
    numbers = pd.DataFrame({
        "set": one.name, "id": one.run.estimates["id"], "pc1": principal[:, 0], "pc2": principal[:, 1],
        **{f"z{axis + 1}": values for axis, values in enumerate(one.latent("z").T[:2])},
        "true_psi_deg": psi, "true_defocus_um": defocus,
    })  # fmt: skip
    alt = "Scatter plots of the latent space of the simulated set, by angle and by defocus."
    return Reproduced(Plot(name, FIGURES[name].title, figure, caption, alt), numbers)


def _true_psi(one: ReproducedSet) -> NDArray[np.float64]:
    return np.full(len(one.run), np.nan) if one.truth.psi_deg is None else wrap_deg(one.truth.psi_deg)


def _true_defocus(one: ReproducedSet) -> NDArray[np.float64]:
    return np.full(len(one.run), np.nan) if one.truth.defocus_um is None else one.truth.defocus_um


def outliers(sets: Sets, seed: int) -> Reproduced | LeftOut:
    """ROC curves against the Z-score and the truth; what the isolation forest takes for outliers, and what is junk."""
    name = "figure5"
    if "view_39" not in sets or sets["view_39"].beyond_z is None:
        return missing(name, "view 39")
    one = sets["view_39"]
    beyond = np.asarray(one.beyond_z)
    figure = new_figure(10.4, 9.8)
    panels = figure.subplots(2, 2)
    against = (("|Z| > 2, as in the paper", "z", beyond), ("the truth", "true", one.is_junk))
    tables = [
        _roc_panel(axes, one, label, what, short) for axes, (what, short, label) in zip(panels[0], against, strict=True)
    ]
    plane = one.plane()
    points = plane.points
    score = one.run.column("isolation_forest")
    decided = outlier_probability(score, seed) > FOREST_THRESHOLD
    marked(panels[1, 0], points, np.where(decided, "outlier", "none"), "not an outlier")
    panels[1, 0].set_title("as the isolation forest decides", fontsize=10)
    kinds = junk_kinds(one.truth)
    marked(panels[1, 1], points, commonest(np.full(len(points), "none") if kinds is None else kinds), "true particle")
    panels[1, 1].set_title("the truth: kinds of junk", fontsize=10)
    for axes in panels[1]:
        axes.set(xlabel=f"{plane.axis} 1 (latent units)", ylabel=f"{plane.axis} 2 (latent units)")
    figure.suptitle(one.title, fontsize=10)
    caption = (
        f"{one.title}. Top, rates of true and false rejection as the limit of each detector varies; left, junk is what"
        " has a Z-score beyond 2, a label with mistakes that no detector can know of, right, what is junk in truth. "
        f"Bottom, the latent space: left the {int(decided.sum()):,} images that the isolation forest takes for "
        "outliers, right what is junk. The detectors look at features of the latent orbits that no turn changes."
    )
    tables.append(
        pd.DataFrame({
            "panel": "latent", "id": one.run.estimates["id"], "x": points[:, 0], "y": points[:, 1],
            "isolation_forest": score, "taken_for_outlier": decided, "z_score": one.z_score, "is_junk": one.is_junk,
        })
    )  # fmt: skip
    alt = "ROC curves of three detectors, and outliers in the latent space."
    return Reproduced(
        Plot(name, FIGURES[name].title, figure, caption, alt), pd.concat(tables, ignore_index=True).assign(set=one.name)
    )


def _roc_panel(axes: Axes, one: ReproducedSet, label: NDArray[np.bool_], what: str, short: str) -> pd.DataFrame:
    tables = []
    for number, detector in enumerate(JUNK_DETECTORS):
        curve: RocCurve = roc(one.run.column(detector), label)
        false_rate, true_rate = thinned(curve)
        axes.plot(
            false_rate, true_rate, color=COLOURS[number], linestyle=LINES[number], linewidth=1.8,
            label=f"{DETECTORS[detector]}: AUC {curve.auc:.2f}",
        )  # fmt: skip
        tables.append(
            pd.DataFrame({
                "panel": f"roc_{short}", "detector": detector, "auc": curve.auc,
                "false_positive_rate": false_rate, "true_positive_rate": true_rate,
            })
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":", label="guessing: AUC 0.50")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.set_title(f"junk by {what} ({int(label.sum()):,} of {len(label):,})", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    return pd.concat(tables, ignore_index=True)


def latent_pairs(sets: Sets, seed: int) -> Reproduced | LeftOut:  # noqa: ARG001
    """All pairs of latent axes of view 39, coloured by angle above the diagonal, by defocus below."""
    name = "figure6"
    if "view_39" not in sets:
        return missing(name, "view 39")
    one = sets["view_39"]
    good = _good(one)
    points, psi, defocus = one.latent("z")[good], _true_psi(one)[good], _true_defocus(one)[good]
    axes_n = points.shape[1]
    figure = new_figure(10.4, 9.4)
    panels = figure.subplots(axes_n, axes_n, squeeze=False)
    scales = angle_scale("true in-plane angle (degrees)"), linear_scale("true defocus (µm)", defocus)
    for row in range(axes_n):
        for column in range(axes_n):
            _pair(panels[row, column], points, (psi, defocus), scales, (row, column))
    for scale in scales[::-1]:
        bar = figure.colorbar(ScalarMappable(scale.norm, scale.colour_map), ax=panels, label=scale.label, shrink=0.6)
        if scale.circular:
            bar.set_ticks([-180.0, -90.0, 0.0, 90.0, 180.0])
    figure.suptitle(one.title, fontsize=10)
    caption = (
        f"{one.title}. All pairs of the {axes_n} axes of the latent space: above the diagonal coloured by "
        "the true angle, below it by the true defocus. True particles only; the vertical axis is that of the row, the"
        " horizontal one that of the column, in latent units."
    )
    numbers = pd.DataFrame({f"z{axis + 1}": points[:, axis] for axis in range(axes_n)})
    numbers.insert(0, "id", one.run.estimates["id"].to_numpy()[good])
    numbers.insert(0, "set", one.name)
    numbers["true_psi_deg"], numbers["true_defocus_um"] = psi, defocus
    alt = "Grid of scatter plots of the latent space of view 39, by angle and by defocus."
    return Reproduced(Plot(name, FIGURES[name].title, figure, caption, alt), numbers)


def _pair(
    axes: Axes,
    points: NDArray[np.float64],
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
    scales: tuple[ColourScale, ColourScale],
    place: tuple[int, int],
) -> None:
    row, column = place
    last = points.shape[1] - 1
    if row == column:
        axes.hist(points[:, row], bins=40, color=COLOURS[6])
        axes.set_yticks([])
        axes.set_title(f"axis {row + 1}", fontsize=9, pad=3)
    else:
        which = 0 if row < column else 1
        order = np.random.default_rng(0).permutation(len(points))
        axes.set_facecolor(CLOUD_BACKGROUND)
        axes.scatter(
            points[order, column], points[order, row], c=values[which][order], s=2.0, cmap=scales[which].colour_map,
            norm=scales[which].norm, linewidths=0, rasterized=True,
        )  # fmt: skip
    axes.tick_params(labelsize=7)
    if row == last:
        axes.set_xlabel(f"axis {column + 1} (latent units)", fontsize=8)
    if column == 0:
        axes.set_ylabel("particles" if row == 0 else f"axis {row + 1} (latent units)", fontsize=8)


# -- Figure 8 ----------------------------------------------------------------------------------------------------------


def predictions(sets: Sets, seed: int) -> Reproduced | LeftOut:  # noqa: ARG001
    """Predicted against true angle and defocus, a row for each set."""
    name = "figure8"
    shown = [sets[key] for key in (SIMULATED, "view_93", "view_39", "view_30") if key in sets]
    figure = new_figure(10.4, 4.6 * len(shown))
    panels = figure.subplots(len(shown), 2, squeeze=False)
    tables = []
    for (left, right), one in zip(panels, shown, strict=True):
        angle, defocus = angle_errors(one.run, one.truth, "latent_"), defocus_errors(one.run, one.truth, "latent_")
        found = evaluate_reading(one.run, one.truth, "latent_")
        order = one.run.isotropy_order
        half = 180.0 / order
        hexagons(figure, left, angle, ((-180.0, 180.0), (-half, half)), "angle", "degrees")
        limits = _defocus_limits(defocus)
        hexagons(figure, right, defocus, (limits, limits), "defocus", "µm")
        modulo = f", modulo {360 // order} degrees" if order > 1 else ""
        if order == 1 < one.symmetry_order:
            folded = evaluate_reading(one.up_to_symmetry(), one.truth, "latent_").angle_rmse_weighted_deg
            modulo = f" ({_value(folded)} modulo {360 // one.symmetry_order})"
            for shift in np.arange(1 - one.symmetry_order, one.symmetry_order) * 360.0 / one.symmetry_order:
                left.plot([-180.0, 180.0], [shift - 180.0, shift + 180.0], color="black", linestyle=":", linewidth=0.8)
        _say(left, f"{one.panel}\nweighted rms error {_value(found.angle_rmse_weighted_deg)} degrees{modulo}")
        _say(right, f"{one.panel}\nrms error {_value(found.defocus_rmse_um)} µm")
        tables.append(_pairs_of(one, angle, defocus))
    caption = (
        "Across the truth, up the latent space's estimate; bins with at least one particle are drawn, brighter where "
        "there are more. True particles only, dropped or not; angles after one shift and one sign for the whole set "
        "(equation 8). All should lie on a dashed line; dotted lines are turns that the view nearly allows. "
        f" {_named(shown)}"
    )
    alt = "Predicted against true angle and defocus for every set."
    return Reproduced(Plot(name, FIGURES[name].title, figure, caption, alt), pd.concat(tables, ignore_index=True))


def _value(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _say(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9)


def _defocus_limits(errors: Errors | None) -> tuple[float, float]:
    if errors is None:
        return 0.0, 1.0
    low, high = middle_range(np.concatenate([errors.truth, errors.estimate]), 0.25)
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def _pairs_of(one: ReproducedSet, angle: Errors | None, defocus: Errors | None) -> pd.DataFrame:
    """True and predicted values of the particles that are drawn."""
    columns = {}
    for what, unit, errors in (("psi", "deg", angle), ("defocus", "um", defocus)):
        if errors is not None:
            columns[f"true_{what}_{unit}"] = pd.Series(errors.truth, errors.row)
            columns[f"predicted_{what}_{unit}"] = pd.Series(errors.estimate, errors.row)
    frame = pd.DataFrame(columns)
    frame.insert(0, "id", one.run.estimates["id"].to_numpy()[frame.index])
    frame.insert(0, "set", one.name)
    return frame


Draw = Callable[[Sets, int], Reproduced | LeftOut]
