"""The search over the circle: every point of its grid, written out; and what it makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.polar import squared
from cryorbit.alignment.refine import Poses, in_average_frame
from cryorbit.alignment.search import CircleSearch, shift_grid, template_energy

from .blobs import (
    BOX,
    GRID,
    SPECIMEN,
    TRANSFER,
    SEARCHED_um,
    Specimen,
    draw_truth,
    exact_template,
    make_batch,
    make_specimen,
    seen,
    white_noise,
    wrapped,
)  # fmt: skip

FEW = 12
TEMPLATE = exact_template().inner(FEW)
SEARCH = CircleSearch(GRID, FEW, shift_grid(3.0, 1.0), 0.2)
NOISE = 0.15
# A specimen and its copy after half a turn.
HALF = make_specimen(seed=8, blobs=10)
TWOFOLD = Specimen(np.concatenate([HALF.place_px, -HALF.place_px]), np.tile(HALF.height, 2), HALF.sigma_px)


@given(radius_px=st.floats(0.1, 12.0), step_px=st.floats(0.3, 4.0))
@settings(deadline=None, max_examples=30)
def test_shifts_fill_a_disc_about_the_origin(radius_px, step_px):
    shifts = shift_grid(radius_px, step_px)
    assert (shifts == 0).all(dim=1).sum() == 1
    assert float(torch.linalg.vector_norm(shifts, dim=1).max()) <= radius_px + 0.01
    torch.testing.assert_close(shifts.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    assert len(shifts) == pytest.approx(math.pi * (radius_px / step_px) ** 2, abs=4 * math.pi * radius_px / step_px + 4)


@pytest.mark.parametrize("rings", [6, 12, 16, 22])
def test_angles_are_fine_enough_and_go_around_evenly(rings):
    search = CircleSearch(GRID, rings, torch.zeros(1, 2), 0.2)
    assert search.angles >= 2 * math.pi * rings
    assert search.angles % 2 == 0
    assert float(search.psi[1]) == pytest.approx(2 * math.pi / search.angles)


@pytest.mark.parametrize("prior", ["blind", "micrograph", "given"])
def test_scores_are_the_written_out_log_posterior(prior):
    n, spread = 3, 1.5
    truth = draw_truth(n, 0)
    known = torch.from_numpy(truth.defocus_um).float() + 0.1
    defocus = {
        "blind": DefocusRange(SEARCHED_um),
        "micrograph": DefocusRange(SEARCHED_um, known, 0.15),
        "given": DefocusRange(SEARCHED_um, fixed_um=known),
    }[prior]
    batch = make_batch(seen(truth) + math.sqrt(NOISE) * white_noise(n, 0), NOISE, spread, defocus)
    scores = SEARCH.scores(batch, TEMPLATE.harmonics, TEMPLATE.energy)
    values = SEARCH.defoci_um(batch).expand(n, -1)
    assert scores.log_p.shape == (n, values.shape[1], len(SEARCH.shifts), SEARCH.angles)
    random = np.random.default_rng(1)
    k = torch.arange(1, FEW + 1).double()
    for row in range(n):
        for _ in range(8):
            d, s, a = (int(random.integers(size)) for size in scores.log_p.shape[1:])
            shift = SEARCH.shifts[s].double().numpy()
            model = SPECIMEN.samples(GRID, np.array([float(SEARCH.psi[a])]), shift[None])[0, :FEW]
            chi = float(values[row, d]) * TRANSFER.slope_per_um[:FEW].double() + TRANSFER.offset[:FEW].double()
            model = model * torch.sin(chi)[:, None]
            image = batch.samples[row, 0, :FEW].to(torch.complex128)
            ring = (model.conj() * image).real.mean(dim=1) - 0.5 * squared(model).mean(dim=1)
            expected = float((2 * math.pi * k / (BOX**2 * NOISE) * ring).sum()) - 0.5 * (shift**2).sum() / spread**2
            if prior == "micrograph":
                expected -= 0.5 * float((values[row, d] - known[row]) / 0.15) ** 2
            assert float(scores.log_p[row, d, s, a]) == pytest.approx(expected, rel=2e-3, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_noise_free_images_are_found_to_within_the_grid(seed):
    truth = draw_truth(30, seed)
    batch = make_batch(seen(truth), 0.02, 3.0)
    found = SEARCH.modes(batch, SEARCH.scores(batch, TEMPLATE.harmonics, TEMPLATE.energy), 1, 0.0)
    assert torch.equal(found.image, torch.arange(30))
    inside = np.linalg.norm(truth.shift_px, axis=1) < 3.0
    assert np.abs(wrapped(found.psi.numpy() - truth.psi))[inside].max() < 1.5 * 2 * math.pi / SEARCH.angles
    assert np.abs(found.shift.numpy() - truth.shift_px)[inside].max() < 1.0
    assert np.abs(found.defocus_um.numpy() - truth.defocus_um)[inside].max() < 0.3
    assert float(found.elsewhere[torch.from_numpy(inside)].max()) < 1e-3


def test_modes_of_a_twofold_average_come_in_pairs():
    template = exact_template(TWOFOLD).inner(FEW)
    truth = draw_truth(25, 3, shift_px=0.5)
    samples = seen(truth, TWOFOLD) + 0.5 * white_noise(25, 3)
    batch = make_batch(samples, 0.25)
    found = SEARCH.modes(batch, SEARCH.scores(batch, template.harmonics, template.energy), 2, 2.0)
    assert torch.equal(found.image, torch.arange(25).repeat_interleave(2))
    one, other = slice(0, None, 2), slice(1, None, 2)
    apart = np.abs(wrapped(found.psi[one] - found.psi[other]))
    np.testing.assert_allclose(apart, math.pi, atol=1e-5)
    torch.testing.assert_close(found.log_p[one], found.log_p[other], atol=0.02, rtol=0)
    torch.testing.assert_close(found.shift[one], found.shift[other])


def test_modes_are_apart_within_the_margin_and_best_first():
    truth = draw_truth(20, 4)
    batch = make_batch(seen(truth) + 2.0 * white_noise(20, 4), 4.0)
    scores = SEARCH.scores(batch, TEMPLATE.harmonics, TEMPLATE.energy)
    best = scores.log_p.flatten(1).amax(dim=1)
    before = scores.log_p.clone()
    few, many = (SEARCH.modes(batch, scores, 4, margin) for margin in (1.0, 8.0))
    assert torch.equal(scores.log_p, before)
    assert len(few.image) < len(many.image) <= 80
    for found, margin in ((few, 1.0), (many, 8.0)):
        assert torch.equal(found.image, found.image.sort().values)
        for row in range(20):
            mine = found.image == row
            log_p, psi = found.log_p[mine], found.psi[mine].numpy()
            assert float(log_p[0]) == pytest.approx(float(best[row]))
            assert (log_p.diff() <= 0).all()
            assert float(log_p[-1]) >= float(best[row]) - margin
            distance = np.abs(wrapped(psi[:, None] - psi[None])) + 10 * np.eye(len(psi))
            assert distance.min() > 2 * 2 * math.pi / SEARCH.angles
    assert (many.elsewhere <= few.elsewhere + 1e-6).all()


def test_noise_has_its_posterior_elsewhere():
    shares = []
    for samples in (white_noise(30, 5), seen(draw_truth(30, 5)) + 0.4 * white_noise(30, 5)):
        batch = make_batch(samples, 1.0 if not shares else 0.16)
        scores = SEARCH.scores(batch, TEMPLATE.harmonics, TEMPLATE.energy)
        shares.append(float(SEARCH.modes(batch, scores, 4, 15.0).elsewhere.median()))
    assert shares[0] > 0.2
    assert shares[1] < 0.01


@pytest.mark.parametrize("astigmatic", [False, True])
@pytest.mark.parametrize("prior", ["blind", "given"])
def test_soft_sums_are_a_sum_over_every_pose(prior, astigmatic):
    """Image by image and pose by pose, on four rings."""
    n, rings = 2, 4
    search = CircleSearch(GRID, rings, shift_grid(2.0, 2.0), 1.0)
    truth = draw_truth(n, 6)
    given_um = torch.from_numpy(truth.defocus_um).float()
    defocus = DefocusRange(SEARCHED_um, fixed_um=given_um if prior == "given" else None)
    batch = make_batch(seen(truth) + 2.0 * white_noise(n, 6), 4.0, 2.0, defocus)
    if astigmatic:
        transfer = TRANSFER.with_astigmatism(torch.tensor([0.5, -0.8]), torch.tensor([0.3, 1.9]))
        batch = replace(batch, samples=transfer.split(batch.samples[:, 0], GRID), transfer=transfer)
    template = exact_template().inner(rings)
    scores = search.scores(batch, template.harmonics, template.energy)
    sums, evidence, mean_um = search.soft_sums(batch, scores)
    torch.testing.assert_close(evidence, torch.logsumexp(scores.log_p.flatten(1), dim=1), rtol=1e-4, atol=1e-3)
    assert sums.particles == n

    values = search.defoci_um(batch).expand(n, -1)
    posterior = torch.softmax(scores.log_p.flatten(1), dim=1).reshape(scores.log_p.shape)
    grid = torch.cartesian_prod(*(torch.arange(size) for size in posterior.shape[1:]))
    numerator, power, expected_um = torch.zeros(rings, search.orders, dtype=torch.complex64), torch.zeros(rings), []
    for row in range(n):
        one = batch.inner(rings).of_rows(torch.full((len(grid),), row))
        poses = Poses.at(search.psi[grid[:, 2]], search.shifts[grid[:, 1]], values[row, grid[:, 0]])
        weight = posterior[row].flatten()
        amplitude = one.transfer.amplitude(poses.defocus_um)
        harmonics = in_average_frame(one, poses, GRID, search.orders)
        numerator += torch.einsum("p,pqk,pqkm->km", weight, amplitude, harmonics.real)
        numerator += 1j * torch.einsum("p,pqk,pqkm->km", weight, amplitude, harmonics.imag)
        power += weight @ one.transfer.power(poses.defocus_um)
        expected_um.append(weight @ poses.defocus_um)
    # Few rings have few orders: those beyond, for which the coarse angles are too few, hold next to nothing.
    kept = template.harmonics.shape[1] - 2
    scale = float(numerator.abs().max())
    torch.testing.assert_close(sums.numerator[:, :kept], numerator[:, :kept], atol=5e-3 * scale, rtol=0)
    torch.testing.assert_close(sums.power, power, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mean_um, torch.stack(expected_um), rtol=1e-4, atol=1e-4)


def test_energy_of_a_template_is_its_own():
    torch.testing.assert_close(template_energy(TEMPLATE.harmonics), TEMPLATE.energy)
