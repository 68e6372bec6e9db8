"""How particles are spread over angles, and over the micrographs that they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.estimation.truth import Truth
from cryorbit.report.drawing import COLOURS, LeftOut, Plot, new_figure, say_nothing
from cryorbit.report.record import RunRecord

ANGLE_BINS = 36
MICROGRAPH = "rlnMicrographName"
# A micrograph with fewer kept particles tells nothing of itself; one that is so many deviations off is named.
FEWEST, FAR = 8, 5.0
MOST_NAMED = 5
NORMAL_MAD = 1.4826


def orientations(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """In-plane angles of the kept particles, which nature has no preference for."""
    name, title = "orientations", "In-plane angles"
    period = 360.0 / run.isotropy_order
    psi = run.column("psi_deg")[run.kept]
    psi = psi[np.isfinite(psi)]
    if not run.angle_known or len(psi) < ANGLE_BINS:
        return LeftOut(name, title, "No angles of kept particles are known, or too few to see how they are spread.")
    edges = np.linspace(-period / 2, period / 2, ANGLE_BINS + 1)
    counts, _ = np.histogram((psi + period / 2) % period - period / 2, edges)
    expected = len(psi) / ANGLE_BINS
    chi2 = float(np.sum((counts - expected) ** 2) / expected / (ANGLE_BINS - 1))
    figure = new_figure(9.0, 3.4)
    axes = figure.subplots()
    axes.axhspan(expected - 2 * np.sqrt(expected), expected + 2 * np.sqrt(expected), color=COLOURS[6], alpha=0.25)
    axes.axhline(
        expected, color=COLOURS[6], linestyle="--", linewidth=1.2, label="all angles alike, and twice its chance"
    )
    axes.stairs(counts, edges, color=COLOURS[0], linewidth=1.8, label="kept particles")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("in-plane angle (degrees)")
    axes.set_ylabel(f"particles in {period / ANGLE_BINS:g} degrees")
    axes.legend(fontsize=9, loc="lower right")
    caption = (
        "A microscope has no preferred in-plane angle, so all bins should be alike within chance (band; chi-squared "
        f"per degree of freedom {chi2:.2f}, where 1 is chance). A peak at 0 or at multiples of 90 degrees means that "
        "something of the images' own frame, such as a stripe or an edge, was taken for the particle."
    )
    return Plot(name, title, figure, caption, f"Histogram of in-plane angles; chi-squared {chi2:.2f}.")


@dataclass(frozen=True)
class ByMicrograph:
    """What the particles of each micrograph say together; arrays of shape (m,), most dropped first.

    Attributes
    ----------
    names
        Of the micrographs.
    particles, kept
        Numbers.
    misfit
        Mean of what the average leaves in the kept particles, in robust standard deviations of it over micrographs of
        as many; NaN where there are too few.
    """

    names: NDArray[np.object_]
    particles: NDArray[np.int64]
    kept: NDArray[np.int64]
    misfit: FloatArray

    @property
    def dropped_share(self) -> FloatArray:
        """Share of the particles that were dropped."""
        return np.asarray(1.0 - self.kept / self.particles)


def by_micrograph(run: RunRecord) -> ByMicrograph | None:
    """Numbers and misfit by micrograph; None where the file does not say which each particle is from."""
    if run.file_columns is None or MICROGRAPH not in run.file_columns:
        return None
    residual = run.column("orbit_residual" if run.has_alignment else "outlier_score")
    frame = pd.DataFrame({
        "name": run.file_columns[MICROGRAPH].astype(str), "kept": run.kept,
        "residual": np.where(run.kept, residual, np.nan),
    })  # fmt: skip
    groups = frame.groupby("name", sort=True)
    particles, kept = groups.size().to_numpy(dtype=np.int64), groups["kept"].sum().to_numpy(dtype=np.int64)
    mean, known = groups["residual"].mean().to_numpy(), groups["residual"].count().to_numpy()
    enough = known >= FEWEST
    misfit = np.full(len(particles), np.nan)
    if enough.sum() > 2:
        middle = np.nanmedian(residual[run.kept])
        scaled = (mean - middle) * np.sqrt(known)
        spread = NORMAL_MAD * np.median(np.abs(scaled[enough] - np.median(scaled[enough])))
        misfit[enough] = (scaled[enough] - np.median(scaled[enough])) / max(float(spread), 1e-12)
    order = np.argsort(-(1.0 - kept / particles), kind="stable")
    names = np.array(list(groups.groups), dtype=object)
    return ByMicrograph(names[order], particles[order].astype(np.int64), kept[order], misfit[order])


def micrographs(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """Micrographs whose particles are dropped, or fit the average, unlike those of the others."""
    name, title = "micrographs", "By micrograph"
    found = by_micrograph(run)
    if found is None or len(found.names) < 3:
        return LeftOut(name, title, "The file does not say of several micrographs which each particle is from.")
    figure = new_figure(10.0, 3.6)
    panels = figure.subplots(1, 2)
    _dropped_panel(panels[0], found)
    _misfit_panel(panels[1], found)
    what = "power that the average leaves in its kept particles" if run.has_alignment else "outlier score of those kept"
    caption = (
        f"Left, the share of dropped particles of each of the {len(found.names):,} micrographs, the worst first; the "
        "band is what chance makes of one share for all. Right, for micrographs of "
        f"{FEWEST} or more kept particles, the mean {what}, in robust standard deviations over the micrographs: a bad "
        f"one (ice, drift, a wrong defocus) stands out. {_named(found)}"
    )
    return Plot(name, title, figure, caption, f"Dropped particles and misfit by micrograph. {_named(found)}")


def _named(found: ByMicrograph) -> str:
    """Micrographs that stand out, by name."""
    far = np.flatnonzero(found.misfit > FAR)
    far = far[np.argsort(-found.misfit[far], kind="stable")]
    if not len(far):
        return f"None is {FAR:g} deviations worse than the others."
    shown = ", ".join(f"{found.names[k]} ({found.misfit[k]:.0f})" for k in far[:MOST_NAMED])
    more = f" and {len(far) - MOST_NAMED} more" if len(far) > MOST_NAMED else ""
    return f"Worse than the others by {FAR:g} deviations or more: {shown}{more}."


def _dropped_panel(axes: Axes, found: ByMicrograph) -> None:
    rank = np.arange(1, len(found.names) + 1)
    share = 1.0 - found.kept.sum() / found.particles.sum()
    chance = 2 * np.sqrt(share * (1 - share) / np.median(found.particles))
    axes.axhspan(100 * max(share - chance, 0.0), 100 * min(share + chance, 1.0), color=COLOURS[6], alpha=0.25)
    axes.plot(rank, 100 * found.dropped_share, color=COLOURS[0], linewidth=1.8, drawstyle="steps-mid")
    axes.set_xlabel("micrograph, by rank")
    axes.set_ylabel("dropped particles (%)")
    axes.set_ylim(-2, 102)


def _misfit_panel(axes: Axes, found: ByMicrograph) -> None:
    known = np.isfinite(found.misfit)
    axes.set_xlabel("kept particles of the micrograph")
    axes.set_ylabel("misfit (robust standard deviations)")
    if not known.any():
        say_nothing(axes, f"no micrograph has {FEWEST} kept particles")
        return
    axes.axhline(0.0, color=COLOURS[6], linewidth=1.0)
    axes.axhline(FAR, color=COLOURS[6], linestyle="--", linewidth=1.0)
    far = found.misfit > FAR
    axes.scatter(
        found.kept[known & ~far], found.misfit[known & ~far], s=9, color=COLOURS[0], linewidths=0, rasterized=True
    )
    axes.scatter(found.kept[far], found.misfit[far], s=26, color=COLOURS[1], marker="^", linewidths=0)
