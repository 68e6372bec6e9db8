"""Laws of the envelopes."""

from __future__ import annotations

import math

import pytest
import torch

from cryorbit.errors import ConfigurationError
from cryorbit.optics import Microscope, Optics, ctf_1d, envelope
from cryorbit.optics.microscope import (
    aperture_cutoff_per_A,
    b_factor_envelope,
    spatial_coherence_envelope,
    temporal_coherence_envelope,
)

K = torch.linspace(0.0, 0.35, 200, dtype=torch.float64)
DEFOCUS_A = torch.tensor([[5000.0], [15000.0], [30000.0]], dtype=torch.float64)


def test_envelopes_start_at_one_and_never_exceed_it():
    values = envelope(Microscope(b_factor_A2=50.0), K, DEFOCUS_A)
    assert values.shape == (3, 200)
    torch.testing.assert_close(values[:, 0], torch.ones(3, dtype=torch.float64))
    assert ((values >= 0) & (values <= 1)).all()


def test_perfect_coherence_leaves_everything():
    perfect = Microscope(energy_spread_eV=0.0, aperture_angle_mrad=0.0, objective_aperture_um=0.0)
    assert (envelope(perfect, K, DEFOCUS_A) == 1).all()


def test_temporal_envelope_is_the_average_over_a_gaussian_spread_of_defocus():
    """The definition: the mean of the oscillation over the defocus that dE / E causes."""
    microscope = Microscope(optics=Optics(300.0, 0.0, 0.0))
    k = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    spread_A = 2.7e7 * 1.3 / 300e3
    steps = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    weight = torch.exp(-0.5 * steps**2)
    curves = ctf_1d(k, steps * spread_A + 20000.0, microscope.optics)
    average = (weight[:, None] * curves).sum(0) / weight.sum()
    expected = (
        temporal_coherence_envelope(microscope, k) * ctf_1d(k, torch.tensor([20000.0]).double(), microscope.optics)[0]
    )
    torch.testing.assert_close(average, expected, atol=1e-5, rtol=0)


def test_spatial_envelope_is_the_average_over_a_gaussian_source():
    """A tilt by q moves the phase by its gradient times q; the source is Gaussian, 1/e at a."""
    microscope = Microscope(aperture_angle_mrad=0.5)
    wavelength_A, k, defocus_A = 0.0196875, 0.12, 18000.0
    gradient = 2 * math.pi * (defocus_A * wavelength_A * k - 2.7e7 * wavelength_A**3 * k**3)
    q = torch.linspace(-4, 4, 4001, dtype=torch.float64) * 0.5e-3 / wavelength_A
    weight = torch.exp(-((q * wavelength_A / 0.5e-3) ** 2))
    average = (weight * torch.cos(gradient * q)).sum() / weight.sum()
    value = spatial_coherence_envelope(microscope, torch.tensor(k).double(), torch.tensor(defocus_A).double())
    assert value.item() == pytest.approx(average.item(), rel=1e-3)


def test_spatial_envelope_falls_with_defocus_and_angle():
    k = torch.tensor(0.2, dtype=torch.float64)
    by_defocus = spatial_coherence_envelope(Microscope(), k, DEFOCUS_A[:, 0])
    assert (by_defocus.diff() < 0).all()
    wider = spatial_coherence_envelope(Microscope(aperture_angle_mrad=0.2), k, DEFOCUS_A[:, 0])
    assert (wider < by_defocus).all()


def test_b_factors_add():
    torch.testing.assert_close(b_factor_envelope(30.0, K) * b_factor_envelope(70.0, K), b_factor_envelope(100.0, K))


def test_aperture_cuts_at_its_diffraction_angle():
    # 25 um at 3.5 mm are 7.14 mrad: 0.363 per Angstrom at 300 kV.
    microscope = Microscope()
    cutoff = aperture_cutoff_per_A(microscope)
    assert cutoff == pytest.approx(0.3628, abs=1e-3)
    k = torch.tensor([0.99 * cutoff, 1.01 * cutoff])
    values = envelope(Microscope(energy_spread_eV=0.0, aperture_angle_mrad=0.0), k, torch.tensor(1e4))
    assert values.tolist() == [1.0, 0.0]
    assert aperture_cutoff_per_A(Microscope(objective_aperture_um=0.0)) == math.inf


@pytest.mark.parametrize("name", ["cc_mm", "energy_spread_eV", "aperture_angle_mrad", "b_factor_A2", "focal_length_mm"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_impossible_microscopes_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} is {value}"):
        Microscope(**{name: value})
