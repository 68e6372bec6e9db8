"""Cropping and turning against analytic images, in float64 and in the product's float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.preprocessing.resample import cropped_pixel_size_A, equal_turns, fourier_crop, quarter_turn, rotate


def gaussian(size, centre_xy, sigma, pixel=1.0, dtype=torch.float64):
    """Blob at ``centre_xy`` from pixel n // 2, in units of ``pixel``."""
    offset = (torch.arange(size, dtype=torch.float64) - size // 2) * pixel
    x, y = offset[None, :] - centre_xy[0], offset[:, None] - centre_xy[1]
    return torch.exp(-(x**2 + y**2) / (2 * sigma**2))[None].to(dtype)


@pytest.mark.parametrize(("size", "new_size"), [(64, 32), (64, 48), (65, 33), (64, 33), (63, 32), (60, 45)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_smooth_image_is_the_same_on_the_coarser_grid(size, new_size, dtype):
    fine = gaussian(size, (3.0, -5.0), 4.5, dtype=dtype)
    coarse = fourier_crop(fine, new_size)
    expected = gaussian(new_size, (3.0, -5.0), 4.5, pixel=cropped_pixel_size_A(1.0, size, new_size), dtype=dtype)
    torch.testing.assert_close(coarse, expected, atol=2e-5, rtol=0)


@given(st.integers(5, 40), st.integers(4, 40), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_cropping_keeps_the_mean_and_the_field_of_view(size, new_size, seed):
    images = torch.randn(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cropped = fourier_crop(images, new_size)
    torch.testing.assert_close(cropped.mean((1, 2)), images.mean((1, 2)))
    assert np.isclose(cropped_pixel_size_A(1.7, size, new_size) * new_size, 1.7 * size)


def test_white_noise_loses_the_power_that_is_cut_off():
    noise = torch.randn(200, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert np.isclose(float(fourier_crop(noise, 32).var()), 31**2 / 64**2, rtol=0.02)


@settings(max_examples=20, deadline=None)
@given(st.floats(-180, 180), st.sampled_from([32, 33]))
def test_a_turned_blob_lies_where_the_convention_says(psi_deg, size):
    where = np.array([6.0, 3.0])
    psi = np.radians(psi_deg)
    # image(x) = reference(R(psi) x): what was at r is now at R(psi)^-1 r.
    matrix = np.array([[np.cos(psi), -np.sin(psi)], [np.sin(psi), np.cos(psi)]])
    expected = gaussian(size, matrix.T @ where, 3.0, dtype=torch.float32)
    turned = rotate(gaussian(size, where, 3.0, dtype=torch.float32), torch.tensor([psi_deg]))
    inside = gaussian(size, (0.0, 0.0), 6.0) > 0.2
    torch.testing.assert_close(turned[inside], expected[inside], atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [32, 33])
def test_quarter_turns_are_exact_and_four_of_them_nothing(size):
    image = gaussian(size, (5.0, 2.0), 2.0, dtype=torch.float32)
    turned = image
    for _ in range(4):
        turned = rotate(turned, torch.tensor([90.0]))
    inner = slice(1, size)
    torch.testing.assert_close(turned[:, inner, inner], image[:, inner, inner], atol=1e-4, rtol=0)


def test_images_must_be_square():
    for function, argument in ((fourier_crop, 4), (rotate, torch.zeros(1))):
        with pytest.raises(ValueError, match="square"):
            function(torch.zeros(1, 4, 5), argument)


@pytest.mark.parametrize("size", [16, 17])
def test_a_quarter_turn_is_that_of_rotate(size):
    images = torch.randn(3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    turned = images
    for quarter in range(1, 5):
        turned = quarter_turn(turned)
        expected = rotate(images, torch.full((3,), 90.0 * quarter, dtype=torch.float64))
        # About the middle of an even box a row and a column have no partner.
        inner = slice(1, None) if size % 2 == 0 else slice(None)
        torch.testing.assert_close(turned[:, inner, inner], expected[:, inner, inner], atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="square"):
        quarter_turn(torch.zeros(1, 4, 5))


@pytest.mark.parametrize("n_turns", [12, 6, 1])
def test_equal_turns_are_all_of_them(n_turns):
    images = gaussian(40, (4.0, -2.0), 3.0) + 0.5 * gaussian(40, (-3.0, 1.0), 2.0)
    found = dict(equal_turns(images, n_turns))
    assert sorted(found) == list(range(n_turns))
    for k, turned in found.items():
        expected = rotate(images, torch.full((1,), k * 360.0 / n_turns, dtype=torch.float64))
        torch.testing.assert_close(turned, expected, atol=2e-3, rtol=0)
