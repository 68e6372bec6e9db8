"""Turn, shift and transfer function, on a blob whose place is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.optics import Microscope, Optics, ctf_1d
from cryorbit.simulation import Projection, draw_truth, make_simulation_config
from cryorbit.simulation.rendering import (
    apply_transfer,
    clean_image,
    make_renderer,
    make_spline,
    transfer_function,
    turned_image,
)

BOX, PIXEL_A, FINE_A, SIGMA_A = 64, 3.0, 1.0, 8.0
BLOB_A = np.array([36.0, 9.0])


def blob(centre_A, pixels, pixel_size_A):
    offset = (np.arange(pixels) - pixels // 2) * pixel_size_A
    x, y = (np.exp(-0.5 * ((offset - centre) / SIGMA_A) ** 2) for centre in centre_A)
    return np.outer(y, x)


SPECIMEN = Projection(blob(BLOB_A, 200, FINE_A), FINE_A)
SPLINE = make_spline(SPECIMEN)
CONFIG = make_simulation_config("paper", {"box": BOX, "particle_diameter_A": 150.0, "images": 12})


def place_A(psi_deg, shift_px):
    """Place of the blob: from image(x) = reference(R(psi) (x - t)), q appears at R(psi)^T q + t."""
    psi = math.radians(psi_deg)
    rotation = np.array([[math.cos(psi), -math.sin(psi)], [math.sin(psi), math.cos(psi)]])
    return rotation.T @ BLOB_A + np.asarray(shift_px) * PIXEL_A


@given(psi_deg=st.floats(-180, 180), shift_x=st.floats(-6, 6), shift_y=st.floats(-6, 6))
@settings(deadline=None, max_examples=40)
def test_a_turned_and_shifted_blob_is_where_the_conventions_put_it(psi_deg, shift_x, shift_y):
    image = turned_image(SPLINE, BOX, PIXEL_A, psi_deg, np.array([shift_x, shift_y]))
    np.testing.assert_allclose(image, blob(place_A(psi_deg, (shift_x, shift_y)), BOX, PIXEL_A), atol=1e-3)


def test_a_quarter_turn_moves_x_to_minus_y():
    image = turned_image(SPLINE, BOX, PIXEL_A, 90.0, np.zeros(2))
    row, column = np.unravel_index(image.argmax(), image.shape)
    # The blob is at x = 12, y = 3 pixels.
    assert (column - BOX // 2, row - BOX // 2) == (3, -12)


def test_shift_is_where_the_particle_lies():
    still, moved = (turned_image(SPLINE, BOX, PIXEL_A, 25.0, np.array(t)) for t in ((0.0, 0.0), (5.0, -3.0)))
    np.testing.assert_allclose(moved, np.roll(still, (-3, 5), axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize("box", [63, 64])
def test_odd_and_even_boxes_have_their_centre_at_half_of_the_box(box):
    image = turned_image(make_spline(Projection(blob((0, 0), 200, FINE_A), FINE_A)), box, PIXEL_A, 77.0, np.zeros(2))
    assert np.unravel_index(image.argmax(), image.shape) == (box // 2, box // 2)


def test_fineness_of_the_projection_does_not_matter():
    coarser = make_spline(Projection(blob(BLOB_A, 144, 1.5), 1.5))
    shift_px = np.array([1.3, 0.4])
    one, other = (turned_image(spline, BOX, PIXEL_A, 33.0, shift_px) for spline in (SPLINE, coarser))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_transfer_function_multiplies_the_spectrum():
    """The image of a point is the transfer function: its zeros are where the formula has them."""
    point = np.zeros((128, 128))
    point[64, 64] = 1.0
    config = make_simulation_config("paper")
    seen = apply_transfer(point, transfer_function(config, 15000.0, 15000.0, 0.0))
    spectrum = np.abs(np.fft.rfft2(np.fft.ifftshift(seen)))[0, :60]
    k = torch.fft.rfftfreq(128, 3.0, dtype=torch.float64)[:60]
    expected = ctf_1d(k, torch.tensor([15000.0]).double(), config.optics)[0].abs().numpy()
    np.testing.assert_allclose(spectrum, expected, atol=0.05)
    zeros = np.flatnonzero(np.diff(np.sign(np.diff(spectrum))) > 0) + 1
    expected_zeros = np.flatnonzero(np.diff(np.sign(np.diff(expected))) > 0) + 1
    assert len(expected_zeros) >= 4
    np.testing.assert_allclose(zeros[: len(expected_zeros)], expected_zeros, atol=1)


def test_padding_keeps_the_image_from_coming_back_in():
    """What a particle at the edge throws beyond the box does not appear at the opposite edge."""
    image = blob((85.0, 0.0), BOX, PIXEL_A)
    transfer = transfer_function(CONFIG, 20000.0, 20000.0, 0.0)
    wide = np.zeros((3 * BOX, 3 * BOX))
    wide[BOX : 2 * BOX, BOX : 2 * BOX] = image
    config = make_simulation_config("paper", {"box": 3 * BOX})
    exact = apply_transfer(wide, transfer_function(config, 20000.0, 20000.0, 0.0))[BOX : 2 * BOX, BOX : 2 * BOX]
    np.testing.assert_allclose(apply_transfer(image, transfer), exact, atol=0.01 * np.abs(exact).max())


def test_unit_transfer_returns_the_image():
    image = turned_image(SPLINE, BOX, PIXEL_A, 12.0, np.zeros(2))
    np.testing.assert_allclose(apply_transfer(image, np.ones((2 * BOX, BOX + 1), np.float32)), image, atol=1e-6)


def test_envelopes_are_off_unless_asked_for():
    plain = transfer_function(CONFIG, 20000.0, 20000.0, 0.0)
    damped = transfer_function(CONFIG.model_copy(update={"b_factor_A2": 100.0}), 20000.0, 20000.0, 0.0)
    coherent = CONFIG.model_copy(update={"microscope": Microscope(optics=Optics())})
    nyquist = np.exp(-100.0 / 4 / 36)
    np.testing.assert_allclose(damped[0, -1] / plain[0, -1], nyquist, rtol=1e-4)
    # At 6 A and 2 um the illumination's 0.1 mrad leaves a third, the energy spread nearly all.
    ratio = transfer_function(coherent, 20000.0, 20000.0, 0.0)[0, -1] / plain[0, -1]
    assert 0.33 < ratio < 0.35


def test_clean_images_follow_their_truth():
    truth = draw_truth(CONFIG)
    renderer = make_renderer(SPECIMEN, CONFIG)
    for row in range(len(truth)):
        expected = blob(place_A(truth.psi_deg[row], truth.shift_px[row]), BOX, PIXEL_A)
        defocus_A = float(truth.defocus_A[row])
        seen = apply_transfer(expected, transfer_function(CONFIG, defocus_A, defocus_A, 0.0))
        np.testing.assert_allclose(clean_image(renderer, truth, row), seen, atol=1e-3)
