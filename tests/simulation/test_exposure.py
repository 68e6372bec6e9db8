"""Counting, detector, ice and aperture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryorbit.optics import Microscope
from cryorbit.optics.microscope import aperture_cutoff_per_A
from cryorbit.simulation.exposure import (
    contrast,
    contrast_transfer,
    count_electrons,
    expected_count,
    filtered,
    ice_phase,
)
from cryorbit.simulation.ice import (
    LOW_FREQUENCY_LIMIT,
    ice_phase_spectrum_A2,
    mean_potential_V,
    structure_factor,
    water_scattering_A,
)

from .small_micrographs import small_config

FOCUS = (15000.0, 15000.0, 0.0)
EMPTY = np.zeros((600, 700), dtype=np.float32)


def counts(config, seed=0):
    return count_electrons(EMPTY, expected_count(config), np.random.default_rng(seed)).astype(np.float64)


@pytest.mark.parametrize("dose_per_nm2", [25.0, 100.0, 1000.0])
def test_counts_have_the_dose_as_mean_and_as_variance(dose_per_nm2):
    counted = counts(small_config(dose_per_nm2=dose_per_nm2))
    mean = dose_per_nm2 / 100.0 * 4.0  # pixels of 2 A
    assert counted.mean() == pytest.approx(mean, rel=0.01)
    assert counted.var() == pytest.approx(counted.mean(), rel=0.02)


def test_twice_the_dose_is_half_the_relative_variance():
    once, twice = (counts(small_config(dose_per_nm2=dose)) for dose in (500.0, 1000.0))
    relative = [counted.var() / counted.mean() ** 2 for counted in (once, twice)]
    assert relative[1] / relative[0] == pytest.approx(0.5, rel=0.02)


def test_efficiency_at_zero_is_signal_to_noise_out_over_in():
    config = small_config(dose_per_nm2=1000.0, detector={"dqe_zero": 0.6, "mtf_nyquist": 0.5})
    counted = counts(config)
    arriving = 40.0
    assert (counted.mean() ** 2 / counted.var()) / arriving == pytest.approx(0.6, rel=0.02)


def test_noise_of_counting_is_white():
    counted = counts(small_config(detector={"dqe_zero": 0.8, "mtf_nyquist": 0.4}))
    power = np.abs(np.fft.fft2(counted - counted.mean())) ** 2
    low, high = power[1:150, 1:170].mean(), power[150:300, 170:350].mean()
    assert high / low == pytest.approx(1.0, rel=0.05)


def test_counts_follow_the_contrast_and_are_never_negative():
    steps = np.repeat(np.array([[-0.5, 0.0, 0.5, 1.5]], dtype=np.float32), 40000, axis=0)
    counted = count_electrons(steps, 10.0, np.random.default_rng(1))
    np.testing.assert_allclose(counted.mean(axis=0), [15.0, 10.0, 5.0, 0.0], rtol=0.02)
    assert counted.min() == 0


def test_thick_ice_takes_electrons_away():
    thin, thick = (small_config(ice_nm=ice, inelastic_mean_free_path_nm=395.0) for ice in (0.0, 395.0))
    assert expected_count(thick) / expected_count(thin) == pytest.approx(math.exp(-1))


def test_detector_damps_the_finest_contrast_by_its_transfer_at_nyquist():
    perfect, real = (small_config(detector={"mtf_nyquist": value}, microscope=None) for value in (1.0, 0.45))
    nyquist = torch.tensor([0.25])
    zero = torch.zeros(1)
    ratio = contrast_transfer(real, FOCUS)(nyquist, zero) / contrast_transfer(perfect, FOCUS)(nyquist, zero)
    assert ratio.item() == pytest.approx(0.45, rel=1e-4)


def test_nothing_passes_beyond_the_aperture():
    microscope = Microscope(objective_aperture_um=20.0)
    cutoff_per_A = aperture_cutoff_per_A(microscope)
    assert cutoff_per_A < 0.25
    config = small_config(microscope=microscope)
    phase = np.random.default_rng(0).standard_normal((256, 300), dtype=np.float32)
    power = np.abs(np.fft.fft2(contrast(phase, 2.0, config, FOCUS))) ** 2
    k = np.hypot(np.fft.fftfreq(256, 2.0)[:, None], np.fft.fftfreq(300, 2.0)[None, :])
    beyond, below = k > cutoff_per_A * 1.001, (k < cutoff_per_A * 0.999) & (k > cutoff_per_A * 0.9)
    assert power[beyond].max() < 1e-9 * power[below].mean()


def test_weak_contrast_is_twice_the_phase_and_the_absorption():
    """At zero frequency only absorption is seen: 2 A / sqrt(1 - A^2) for one radian."""
    config = small_config(microscope=None)
    value = contrast_transfer(config, FOCUS)(torch.zeros(1), torch.zeros(1)).item()
    assert value == pytest.approx(2.0 * 0.1 / math.sqrt(1.0 - 0.01), rel=1e-5)


@pytest.mark.parametrize("shape", [(64, 90), (75, 81), (300, 50)])
def test_a_factor_of_one_changes_nothing(shape):
    image = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    same = filtered(image, 2.0, lambda kx, ky: torch.ones(len(ky), len(kx)))
    np.testing.assert_allclose(same, image, atol=1e-5)


def test_ice_has_the_spectrum_of_the_formula():
    config = small_config(ice_nm=50.0)
    k = np.hypot(np.fft.fftfreq(640, 2.0)[:, None], np.fft.fftfreq(768, 2.0)[None, :])
    measured = np.zeros(k.shape)
    for seed in range(4):
        phase = ice_phase(k.shape, config, np.random.default_rng(seed)).astype(np.float64)
        measured += np.abs(np.fft.fft2(phase)) ** 2 / phase.size * 4.0 / 4
    ring = (k / 0.02).astype(int)
    expected = ice_phase_spectrum_A2(k, 50.0, 300.0)
    got, wanted = (np.bincount(ring.ravel(), power.ravel()) for power in (measured, expected))
    np.testing.assert_allclose(got[:12] / wanted[:12], 1.0, atol=0.06)


def test_ice_is_as_strong_as_it_is_thick_and_has_the_water_ring():
    k = np.linspace(0.0, 0.5, 501)
    thin, thick = (ice_phase_spectrum_A2(k, ice, 300.0) for ice in (20.0, 60.0))
    np.testing.assert_allclose(thick, 3.0 * thin)
    assert 1.0 / k[structure_factor(k).argmax()] == pytest.approx(3.7, abs=0.1)
    assert structure_factor(np.zeros(1))[0] == pytest.approx(LOW_FREQUENCY_LIMIT)
    assert structure_factor(np.array([0.6]))[0] == pytest.approx(1.0, abs=0.01)


def test_ice_of_free_atoms_has_a_potential_of_four_and_a_half_volts():
    assert water_scattering_A(np.zeros(1))[0] == pytest.approx(3.04, abs=0.01)
    assert mean_potential_V() == pytest.approx(4.57, abs=0.05)
