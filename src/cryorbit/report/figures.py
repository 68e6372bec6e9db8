"""All figures of the report, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

from cryorbit.estimation.truth import Truth
from cryorbit.report import (
    alignment_figures,
    distribution_figures,
    histogram_figures,
    latent_figures,
    particle_figures,
    training_figures,
    truth_figures,
)
from cryorbit.report.drawing import LeftOut, Plot
from cryorbit.report.record import RunRecord

Draw = Callable[[RunRecord, Truth | None], Plot | LeftOut]

FIGURES: tuple[Draw, ...] = (
    alignment_figures.class_average,
    alignment_figures.possible,
    truth_figures.predicted_against_true,
    truth_figures.calibration,
    particle_figures.montage,
    particle_figures.aligned,
    truth_figures.roc_curves,
    histogram_figures.histograms,
    distribution_figures.orientations,
    distribution_figures.micrographs,
    alignment_figures.agreement,
    latent_figures.latent_plane,
    latent_figures.latent_plane_truth,
    latent_figures.outliers_plane,
    training_figures.reconstructions,
    training_figures.losses,
)
