"""Detectors on clouds whose outliers are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cryorbit.estimation.outliers import DETECTORS, PRIOR_PROBABILITY, find_outliers, robust_z


def cloud(seed=0, n=900, junk=100, distance=6.0):
    rng = np.random.default_rng(seed)
    scale = np.array([1.0, 20.0, 0.1, 3.0])
    good = rng.normal(size=(n, 4)) @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * scale
    bad = (rng.normal(size=(junk, 4)) + distance * np.sign(rng.normal(size=(junk, 4)))) * scale
    truth = np.arange(n + junk) >= n
    order = rng.permutation(n + junk)
    return np.concatenate([good, bad])[order], truth[order]


@pytest.mark.parametrize("method", DETECTORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_clear_outliers_are_found_with_few_false_alarms(method, seed):
    features, truth = cloud(seed)
    found = find_outliers(features, method, seed=0)
    assert roc_auc_score(truth, found.score) > 0.99
    dropped = found.probability > 0.5
    assert dropped[truth].mean() > 0.9
    assert dropped[~truth].mean() < 0.05
    assert ((found.score >= found.threshold) == dropped).all()


@pytest.mark.parametrize("method", DETECTORS)
def test_clustered_junk_is_junk_all_the_same(method):
    rng = np.random.default_rng(3)
    features, truth = cloud(2)
    features[truth] = rng.normal(0, 0.1, (truth.sum(), 4)) + np.array([9.0, 100.0, 0.8, 20.0])
    assert roc_auc_score(truth, find_outliers(features, method, seed=0).score) > 0.95


@pytest.mark.parametrize("method", ["robust_covariance", "local_outlier_factor"])
def test_the_score_does_not_depend_on_the_order(method):
    features, _ = cloud()
    order = np.random.default_rng(9).permutation(len(features))
    one, other = find_outliers(features, method, 0), find_outliers(features[order], method, 0)
    assert np.corrcoef(one.score[order], other.score)[0, 1] > 0.999


def test_a_clean_set_loses_little():
    for seed in range(5):
        features, _ = cloud(seed, junk=0)
        for method in DETECTORS:
            assert (find_outliers(features, method, 0).probability > 0.5).mean() < 0.06


def test_probability_rises_with_the_score():
    features, _ = cloud()
    for method in DETECTORS:
        found = find_outliers(features, method, 0)
        assert (np.diff(found.probability[np.argsort(found.score)]) >= 0).all()
        assert found.probability.min() >= 0
        assert found.probability.max() <= 1


@pytest.mark.parametrize("n", [1, 5, 19])
def test_too_few_particles_get_the_prior(n):
    found = find_outliers(np.random.default_rng(0).normal(size=(n, 4)), "robust_covariance", 0)
    assert not found.meaningful
    assert (found.probability == PRIOR_PROBABILITY).all()


def test_robust_z_of_a_normal_sample_is_standard():
    z = robust_z(np.random.default_rng(0).normal(7, 3, 10_000))
    assert abs(np.median(z)) < 1e-9
    assert np.isclose(z.std(), 1, rtol=0.05)


def test_unknown_detectors_are_refused():
    with pytest.raises(ValueError, match="expected one of isolation_forest"):
        find_outliers(np.zeros((50, 2)), "crystal_ball", 0)


@pytest.mark.parametrize("seed", range(4))
def test_strata_of_a_noise_free_set_are_no_junk(seed):
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 6, 1200) / 5.0
    bends = [level, level**2, np.sqrt(level + 0.05), np.sin(2 * level), np.cos(3 * level), np.exp(-4 * level)]
    features = np.stack(bends, axis=1) + 1e-3 * rng.normal(size=(1200, 6))
    assert (find_outliers(features, "robust_covariance", 0).probability > 0.5).mean() < 0.02
