"""The cache holds what the stacks hold, and refuses what no network should see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryorbit import ImageStack, ParticleDataError
from cryorbit.config import PreprocessingConfig
from cryorbit.errors import RunFolderError
from cryorbit.particles import ImageLocations
from cryorbit.preprocessing.dataset import build_cache, network_box_size, open_cache
from cryorbit.preprocessing.normalise import choose_scale, intensity_statistics, standardise
from cryorbit.preprocessing.resample import fourier_crop
from cryorbit.preprocessing.spectrum import ring_power, sample_spectra

from ..io.conftest import write_stack

CONFIG = PreprocessingConfig(box_size=16, shard_images=7, invert=False)


def make_images(n=20, size=32, seed=0):
    y, x = np.mgrid[:size, :size] - size // 2
    blob = np.exp(-(x**2 + y**2) / 40.0)
    return (np.random.default_rng(seed).normal(size=(n, size, size)) + blob).astype(np.float32)


def stack_of(images, folder):
    path = write_stack(folder / "a.mrcs", images)
    rows = np.arange(len(images))
    return ImageStack(ImageLocations((path,), np.zeros_like(rows), rows))


def names(n):
    return np.array([f"{i + 1}@a.mrcs" for i in range(n)], dtype=object)


def test_the_cache_equals_cropping_and_standardising_in_memory(tmp_path):
    images = make_images()
    progress = []
    cache = build_cache(
        stack_of(images, tmp_path), 3.0, tmp_path / "c", CONFIG, names(20), progress=lambda *a: progress.append(a)
    )
    cropped = fourier_crop(torch.from_numpy(images), 16)
    statistics = intensity_statistics(cropped, cache.info.particle_radius_px)
    expected = standardise(cropped, cache.info.particle_radius_px, choose_scale(statistics, False))
    rows = np.array([19, 0, 6, 7, 7, 13])
    torch.testing.assert_close(cache.read(rows), expected[rows], atol=4e-3, rtol=0)
    torch.testing.assert_close(torch.cat(list(cache.batches(6))), expected, atol=4e-3, rtol=0)
    assert (cache.info.pixel_size_A, cache.info.original_box_size, len(cache)) == (6.0, 32, 20)
    assert progress[-1] == (20, 20)


def test_shards_do_not_change_the_images(tmp_path):
    stack = stack_of(make_images(), tmp_path)
    whole = build_cache(stack, 3.0, tmp_path / "1", CONFIG.model_copy(update={"shard_images": 99}), names(20))
    parts = build_cache(stack, 3.0, tmp_path / "2", CONFIG.model_copy(update={"shard_images": 3}), names(20))
    rows = np.arange(20)
    # To half precision: on some processors a sum depends in its last bit on how many images are summed at once.
    torch.testing.assert_close(whole.read(rows), parts.read(rows), atol=4e-3, rtol=0)
    shuffled = np.array([19, 3, 4, 5, 0, 0, 18])
    assert torch.equal(parts.read(shuffled), parts.read(rows)[shuffled])


def test_a_shard_that_is_cut_short_is_noticed(tmp_path):
    cache = build_cache(stack_of(make_images(), tmp_path), 3.0, tmp_path / "c", CONFIG, names(20))
    path = tmp_path / "c" / "shard_00000.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFolderError, match="is cut short"):
        cache.read(np.arange(20))
    assert open_cache(tmp_path / "c") is None


@pytest.mark.parametrize(("value", "sentence"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")])
def test_images_that_are_no_images_are_named(tmp_path, value, sentence):
    images = make_images()
    images[4, 3, 3] = value
    with pytest.raises(ParticleDataError, match=sentence) as caught:
        build_cache(stack_of(images, tmp_path), 3.0, tmp_path / "c", CONFIG, names(20))
    assert "5@a.mrcs (particle 5)" in str(caught.value)


def test_constant_images_are_named(tmp_path):
    images = make_images()
    images[9] = 1.0
    with pytest.raises(ParticleDataError, match=r"are constant, for instance 10@a\.mrcs"):
        build_cache(stack_of(images, tmp_path), 3.0, tmp_path / "c", CONFIG, names(20))


def test_the_box_fits_both_images_and_network():
    assert network_box_size(100, 64, 16) == 64
    assert network_box_size(50, 64, 16) == 48
    with pytest.raises(ParticleDataError, match="less than the 32"):
        network_box_size(24, 128, 32)


def test_ring_power_of_white_noise_is_flat_and_adds_up(tmp_path):
    noise = torch.randn(400, 16, 16, generator=torch.Generator().manual_seed(3))
    rings = ring_power(noise).mean(0)
    assert rings.shape == (7,)
    torch.testing.assert_close(rings * 256, torch.ones(7), atol=0.08, rtol=0)
    cache = build_cache(stack_of(make_images(), tmp_path), 3.0, tmp_path / "c", CONFIG, names(20))
    spectra = sample_spectra(cache, np.array([1, 5]))
    np.testing.assert_allclose(spectra.frequency_per_A, np.arange(1, 8) / 96.0)
    assert spectra.power.shape == (2, 7)
