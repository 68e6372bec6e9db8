"""Learning the average from images alone: angles up to one turn, junk told from particles, what is the same twice."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryorbit.alignment.images import RingImages
from cryorbit.alignment.learn import Learned, LearnSettings, independent_halves, learn, settings_for
from cryorbit.alignment.locate import Model
from cryorbit.alignment.polar import squared, to_harmonics
from cryorbit.alignment.refine import in_frame
from cryorbit.alignment.rivals import (
    change_about_any_axis,
    change_by_turn,
    isotropy_evidence,
    isotropy_order,
    rival_turns,
)
from cryorbit.alignment.templates import order_weight
from cryorbit.estimation.outliers import evidence_log_odds

from .blobs import (
    GEOMETRY,
    GRID,
    RINGS,
    SPECIMEN,
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

# A signal-to-noise ratio of 0.3 within the particle's disc.
NOISE = 0.33
N, JUNK = 150, 15
HALF = make_specimen(seed=8, blobs=10)
TWOFOLD = Specimen(np.concatenate([HALF.place_px, -HALF.place_px]), np.tile(HALF.height, 2), HALF.sigma_px)


def a_set(seed: int, specimen: Specimen = SPECIMEN, noise: float = NOISE) -> tuple[Truth, RingImages]:
    """Images of which the first are noise."""
    truth = draw_truth(N, seed)
    samples = seen(truth, specimen)
    samples[:JUNK] = 0
    return truth, ring_images(samples + math.sqrt(noise) * white_noise(N, seed))


def learnt_from(images: RingImages, seed: int, **options) -> Learned:
    return learn(images, GEOMETRY, LearnSettings(first_images=120, rounds=4, starts=2, seed=seed), **options)


def turned_back(learnt: Learned, truth: Truth) -> np.ndarray:
    """Errors of the particles' angles in radians, up to one turn of all."""
    error = (learnt.located.poses.psi.numpy() - truth.psi)[JUNK:]
    return wrapped(error - np.angle(np.exp(1j * error).mean()))


@pytest.fixture(scope="module")
def learnt() -> tuple[Truth, RingImages, Learned]:
    truth, images = a_set(0)
    return truth, images, learnt_from(images, 0)


@pytest.mark.parametrize("seed", range(3))
def test_angles_are_learnt_from_random_turns(seed):
    truth, images = a_set(seed)
    found = learnt_from(images, seed)
    error = np.degrees(np.abs(turned_back(found, truth)))
    assert np.median(error) < 2.5
    assert np.mean(error > 10.0) < 0.05
    defocus = (found.located.poses.defocus_um.numpy() - truth.defocus_um)[JUNK:]
    assert abs(np.median(defocus)) < 0.1
    assert np.median(np.abs(defocus)) < 0.25
    poses = found.located.poses.of_rows(slice(JUNK, None))
    moved = in_frame(poses.psi, poses.shift - torch.from_numpy(truth.shift_px[JUNK:]).float())
    assert float((moved - moved.median(dim=0).values).abs().median()) < 0.25
    weight = found.state.weight.numpy()
    assert np.median(weight[JUNK:]) > 0.95
    assert np.median(weight[:JUNK]) < 0.3
    assert np.mean(weight[:JUNK] > 0.5) < 0.4
    assert found.model.isotropy_order == 1


def test_errors_are_about_as_large_as_they_are_said_to_be(learnt):
    truth, _, found = learnt
    std = found.located.poses.covariance[JUNK:, 0, 0].sqrt().numpy()
    z = turned_back(found, truth) / std
    assert 0.7 < 1.4826 * np.median(np.abs(z)) < 1.5


