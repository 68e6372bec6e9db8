"""Laws of the contrast transfer function, and a second implementation in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.errors import ConfigurationError
from cryorbit.optics import Optics, ctf_1d, ctf_2d, ctf_at, electron_wavelength_A

OPTICS = Optics()
PIXEL_A = 3.0


def defocus(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reference_ctf(size: int, u_A: float, v_A: float, angle_deg: float, optics: Optics) -> np.ndarray:
    """Conventions written out pixel by pixel, with the direction from arctan2."""
    kx, ky = np.meshgrid(np.fft.rfftfreq(size, PIXEL_A), np.fft.fftfreq(size, PIXEL_A))
    k = np.hypot(kx, ky)
    direction = np.arctan2(ky, kx)
    at_angle = 0.5 * (u_A + v_A) + 0.5 * (u_A - v_A) * np.cos(2 * (direction - math.radians(angle_deg)))
    volts = optics.voltage_kV * 1e3
    wavelength = 12.2643 / math.sqrt(volts + 0.97845e-6 * volts**2)
    phase = math.pi * wavelength * at_angle * k**2 - 0.5 * math.pi * optics.cs_mm * 1e7 * wavelength**3 * k**4
    return np.sin(phase + math.asin(optics.amplitude_contrast))


@settings(deadline=None, max_examples=25)
@given(
    mean_A=st.floats(3000, 40000), half_difference_A=st.floats(-1500, 1500), angle_deg=st.floats(-180, 180),
    voltage_kV=st.sampled_from([120.0, 200.0, 300.0]), contrast=st.floats(0.0, 0.3),
)  # fmt: skip
def test_equals_the_written_out_formula(mean_A, half_difference_A, angle_deg, voltage_kV, contrast):
    optics = Optics(voltage_kV, 2.7, contrast)
    u_A, v_A = mean_A + half_difference_A, mean_A - half_difference_A
    ours = ctf_2d(64, PIXEL_A, defocus(u_A), defocus(v_A), defocus(angle_deg), optics)[0].numpy()
    np.testing.assert_allclose(ours, reference_ctf(64, u_A, v_A, angle_deg, optics), atol=2e-3)


@pytest.mark.parametrize(("voltage_kV", "wavelength_A"), [(100.0, 0.0370144), (200.0, 0.0250793), (300.0, 0.0196875)])
def test_wavelength_agrees_with_tables(voltage_kV, wavelength_A):
    assert electron_wavelength_A(voltage_kV) == pytest.approx(wavelength_A, rel=1e-5)


def test_zero_frequency_shows_the_amplitude_contrast():
    ctf = ctf_2d(32, PIXEL_A, defocus(8000, 21000), defocus(7000, 25000), defocus(10, 20), Optics(300.0, 2.7, 0.07))
    assert ctf.shape == (2, 32, 17)
    np.testing.assert_allclose(ctf[:, 0, 0], 0.07, rtol=1e-6)


def test_protein_is_white_in_underfocus():
    low = torch.tensor([1 / 200.0, 1 / 100.0])
    assert (ctf_1d(low, torch.tensor([5000.0, 20000.0]), OPTICS) > 0).all()


def test_first_zero_moves_in_as_defocus_grows():
    k = torch.linspace(0.002, 0.16, 4000, dtype=torch.float64)
    curves = ctf_1d(k, torch.linspace(5000, 30000, 26, dtype=torch.float64), OPTICS)
    first_zero = (curves < 0).double().argmax(dim=1)
    assert (first_zero.diff() < 0).all()


def test_defocus_u_lies_along_its_angle():
    # U = 2 V at 90 degrees: along y the oscillation is that of U, along x that of V.
    ctf = ctf_2d(128, PIXEL_A, defocus(20000), defocus(10000), defocus(90), OPTICS)[0]
    k = torch.fft.rfftfreq(128, PIXEL_A, dtype=torch.float64)
    along = ctf_1d(k, defocus(20000, 10000), OPTICS)
    torch.testing.assert_close(ctf[:64, 0], along[0, :64])
    torch.testing.assert_close(ctf[0, :64], along[1, :64])


def test_positive_angle_turns_from_x_towards_y():
    ctf = ctf_2d(128, PIXEL_A, defocus(20000), defocus(10000), defocus(45), OPTICS)[0]
    k = math.sqrt(2) * 20 / (128 * PIXEL_A)
    along_u, along_v = ctf_1d(torch.tensor([k], dtype=torch.float64), defocus(20000, 10000), OPTICS)[:, 0]
    torch.testing.assert_close(ctf[20, 20], along_u)
    torch.testing.assert_close(ctf[-20, 20], along_v)


@given(u_A=st.floats(5000, 30000), v_A=st.floats(5000, 30000), angle_deg=st.floats(-90, 90))
@settings(deadline=None, max_examples=15)
def test_exchanging_u_and_v_is_a_quarter_turn(u_A, v_A, angle_deg):
    one = ctf_2d(32, PIXEL_A, defocus(u_A), defocus(v_A), defocus(angle_deg), OPTICS)
    other = ctf_2d(32, PIXEL_A, defocus(v_A), defocus(u_A), defocus(angle_deg + 90), OPTICS)
    torch.testing.assert_close(one, other)


def test_round_defocus_has_no_direction():
    angles = torch.arange(0.0, 180.0, 30.0)
    ctf = ctf_2d(32, PIXEL_A, torch.full((6,), 15000.0), torch.full((6,), 15000.0), angles, OPTICS)
    torch.testing.assert_close(ctf, ctf[:1].expand_as(ctf))


def test_quarter_wave_phase_shift_turns_sine_into_cosine():
    zero = defocus(0)
    shifted = ctf_2d(16, PIXEL_A, zero, zero, zero, Optics(300.0, 0.0, 0.0), phase_shift_deg=90.0)
    torch.testing.assert_close(shifted, torch.ones_like(shifted))


def test_derivative_exists_without_astigmatism():
    u_A, v_A = defocus(15000).requires_grad_(), defocus(15000).requires_grad_()
    ctf_2d(32, PIXEL_A, u_A, v_A, defocus(0), OPTICS).square().sum().backward()
    assert torch.isfinite(u_A.grad).all()
    assert torch.isfinite(v_A.grad).all()


def test_float32_is_enough_at_high_resolution():
    arguments = [(22000.0,), (21000.0,), (33.0,)]
    single = ctf_2d(256, 1.0, *(torch.tensor(value) for value in arguments), OPTICS)
    double = ctf_2d(256, 1.0, *(torch.tensor(value, dtype=torch.float64) for value in arguments), OPTICS)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"voltage_kV": 300000.0}, "expected kilovolts above 0: this looks like volts, so give 300"),
        ({"voltage_kV": -300.0}, "Voltage is -300"),
        ({"voltage_kV": math.nan}, "Voltage is nan"),
        ({"cs_mm": -2.7}, "Spherical aberration is -2.7"),
        ({"cs_mm": math.inf}, "Spherical aberration is inf"),
        ({"amplitude_contrast": 10.0}, "expected a fraction from 0 to 1"),
        ({"amplitude_contrast": math.nan}, "Amplitude contrast is nan"),
    ],
)
def test_impossible_optics_are_refused(values, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        Optics(**values)


@pytest.mark.parametrize("pixel_size_A", [0.0, -1.0, math.nan])
def test_impossible_pixel_sizes_are_refused(pixel_size_A):
    with pytest.raises(ConfigurationError, match="expected a number above 0"):
        ctf_2d(16, pixel_size_A, defocus(1e4), defocus(1e4), defocus(0), OPTICS)


def test_defocus_that_is_no_number_is_refused():
    with pytest.raises(ConfigurationError, match="1 of the values"):
        ctf_2d(16, PIXEL_A, defocus(1e4, math.nan), defocus(1e4, 1e4), defocus(0, 0), OPTICS)
    with pytest.raises(ConfigurationError, match="not finite"):
        ctf_1d(torch.tensor([0.1]), torch.tensor([math.inf]), OPTICS)


def test_parts_of_a_grid_are_the_grid():
    whole = ctf_2d(40, PIXEL_A, defocus(15000.0), defocus(14000.0), defocus(30.0), OPTICS)
    kx = torch.fft.rfftfreq(40, PIXEL_A, dtype=torch.float64)[3:9]
    ky = torch.fft.fftfreq(40, PIXEL_A, dtype=torch.float64)[15:32]
    part = ctf_at(kx, ky, defocus(15000.0), defocus(14000.0), defocus(30.0), OPTICS)
    torch.testing.assert_close(part, whole[:, 15:32, 3:9])
