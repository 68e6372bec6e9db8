"""Refinement of a pose: its likelihood written out in float64, laws of turns and moves, honest deviations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.polar import squared, to_harmonics, to_samples
from cryorbit.alignment.refine import Poses, accumulate, compare, in_average_frame, in_frame, refine
from cryorbit.alignment.templates import order_weight
from cryorbit.alignment.transfer import RingTransfer

from .blobs import (
    BOX,
    GRID,
    RINGS,
    SPECIMEN,
    TRANSFER,
    TRANSFORM,
    SEARCHED_um,
    Truth,
    draw_truth,
    exact_template,
    make_batch,
    seen,
    white_noise,
    wrapped,
)  # fmt: skip

TEMPLATE = exact_template()
# About a hundred nats: 0.7 degrees, 0.1 px and 0.07 um can be known.
NOISE = 0.15
NO_PRIOR_px = 1e3


def noisy(truth: Truth, seed: int, noise: float = NOISE) -> torch.Tensor:
    return seen(truth) + math.sqrt(noise) * white_noise(len(truth.psi), seed)


def moved(poses: Poses, turn: float, move_px: tuple[float, float], defocus_um: float) -> Poses:
    return Poses.at(poses.psi + turn, poses.shift + torch.tensor(move_px), poses.defocus_um + defocus_um)


def errors(found: Poses, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of angle in radians, of shift in pixels in the frame of the average, of defocus in micrometres."""
    psi = wrapped(found.psi.numpy() - truth.psi)
    shift = in_frame(torch.from_numpy(truth.psi), found.shift.double() - torch.from_numpy(truth.shift_px)).numpy()
    return psi, shift, found.defocus_um.numpy() - truth.defocus_um


def written_out(sample: torch.Tensor, noise: float, psi: float, shift_px: np.ndarray, defocus_um: float) -> float:
    """Log-likelihood of one image over noise alone, from the specimen's own samples at the pose, in float64."""
    model = SPECIMEN.samples(GRID, np.array([psi]), shift_px[None])[0]
    chi = defocus_um * TRANSFER.slope_per_um.double() + TRANSFER.offset.double()
    model = model * torch.sin(chi)[:, None]
    ring = (model.conj() * sample.to(torch.complex128)).real.mean(dim=1) - 0.5 * squared(model).mean(dim=1)
    return float((ring * 2 * math.pi * torch.arange(1, RINGS + 1) / (BOX**2 * noise)).sum())


def fixed(defocus_um: torch.Tensor) -> DefocusRange:
    return DefocusRange(SEARCHED_um, fixed_um=defocus_um)


@pytest.mark.parametrize("seed", range(3))
def test_likelihood_and_gradient_are_those_of_the_written_out_sum(seed):
    truth = draw_truth(1, seed)
    poses = moved(truth.poses(), 0.04, (0.3, -0.2), 0.05)
    batch = make_batch(noisy(truth, seed), NOISE, NO_PRIOR_px, fixed(poses.defocus_um)).inner(RINGS)
    psi, shift, defocus = float(poses.psi), poses.shift[0].double().numpy(), float(poses.defocus_um)
    sample = batch.samples[0, 0]
    found = refine(batch, TEMPLATE, poses, GRID, steps=0)
    expected = written_out(sample, NOISE, psi, shift, defocus)
    assert float(found.log_likelihood) == pytest.approx(expected, rel=2e-3, abs=0.02)

    h = 1e-3
    numeric = [(written_out(sample, NOISE, psi + h, shift, defocus)
                - written_out(sample, NOISE, psi - h, shift, defocus)) / (2 * h)]  # fmt: skip
    for axis in (0, 1):
        # A step along the average's axis, seen in the image.
        step = in_frame(-poses.psi, h * torch.eye(2)[axis : axis + 1])[0].double().numpy()
        numeric.append((written_out(sample, NOISE, psi, shift + step, defocus)
                        - written_out(sample, NOISE, psi, shift - step, defocus)) / (2 * h))  # fmt: skip
    harmonics = in_average_frame(batch, poses, GRID, TEMPLATE.harmonics.shape[1])
    gradient = compare(harmonics, TEMPLATE, batch, None, poses, GRID).gradient
    gradient = (batch.transfer.amplitude(poses.defocus_um) * batch.ring_weight())[..., None] * gradient
    np.testing.assert_allclose(
        gradient.sum(dim=(0, 1, 2)).numpy(), numeric, rtol=0.01, atol=0.02 * np.abs(numeric).max()
    )


