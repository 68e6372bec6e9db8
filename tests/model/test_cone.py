"""Laws of the coordinates on the cone, and of the term that tells an encoder to go there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from cryorbit.estimation.lesson import FEWEST, error_ratio
from cryorbit.model.cone import Cone
from cryorbit.model.encoder import LatentPosterior
from cryorbit.model.losses import pose_surprise

ORDERS = st.integers(1, 7)
CONES = st.builds(lambda low, width, order: Cone(low, low + width, order), st.floats(0.1, 3), st.floats(0.2, 4), ORDERS)
ANGLES = st.floats(-math.pi, math.pi)
DEFOCI = st.floats(0.1, 5)
LAW = settings(max_examples=30, deadline=None)


def exact(value):
    return torch.tensor([value], dtype=torch.float64)


def point(cone, psi_rad, defocus_um):
    return cone.points(exact(psi_rad), exact(defocus_um))[0]


@LAW
@given(CONES, ANGLES, DEFOCI)
def test_points_lie_on_the_cone(cone, psi, defocus):
    z = point(cone, psi, defocus)
    torch.testing.assert_close(z[0] ** 2 + z[1] ** 2, z[2] ** 2)
    torch.testing.assert_close(z[2], cone.radius(exact(defocus))[0])


@LAW
@given(CONES, ANGLES, DEFOCI)
def test_angles_that_look_alike_share_a_point(cone, psi, defocus):
    step = 2 * math.pi / cone.order
    torch.testing.assert_close(point(cone, psi + step, defocus), point(cone, psi, defocus))
    across = point(cone, psi + step / 2, defocus)
    torch.testing.assert_close(across[:2], -point(cone, psi, defocus)[:2])


@LAW
@given(CONES, ANGLES, DEFOCI, ANGLES)
def test_a_turn_goes_round_the_cone_as_often_as_the_order_says(cone, psi, defocus, turn):
    before, after = (torch.view_as_complex(point(cone, angle, defocus)[:2]) for angle in (psi, psi + turn))
    torch.testing.assert_close(after, before * np.exp(1j * cone.order * turn))


@LAW
@given(CONES, DEFOCI, DEFOCI)
def test_the_radius_is_linear_in_the_defocus_and_gives_it_back(cone, one, other):
    defocus = torch.tensor([one, other, (one + other) / 2], dtype=torch.float64)
    radius = cone.radius(defocus)
    torch.testing.assert_close(radius[2], (radius[0] + radius[1]) / 2)
    np.testing.assert_allclose(cone.defocus_um(radius.numpy()), defocus.numpy(), rtol=1e-9)
    slope = float(radius[1] - radius[0]) * cone.um_per_height
    np.testing.assert_allclose(slope, other - one, atol=1e-9)
    ends = cone.radius(torch.tensor([cone.low_um, cone.high_um], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.5, 1.5], dtype=torch.float64))


def posterior_and_target(seed, n=6, axes=4):
    rng = torch.Generator().manual_seed(seed)
    mean, log_variance, target = (torch.randn(n, k, generator=rng) for k in (axes, axes, 3))
    return mean, log_variance, target


@pytest.mark.parametrize("seed", range(3))
def test_the_pose_term_is_the_surprise_of_a_normal_distribution(seed):
    mean, log_variance, target = posterior_and_target(seed)
    weight = torch.rand(6, generator=torch.Generator().manual_seed(seed)) + 0.5
    normal = Normal(mean[:, :3], (0.5 * log_variance[:, :3]).exp())
    by_image = -(normal.log_prob(target) + 0.5 * math.log(2 * math.pi)).sum(1)
    expected = (weight * by_image).sum() / weight.sum()
    torch.testing.assert_close(pose_surprise(LatentPosterior(mean, log_variance), target, weight), expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_pose_term_is_least_where_the_posterior_is_right(seed):
    mean, log_variance, target = posterior_and_target(seed)
    weight = torch.ones(6)

    def at(mean, log_variance):
        return float(pose_surprise(LatentPosterior(mean, log_variance), target, weight))

    right = torch.cat([target, mean[:, 3:]], dim=1)
    assert at(right, log_variance) < at(mean, log_variance)
    honest = (mean[:, :3] - target).square().log()
    least = at(mean, torch.cat([honest, log_variance[:, 3:]], dim=1))
    for step in (-0.5, 0.5):
        assert least < at(mean, torch.cat([honest + step, log_variance[:, 3:]], dim=1))


@pytest.mark.parametrize("seed", range(3))
def test_the_pose_term_moves_three_axes_of_the_images_that_count(seed):
    mean, log_variance, target = posterior_and_target(seed)
    mean.requires_grad_()
    log_variance.requires_grad_()
    weight = torch.tensor([1.0, 0.0, 0.7, 1.0, 0.0, 1.0])
    counts = weight > 0
    loss = pose_surprise(LatentPosterior(mean, log_variance), target, weight)
    loss.backward()
    for gradient in (mean.grad, log_variance.grad):
        assert (gradient[:, 3:] == 0).all()
        assert (gradient[~counts] == 0).all()
        assert (gradient[counts][:, :3] != 0).all()
    without = pose_surprise(LatentPosterior(mean[counts], log_variance[counts]), target[counts], weight[counts])
    torch.testing.assert_close(loss, without)


def test_a_batch_of_junk_has_no_pose_term():
    mean, log_variance, target = posterior_and_target(0)
    assert pose_surprise(LatentPosterior(mean, log_variance), target, torch.zeros(6)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_errors_are_measured_in_promised_deviations(seed):
    rng = np.random.default_rng(seed)
    promised = rng.uniform(0.9, 1.1, 4000)
    errors = 3 * promised * rng.normal(size=4000)
    assert np.isclose(error_ratio(errors, promised), 3, rtol=0.12)
    np.testing.assert_allclose(error_ratio(5 * errors, promised), 5 * error_ratio(errors, promised))
    np.testing.assert_allclose(error_ratio(errors, 5 * promised), error_ratio(errors, promised) / 5)
    junk = errors.copy()
    junk[:200] = 1e6
    assert np.isclose(error_ratio(junk, promised), 3, rtol=0.2)
    few = slice(0, FEWEST - 1)
    assert error_ratio(errors[few], promised[few]) == 1