def test_the_average_is_the_specimen_turned(learnt):
    truth, _, found = learnt
    error = (found.located.poses.psi.numpy() - truth.psi)[JUNK:]
    turn = float(np.angle(np.exp(1j * error).mean()))
    # The average's psi is the specimen's plus this turn: it sees the specimen turned by the negative of it.
    average, exact = found.model.template.harmonics, exact_template().harmonics
    back = average * torch.polar(torch.ones(average.shape[1]), turn * torch.arange(average.shape[1]))
    weight = order_weight(average.shape[1]) * torch.arange(1, RINGS + 1)[:, None]

    def product(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(((one * other.conj()).real * weight)[3:].sum())

    assert product(back, exact) > 0.9 * math.sqrt(product(back, back) * product(exact, exact))


def test_noise_and_evidence_are_those_of_the_set(learnt):
    _, _, found = learnt
    assert float(found.model.noise[0].mean()) == pytest.approx(NOISE, rel=0.1)
    odds = evidence_log_odds(found.evidence.judged())
    assert np.median(odds[:JUNK]) > np.median(odds[JUNK:]) + 4


def test_halves_agree_where_the_particle_is_and_add_up(learnt):
    _, images, found = learnt
    one, other = (half.numerator * GEOMETRY.limit / half.power[:, None] for half in found.halves)
    weight = order_weight(one.shape[1])
    correlation = ((one * other.conj()).real @ weight) / ((squared(one) @ weight) * (squared(other) @ weight)).sqrt()
    assert float(correlation[1:8].mean()) > 0.8
    total = sum(half.particles for half in found.halves)
    assert total == pytest.approx(float(found.state.weight.sum()), rel=1e-4)
    again = independent_halves(images, found.state, GEOMETRY)
    assert torch.equal(again[0].numerator, found.halves[0].numerator)


def test_images_of_noise_alone_are_not_taken_for_particles():
    found = learnt_from(ring_images(white_noise(60, 1)), 1)
    assert float(found.state.weight.mean()) < 0.1
    assert float(found.evidence.likelihood_ratio.median()) < 10.0


def test_the_same_seed_gives_the_same_result(learnt):
    _, images, found = learnt
    again = learnt_from(images, 0)
    assert torch.equal(again.located.poses.psi, found.located.poses.psi)
    assert torch.equal(again.state.weight, found.state.weight)
    assert torch.equal(again.model.template.harmonics, found.model.template.harmonics)


def test_what_is_told_from_elsewhere_is_used():
    """Images that are known to be junk do not enter; a hint of the angles fixes the turn of all."""
    truth, images = a_set(1)
    prior = torch.ones(N)
    prior[:JUNK] = 0.0
    notes = []
    found = learnt_from(images, 1, prior_weight=prior, hint_psi=torch.from_numpy(truth.psi).float(),
                        notify=lambda note, part: notes.append((note, part)))  # fmt: skip
    assert float(found.state.weight[:JUNK].max()) == 0.0
    assert np.degrees(np.abs(turned_back(found, truth))).mean() < 3.0
    parts = [part for _, part in notes]
    assert parts == sorted(parts)
    assert parts[0] == 0.0
    assert parts[-1] < 1.0


def test_angles_of_a_twofold_particle_are_learnt_up_to_half_a_turn():
    truth, images = a_set(2, TWOFOLD)
    images = images.of_rows(torch.arange(JUNK, JUNK + 80))
    found = learnt_from(images, 2)
    error = 2 * (found.located.poses.psi.numpy() - truth.psi[JUNK : JUNK + 80])
    error = wrapped(error - np.angle(np.exp(1j * error).mean())) / 2
    assert np.median(np.degrees(np.abs(error))) < 3.0
    # What noise leaves in the odd orders of an average of so few images is no sign against the symmetry.
    assert found.model.isotropy_order == 2


def test_turns_that_look_alike_are_those_of_the_average():
    images = ring_images(seen(draw_truth(4, 0)))
    plain, twofold = (
        Model(GEOMETRY, exact_template(specimen), torch.full((1, RINGS), NOISE), 1.0)
        for specimen in (SPECIMEN, TWOFOLD)
    )
    change = change_by_turn(images, plain)
    assert float(change[0]) == pytest.approx(0.0, abs=1e-3)
    torch.testing.assert_close(change[1:], change[1:].flip(0), rtol=1e-3, atol=1e-3)
    folded = change_by_turn(images, twofold)
    torch.testing.assert_close(folded[:360], folded[360:], rtol=1e-3, atol=1e-2)
    assert isotropy_order(isotropy_evidence(images, plain)) == 1
    assert isotropy_order(isotropy_evidence(images, twofold)) == 2
    assert any(abs(turn - math.pi) < 0.01 for turn in rival_turns(images, twofold))


def test_change_by_turn_is_the_expected_loss_of_likelihood():
    """Half the squared distance between the average and its turned copy, over the noise and the defoci."""
    images = ring_images(seen(draw_truth(4, 0)))
    model = Model(GEOMETRY, exact_template(), torch.full((1, RINGS), NOISE), 1.0)
    turn = 2 * math.pi * 37 / 720
    pair = SPECIMEN.samples(images.grid, np.array([0.0, turn]), np.zeros((2, 2)))
    distance = squared(pair[0] - pair[1]).mean(dim=1)
    power = images.transfers[0].amplitude(images.defocus.values_um)[:, 0].square().mean(dim=0)
    k = torch.arange(1, RINGS + 1)
    expected = 0.5 * float((2 * math.pi * k / (images.grid.box_size**2 * NOISE) * power * distance).sum())
    assert float(change_by_turn(images, model)[37]) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("shift_px", [(0.0, 0.0), (0.6, -0.4)])
def test_a_symmetry_need_not_be_about_the_centre(shift_px):
    images = ring_images(seen(draw_truth(4, 0)))
    for specimen, order in ((SPECIMEN, 1), (TWOFOLD, 2)):
        moved = to_harmonics(specimen.samples(GRID, np.zeros(1), np.array([shift_px]))[0], GRID.orders)
        template = exact_template(specimen)
        template = replace(template, harmonics=moved[:RINGS, : template.limit.shape[1]].to(torch.complex64))
        model = Model(GEOMETRY, template, torch.full((1, RINGS), NOISE), 1.0)
        about_any, about_centre = (
            change_about_any_axis(images, model, math.pi),
            float(change_by_turn(images, model)[360]),
        )
        assert about_any <= about_centre * (1 + 1e-4) + 1e-3
        assert isotropy_order(isotropy_evidence(images, model)) == order


@pytest.mark.parametrize(
    ("snr", "images", "rounds"), [(1e-9, 1000, 12), (0.1, 300, 3), (0.02, 600, 6), (100.0, 300, 3)]
)
def test_less_signal_takes_more_images_and_rounds(snr, images, rounds):
    settings = settings_for(snr, 7, 3)
    assert settings.first_images == images
    assert settings.rounds == rounds
    assert (settings.seed, settings.starts) == (7, 3)
    assert settings_for(math.inf, 0, 1).first_images == 300