def test_covariance_is_the_inverse_of_the_curvature():
    """Of the written out likelihood of a noise-free image at its pose, where the curvature is the information."""
    truth = draw_truth(1, 4)
    poses = truth.poses()
    batch = make_batch(seen(truth), NOISE, NO_PRIOR_px, fixed(poses.defocus_um))
    found = refine(batch, TEMPLATE, poses, GRID, steps=0)

    def likelihood(step: np.ndarray) -> float:
        shift = in_frame(-(poses.psi + step[0]), torch.tensor([[step[1], step[2]]]).float())[0].double().numpy()
        return written_out(batch.samples[0, 0], NOISE, truth.psi[0] + step[0], truth.shift_px[0] + shift,
                           truth.defocus_um[0])  # fmt: skip

    h = np.array([0.004, 0.02, 0.02])
    curvature = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            a, b = h[i] * np.eye(3)[i], h[j] * np.eye(3)[j]
            mixed = likelihood(a + b) - likelihood(a - b) - likelihood(b - a) + likelihood(-a - b)
            curvature[i, j] = -mixed / (4 * h[i] * h[j])
    std = np.sqrt(np.diag(np.linalg.inv(curvature)))
    relative = (found.covariance[0].numpy() - np.linalg.inv(curvature)) / np.outer(std, std)
    assert np.abs(relative).max() < 0.03


@given(seed=st.integers(0, 10_000), direction=st.floats(0, 2 * math.pi), turn=st.sampled_from([-1, 1]),
       side=st.sampled_from([-1, 1]))  # fmt: skip
@settings(deadline=None, max_examples=10)
def test_a_start_nearby_ends_at_the_truth(seed, direction, turn, side):
    """From 2 degrees, half a pixel and 0.1 um off."""
    truth = draw_truth(12, seed)
    move = (0.5 * math.cos(direction), 0.5 * math.sin(direction))
    start = moved(truth.poses(), turn * math.radians(2.0), move, side * 0.1)
    found = refine(make_batch(seen(truth), 1e-3, NO_PRIOR_px), TEMPLATE, start, GRID, steps=4)
    psi, shift, defocus = errors(found, truth)
    assert np.abs(psi).max() < math.radians(0.002)
    assert np.abs(shift).max() < 5e-4
    assert np.abs(defocus).max() < 1e-3


def test_astigmatic_images_have_their_poses_and_fit_better_than_without():
    truth = draw_truth(20, 6)
    half, angle = torch.linspace(-0.5, 0.5, 20), torch.linspace(0.0, 3.0, 20)
    samples = seen(truth, astigmatism=(half, angle))
    transfer = TRANSFER.with_astigmatism(half, angle)
    blind = make_batch(samples, NOISE, NO_PRIOR_px)
    batch = replace(blind, samples=transfer.split(samples, GRID), transfer=transfer)
    start = moved(truth.poses(), 0.02, (0.3, -0.3), 0.05)
    found = refine(batch, TEMPLATE, start, GRID, steps=4)
    psi, shift, defocus = errors(found, truth)
    # The power of an astigmatic image is taken to be that of a round average: less than the deviations.
    std = found.covariance.diagonal(dim1=1, dim2=2).sqrt().numpy()
    assert (np.abs(psi) < 0.4 * std[:, 0]).all()
    assert (np.abs(shift) < 0.4 * std[:, 1:]).all()
    assert (np.abs(defocus) < 1.8 * found.defocus_variance_um2.sqrt().numpy()).all()
    without = refine(blind, TEMPLATE, start, GRID, steps=4)
    assert float((found.log_likelihood - without.log_likelihood).mean()) > 1.0


