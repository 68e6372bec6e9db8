"""Laws of the detector."""

from __future__ import annotations

import math

import pytest
import torch

from cryorbit.errors import ConfigurationError
from cryorbit.optics import Detector, detective_quantum_efficiency, modulation_transfer

FRACTION = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
REAL = Detector(dqe_zero=0.8, mtf_nyquist=0.55)


def test_transfer_is_one_at_zero_and_the_given_value_at_nyquist():
    values = modulation_transfer(REAL, FRACTION)
    assert values[0].item() == 1.0
    assert values[-1].item() == pytest.approx(0.55)
    assert (values.diff() < 0).all()


def test_efficiency_at_zero_is_the_given_one_and_falls_as_the_square_of_the_transfer():
    values = detective_quantum_efficiency(REAL, FRACTION)
    assert values[0].item() == pytest.approx(0.8)
    assert values[-1].item() == pytest.approx(0.8 * 0.55**2)


def test_a_perfect_detector_changes_nothing():
    assert (modulation_transfer(Detector(), FRACTION) == 1).all()
    assert (detective_quantum_efficiency(Detector(), FRACTION) == 1).all()


def test_two_over_pi_is_a_square_pixel():
    square = torch.sinc(0.5 * FRACTION)
    gaussian = modulation_transfer(Detector(mtf_nyquist=2.0 / math.pi), FRACTION)
    assert (gaussian - square).abs().max() < 0.01


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, math.nan])
@pytest.mark.parametrize("name", ["dqe_zero", "mtf_nyquist"])
def test_values_that_no_detector_has_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} is .*; expected a fraction above 0 and at most 1"):
        Detector(**{name: value})
