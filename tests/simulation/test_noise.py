"""Noise: ratio, spectrum, normalisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cryorbit.errors import ParticleDataError
from cryorbit.simulation import (
    Projection,
    draw_truth,
    iter_images,
    make_simulation_config,
    phantom_projection,
)
from cryorbit.simulation.noise import disc, measure_intensities, noise_amplitude, noise_image, particle_disc
from cryorbit.simulation.rendering import clean_image, make_renderer
from cryorbit.simulation.single_images import iter_batches

SPECIMEN = phantom_projection()


def make_set(**changes):
    config = make_simulation_config("noisy", {"images": 150, "box": 64, "pixel_size_A": 6.0, **changes})
    renderer, truth = make_renderer(SPECIMEN, config), draw_truth(config)
    return config, renderer, truth, measure_intensities(renderer, truth)


def rings(images):
    """Mean power in each Fourier ring of a batch."""
    box = images.shape[-1]
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=0) / box**2
    frequency = np.fft.fftfreq(box, 1 / box)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    return np.bincount(ring.ravel(), power.ravel())[: box // 2] / np.bincount(ring.ravel())[: box // 2]


@pytest.mark.parametrize("snr", [0.1, 0.02, 1.0])
def test_measured_ratio_is_the_one_asked_for(snr):
    _, renderer, truth, intensities = make_set(snr=snr)
    inside = particle_disc(renderer)
    clean = np.stack([clean_image(renderer, truth, row) for row in range(len(truth))])
    noise = np.stack([noise_image(renderer, row, None) for row in range(len(truth))]) * intensities.noise_std
    measured = clean[:, inside].var(axis=1).mean() / noise[:, inside].var(axis=1).mean()
    assert measured == pytest.approx(snr, rel=0.05)


@pytest.mark.parametrize("spectrum", [None, tuple(1 + 9 * np.exp(-np.arange(46) / 6.0))])
def test_noise_has_unit_variance_and_the_given_spectrum(spectrum):
    _, renderer, _, _ = make_set()
    amplitude = noise_amplitude(64, spectrum) if spectrum else None
    noise = np.stack([noise_image(renderer, row, amplitude) for row in range(600)]).astype(float)
    assert noise.var() == pytest.approx(1.0, rel=0.02)
    expected = np.array(spectrum[:32]) if spectrum else np.ones(32)
    measured = rings(noise)
    ratio = measured / expected
    # Ring 1 holds 8 coefficients, so 600 images give it to 3 %.
    np.testing.assert_allclose(ratio[1:] / ratio[1:].mean(), 1.0, atol=0.12)


def test_last_value_of_the_spectrum_holds_beyond():
    np.testing.assert_allclose(noise_amplitude(32, (1.0,)), 1.0)
    amplitude = noise_amplitude(32, (4.0, 1.0))
    assert amplitude[0, 0] == pytest.approx(2 * amplitude[5, 5])


def test_coloured_images_keep_the_ratio():
    _, _, _, white = make_set()
    _, _, _, coloured = make_set(noise_spectrum=(8.0, 4.0, 2.0, 1.0))
    assert coloured == white


def test_noise_of_different_images_is_independent():
    _, renderer, _, _ = make_set()
    one, other = (noise_image(renderer, row, None).ravel() for row in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_background_has_mean_0_and_deviation_1():
    config, renderer, truth, _ = make_set(outliers=0.2)
    outside = ~particle_disc(renderer)
    for batch in iter_images(truth, SPECIMEN, config):
        background = batch.numpy()[:, outside].astype(float)
        np.testing.assert_allclose(background.mean(axis=1), 0.0, atol=1e-5)
        np.testing.assert_allclose(background.std(axis=1), 1.0, atol=1e-5)


def test_a_set_without_noise_has_one_scale():
    config, renderer, truth, intensities = make_set(snr=0.0)
    images = np.concatenate([batch.numpy() for batch in iter_images(truth, SPECIMEN, config)])
    clean = np.stack([clean_image(renderer, truth, row) for row in range(len(truth))])
    scale = images.std(axis=(1, 2)) / clean.std(axis=(1, 2))
    np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
    assert intensities.noise_std == 0
    assert images[:, particle_disc(renderer)].std() == pytest.approx(1.0, rel=0.05)


def test_batch_size_does_not_change_an_image():
    config, _, truth, _ = make_set(outliers=0.3, images=40, noise_spectrum=(3.0, 2.0, 1.0))
    one, other = (
        np.concatenate([batch.numpy() for batch in iter_images(truth, SPECIMEN, config, batch_size=size)])
        for size in (7, 40)
    )
    np.testing.assert_array_equal(one, other)


def test_signal_variance_of_noise_alone_is_zero():
    _, renderer, truth, intensities = make_set(outliers=0.3, images=60)
    variance = np.concatenate([b.signal_variance for b in iter_batches(truth, renderer, intensities)])
    assert (variance[truth.kind == "noise"] == 0).all()
    assert variance[~truth.outlier].mean() == pytest.approx(intensities.signal_variance)


def test_disc_is_centred_on_half_of_the_box():
    inside = disc(16, 10.0)
    assert inside[8, 8]
    assert inside[8, 13]
    assert inside[8, 3]
    assert not inside[8, 14]


def test_sets_without_signal_are_refused():
    _, renderer, truth, _ = make_set()
    with pytest.raises(ParticleDataError, match="All simulated images are junk"):
        measure_intensities(renderer, dataclasses.replace(truth, kind=np.full(len(truth), "ice")))
    corner = np.zeros((600, 600))
    corner[0, 0] = 1.0
    config = make_simulation_config("noisy", {"images": 3})
    with pytest.raises(ParticleDataError, match="no contrast inside their disc"):
        measure_intensities(make_renderer(Projection(corner, 1.0), config), draw_truth(config))
