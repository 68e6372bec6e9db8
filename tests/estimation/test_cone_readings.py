"""Angle and defocus read on the cone: exact where the latent points are, with deviations as large as the errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cryorbit.conventions import wrap_deg
from cryorbit.estimation.defocus import cone_defocus
from cryorbit.estimation.lesson import FEWEST, Lesson
from cryorbit.estimation.orientation import cone_angle
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.latent.embed import Embedding
from cryorbit.model.cone import Cone

# So many that the sizes of errors of a third and of another third agree to 6 % (one standard error).
TURNS, N = 12, 2700
HELD_OUT = np.arange(0, N, 3)
UNSEEN = np.arange(1, N, 3)


@dataclasses.dataclass(frozen=True)
class Latent:
    """Particles whose angle and defocus are known, and where an encoder puts them."""

    psi_deg: np.ndarray
    defocus_um: np.ndarray
    cone: Cone
    embedding: Embedding

    def lesson(self, rows=HELD_OUT):
        return Lesson(self.cone, rows, self.psi_deg[rows], self.defocus_um[rows])

    def angle_errors(self, rows=HELD_OUT):
        estimate = cone_angle(self.embedding, self.lesson(rows))
        return wrap_deg(estimate.psi_deg - self.psi_deg, 360.0 / self.cone.order), estimate

    def defocus_errors(self, rows=HELD_OUT):
        estimate = cone_defocus(self.embedding, self.lesson(rows))
        return estimate.defocus_um - self.defocus_um, estimate


def on_the_cone(order=1, error=0.0, promised=0.02, seed=0):
    """Latent points on the cone, moved by an error of their own that turns with the image; free in the fourth axis."""
    random = np.random.default_rng(seed)
    psi, defocus = random.uniform(-180, 180, N), random.uniform(0.7, 2.6, N)
    cone = Cone(0.5, 2.8, order)
    angle = np.radians(psi[:, None] + np.arange(TURNS) * 360.0 / TURNS)
    points = cone.points(torch.from_numpy(angle.flatten()), torch.from_numpy(np.repeat(defocus, TURNS))).numpy()
    moved = (error * random.standard_normal((N, 3)))[:, None]
    spin = np.exp(1j * order * angle)
    across = spin * (moved[..., 0] + 1j * moved[..., 1])
    points = points.reshape(N, TURNS, 3) + np.stack([across.real, across.imag, moved[..., 2] + 0 * angle], axis=-1)
    points = np.concatenate([points, random.standard_normal((N, TURNS, 1))], axis=2)
    log_variance = np.full((N, 4), 2 * np.log(promised))
    return Latent(psi, defocus, cone, Embedding(points[:, 0], log_variance, points, log_variance))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_points_on_the_cone_are_read_exactly(order):
    latent = on_the_cone(order)
    errors, estimate = latent.angle_errors()
    np.testing.assert_allclose(errors, 0, atol=1e-4)
    assert estimate.isotropy_order == order
    assert (np.abs(estimate.psi_deg) <= 180.0 / order).all()
    assert (estimate.std_deg < 0.01).all()
    errors, estimate = latent.defocus_errors()
    np.testing.assert_allclose(errors, 0, atol=1e-5)
    assert (estimate.std_um <= 0.001).all()


@pytest.mark.parametrize("order", [1, 3])
def test_a_turned_particle_has_a_turned_estimate(order):
    latent = on_the_cone(order, error=0.1)
    before, before_um = latent.angle_errors()[1], latent.defocus_errors()[1]
    for steps in (1, 5):
        orbit = np.roll(latent.embedding.orbit, -steps, axis=1)
        turned = dataclasses.replace(
            latent,
            psi_deg=latent.psi_deg + steps * 360.0 / TURNS,
            embedding=dataclasses.replace(latent.embedding, mean=orbit[:, 0], orbit=orbit),
        )
        after = turned.angle_errors()[1]
        moved = wrap_deg(after.psi_deg - before.psi_deg - steps * 360.0 / TURNS, 360.0 / order)
        np.testing.assert_allclose(moved, 0, atol=1e-6)
        np.testing.assert_allclose(after.std_deg, before.std_deg, rtol=1e-6)
        np.testing.assert_allclose(turned.defocus_errors()[1].defocus_um, before_um.defocus_um)


def calibration(errors, std):
    return np.median(np.abs(errors / std)) / 0.6745


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("error", [0.01, 0.08])
def test_deviations_are_as_large_as_the_errors_whatever_the_encoder_promised(seed, order, error):
    for promised in (0.002, 0.3):
        latent = on_the_cone(order, error, promised, seed)
        errors, estimate = latent.angle_errors()
        assert 0.8 < calibration(errors[UNSEEN], estimate.std_deg[UNSEEN]) < 1.25
        errors, estimate = latent.defocus_errors()
        assert 0.8 < calibration(errors[UNSEEN], estimate.std_um[UNSEEN]) < 1.25


def test_deviations_grow_with_the_errors_of_the_particles_held_out():
    small, large = on_the_cone(error=0.01), on_the_cone(error=0.05)
    for read in (lambda x: x.angle_errors()[1].std_deg, lambda x: x.defocus_errors()[1].std_um):
        assert 3.5 < np.median(read(large)) / np.median(read(small)) < 7


@pytest.mark.parametrize("pulled", [-0.2, 0.1])
def test_what_all_heights_have_in_common_is_no_defocus(pulled):
    latent = on_the_cone(error=0.03)
    orbit = latent.embedding.orbit + np.array([0.0, 0.0, pulled, 0.0])
    moved = dataclasses.replace(latent, embedding=dataclasses.replace(latent.embedding, orbit=orbit))
    (errors, estimate), (expected, before) = moved.defocus_errors(), latent.defocus_errors()
    np.testing.assert_allclose(errors, expected, atol=1e-9)
    np.testing.assert_allclose(estimate.std_um, before.std_um)


def test_near_the_axis_an_angle_is_known_less_well():
    latent = on_the_cone(error=0.03)
    estimate = latent.angle_errors()[1]
    near, far = latent.defocus_um < 1.0, latent.defocus_um > 2.3
    assert estimate.std_deg[near].min() > estimate.std_deg[far].max()


@pytest.mark.parametrize("few", [0, 1, FEWEST - 1])
def test_few_particles_held_out_leave_the_encoders_own_deviation(few):
    promised = 0.05
    latent = on_the_cone(error=0.2, promised=promised)
    _, angle = latent.angle_errors(HELD_OUT[:few])
    _, defocus = latent.defocus_errors(HELD_OUT[:few])
    np.testing.assert_allclose(defocus.std_um, promised * latent.cone.um_per_height)
    orbit = latent.embedding.orbit[..., :2]
    radius = np.hypot(*np.moveaxis(orbit, 2, 0)).mean(axis=1)
    np.testing.assert_allclose(angle.std_deg, np.degrees(promised / radius), rtol=1e-6)
    _, enough = latent.angle_errors(HELD_OUT[:FEWEST])
    assert not np.allclose(enough.std_deg, angle.std_deg, rtol=0.2)


@pytest.mark.parametrize("order", [1, 4])
def test_nothing_is_known_less_than_by_a_guess(order):
    latent = on_the_cone(order, promised=50.0)
    _, estimate = latent.angle_errors(HELD_OUT[:0])
    np.testing.assert_allclose(estimate.std_deg, UNKNOWN_ANGLE_STD_DEG / order)
    nowhere = dataclasses.replace(latent.embedding, orbit=np.zeros_like(latent.embedding.orbit))
    found = cone_angle(nowhere, latent.lesson())
    assert np.isfinite(found.psi_deg).all()
    np.testing.assert_allclose(found.std_deg, UNKNOWN_ANGLE_STD_DEG / order)


def test_junk_moves_nobody_else():
    latent = on_the_cone(error=0.05)
    orbit = latent.embedding.orbit.copy()
    junk = np.arange(2, N, 3)
    orbit[junk] = np.random.default_rng(1).normal(0, 30, orbit[junk].shape)
    spoilt = dataclasses.replace(latent, embedding=dataclasses.replace(latent.embedding, orbit=orbit))
    good = np.setdiff1d(np.arange(N), junk)
    for read, fields in (
        (Latent.angle_errors, ("psi_deg", "std_deg")),
        (Latent.defocus_errors, ("defocus_um", "std_um")),
    ):
        for field in fields:
            one, other = (getattr(read(which)[1], field)[good] for which in (latent, spoilt))
            np.testing.assert_array_equal(one, other)
        # A twentieth of junk among the particles held out, unnoticed, hardly changes the deviations.
        rows = np.concatenate([HELD_OUT, junk[: len(HELD_OUT) // 20]])
        one, other = (getattr(read(spoilt, which)[1], fields[1])[good] for which in (HELD_OUT, rows))
        assert np.median(other / one) < 1.2
