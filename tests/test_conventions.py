"""Signs and wrapping."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cryorbit.conventions import (
    origin_from_shift_A,
    particle_weight,
    pixel_size_from_magnification_A,
    wrap_deg,
)

angles = st.floats(-1e4, 1e4)


@given(angles, st.integers(1, 6))
def test_wrapping_stays_on_the_circle(angle_deg, order):
    period = 360.0 / order
    wrapped = wrap_deg(angle_deg, period)
    assert -period / 2 <= wrapped < period / 2
    turns = (angle_deg - wrapped) / period
    assert abs(turns - round(float(turns))) < 1e-6


def test_the_origin_brings_a_particle_to_the_centre():
    # A particle 2 pixels to the right must be moved 2 pixels to the left.
    np.testing.assert_allclose(origin_from_shift_A([2.0, -1.0], 3.0), [-6.0, 3.0])


def test_pixel_size_from_magnification():
    assert np.isclose(pixel_size_from_magnification_A(5.0, 81_000), 0.617, atol=1e-3)  # the paper's microscope


def test_weight_is_the_papers():
    np.testing.assert_allclose(particle_weight([0.0, 1.0]), [0.0, np.e - 1.0])
