"""Equation 7, and the radial direction from the rings of the CTF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.estimation.defocus import (
    DefocusQuartiles,
    RadialDirection,
    Radii,
    known_radial_direction,
    radial_direction,
    radius_to_defocus,
)
from cryorbit.optics.ctf import Optics, ctf_1d
from cryorbit.preprocessing.spectrum import RingSpectra


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 1.5), st.floats(0.5, 3.0), st.sampled_from([1, -1]), st.floats(0.1, 10), st.floats(-5, 5))
def test_a_linear_radius_gives_the_defocus_back(low, width, sign, slope, offset):
    defocus = np.linspace(low, low + width, 401)
    radii = Radii(sign * slope * defocus + offset, 0.1)
    everything = np.ones(401, dtype=bool)
    found = radius_to_defocus(
        radii, DefocusQuartiles.of_range(low, low + width), RadialDirection(sign, 1.0), everything
    )
    np.testing.assert_allclose(found.defocus_um, defocus, atol=1e-6)
    np.testing.assert_allclose(found.std_um, 0.1 / slope, rtol=1e-6)


def test_defocus_is_monotone_and_positive():
    radii = Radii(np.sort(np.random.default_rng(0).normal(size=500)), 0.1)
    found = radius_to_defocus(radii, DefocusQuartiles(0.2, 0.9), RadialDirection(1, 1.0), np.ones(500, dtype=bool))
    assert (np.diff(found.defocus_um) >= 0).all()
    assert found.defocus_um.min() > 0


def test_junk_does_not_move_the_quartiles():
    good = np.linspace(0.5, 2.5, 100)
    radii = Radii(np.concatenate([good, np.full(100, 50.0)]), 0.1)
    use = np.arange(200) < 100
    found = radius_to_defocus(radii, DefocusQuartiles.of_range(0.5, 2.5), RadialDirection(1, 1.0), use)
    np.testing.assert_allclose(found.defocus_um[use], good)


def test_without_a_scale_there_is_no_deviation():
    found = radius_to_defocus(
        Radii(np.ones(30), 0.1), DefocusQuartiles(1.0, 2.0), RadialDirection(1, 1.0), np.ones(30, dtype=bool)
    )
    assert np.isnan(found.std_um).all()
    np.testing.assert_allclose(found.defocus_um, 1.5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rings_of_the_ctf_tell_the_direction(sign, seed):
    rng = np.random.default_rng(seed)
    defocus = rng.uniform(0.5, 2.5, 500)
    frequency = np.arange(1, 32) / 384.0
    transfer = ctf_1d(torch.from_numpy(frequency), torch.from_numpy(defocus * 1e4), Optics()).double().numpy()
    power = np.exp(-frequency * 60) * transfer**2 * 3 + 1.0
    power *= rng.gamma(20, 1 / 20, power.shape)  # a ring of few pixels is a noisy measure of power
    radii = Radii(sign * defocus**0.7 + rng.normal(0, 0.15, 500), 0.15)
    spectra = RingSpectra(np.arange(500), power, frequency)
    found = radial_direction(radii, DefocusQuartiles(1.0, 2.0), np.ones(500, dtype=bool), spectra, Optics())
    assert found.sign == sign


@pytest.mark.parametrize("sign", [1, -1])
def test_known_defoci_tell_the_direction(sign):
    defocus = np.random.default_rng(0).uniform(0.5, 2.5, 100)
    assert known_radial_direction(sign * defocus, defocus) == RadialDirection(sign, pytest.approx(1.0))
    assert known_radial_direction(np.ones(100), defocus).evidence == 0
