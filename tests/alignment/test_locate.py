"""Locating images against an average: near and far, certain and not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.locate import Model, locate, search_rings, spread_of
from cryorbit.alignment.refine import Poses
from cryorbit.alignment.templates import Template

from .blobs import (
    BOX,
    GEOMETRY,
    RINGS,
    TRANSFER,
    SEARCHED_um,
    Specimen,
    Truth,
    draw_truth,
    exact_template,
    make_specimen,
    ring_images,
    seen,
    white_noise,
    wrapped,
)  # fmt: skip

NOISE = 0.15
HALF = make_specimen(seed=8, blobs=10)
TWOFOLD = Specimen(np.concatenate([HALF.place_px, -HALF.place_px]), np.tile(HALF.height, 2), HALF.sigma_px)
ROUND = Specimen(np.zeros((1, 2)), np.array([10.0]), 4.0)


def model(noise: float = NOISE, spread_px: float = 1.0, template: Template | None = None, **changes) -> Model:
    return Model(GEOMETRY, template or exact_template(), torch.full((1, RINGS), noise), spread_px, **changes)


def noisy(truth: Truth, seed: int, noise: float = NOISE) -> torch.Tensor:
    return seen(truth) + math.sqrt(noise) * white_noise(len(truth.psi), seed)


@pytest.mark.parametrize("seed", range(2))
def test_particles_are_located_from_nothing(seed):
    truth = draw_truth(50, seed)
    found = locate(ring_images(noisy(truth, seed)), model())
    std = found.poses.covariance.diagonal(dim1=1, dim2=2).sqrt().numpy()
    z = np.abs(wrapped(found.poses.psi.numpy() - truth.psi)) / std[:, 0]
    assert np.mean(z < 4) > 0.9
    near = z < 4
    assert np.abs(found.poses.shift.numpy() - truth.shift_px)[near].max() < 5 * std[:, 1:].max()
    assert np.abs(found.poses.defocus_um.numpy() - truth.defocus_um)[near].mean() < 0.2
    assert float(found.mode_probability.median()) > 0.95
    assert float(found.resultant.median()) > 0.95
    assert 0.7 < float(found.support.median()) < 1.3
    # Whoever is wrong knows that it might be.
    assert (found.mode_probability.numpy()[~near] < 0.999).all()


def test_particles_far_off_their_centre_are_found_by_the_second_search():
    """Beyond the reach of the first search, which is 3.4 pixels here."""
    truth = draw_truth(40, 2)
    direction = np.arange(20)
    shift = truth.shift_px.copy()
    shift[:20] = 6.5 * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    truth = replace(truth, shift_px=shift)
    found = locate(ring_images(noisy(truth, 2, 0.05)), model(0.05, 1.5))
    near = np.abs(found.poses.shift.numpy() - shift).max(axis=1) < 0.6
    near &= np.degrees(np.abs(wrapped(found.poses.psi.numpy() - truth.psi))) < 4.0
    assert near[20:].mean() >= 0.9
    # A few look well explained near the centre, with next to no defocus.
    assert near[:20].mean() >= 0.4


def test_noise_has_no_angle():
    found = locate(ring_images(white_noise(40, 3)), model(1.0))
    particles = locate(ring_images(noisy(draw_truth(40, 3), 3)), model())
    assert float(found.resultant.median()) < 0.8
    assert float(found.support.median()) < 0.8 * float(particles.support.median())
    assert float(found.mode_probability.median()) < 0.7
    assert float(found.poses.log_likelihood.median()) < 0.5 * float(particles.poses.log_likelihood.median())


def test_a_twofold_particle_has_an_angle_modulo_half_a_turn():
    truth = draw_truth(30, 4)
    images = ring_images(seen(truth, TWOFOLD) + 0.4 * white_noise(30, 4))
    template = exact_template(TWOFOLD)
    plain, folded = (locate(images, model(0.16, 1.0, template, isotropy_order=order)) for order in (1, 2))
    error = wrapped(2 * (folded.poses.psi.numpy() - truth.psi)) / 2
    assert np.mean(np.abs(error) < math.radians(5)) > 0.9
    assert float(plain.mode_probability.median()) < 0.6
    assert float(plain.resultant.median()) < 0.2
    assert float(folded.resultant.median()) > 0.95


def test_a_round_particle_has_no_angle_but_a_place():
    truth = draw_truth(30, 5)
    images = ring_images(seen(truth, ROUND) + 0.5 * white_noise(30, 5))
    found = locate(images, model(0.25, 1.0, exact_template(ROUND)))
    # All angles are one broad mode, whose width says that nothing is known.
    assert float(found.poses.covariance[:, 0, 0].sqrt().min()) > math.pi
    assert np.abs(found.poses.shift.numpy() - truth.shift_px).mean() < 0.5


def test_order_of_images_and_groups_does_not_matter():
    truth = draw_truth(24, 6)
    known = DefocusRange(SEARCHED_um, torch.from_numpy(truth.defocus_um).float(), 0.15)
    images = ring_images(noisy(truth, 6), known, group=torch.arange(24) % 2, transfers=(TRANSFER, TRANSFER))
    both = replace(model(), noise=torch.full((2, RINGS), NOISE))
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    one, other = locate(images, both).of_rows(order), locate(images.of_rows(order), both)
    torch.testing.assert_close(one.poses.psi, other.poses.psi, atol=1e-3, rtol=0)
    torch.testing.assert_close(one.poses.shift, other.poses.shift, atol=5e-3, rtol=0)
    torch.testing.assert_close(one.support, other.support, atol=5e-3, rtol=0)
    torch.testing.assert_close(one.mode_probability, other.mode_probability, atol=0.01, rtol=0)


def test_a_defocus_that_is_given_stays():
    truth = draw_truth(10, 7)
    given_um = torch.from_numpy(truth.defocus_um).float()
    found = locate(ring_images(noisy(truth, 7), DefocusRange(SEARCHED_um, fixed_um=given_um)), model())
    torch.testing.assert_close(found.poses.defocus_um, given_um)


def test_more_noise_takes_more_rings():
    images = ring_images(noisy(draw_truth(5, 8), 8))
    counts = [search_rings(images, model(noise)) for noise in (0.01, 0.1, 1.0, 10.0)]
    assert counts == sorted(counts)
    assert counts[0] == 12
    assert counts[-1] == RINGS
    assert search_rings(images, model(0.01, template=exact_template().inner(8))) == 8


def test_spread_is_that_of_the_bulk_and_a_little_more():
    generator = torch.Generator().manual_seed(0)
    shift = 1.5 * torch.randn(2000, 2, generator=generator) + torch.tensor([3.0, -2.0])
    shift[:200] = 40.0
    poses = Poses.at(torch.zeros(2000), shift, torch.ones(2000))
    assert 1.5 < spread_of(poses, BOX) < 2.7
    still = Poses.at(torch.zeros(20), torch.zeros(20, 2), torch.ones(20))
    assert spread_of(still, 128) == pytest.approx(0.5)


def test_some_poses_are_replaced_by_others():
    found = locate(ring_images(noisy(draw_truth(6, 9), 9)), model())
    rows = torch.tensor([4, 1])
    new = replace(found.of_rows(rows), support=torch.tensor([7.0, 8.0]))
    replaced = found.replaced(rows, new)
    expected = found.support.clone()
    expected[rows] = new.support
    assert torch.equal(replaced.support, expected)
    assert torch.equal(replaced.poses.psi, found.poses.psi)


def test_what_lies_elsewhere_makes_an_angle_less_sure():
    found = locate(ring_images(noisy(draw_truth(4, 10), 10)), model())
    diluted = found.diluted(torch.tensor([0.0, 0.1, 0.5, 1.0]))
    torch.testing.assert_close(diluted.resultant, found.resultant * torch.tensor([1.0, 0.9, 0.5, 0.0]))
    torch.testing.assert_close(diluted.mode_probability, found.mode_probability * torch.tensor([1.0, 0.9, 0.5, 0.0]))
