"""One pass over images in memory: noise that is measured, the gauge of shifts, poses that improve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.average import State, improved, mean_noise, measured_noise, recentre, refined, sums_of
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses, accumulate, in_frame

from .blobs import (
    GEOMETRY,
    GRID,
    RINGS,
    TRANSFER,
    Truth,
    draw_truth,
    exact_template,
    make_batch,
    ring_images,
    seen,
    white_noise,
    wrapped,
)  # fmt: skip

NO_PRIOR_px = 1e3


def state_of(poses: Poses, noise: float = 0.3, groups: int = 1) -> State:
    return State(poses, torch.ones(len(poses)), torch.full((groups, RINGS), noise), NO_PRIOR_px)


def noisy(truth: Truth, seed: int, noise: float = 0.3) -> RingImages:
    return ring_images(seen(truth) + math.sqrt(noise) * white_noise(len(truth.psi), seed))


def two_groups(images: RingImages) -> RingImages:
    """Every third image belongs to the second of two groups that see alike."""
    group = (torch.arange(len(images)) % 3 == 2).long()
    return ring_images(images.samples, images.defocus, group=group, transfers=(TRANSFER, TRANSFER))


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_recentring_moves_the_average_and_no_image(seed):
    generator = torch.Generator().manual_seed(seed)
    poses = Poses.at(7 * torch.rand(9, generator=generator), 3 * torch.randn(9, 2, generator=generator), torch.ones(9))
    found = recentre(poses, torch.ones(9))
    before, after = (in_frame(p.psi, p.shift) for p in (poses, found))
    move = before - after
    torch.testing.assert_close(move, move[:1].expand(9, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.median(dim=0).values, torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(found.psi, poses.psi)


def test_recentring_listens_to_images_that_are_trusted():
    poses = Poses.at(torch.zeros(5), torch.tensor([[1.0, 0], [1.0, 0], [9.0, 9], [9.0, 9], [9.0, 9]]), torch.ones(5))
    found = recentre(poses, torch.tensor([1.0, 0.9, 0.1, 0.2, 0.0]))
    torch.testing.assert_close(found.shift[:2], torch.zeros(2, 2))
    # Where none is trusted, all are asked.
    torch.testing.assert_close(recentre(poses, torch.zeros(5)).shift[2:], torch.zeros(3, 2))


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_noise_is_measured_whatever_the_particle(noise, seed):
    truth = draw_truth(300, seed)
    images = noisy(truth, seed, noise)
    found = measured_noise(images, state_of(truth.poses(), 5.0), exact_template(), GEOMETRY)[0] / noise
    # The first rings hold few coefficients, and have lost what the mean of the image held.
    assert float(found.mean()) == pytest.approx(1, abs=0.03)
    assert float((found[2:] - 1).abs().max()) < 0.12
    assert float((found - 1).abs().max()) < 0.3


def test_noise_is_measured_for_each_group_and_only_where_it_was_seen():
    truth = draw_truth(240, 2)
    noise = white_noise(240, 2)
    images = two_groups(ring_images(seen(truth)))
    second = (images.group == 1)[:, None, None]
    images = two_groups(ring_images(images.samples + torch.where(second, 2.0, 1.0) * noise))
    inner = exact_template().inner(15)
    found = measured_noise(images, state_of(truth.poses(), 7.0, 3), inner, GEOMETRY)
    assert float(found[0, :15].mean()) == pytest.approx(1.0, abs=0.05)
    assert float(found[1, :15].mean()) == pytest.approx(4.0, abs=0.25)
    assert (found[2] == 7.0).all()
    assert (found[:, 15:] == 7.0).all()


def test_mean_noise_counts_images():
    images = two_groups(ring_images(white_noise(9, 0)))
    noise = torch.stack([torch.full((RINGS,), 1.0), torch.full((RINGS,), 4.0)])
    torch.testing.assert_close(mean_noise(images, noise), torch.full((RINGS,), 2.0))


def test_sums_are_the_same_in_any_groups_and_batches():
    truth = draw_truth(70, 3)
    images, poses = noisy(truth, 3), truth.poses()
    whole = accumulate(make_batch(images.samples, 0.3), poses, torch.ones(70), GRID)
    for kind, groups in ((images, 1), (two_groups(images), 2)):
        sums = sums_of(kind, state_of(poses, groups=groups), RINGS)
        scale = float(whole.numerator.abs().max())
        torch.testing.assert_close(sums.numerator, whole.numerator, atol=1e-5 * scale, rtol=0)
        torch.testing.assert_close(sums.power, whole.power, rtol=1e-4, atol=0)


def test_batches_have_one_group_and_every_image_once():
    images = two_groups(ring_images(white_noise(50, 1)))
    seen_rows = []
    for rows, batch in images.batches(torch.ones(2, RINGS), 1.0, 8, 10):
        assert len(rows) == len(batch) <= 8
        assert len(images.group[rows].unique()) == 1
        assert batch.samples.shape[2] == len(batch.noise) == 10
        assert torch.equal(batch.samples[:, 0], images.samples[rows, :10])
        seen_rows.append(rows)
    assert torch.equal(torch.cat(seen_rows).sort().values, torch.arange(50))


def test_no_batch_is_empty():
    images = two_groups(ring_images(white_noise(9, 1))).of_rows(torch.tensor([0, 1, 3]))
    assert [len(rows) for rows, _ in images.batches(torch.ones(2, RINGS), 1.0, 8)] == [3]


@pytest.mark.parametrize("seed", range(2))
def test_a_round_brings_poses_nearer_to_the_truth(seed):
    truth = draw_truth(150, seed)
    images = noisy(truth, seed, 0.15)
    generator = torch.Generator().manual_seed(seed)
    start = truth.poses()
    start = Poses.at(start.psi + 0.06 * torch.randn(150, generator=generator),
                     start.shift + 0.4 * torch.randn(150, 2, generator=generator), start.defocus_um)  # fmt: skip

    def spread(poses: Poses) -> tuple[float, float]:
        error = wrapped(poses.psi.numpy() - truth.psi)
        moved = in_frame(poses.psi, poses.shift - torch.from_numpy(truth.shift_px).float())
        return float((error - np.median(error)).std()), float((moved - moved.median(dim=0).values).std())

    before = spread(start)
    state = state_of(start, 0.3)
    for _ in range(3):
        state, template, evidence = improved(images, state, GEOMETRY, RINGS, steps=2)
    after = spread(state.poses)
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.5 * before[1]
    assert float(state.noise.mean()) == pytest.approx(0.15, rel=0.1)
    assert template.rings == RINGS
    assert float((evidence.likelihood_ratio / evidence.promise).median()) == pytest.approx(1.0, abs=0.2)


def test_refined_images_come_in_their_order():
    truth = draw_truth(40, 5)
    images, poses = two_groups(noisy(truth, 5)), truth.poses()
    state = state_of(poses, groups=2)
    found, evidence = refined(images, state, exact_template(), GEOMETRY, 2, own=False)
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    other, judged = refined(images.of_rows(order), state_of(poses.of_rows(order), groups=2), exact_template(), GEOMETRY,
                            2, own=False)  # fmt: skip
    torch.testing.assert_close(other.psi, found.psi[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(judged.likelihood_ratio, evidence.likelihood_ratio[order], rtol=1e-4, atol=1e-3)
