"""The angle is the group coordinate of an orbit, whatever the orbit's shape; laws on curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.conventions import wrap_deg
from cryorbit.estimation.evaluation import align_angles
from cryorbit.estimation.orientation import orbit_angle, plane_angle
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG, circular_mean_deg, circular_std_deg
from cryorbit.latent.embed import Embedding
from cryorbit.latent.harmonics import fit_harmonics, orbit_angles, orbit_coefficients
from cryorbit.latent.orbits import fit_plane, orbit_invariants, orbit_radius, orbit_windings

TURNS = 12


def curve(psi_deg, amplitudes, mixing):
    """A closed curve in the latent space with these amplitudes by harmonic, shape (..., 4)."""
    psi = np.radians(psi_deg)[..., None]
    parts = [a * np.concatenate([np.cos(m * psi), np.sin(m * psi)], axis=-1) for m, a in amplitudes.items() if a]
    return np.concatenate(parts, axis=-1) @ mixing


def orbits(n=400, amplitudes=None, noise=0.05, seed=0, strength=None, latent=4):
    """Embedding of particles whose angles are known; noise is common to all turned copies but for their turn."""
    amplitudes = amplitudes if amplitudes is not None else {1: 1.0, 2: 0.6}
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(2 * sum(a != 0 for a in amplitudes.values()), latent))
    psi = rng.uniform(-180, 180, n)
    turns = np.arange(TURNS) * 360.0 / TURNS
    points = curve(psi[:, None] + turns, amplitudes, mixing)
    points *= 1.0 if strength is None else strength(rng, n)[:, None, None]
    points += noise * rng.normal(size=points.shape)
    log_variance = np.full((n, latent), 2 * np.log(max(noise, 1e-3)))
    return psi, Embedding(points[:, 0], log_variance, points, log_variance)


def read(embedding):
    everything = np.ones(len(embedding.mean), dtype=bool)
    return orbit_angle(embedding, fit_harmonics(embedding, everything))


CURVES = [
    {1: 1.0},
    {1: 1.0, 2: 0.6},
    {1: 0.4, 2: 1.0},  # winds twice around its plane: the paper's formula folds
    {2: 1.0, 3: 0.7},  # no first harmonic at all, and yet no symmetry
    {1: 0.3, 2: 1.0, 3: 0.8, 5: 0.2},
]


@pytest.mark.parametrize("amplitudes", CURVES)
@pytest.mark.parametrize("seed", [0, 1])
def test_angles_come_out_up_to_one_offset_and_with_the_right_sign(amplitudes, seed):
    psi, embedding = orbits(amplitudes=amplitudes, seed=seed)
    estimate = read(embedding)
    aligned = align_angles(estimate.psi_deg, psi)
    assert aligned.sign == 1
    assert np.abs(aligned.residual_deg).max() < 15
    assert np.sqrt(np.mean(aligned.residual_deg**2)) < 4
    assert estimate.isotropy_order == 1


@settings(max_examples=15, deadline=None)
@given(st.integers(1, TURNS - 1), st.sampled_from(CURVES))
def test_the_estimate_turns_with_the_particle(steps, amplitudes):
    _, embedding = orbits(n=60, amplitudes=amplitudes)
    chart = fit_harmonics(embedding, np.ones(60, dtype=bool))
    before = orbit_angles(orbit_coefficients(embedding.orbit), chart)
    turned = Embedding(
        embedding.mean, embedding.log_variance, np.roll(embedding.orbit, -steps, axis=1), embedding.orbit_log_variance
    )
    after = orbit_angles(orbit_coefficients(turned.orbit), chart)
    np.testing.assert_allclose(wrap_deg(after.psi_deg - before.psi_deg - steps * 30.0), 0, atol=0.05)
    np.testing.assert_allclose(after.std_deg, before.std_deg, atol=0.05)


@pytest.mark.parametrize(("amplitudes", "order"), [({2: 1.0, 4: 0.5}, 2), ({3: 1.0}, 3), ({4: 1.0}, 4), ({5: 1.0}, 5)])
def test_missing_harmonics_are_a_symmetry(amplitudes, order):
    psi, embedding = orbits(amplitudes=amplitudes)
    estimate = read(embedding)
    assert estimate.isotropy_order == order
    assert np.abs(estimate.psi_deg).max() <= 180 / order
    residual = align_angles(estimate.psi_deg, psi, symmetry_order=order).residual_deg
    assert np.sqrt(np.mean(residual**2)) < 3


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_predicted_deviations_are_honest(noise):
    ratios = []
    for seed in range(4):
        psi, embedding = orbits(n=600, amplitudes={1: 0.6, 2: 1.0, 3: 0.4}, noise=noise, seed=seed)
        estimate = read(embedding)
        ratios.append(align_angles(estimate.psi_deg, psi).residual_deg / estimate.std_deg)
    assert 0.7 < np.std(np.concatenate(ratios)) < 1.4


def test_orbits_that_are_no_rings_carry_no_angle():
    # A round particle off its centre: the direction of the shift looks like an angle, its length like no ring.
    _, embedding = orbits(amplitudes={1: 1.0}, strength=lambda rng, n: rng.rayleigh(size=n))
    estimate = read(embedding)
    assert (estimate.std_deg == UNKNOWN_ANGLE_STD_DEG).all()


def test_the_papers_plane_says_when_it_folds():
    psi, embedding = orbits(amplitudes={1: 0.3, 2: 1.0})
    chart = fit_plane(embedding, np.ones(len(psi), dtype=bool))
    assert abs(chart.winding) == 2
    assert (plane_angle(embedding, chart).std_deg == UNKNOWN_ANGLE_STD_DEG).all()


def test_the_papers_plane_reads_a_simple_circle():
    psi, embedding = orbits(amplitudes={1: 1.0}, latent=2)
    chart = fit_plane(embedding, np.ones(len(psi), dtype=bool))
    assert chart.is_simple
    aligned = align_angles(plane_angle(embedding, chart).psi_deg, psi)
    assert aligned.sign == 1  # the group's action shows the handedness


@pytest.mark.parametrize("winding", [-3, -1, 0, 1, 2, 5])
def test_windings_are_counted(winding):
    angle = wrap_deg(winding * np.arange(TURNS) * 30.0 + np.array([[0.0], [77.0]]))
    assert orbit_windings(angle).tolist() == [winding] * 2


def test_invariants_do_not_know_the_turn():
    _, embedding = orbits(n=20)
    turned = Embedding(
        embedding.mean, embedding.log_variance, np.roll(embedding.orbit, 5, axis=1), embedding.orbit_log_variance
    )
    np.testing.assert_allclose(orbit_invariants(turned), orbit_invariants(embedding), atol=1e-9)
    np.testing.assert_allclose(orbit_radius(turned), orbit_radius(embedding))


@pytest.mark.parametrize("n", [1, 2, 7, 19])
def test_a_handful_of_particles_is_no_reason_to_claim_an_angle(n):
    _, embedding = orbits(n=n)
    assert (read(embedding).std_deg == UNKNOWN_ANGLE_STD_DEG).all()
    fit_plane(embedding, np.ones(n, dtype=bool))


@given(st.floats(-180, 180), st.floats(1, 20))
@settings(max_examples=20, deadline=None)
def test_circular_statistics_near_the_seam(centre_deg, spread_deg):
    angles = centre_deg + spread_deg * np.random.default_rng(0).standard_normal(4000)
    assert abs(wrap_deg(circular_mean_deg(wrap_deg(angles)) - centre_deg)) < 0.1 * spread_deg
    assert np.isclose(circular_std_deg(wrap_deg(angles)), spread_deg, rtol=0.06)
