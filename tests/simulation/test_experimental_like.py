"""Ingredients of the experimental-like sets: spread of views, scores with mistakes, defoci of any distribution."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from cryorbit.errors import ConfigurationError
from cryorbit.io import read_particles
from cryorbit.simulation import DefocusQuantiles, draw_truth, make_simulation_config, phantom_projection, simulate
from cryorbit.simulation.experimental_like import (
    LIKE_CLASSES,
    SNR_FACTOR,
    experimental_like_config,
    experimental_like_projections,
    measured_defocus,
    usual_defocus,
)
from cryorbit.simulation.sorting import sorting_z_scores
from cryorbit.simulation.specimens import map_projection, structure_projection, view_matrix
from cryorbit.simulation.view_spread import choose_specimen, cone_tips, nearly_symmetric, spread_projections

from .test_specimens import write_map, write_model

VIEW = (40.0, 65.0)


def test_directions_lie_in_the_cone_and_fill_it_evenly():
    tips = cone_tips(2000, 10.0)
    turns = tips.matrices()
    axis = turns[:, 2]  # the specimen's direction that ends up along z
    assert np.degrees(np.arccos(axis[:, 2])).max() <= 10.0
    np.testing.assert_allclose(np.degrees(np.arccos(axis[:, 2])), tips.tip_deg, atol=1e-9)
    # Even over the sphere: the cosine is uniform, and so is the side.
    lowest = np.cos(np.radians(10.0))
    assert kstest((axis[:, 2] - lowest) / (1 - lowest), "uniform").pvalue > 0.99
    assert kstest(tips.direction_deg / 360.0, "uniform").pvalue > 0.99
    np.testing.assert_allclose(axis[:, :2].mean(axis=0), 0.0, atol=2e-3)


def test_tips_are_rotations_that_turn_nothing_in_the_image():
    turns = cone_tips(50, 10.0).matrices()
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)
    np.testing.assert_allclose(turns[:, 0, 1], turns[:, 1, 0], atol=1e-12)  # symmetric in the plane: no turn


def test_one_direction_is_the_view_itself():
    (seen,) = spread_projections(choose_specimen(None, None), VIEW, cone_tips(1, 10.0))
    np.testing.assert_allclose(seen.image, phantom_projection(view=VIEW).image, atol=1e-9)


def test_maps_and_models_are_seen_as_from_a_single_side(tmp_path):
    volume = np.zeros((32, 32, 32))
    volume[12:20, 10:18, 14:25] = 1.0
    path = write_map(tmp_path / "map.mrc", volume)
    (seen,) = spread_projections(choose_specimen(path, None), VIEW, cone_tips(1, 10.0))
    np.testing.assert_array_equal(seen.image, map_projection(path, VIEW).image)
    model = write_model(
        tmp_path / "model.cif", np.array([[0.0, 0.0, 0.0], [40.0, 3.0, 7.0], [-9.0, 50.0, 21.0]]), "CCC"
    )
    (seen,) = spread_projections(choose_specimen(None, model), VIEW, cone_tips(1, 10.0))
    whole = structure_projection(model, VIEW)
    total = [one.image.sum() * one.pixel_size_A**2 for one in (seen, whole)]
    assert total[0] == pytest.approx(total[1], rel=0.02)


def test_a_tip_along_the_tilt_is_another_tilt():
    tips = cone_tips(2, 10.0)
    tips = type(tips)(np.array([7.0]), np.array([0.0]))
    expected = view_matrix((VIEW[0], VIEW[1] - 7.0))
    np.testing.assert_allclose(tips.matrices()[0] @ view_matrix(VIEW), expected, atol=1e-12)


def test_nearly_symmetric_is_what_it_says():
    specimen = phantom_projection(view=VIEW)
    whole = nearly_symmetric(specimen, 3, 0.0)
    again = nearly_symmetric(whole, 3, 0.0)
    np.testing.assert_allclose(again.image, whole.image, atol=0.02 * whole.image.max())
    part = nearly_symmetric(specimen, 3, 0.25)
    np.testing.assert_allclose(part.image, 0.75 * whole.image + 0.25 * specimen.image)


def test_scores_mark_junk_with_the_mistakes_that_are_said():
    outlier = np.arange(200_000) % 2 == 0
    beyond = np.abs(sorting_z_scores(outlier, 1)) > 2
    assert beyond[~outlier].mean() == pytest.approx(0.026, abs=0.002)
    assert beyond[outlier].mean() == pytest.approx(0.885, abs=0.003)
    np.testing.assert_array_equal(sorting_z_scores(outlier, 1), sorting_z_scores(outlier, 1))


def test_defoci_follow_the_measured_ones():
    measured = np.random.default_rng(0).normal(2.0, 0.4, 5000).clip(0.8, 4.0)
    config = make_simulation_config("noisy", {"images": 20_000, "defocus_um": measured_defocus(measured)})
    drawn = draw_truth(config).defocus_A / 1e4
    probabilities = [0.01, 0.25, 0.5, 0.75, 0.99]
    np.testing.assert_allclose(np.quantile(drawn, probabilities), np.quantile(measured, probabilities), atol=0.03)


def test_the_usual_defoci_are_like_those_of_the_real_set():
    values = np.array(usual_defocus().values_um)
    real_um = {0.01: 1.106, 0.05: 1.349, 0.25: 1.700, 0.5: 2.020, 0.75: 2.337, 0.95: 2.783, 0.99: 3.177}
    found = np.interp(list(real_um), np.linspace(0, 1, len(values)), values)
    np.testing.assert_allclose(found, list(real_um.values()), atol=0.04)


def test_quantiles_must_rise():
    with pytest.raises(ConfigurationError, match="quantiles"):
        DefocusQuantiles((2.0, 1.0))


def test_contrast_differs_between_particles_and_leaves_other_sets_alone():
    config = experimental_like_config(usual_defocus(), 1, 4000)
    truth = draw_truth(config)
    ratio = truth.contrast**2
    assert 1 / SNR_FACTOR <= ratio.min() < 0.6
    assert 1.8 < ratio.max() <= SNR_FACTOR
    assert set(truth.view) == set(range(config.views))
    plain = draw_truth(make_simulation_config("noisy", {"images": 10}))
    assert (plain.contrast == 1).all()
    assert (plain.view == 0).all()


def test_a_set_has_its_own_direction_and_score_in_the_truth(tmp_path):
    config = experimental_like_config(usual_defocus(), 1, 30)
    projections = experimental_like_projections(LIKE_CLASSES["view_30"], choose_specimen(None, None), VIEW)
    simulate(tmp_path, projections, config)
    assert pd.read_csv(tmp_path / "truth.csv")["tip_deg"].between(0, 10).all()
    truth = read_particles(tmp_path / "truth.star")
    assert np.isfinite(truth.numbers("rlnParticleSelectZScore")).all()


def test_as_many_projections_as_views(tmp_path):
    config = experimental_like_config(usual_defocus(), 1, 4)
    with pytest.raises(ConfigurationError, match="40"):
        simulate(tmp_path, phantom_projection(), config)


def test_one_specimen_at_a_time(tmp_path):
    with pytest.raises(ConfigurationError, match="exclude"):
        choose_specimen(tmp_path / "a.mrc", tmp_path / "b.cif")