@pytest.mark.parametrize("seed", range(3))
def test_errors_are_as_large_as_their_deviation(seed):
    truth = draw_truth(200, seed)
    found = refine(make_batch(noisy(truth, seed), NOISE, NO_PRIOR_px), TEMPLATE, truth.poses(), GRID, steps=3)
    psi, shift, defocus = errors(found, truth)
    variances = found.covariance.diagonal(dim1=1, dim2=2).numpy()
    for error, variance in [
        (psi, variances[:, 0]), (shift[:, 0], variances[:, 1]), (shift[:, 1], variances[:, 2]),
        (defocus, found.defocus_variance_um2.numpy()),
    ]:  # fmt: skip
        z = error / np.sqrt(variance)
        assert 0.8 < z.std() < 1.25
        assert abs(z.mean()) < 0.3


@given(turn=st.floats(-math.pi, math.pi))
@settings(deadline=None, max_examples=10)
def test_turning_the_images_turns_the_estimates(turn):
    """image(R(t) x) has the angle psi + t, and its shift turns back by t."""
    truth = draw_truth(10, 1)
    samples = noisy(truth, 1)
    phase = torch.polar(torch.ones(GRID.orders), turn * torch.arange(GRID.orders))
    turned = to_samples(to_harmonics(samples, GRID.orders) * phase, GRID.angles)
    start = truth.poses()
    other = Poses.at(start.psi + turn, in_frame(torch.full((10,), -turn), start.shift), start.defocus_um)
    one = refine(make_batch(samples, NOISE), TEMPLATE, start, GRID, steps=3)
    two = refine(make_batch(turned, NOISE), TEMPLATE, other, GRID, steps=3)
    assert np.abs(wrapped(two.psi - one.psi - turn)).max() < 2e-3
    torch.testing.assert_close(two.shift, in_frame(torch.full((10,), -turn), one.shift), atol=0.02, rtol=0)
    torch.testing.assert_close(two.defocus_um, one.defocus_um, atol=5e-3, rtol=0)


@pytest.mark.parametrize("move_px", [(1, 0), (-2, 1), (2, 3)])
def test_moving_the_images_by_whole_pixels_moves_the_shifts(move_px):
    """Pixels rolled, noise and all; the disc cuts other noise off, far from the particle."""
    n = 20
    truth = draw_truth(n, 2, shift_px=0.5)
    pixels = torch.stack([torch.from_numpy(SPECIMEN.image(BOX, p, tuple(t))).float() for p, t in
                          zip(truth.psi, truth.shift_px, strict=True)])  # fmt: skip
    pixels = pixels + 0.4 * torch.randn(n, BOX, BOX, generator=torch.Generator().manual_seed(0))
    rolled = pixels.roll((move_px[1], move_px[0]), dims=(1, 2))
    # Seen without a microscope: the phase of the transfer function is a quarter wave.
    unit = RingTransfer(torch.zeros(RINGS), torch.full((RINGS,), math.pi / 2))
    start = replace(truth.poses(), defocus_um=torch.ones(n))
    found = []
    for images, move in ((pixels, (0.0, 0.0)), (rolled, tuple(float(v) for v in move_px))):
        batch = replace(make_batch(TRANSFORM(images), 0.16, NO_PRIOR_px, fixed(torch.ones(n))), transfer=unit)
        found.append(refine(batch, TEMPLATE, moved(start, 0.0, move, 0.0), GRID, steps=3))
    std = found[0].covariance.diagonal(dim1=1, dim2=2).sqrt()
    difference = found[1].shift - found[0].shift - torch.tensor(move_px)
    assert float((difference.abs() / std[:, 1:]).max()) < 0.5
    assert float(((found[1].psi - found[0].psi).abs() / std[:, 0]).max()) < 0.5


