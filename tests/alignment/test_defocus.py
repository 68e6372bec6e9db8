"""The posterior of the defocus against sums over a fine grid in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.transfer import RingTransfer

from .blobs import RINGS, TRANSFER, SEARCHED_um

SEARCHED = DefocusRange(SEARCHED_um)
ASTIGMATIC = TRANSFER.with_astigmatism(torch.tensor([0.3]), torch.tensor([0.7]))
# Power of an average over that of the noise, falling as a particle's does; about a hundred nats in all.
ENERGY = 40.0 * torch.exp(-torch.arange(RINGS) / 6.0)
FINE_um = torch.linspace(0.2, 4.2, 8001, dtype=torch.float64)


def correlation_of(defocus_um: torch.Tensor, energy: torch.Tensor, transfer: RingTransfer) -> torch.Tensor:
    """Correlations of noise-free images with a round average."""
    amplitude = transfer.amplitude(defocus_um) * energy
    if transfer.channels == 1:
        return amplitude
    coherence = transfer.ring_coherence()
    return amplitude * 0.5 * torch.stack([1 + coherence, 1 - coherence], dim=1)


def with_noise(correlation: torch.Tensor, energy: torch.Tensor, seed: int) -> torch.Tensor:
    noise = torch.randn(correlation.shape, generator=torch.Generator().manual_seed(seed))
    return correlation + noise * energy.sqrt()


def fine_log_p(correlation: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    """Log-likelihood on the fine grid without astigmatism, written out in float64, shape (batch, values)."""
    chi = FINE_um[:, None] * TRANSFER.slope_per_um.double() + TRANSFER.offset.double()
    ctf = torch.sin(chi)
    return correlation[:, 0].double() @ ctf.T - 0.5 * ctf.square() @ energy.double()


def moments(log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    p = torch.softmax(log_p, dim=1)
    mean = p @ FINE_um
    return mean, (p * (FINE_um - mean[:, None]) ** 2).sum(dim=1)


@pytest.mark.parametrize("transfer", [TRANSFER, ASTIGMATIC], ids=["round", "astigmatic"])
@given(defocus_um=st.floats(0.4, 4.0))
@settings(deadline=None, max_examples=25)
def test_noise_free_images_give_the_truth(transfer, defocus_um):
    truth, energy = torch.tensor([defocus_um]), 50 * ENERGY
    found = SEARCHED.posterior(correlation_of(truth, energy, transfer), energy[None], transfer)
    assert abs(float(found.mean_um) - float(truth)) < 1e-3
    promised = 0.5 * float((energy * transfer.power(truth)).sum())
    # The likelihood is that of the nearest point of the grid, up to 0.01 um away.
    assert promised - 0.5 * 0.011**2 / float(found.variance_um2) < float(found.log_likelihood) < promised + 1e-2


@pytest.mark.parametrize(("strength", "relative"), [(0.02, 0.02), (0.05, 0.02), (1.0, 0.1), (20.0, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_moments_are_those_of_the_whole_posterior(strength, relative, seed):
    energy = strength * ENERGY
    truth = torch.linspace(0.6, 3.8, 12)
    correlation = with_noise(correlation_of(truth, energy, TRANSFER), energy, seed)
    found = SEARCHED.posterior(correlation, energy[None], TRANSFER)
    mean, variance = moments(fine_log_p(correlation, energy))
    std = variance.sqrt()
    # The peak stands for the mean where the posterior is narrow.
    assert ((found.mean_um - mean).abs() < 1.5 * relative * std + 1e-4).all()
    assert ((found.variance_um2.double().sqrt() - std).abs() < relative * std).all()


@pytest.mark.parametrize("seed", range(2))
def test_errors_are_as_large_as_the_deviation_says(seed):
    truth = torch.linspace(0.8, 3.5, 400)
    correlation = with_noise(correlation_of(truth, ENERGY, TRANSFER), ENERGY, seed)
    found = SEARCHED.posterior(correlation, ENERGY[None], TRANSFER)
    z = (found.mean_um - truth) / found.variance_um2.sqrt()
    assert 0.85 < float(z.std()) < 1.15
    assert abs(float(z.mean())) < 0.25


def test_a_normal_prior_is_all_where_the_image_says_nothing():
    centre = torch.tensor([1.0, 2.2])
    nothing = DefocusRange(SEARCHED_um, centre, 0.15).posterior(
        torch.zeros(2, 1, RINGS), torch.zeros(1, RINGS), TRANSFER
    )
    torch.testing.assert_close(nothing.mean_um, centre, atol=1e-3, rtol=0)
    torch.testing.assert_close(nothing.variance_um2.sqrt(), torch.full((2,), 0.15), atol=1e-3, rtol=0)


def test_a_flat_range_is_all_where_nothing_else_is():
    nothing = SEARCHED.posterior(torch.zeros(1, 1, RINGS), torch.zeros(1, RINGS), TRANSFER)
    assert float(nothing.mean_um) == pytest.approx(2.2, abs=1e-3)
    assert float(nothing.variance_um2.sqrt()) == pytest.approx(4.0 / math.sqrt(12), rel=0.01)
    assert float(nothing.log_likelihood) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("strength", [1.0, 5.0])
def test_a_normal_prior_pulls_by_its_share_of_the_precision(strength):
    energy, truth, spread = strength * ENERGY, torch.tensor([1.60]), 0.05
    correlation = correlation_of(truth, energy, TRANSFER)
    free = SEARCHED.posterior(correlation, energy[None], TRANSFER)
    bound = DefocusRange(SEARCHED_um, truth - 0.04, spread).posterior(correlation, energy[None], TRANSFER)
    share = float(free.variance_um2) / (float(free.variance_um2) + spread**2)
    assert float(free.mean_um - bound.mean_um) == pytest.approx(0.04 * share, rel=0.2)
    assert float(bound.variance_um2) == pytest.approx((1 - share) * float(free.variance_um2), rel=0.2)


def test_a_defocus_that_is_given_stays():
    given_um = torch.tensor([1.234, 3.21])
    correlation = with_noise(correlation_of(torch.tensor([1.6, 2.6]), ENERGY, ASTIGMATIC), ENERGY, 0)
    found = DefocusRange(SEARCHED_um, fixed_um=given_um).posterior(correlation, ENERGY[None], ASTIGMATIC)
    assert torch.equal(found.mean_um, given_um)
    assert float(found.variance_um2.abs().max()) == 0.0
    amplitude, power = ASTIGMATIC.amplitude(given_um), ASTIGMATIC.power(given_um)
    expected = (correlation * amplitude).sum(dim=(1, 2)) - 0.5 * (power * ENERGY).sum(dim=1)
    torch.testing.assert_close(found.log_likelihood, expected)


@pytest.mark.parametrize("truth_um", [0.1, 0.9, 2.1, 3.0])
def test_the_ends_of_the_range_are_not_passed(truth_um):
    narrow = DefocusRange(torch.arange(1.0, 2.01, 0.02))
    energy = 5 * ENERGY
    found = narrow.posterior(correlation_of(torch.tensor([truth_um]), energy, TRANSFER), energy[None], TRANSFER)
    assert 1.0 <= float(found.mean_um) <= 2.0 + 1e-5
    assert float(found.variance_um2) > 0


def test_a_batch_is_its_images_one_by_one():
    truth = torch.linspace(0.6, 3.8, 5)
    correlation = with_noise(correlation_of(truth, ENERGY, TRANSFER), ENERGY, 3)
    known = DefocusRange(SEARCHED_um, truth + 0.1, 0.15)
    together = known.posterior(correlation, ENERGY[None], TRANSFER)
    for row in range(5):
        alone = known.of_rows(torch.tensor([row])).posterior(correlation[row : row + 1], ENERGY[None], TRANSFER)
        torch.testing.assert_close(alone.mean_um, together.mean_um[row : row + 1])
        torch.testing.assert_close(alone.variance_um2, together.variance_um2[row : row + 1], rtol=1e-3, atol=0)


@given(step_um=st.floats(0.05, 5.0))
@settings(deadline=None, max_examples=20)
def test_a_coarser_range_has_the_same_ends(step_um):
    coarse = SEARCHED.coarser(step_um).values_um
    assert float(coarse[0]) == pytest.approx(0.2)
    assert float(coarse[-1]) == pytest.approx(float(SEARCHED_um[-1]))
    steps = coarse.diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-3, atol=0)
    assert float(steps[0]) < 1.5 * step_um
