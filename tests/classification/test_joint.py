"""The posterior over class, angle and shift: every point of its grid, written out; and the averages it makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.search import CircleSearch, shift_grid, template_energy
from cryorbit.classification.bank import Bank, ClassSums, bank_of
from cryorbit.classification.joint import compare_with_all, most_likely, sums_of_all

from ..alignment.blobs import (
    BOX,
    GEOMETRY,
    GRID,
    RINGS,
    SEARCHED_um,
    Truth,
    draw_truth,
    exact_template,
    make_batch,
    make_specimen,
    seen,
    white_noise,
    wrapped,
)

FEW, NOISE, LOUD, SPREAD_px = 12, 0.15, 15.0, 2.0
VIEWS = [make_specimen(seed) for seed in (3, 4, 5)]
SEARCH = CircleSearch(GRID, FEW, shift_grid(2.0, 1.0), 0.2)
SHARE = torch.tensor([0.5, 0.3, 0.2])
BANK = Bank(torch.stack([exact_template(view).inner(FEW).harmonics for view in VIEWS]), SHARE.log())


def on_grid(n: int, seed: int) -> tuple[np.ndarray, Truth]:
    """Classes, and poses at points of the grid."""
    random, truth = np.random.default_rng(seed), draw_truth(n, seed)
    psi = SEARCH.psi.numpy()[random.integers(SEARCH.angles, size=n)]
    shift = SEARCH.shifts.numpy()[random.integers(len(SEARCH.shifts), size=n)].astype(np.float64)
    return random.integers(len(VIEWS), size=n), Truth(psi.astype(np.float64), shift, truth.defocus_um)


def pictures(number: np.ndarray, truth: Truth) -> torch.Tensor:
    """Samples of noise-free images."""
    parts = [
        seen(Truth(truth.psi[k : k + 1], truth.shift_px[k : k + 1], truth.defocus_um[k : k + 1]), VIEWS[view])
        for k, view in enumerate(number)
    ]
    return torch.cat(parts)


def batch_of(samples: torch.Tensor, truth: Truth, noise: float = NOISE):
    fixed = torch.from_numpy(truth.defocus_um).float()
    return make_batch(samples, noise, SPREAD_px, DefocusRange(SEARCHED_um, fixed_um=fixed))


@pytest.mark.parametrize("centre_px", [(0.0, 0.0), (1.5, -0.7)])
def test_it_is_the_likelihood_written_out(centre_px):
    number, truth = on_grid(3, seed=6)
    samples = pictures(number, truth) + math.sqrt(LOUD) * white_noise(3, seed=6)
    scores = compare_with_all(SEARCH, batch_of(samples, truth, LOUD), BANK, torch.tensor(centre_px).expand(3, 2))
    weight = 2 * math.pi * np.arange(1, FEW + 1) / (BOX**2 * LOUD)
    random = np.random.default_rng(1)
    for image in range(3):
        differences = []
        for _ in range(40):
            place, view, turn = (int(random.integers(size)) for size in scores.posterior.shape[1:])
            shift = SEARCH.shifts[place].numpy() + np.asarray(centre_px)
            at = Truth(SEARCH.psi.numpy()[turn : turn + 1], shift[None], truth.defocus_um[image : image + 1])
            model = seen(at, VIEWS[view])[0, :FEW].numpy().astype(np.complex128)
            left = np.mean(np.abs(samples[image, :FEW].numpy() - model) ** 2, axis=1)
            expected = -0.5 * weight @ left - 0.5 * np.sum((shift / SPREAD_px) ** 2) + math.log(SHARE[view])
            if (got := float(scores.posterior[image, place, view, turn])) > 1e-25:
                differences.append(math.log(got) - expected)
        assert len(differences) > 20
        assert np.ptp(differences) < 0.05


def test_with_one_class_it_is_the_search_of_an_alignment():
    number, truth = on_grid(6, seed=2)
    batch = batch_of(pictures(np.zeros_like(number), truth) + math.sqrt(NOISE) * white_noise(6, seed=2), truth)
    one = Bank(BANK.harmonics[:1], torch.zeros(1))
    scores = compare_with_all(SEARCH, batch, one, torch.zeros(6, 2))
    alone = SEARCH.scores(batch, one.harmonics[0], template_energy(one.harmonics[0]))
    expected = torch.softmax(alone.log_p[:, 0].flatten(1), dim=1)
    torch.testing.assert_close(scores.posterior[:, :, 0].flatten(1), expected, atol=1e-4, rtol=1e-3)


def test_the_most_likely_is_the_truth_and_the_posterior_adds_up():
    number, truth = on_grid(40, seed=3)
    batch = batch_of(pictures(number, truth) + math.sqrt(NOISE) * white_noise(40, seed=3), truth)
    scores = compare_with_all(SEARCH, batch, BANK, torch.zeros(40, 2))
    torch.testing.assert_close(scores.posterior.sum(dim=(1, 2, 3)), torch.ones(40))
    found = most_likely(SEARCH, scores)
    np.testing.assert_array_equal(found.number.numpy(), number)
    assert np.abs(wrapped(found.psi.numpy() - truth.psi)).max() < 2.1 * float(SEARCH.psi[1])
    assert np.abs(found.shift.numpy() - truth.shift_px).max() < 1.1


def test_shifts_are_found_around_what_is_known():
    number, truth = on_grid(20, seed=4)
    far = Truth(truth.psi, truth.shift_px + np.array([5.0, -4.0]), truth.defocus_um)
    centre = torch.tensor([5.0, -4.0]).expand(20, 2)
    found = most_likely(SEARCH, compare_with_all(SEARCH, batch_of(pictures(number, far), far), BANK, centre))
    np.testing.assert_array_equal(found.number.numpy(), number)
    assert np.abs(found.shift.numpy() - far.shift_px).max() < 1.1


def test_sure_images_make_the_averages_they_were_made_from():
    number, truth = on_grid(60, seed=5)
    scores = compare_with_all(SEARCH, batch_of(pictures(number, truth), truth, noise=1e-3), BANK, torch.zeros(60, 2))
    sums = sums_of_all(scores)
    np.testing.assert_allclose(sums.particles.numpy(), np.bincount(number, minlength=3), atol=1e-3)
    made = sums.numerator / sums.power.clamp(min=1e-6)[..., None]
    exact = BANK.of_shape(FEW, SEARCH.orders)
    assert float((made - exact).abs().square().sum() / exact.abs().square().sum()) < 1e-3


def test_images_of_noise_have_no_evidence_and_particles_have():
    _, truth = on_grid(30, seed=7)
    number = np.zeros(30, dtype=int)
    noise = math.sqrt(NOISE) * white_noise(30, seed=7)
    empty, full = (
        compare_with_all(SEARCH, batch_of(samples, truth), BANK, torch.zeros(30, 2)).log_evidence
        for samples in (noise, pictures(number, truth) + noise)
    )
    assert float(empty.max()) < 0 < float(full.min())


def test_sums_of_parts_are_sums_of_the_whole():
    number, truth = on_grid(10, seed=8)
    samples = pictures(number, truth) + math.sqrt(NOISE) * white_noise(10, seed=8)

    def sums(rows: slice) -> ClassSums:
        part = Truth(truth.psi[rows], truth.shift_px[rows], truth.defocus_um[rows])
        batch = batch_of(samples[rows], part)
        return sums_of_all(compare_with_all(SEARCH, batch, BANK, torch.zeros(len(part.psi), 2)))

    whole, parts = sums(slice(0, 10)), sums(slice(0, 4)) + sums(slice(4, 10))
    torch.testing.assert_close(parts.numerator, whole.numerator, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(parts.power, whole.power)
    torch.testing.assert_close(parts.times(0.5).particles, 0.5 * whole.particles)


def test_an_empty_class_has_an_average_and_a_share():
    number, truth = on_grid(30, seed=9)
    batch = batch_of(pictures(number, truth), truth)
    sums = sums_of_all(compare_with_all(SEARCH, batch, BANK, torch.zeros(30, 2)))
    nobody = ClassSums.empty(1, FEW, SEARCH.orders, torch.device("cpu"))
    names = ("numerator", "power", "particles")
    joined = ClassSums(*(torch.cat([getattr(part, name) for part in (sums, nobody)]) for name in names))
    bank = bank_of(joined, torch.full((RINGS,), NOISE), GEOMETRY)
    assert torch.isfinite(torch.view_as_real(bank.harmonics)).all()
    assert float(bank.energy[3].sum()) == pytest.approx(0.0, abs=1e-6)
    assert float(bank.log_share.exp().sum()) == pytest.approx(1.0)
    taken = joined.replaced(3, by=0, share=0.5)
    torch.testing.assert_close(taken.numerator[3], 0.5 * joined.numerator[0])


def test_a_class_and_its_reflection_are_one_where_they_are_tied():
    """Two classes that are the same count as one class and its other side: their probabilities add up."""
    number, truth = on_grid(12, seed=10)
    number = number % 2
    batch = batch_of(pictures(number, truth) + math.sqrt(NOISE) * white_noise(12, seed=10), truth)
    both = Bank(BANK.harmonics[:2].repeat(2, 1, 1), torch.full((4,), -math.log(4)))
    scores = compare_with_all(SEARCH, batch, both, torch.zeros(12, 2))
    apart, tied = most_likely(SEARCH, scores), most_likely(SEARCH, scores, tied=True)
    assert float(apart.probability.max()) < 0.6
    assert float(tied.probability.min()) > 0.95
    np.testing.assert_array_equal(tied.number.numpy() % 2, number)
