"""All figures of the report, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

from cryorbit.estimation.truth import Truth
from cryorbit.report import latent_figures, particle_figures, training_figures, truth_figures
from cryorbit.report.drawing import LeftOut, Plot
from cryorbit.report.record import RunRecord

Draw = Callable[[RunRecord, Truth | None], Plot | LeftOut]

FIGURES: tuple[Draw, ...] = (
    particle_figures.montage,
    latent_figures.latent_plane,
    latent_figures.latent_plane_truth,
    truth_figures.predicted_against_true,
    truth_figures.calibration,
    latent_figures.outliers_plane,
    truth_figures.roc_curves,
    particle_figures.histograms,
    training_figures.reconstructions,
    training_figures.losses,
)
