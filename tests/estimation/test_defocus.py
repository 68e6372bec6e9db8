"""Equation 7, and the radial direction from the rings of the CTF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.estimation.defocus import (
    KnownDefocus,
    RadialDirection,
    Radii,
    known_radial_direction,
    match_quantiles,
    match_quartiles,
    radial_direction,
)
from cryorbit.optics.ctf import Optics, ctf_1d
from cryorbit.preprocessing.spectrum import RingSpectra

BOTH = pytest.mark.parametrize("match", [match_quartiles, match_quantiles])


@BOTH
@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 1.5), st.floats(0.5, 3.0), st.sampled_from([1, -1]), st.floats(0.1, 10), st.floats(-5, 5))
def test_a_linear_radius_gives_the_defocus_back(match, low, width, sign, slope, offset):
    defocus = np.linspace(low, low + width, 401)
    radii = Radii(sign * slope * defocus + offset, 0.1)
    everything = np.ones(401, dtype=bool)
    found = match(radii, KnownDefocus.of_range(low, low + width), RadialDirection(sign, 1.0), everything)
    np.testing.assert_allclose(found.defocus_um, defocus, atol=width / 400)
    assert (found.std_um <= 0.1 / slope * (1 + 1e-9)).all()
    assert (found.std_um >= min(0.08 / slope, 0.1 * width)).all()


@BOTH
def test_defocus_is_monotone_and_positive(match):
    radii = Radii(np.sort(np.random.default_rng(0).normal(size=500)), 0.1)
    found = match(radii, KnownDefocus.of_range(0.05, 0.9), RadialDirection(1, 1.0), np.ones(500, dtype=bool))
    assert (np.diff(found.defocus_um) >= 0).all()
    assert found.defocus_um.min() > 0


@BOTH
def test_junk_does_not_move_the_match(match):
    good = np.linspace(0.5, 2.5, 100)
    radii = Radii(np.concatenate([good, np.full(100, 50.0)]), 0.1)
    use = np.arange(200) < 100
    found = match(radii, KnownDefocus.of_range(0.5, 2.5), RadialDirection(1, 1.0), use)
    np.testing.assert_allclose(found.defocus_um[use], good, atol=0.02)


@BOTH
def test_without_a_scale_there_is_no_deviation(match):
    everything, up = np.ones(30, dtype=bool), RadialDirection(1, 1.0)
    found = match(Radii(np.ones(30), 0.1), KnownDefocus.of_range(1.0, 2.0), up, everything)
    assert np.isnan(found.std_um).all()
    assert np.ptp(found.defocus_um) == 0
    found = match(Radii(np.arange(30.0), 0.1), KnownDefocus.of_values(np.full(5, 1.7)), up, everything)
    assert np.isnan(found.std_um).all()
    np.testing.assert_allclose(found.defocus_um, 1.7)


def test_a_bent_relation_is_unbent_by_all_quantiles():
    defocus = np.random.default_rng(0).uniform(0.5, 2.5, 4000)
    radii = Radii(np.sqrt(defocus), 0.01)
    everything, known, up = np.ones(4000, dtype=bool), KnownDefocus.of_range(0.5, 2.5), RadialDirection(1, 1.0)
    errors = [
        np.sqrt(np.mean((match(radii, known, up, everything).defocus_um - defocus) ** 2))
        for match in (match_quantiles, match_quartiles)
    ]
    assert errors[0] < 0.03 < errors[1]


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
    found = radial_direction(radii, KnownDefocus.of_range(0.5, 2.5), np.ones(500, dtype=bool), spectra, Optics())
    assert found.sign == sign


@pytest.mark.parametrize("sign", [1, -1])
def test_known_defoci_tell_the_direction(sign):
    defocus = np.random.default_rng(0).uniform(0.5, 2.5, 100)
    assert known_radial_direction(sign * defocus, defocus) == RadialDirection(sign, pytest.approx(1.0))
    assert known_radial_direction(np.ones(100), defocus).evidence == 0