def test_a_narrow_prior_draws_shifts_to_the_centre():
    truth = draw_truth(30, 3, shift_px=0.8)
    samples = seen(truth)
    free = refine(make_batch(samples, NOISE, NO_PRIOR_px), TEMPLATE, truth.poses(), GRID, steps=4)
    spread = float(free.covariance.diagonal(dim1=1, dim2=2)[:, 1:].mean().sqrt())
    bound = refine(make_batch(samples, NOISE, spread), TEMPLATE, truth.poses(), GRID, steps=6)
    # Image and prior are equally sure: half of the way, more or less with the direction.
    ratio = (bound.shift * free.shift).sum() / free.shift.square().sum()
    assert 0.4 < float(ratio) < 0.6
    assert float(bound.covariance[:, 1, 1].mean() / free.covariance[:, 1, 1].mean()) == pytest.approx(0.5, abs=0.1)


def test_noise_alone_leaves_the_shift_to_its_prior():
    poses = draw_truth(10, 5).poses()
    found = refine(make_batch(white_noise(10, 5), 1e6, 1.7), TEMPLATE, poses, GRID, steps=6)
    assert float(found.shift.abs().max()) < 0.05
    torch.testing.assert_close(found.covariance[:, 1, 1].sqrt(), torch.full((10,), 1.7), rtol=0.01, atol=0)


def test_a_batch_is_its_images_one_by_one():
    truth = draw_truth(6, 7)
    batch, start = make_batch(noisy(truth, 7), NOISE), truth.poses()
    together = refine(batch, TEMPLATE, start, GRID, steps=2)
    for row in range(6):
        rows = torch.tensor([row])
        alone = refine(batch.of_rows(rows), TEMPLATE, start.of_rows(rows), GRID, steps=2)
        for one, same in zip(alone.fields(), together.of_rows(rows).fields(), strict=True):
            torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)


def test_steps_are_bounded():
    """From the wrong side of the circle no single step leads far."""
    truth = draw_truth(20, 8)
    start = moved(truth.poses(), 1.0, (3.0, 3.0), 0.0)
    found = refine(make_batch(seen(truth), 1e-3, NO_PRIOR_px), TEMPLATE, start, GRID, steps=1)
    assert float((found.psi - start.psi).abs().max()) <= 0.06 + 1e-5
    assert float(torch.linalg.vector_norm(found.shift - start.shift, dim=1).max()) <= 1.5 * math.sqrt(2) + 1e-4


def test_an_uncertain_pose_blurs_as_the_mean_over_its_distribution():
    """Sums of one image over many poses drawn from a normal distribution are the blurred sums."""
    truth = draw_truth(1, 9)
    n, std = 6000, torch.tensor([0.04, 0.5, 0.5])
    pose = truth.poses()
    deviation = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)) * std
    batch = make_batch(seen(truth), NOISE)
    cloud = Poses.at(pose.psi + deviation[:, 0], pose.shift + deviation[:, 1:], pose.defocus_um.expand(n))
    total = torch.zeros(RINGS, GRID.orders, dtype=torch.complex64)
    for rows in torch.arange(n).split(500):
        many = batch.of_rows(torch.zeros(len(rows), dtype=torch.long))
        total += accumulate(many, cloud.of_rows(rows), torch.full((len(rows),), 1 / n), GRID).numerator
    uncertain = replace(pose, covariance=torch.diag(std**2)[None])
    blurred = accumulate(batch, uncertain, torch.ones(1), GRID)
    plain = accumulate(batch, pose, torch.ones(1), GRID)
    weight = GRID.radius[:, None] * order_weight(GRID.orders)
    left, before = ((sums.numerator - total).abs().square() * weight for sums in (blurred, plain))
    assert float(left.sum()) < 0.02 * float(before.sum())
    torch.testing.assert_close(blurred.power, plain.power)


def test_inner_rings_of_a_batch_have_the_same_weights():
    truth = draw_truth(3, 1)
    batch = make_batch(seen(truth), NOISE)
    torch.testing.assert_close(batch.inner(9).ring_weight(), batch.ring_weight()[:9])
    assert batch.inner(9).samples.shape[2] == 9
