"""Strength of the electrons' interaction with a specimen."""

from __future__ import annotations

import math

import pytest

from cryorbit.optics import elastic_fraction, phase_per_potential_rad
from cryorbit.optics.interaction import POTENTIAL_PER_SCATTERING_V_A2


@pytest.mark.parametrize(("voltage_kV", "tabulated"), [(100.0, 0.9244e-3), (200.0, 0.7288e-3), (300.0, 0.6526e-3)])
def test_phase_of_one_volt_over_one_angstrom_is_the_tabulated_one(voltage_kV, tabulated):
    assert phase_per_potential_rad(voltage_kV) == pytest.approx(tabulated, rel=1e-4)


def test_potential_of_a_scattering_factor_is_the_tabulated_one():
    assert pytest.approx(47.878, rel=1e-4) == POTENTIAL_PER_SCATTERING_V_A2


def test_electrons_are_lost_by_the_mean_free_path():
    assert elastic_fraction(395.0, 395.0) == pytest.approx(math.exp(-1))
    assert elastic_fraction(0.0, 395.0) == 1.0
    assert elastic_fraction(100.0, None) == 1.0
    assert elastic_fraction(80.0, 395.0) == pytest.approx(elastic_fraction(40.0, 395.0) ** 2)
