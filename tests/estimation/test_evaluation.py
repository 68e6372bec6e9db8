"""Equation 8: one offset and sign, found exactly, errors wrapped before squaring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.conventions import wrap_deg
from cryorbit.estimation.evaluation import align_angles, best_offset_deg, evaluate, roc


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([360.0, 180.0, 120.0]))
def test_the_best_offset_beats_every_offset_of_a_fine_grid(seed, n, period):
    rng = np.random.default_rng(seed)
    difference, weight = rng.uniform(-180, 180, n), rng.exponential(size=n)

    def cost(offset):
        return (weight * wrap_deg(difference + offset, period) ** 2).sum()

    best = cost(best_offset_deg(difference, weight, period))
    assert best <= min(cost(offset) for offset in np.arange(0, period, 0.25)) + 1e-6


@given(st.floats(-720, 720), st.sampled_from([1, -1]), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_offset_and_sign_cost_nothing(offset, sign, seed):
    truth = np.random.default_rng(seed).uniform(-180, 180, 30)
    aligned = align_angles(wrap_deg(sign * truth + offset), truth)
    np.testing.assert_allclose(aligned.residual_deg, 0, atol=1e-6)
    assert aligned.sign == sign


def test_metrics_of_known_errors():
    rng = np.random.default_rng(0)
    n = 20_000
    truth, defocus = rng.uniform(-180, 180, n), rng.uniform(0.5, 2.5, n)
    std = rng.uniform(1, 6, n)
    outlier = np.arange(n) % 10 == 0
    psi = wrap_deg(np.where(outlier, rng.uniform(-180, 180, n), truth + std * rng.standard_normal(n) + 179))
    found = evaluate(
        psi, truth, defocus + 0.1 * rng.standard_normal(n), defocus, std, np.full(n, 0.1),
        outlier + rng.standard_normal(n) * 1e-3, outlier,
    )  # fmt: skip
    assert found.inliers == n * 9 // 10
    assert np.isclose(found.angle_rmse_deg, np.sqrt(np.mean(std**2)), rtol=0.03)
    assert np.isclose(found.angle_calibration, 1.0, atol=0.03)
    assert np.isclose(found.defocus_rmse_um, 0.1, rtol=0.03)
    assert np.isclose(found.defocus_calibration, 1.0, atol=0.03)
    assert found.outlier_auc == 1.0
    assert np.isclose(wrap_deg(found.angle_offset_deg + 179), 0, atol=0.1)


def test_weights_are_the_papers():
    psi, truth = np.array([0.0, 0.0, 0.0, 9.0]), np.zeros(4)
    defocus = np.array([1.0, 1.0, 1.0, np.log1p(3 * np.expm1(1.0))])  # weighs as much as the other three
    found = evaluate(psi, truth, defocus, None)
    assert np.isclose(found.angle_rmse_weighted_deg, 4.5)
    assert np.isclose(found.angle_rmse_deg, np.sqrt(3 * 2.25**2 / 4 + 6.75**2 / 4))


def test_what_is_not_known_is_left_out():
    found = evaluate(None, None, np.ones(3), None)
    assert (found.angle_rmse_deg, found.defocus_rmse_um, found.outlier_auc) == (None, None, None)


def test_roc_needs_both_kinds():
    with pytest.raises(ValueError, match="both"):
        roc(np.arange(3.0), np.zeros(3, dtype=bool))
