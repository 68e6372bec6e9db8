"""The first average: soft assignment, and defoci from the gains of the rings alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryorbit.alignment.average import State
from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses
from cryorbit.alignment.start import defocus_by_gains, first_state, ring_correlations, soft_start

from .blobs import (
    GEOMETRY,
    RINGS,
    TRANSFER,
    SEARCHED_um,
    Truth,
    draw_truth,
    exact_template,
    ring_images,
    seen,
    white_noise,
    wrapped,
)  # fmt: skip

NOISE = 0.2


def noisy(truth: Truth, seed: int, noise: float = NOISE, defocus: DefocusRange | None = None) -> RingImages:
    return ring_images(seen(truth) + math.sqrt(noise) * white_noise(len(truth.psi), seed), defocus)


def state_of(poses: Poses, noise: float = NOISE) -> State:
    return State(poses, torch.ones(len(poses)), torch.full((1, RINGS), noise), 2.0)


def spread_deg(psi: torch.Tensor, truth: Truth) -> np.ndarray:
    """Errors of angles up to one turn of all, in degrees."""
    error = psi.numpy() - truth.psi
    return np.degrees(wrapped(error - np.angle(np.exp(1j * error).mean())))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_random_turns_become_angles_that_agree(seed):
    truth = draw_truth(100, seed)
    state, evidence = soft_start(noisy(truth, seed), GEOMETRY, 6, generator(seed))
    assert np.median(np.abs(spread_deg(state.poses.psi, truth))) < 8.0
    assert math.isfinite(evidence)
    assert (state.noise > 0).all()


def test_a_hint_is_kept_up_to_its_errors():
    """Angles that are right but for 10 degrees stay where they are, with no turn of all of them."""
    truth = draw_truth(80, 3)
    hint = torch.from_numpy(truth.psi).float() + 0.17 * torch.randn(80, generator=generator(5))
    state, evidence = soft_start(noisy(truth, 3), GEOMETRY, 4, generator(), hint)
    error = np.degrees(wrapped(state.poses.psi.numpy() - truth.psi))
    assert abs(np.median(error)) < 5.0
    assert np.median(np.abs(error)) < 6.0
    noise = ring_images(white_noise(80, 3))
    assert evidence > soft_start(noise, GEOMETRY, 4, generator())[1]


def test_ring_correlations_are_transfer_function_times_gain():
    truth = draw_truth(60, 4)
    images = ring_images(seen(truth))
    # The defoci with which the images enter only have to be good enough for the sign of a ring.
    correlation, gain = ring_correlations(images, state_of(truth.poses(), 1e-3), RINGS)
    assert correlation.shape == (60, 1, RINGS)
    expected = TRANSFER.amplitude(torch.from_numpy(truth.defocus_um).float())[:, 0] * exact_template().energy.sqrt()
    sign = torch.sign((correlation[:, 0] * expected).sum(dim=0))
    scale = expected.square().mean(dim=0).sqrt()
    assert float(((correlation[:, 0] * sign - expected) / scale).abs().max()) < 0.05
    torch.testing.assert_close(gain * sign, exact_template().energy.sqrt(), rtol=0.05, atol=0)


@pytest.mark.parametrize("offset_um", [-0.5, 0.0, 0.9, 1.7])
def test_defoci_by_gains_come_back_from_afar(offset_um):
    """However far off all defoci are together, the best of many starts is the truth."""
    truth = draw_truth(120, 5)
    poses = truth.poses()
    wrong = Poses.at(poses.psi, poses.shift, (poses.defocus_um + offset_um).clamp(0.2, 4.2))
    found, behind = defocus_by_gains(noisy(truth, 5), state_of(wrong), RINGS, generator(), from_afar=True)
    error = found.numpy() - truth.defocus_um
    assert abs(np.median(error)) < 0.05
    assert np.median(np.abs(error)) < 0.15
    assert behind > 10.0


def test_defoci_that_hardly_differ_are_found_too():
    """From 1.4 to 1.6 um: what little diversity there is tells the right solution from others."""
    truth = draw_truth(150, 6, defocus_um=(1.4, 1.6))
    found, behind = defocus_by_gains(noisy(truth, 6), state_of(truth.poses()), RINGS, generator(), from_afar=True)
    assert abs(np.median(found.numpy() - truth.defocus_um)) < 0.1
    assert behind > 10.0


@pytest.mark.parametrize("prior", ["given", "micrograph"])
def test_a_known_defocus_is_used(prior):
    truth = draw_truth(80, 7)
    known = torch.from_numpy(truth.defocus_um).float() + 0.05
    fixed = DefocusRange(SEARCHED_um, fixed_um=known)
    defocus = fixed if prior == "given" else DefocusRange(SEARCHED_um, known, 0.15)
    start = first_state(noisy(truth, 7, defocus=defocus), GEOMETRY, 6, 1, 0)
    error = start.state.poses.defocus_um.numpy() - truth.defocus_um
    assert np.abs(error).max() < (0.051 if prior == "given" else 0.5)
    assert start.rival_nats == math.inf or start.rival_nats > 0
    assert np.median(np.abs(spread_deg(start.state.poses.psi, truth))) < 3.0


def test_several_starts_agree_on_a_particle_and_not_on_noise():
    particles = first_state(noisy(draw_truth(80, 8), 8), GEOMETRY, 6, 2, 0)
    noise = first_state(ring_images(white_noise(80, 8)), GEOMETRY, 3, 2, 0)
    assert particles.agreement > 0.9
    assert noise.agreement < 0.6


def test_the_same_seed_gives_the_same_start():
    images = noisy(draw_truth(50, 9), 9)
    one, other, third = (first_state(images, GEOMETRY, 2, 1, seed) for seed in (4, 4, 5))
    assert torch.equal(one.state.poses.psi, other.state.poses.psi)
    assert one.evidence == other.evidence
    assert one.evidence != third.evidence


def test_a_small_box_gets_its_defoci_right_too():
    """A start whose defoci are all 1.75 um off, which only other starts can leave."""
    truth = draw_truth(150, 0)
    samples = seen(truth) + math.sqrt(0.15) * white_noise(150, 0)
    samples[:12] = math.sqrt(0.15) * white_noise(12, 77)
    start = first_state(ring_images(samples), GEOMETRY, 4, 1, 0)
    error = (start.state.poses.defocus_um.numpy() - truth.defocus_um)[12:]
    assert abs(np.median(error)) < 0.1


def test_astigmatism_may_be_negligible_in_some_batches_only():
    truth = draw_truth(60, 10)
    half, angle = torch.cat([torch.zeros(32), torch.full((28,), 0.2)]), torch.linspace(0.0, 3.0, 60)
    samples = seen(truth, astigmatism=(half, angle)) + 0.4 * white_noise(60, 10)
    images = ring_images(samples, astigmatism_um=half, astigmatism_rad=angle)
    correlation, _ = ring_correlations(images, state_of(truth.poses()), RINGS)
    assert len(correlation) == 60
