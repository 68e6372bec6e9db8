"""Intensities do not depend on how the file scales them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit import ImageStack, read_particles
from cryorbit.preprocessing.normalise import (
    choose_scale,
    detect_contrast,
    disc_mask,
    gaussian_smooth,
    intensity_statistics,
    scale_to_unit_range,
    standardise,
)


def particles(n=60, size=32, signal=2.0, seed=0):
    noise = torch.randn(n, size, size, generator=torch.Generator().manual_seed(seed))
    return noise + signal * disc_mask(size, 7.0, soft_px=4.0)


def prepared(images, invert=False, radius=11.0):
    return standardise(images, radius, choose_scale(intensity_statistics(images, radius), invert))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1e4), st.floats(-1e3, 1e3))
def test_gain_and_offset_of_the_file_do_not_matter(gain, offset):
    images = particles()
    torch.testing.assert_close(prepared(gain * images + offset), prepared(images), atol=0.05, rtol=0)


def test_background_is_standard():
    statistics = intensity_statistics(prepared(5.0 * particles() - 3.0), 11.0)
    np.testing.assert_allclose(statistics.background_mean, 0, atol=1e-5)
    np.testing.assert_allclose(statistics.background_std, 1, atol=1e-4)


def contrast_of(images):
    return detect_contrast(images, intensity_statistics(images, 11.0))


@pytest.mark.parametrize("sign", [1, -1])
def test_contrast_is_found_and_undone(sign):
    images = sign * particles()
    contrast = contrast_of(images)
    assert not contrast.doubtful
    assert contrast.dark_particles == (sign < 0)
    torch.testing.assert_close(prepared(images, contrast.dark_particles), prepared(particles()))


def test_junk_cannot_turn_the_contrast():
    images = particles(size=32)
    images[:20] = -30.0 * disc_mask(32, 4.0) + torch.randn(20, 32, 32)
    assert not contrast_of(images).dark_particles


@pytest.mark.parametrize("radius", [6.0, 8.0, 10.0, 12.0])
@pytest.mark.parametrize("hole", [0.0, 0.6])
@pytest.mark.parametrize("sign", [1, -1])
def test_neither_size_nor_a_hole_turns_the_contrast(radius, hole, sign):
    shape = disc_mask(32, radius, soft_px=3.0) - (disc_mask(32, hole * radius, soft_px=2.0) if hole else 0.0)
    images = torch.randn(300, 32, 32, generator=torch.Generator().manual_seed(1)) + 2.0 * sign * shape
    assert contrast_of(images).dark_particles == (sign < 0)


@pytest.mark.reference_data
def test_real_apoferritin_is_dark(reference_data):
    table = read_particles(reference_data / "apoferritin" / "particles.star")
    with ImageStack(table.locations) as stack:
        images = torch.from_numpy(stack.read(np.arange(0, len(table), 5)))
    assert detect_contrast(images, intensity_statistics(images, 24.0)).dark_particles


def test_pure_noise_has_no_certain_contrast():
    assert sum(not contrast_of(particles(signal=0.0, seed=seed)).doubtful for seed in range(20)) <= 3


def test_smoothing_is_that_of_a_gaussian():
    point = torch.zeros(1, 33, 33)
    point[0, 16, 16] = 1.0
    y, x = torch.meshgrid(torch.arange(33) - 16.0, torch.arange(33) - 16.0, indexing="ij")
    expected = torch.exp(-(x**2 + y**2) / 8.0) / (8.0 * torch.pi)
    torch.testing.assert_close(gaussian_smooth(point, 2.0)[0], expected, atol=1e-5, rtol=0)


def test_a_noise_free_set_gets_one_scale():
    ringing = 0.01 * torch.rand(60, 1, 1) * torch.randn(60, 32, 32)
    images = torch.linspace(1, 3, 60)[:, None, None] * disc_mask(32, 7.0, soft_px=4.0) + ringing
    scale = choose_scale(intensity_statistics(images, 11.0), invert=False)
    assert scale.noise_free
    brightness = standardise(images, 11.0, scale).amax((1, 2))
    torch.testing.assert_close(brightness / brightness[0], images.amax((1, 2)) / images[0].max(), rtol=0.05, atol=0)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_unit_range_spans_it(seed):
    images = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))
    scaled = scale_to_unit_range(images)
    assert torch.equal(scaled.amin((1, 2)), torch.zeros(4))
    torch.testing.assert_close(scaled.amax((1, 2)), torch.ones(4))
    torch.testing.assert_close(scale_to_unit_range(3.0 * images - 7.0), scaled, atol=1e-5, rtol=0)
    assert torch.equal(scale_to_unit_range(torch.full((1, 8, 8), 3.0)), torch.zeros(1, 8, 8))
