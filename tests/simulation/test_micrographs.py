"""Whole micrographs, and the particles boxed from them."""

from __future__ import annotations

import json
from dataclasses import replace

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryorbit.errors import ConfigurationError, ParticleDataError
from cryorbit.optics import Microscope
from cryorbit.optics.interaction import phase_per_potential_rad
from cryorbit.simulation import (
    MicrographConfig,
    Projection,
    SimulationConfig,
    draw_truth,
    iter_images,
    map_projection,
    phantom_projection,
    simulate,
)
from cryorbit.simulation.boxes import box_particles, cut_boxes
from cryorbit.simulation.micrographs import iter_micrographs, make_micrograph, make_scene
from cryorbit.simulation.noise import disc
from cryorbit.simulation.potential import phase_projection
from cryorbit.simulation.rendering import clean_image, make_renderer
from cryorbit.simulation.stack import write_micrograph

from .small_micrographs import small_config

SPECIMEN = phantom_projection(view=(30.0, 60.0))
NOISY = {"snr": None, "dose_per_nm2": 2000.0, "ice_nm": 30.0}


def images_of(config, specimen=SPECIMEN, batch_size=64):
    return np.concatenate([batch.numpy() for batch in iter_images(draw_truth(config), specimen, config, batch_size)])


def scene_of(config, specimen=SPECIMEN):
    return make_scene(draw_truth(config), specimen, config)


@pytest.mark.parametrize("defocus_um", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("shift_px", [0.0, 2.0])
def test_a_lone_particle_is_what_the_single_box_simulator_draws(defocus_um, shift_px):
    config = small_config(
        images=1, particles_per_micrograph=1, defocus_um=str(defocus_um), shift_px=shift_px, extracted_px=202,
        magnification=26300.0,
    )  # fmt: skip
    truth = draw_truth(config)
    boxed = images_of(config)[0]
    single = SimulationConfig(
        images=1, snr=0.0, outliers=0.0, box=128, pixel_size_A=config.pixel_size_A, microscope=Microscope(),
        shift_px=shift_px,
    )  # fmt: skip
    drawn = clean_image(make_renderer(SPECIMEN, single), truth, 0)
    assert np.corrcoef(boxed.ravel(), drawn.ravel())[0, 1] > 0.999


def test_what_is_seen_of_many_particles_is_the_sum_of_what_is_seen_of_each():
    config = small_config(images=3, defocus_um="2.5")
    scene = scene_of(config)
    together = make_micrograph(scene, 0, np.arange(3)).contrast
    apart = sum(make_micrograph(scene, 0, np.array([row])).contrast for row in range(3))
    np.testing.assert_allclose(together, apart, atol=2e-5 * np.abs(together).max())


def test_tails_reach_into_the_boxes_of_neighbours():
    """Far from focus a small thing is seen over several boxes, as far as lambda df k."""
    offset = np.arange(-20, 21)
    blob = np.exp(-0.5 * (offset[:, None] ** 2 + offset[None, :] ** 2) / 2.0**2)
    config = small_config(images=1, microscope=None, defocus_um="10.0")
    scene = scene_of(config, Projection(blob, 1.0, volume_A3=500.0))
    x, y = scene.truth.coordinate_px[0]
    beside = np.array([[x + 210.0 if x < 420 else x - 210.0, y]])
    seen = make_micrograph(scene, 0, np.array([0])).contrast
    assert cut_boxes(seen, beside, config.extracted_px).abs().amax() > 1e-2 * np.abs(seen).max()


def test_nothing_comes_back_in_at_the_opposite_edge():
    config = small_config(images=1, defocus_um="3.0", particles_per_micrograph=12)
    truth = draw_truth(config)
    corner, middle = (replace(truth, coordinate_px=np.array([[96.0 + x, 96.0]])) for x in (0, 300))
    seen, moved = (make_scene(one, SPECIMEN, config) for one in (corner, middle))
    seen, moved = (make_micrograph(scene, 0, np.array([0])).contrast for scene in (seen, moved))
    np.testing.assert_allclose(seen[:, :500], moved[:, 300:800], atol=1e-3 * np.abs(moved).max())


def test_micrographs_are_dark_and_boxes_white():
    scene = scene_of(small_config(images=12, defocus_um="1.5"))
    micrograph = next(iter_micrographs(scene))
    x, y = scene.truth.coordinate_px[0].astype(int)
    assert micrograph.intensity.shape == (620, 840)
    assert micrograph.intensity[y - 20 : y + 20, x - 20 : x + 20].mean() < micrograph.intensity.mean()
    boxes = box_particles(micrograph, scene).images
    assert boxes[:, 54:74, 54:74].mean() > boxes.mean()


def test_boxes_are_normalised_as_an_extraction_does():
    config = small_config("micrographs", images=24)
    images = images_of(config)
    outside = ~disc(128, 90.0)
    np.testing.assert_allclose(images[:, outside].mean(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(images[:, outside].std(axis=1), 1.0, atol=1e-5)


def test_same_seed_same_images_whatever_the_batch():
    config = small_config(images=24, outliers=0.3, shift_px=1.0, jitter=0.5, **NOISY)
    whole = images_of(config)
    np.testing.assert_array_equal(whole, images_of(config, batch_size=7))
    assert (whole != images_of(config.model_copy(update={"seed": 1}))).any(axis=(1, 2)).all()
    # A micrograph does not need those before it.
    scene = scene_of(config)
    last = make_micrograph(scene, 1, np.flatnonzero(scene.truth.micrograph == 1))
    np.testing.assert_array_equal(box_particles(last, scene).images.numpy(), whole[-12:])


@pytest.mark.parametrize("defocus_um", ["1.0", "2.5"])
def test_noise_of_the_boxes_is_the_predicted_one(defocus_um):
    config = small_config(images=36, defocus_um=defocus_um, **NOISY)
    scene = scene_of(config)
    variance = []
    for micrograph in iter_micrographs(scene):
        noise = 1.0 - micrograph.intensity / (2000.0 / 100 * 4.0) - micrograph.contrast
        boxes = cut_boxes(noise, scene.truth.coordinate_px[micrograph.rows], config.extracted_px)
        spectrum = torch.fft.fft2(boxes, norm="forward").abs().square()
        kept = torch.fft.fftfreq(192, 1 / 192).abs() < 64
        variance += spectrum[:, kept][:, :, kept].sum(dim=(1, 2)).tolist()
    assert np.mean(variance) == pytest.approx(scene.intensities.noise_std**2, rel=0.04)


@pytest.mark.parametrize("snr", [0.05, 0.5])
def test_a_ratio_that_is_asked_for_is_met(snr):
    config = small_config(images=24, snr=snr, dose_per_nm2=3000.0, ice_nm=20.0, defocus_um="1.0,2.0")
    scene = scene_of(config)
    variance = np.concatenate([box_particles(one, scene).signal_variance for one in iter_micrographs(scene)])
    assert variance.mean() / scene.intensities.noise_std**2 == pytest.approx(snr, rel=0.05)


def test_more_dose_and_less_ice_are_a_better_ratio():
    def ratio(**changes):
        intensities = scene_of(small_config(**{**NOISY, **changes})).intensities
        return intensities.signal_variance / intensities.noise_std**2

    assert ratio(ice_nm=0.0, dose_per_nm2=4000.0) == pytest.approx(2 * ratio(ice_nm=0.0), rel=1e-4)
    assert ratio(ice_nm=100.0) < ratio() < ratio(ice_nm=0.0)


def test_phase_is_that_of_the_potential_times_the_volume():
    config = small_config(contrast_potential_V=4.0)
    phase = phase_projection(SPECIMEN, config)
    expected = phase_per_potential_rad(300.0) * 4.0 * SPECIMEN.volume_A3
    assert phase.image.sum() * phase.pixel_size_A**2 == pytest.approx(expected)
    heavier = phase_projection(SPECIMEN, small_config(contrast_potential_V=4.0, mass_kDa=1e-3 * SPECIMEN.volume_A3))
    np.testing.assert_allclose(heavier.image, 1.21 * phase.image, atol=1e-12)


def test_units_of_a_map_do_not_matter(tmp_path):
    n = 40
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij"))
    ball = (np.linalg.norm(grid, axis=0) < 14.0).astype(np.float32)
    for name, unit in (("one", 1.0), ("other", 250.0)):
        with mrcfile.new(tmp_path / f"{name}.mrc", data=unit * ball) as mrc:
            mrc.voxel_size = 4.0
    one, other = (map_projection(tmp_path / f"{name}.mrc") for name in ("one", "other"))
    assert one.volume_A3 == pytest.approx(ball.sum() * 64.0, rel=0.1)
    first, second = (phase_projection(projection, small_config()).image for projection in (one, other))
    np.testing.assert_allclose(first, second, rtol=1e-5)
    # A ball of 56 A: 3.5 V over its diameter, as far as its volume is right.
    assert first.max() == pytest.approx(phase_per_potential_rad(300.0) * 3.5 * 2 * 56.0, rel=0.12)


def test_the_dark_rim_of_an_experimental_map_does_not_change_the_scale():
    offset = np.arange(SPECIMEN.image.shape[0]) - SPECIMEN.image.shape[0] // 2
    rim = 0.2 * SPECIMEN.image.max() * (np.hypot(offset[:, None], offset[None, :]) > 143.0)
    rimmed = replace(SPECIMEN, image=SPECIMEN.image - rim)
    assert rimmed.image.sum() < 0
    config = small_config()
    ratio = phase_projection(rimmed, config).image.max() / phase_projection(SPECIMEN, config).image.max()
    assert ratio == pytest.approx(1.0, rel=1e-3)


def test_a_specimen_without_scale_needs_a_ratio():
    unknown = Projection(SPECIMEN.image, SPECIMEN.pixel_size_A)
    dark = replace(SPECIMEN, image=-SPECIMEN.image)
    for specimen, message in ((unknown, "has no volume"), (dark, "not brighter than its surroundings")):
        with pytest.raises(ParticleDataError, match=message):
            scene_of(small_config(**NOISY), specimen)
        with_ratio = scene_of(small_config(**{**NOISY, "snr": 0.1}), specimen).intensities
        assert with_ratio.signal_variance / with_ratio.noise_std**2 == pytest.approx(0.1)


def test_more_contrast_than_electrons_is_refused():
    with pytest.raises(ConfigurationError, match="more electrons than there are"):
        scene_of(small_config(snr=5.0, dose_per_nm2=10.0))


def test_all_kinds_of_junk_can_be_boxed():
    config = small_config(images=48, outliers=0.5, shift_px=1.0, **NOISY)
    truth, images = draw_truth(config), images_of(config)
    assert {"noise", "ice", "edge", "overlap", "other"} <= set(truth.kind)
    assert np.isfinite(images).all()
    contrast = images[:, disc(128, 90.0)].var(axis=1)
    assert contrast[truth.kind == "noise"].max() < contrast[truth.kind == "none"].min()


def test_boxes_outside_of_the_image_are_refused():
    with pytest.raises(ValueError, match="some corners are outside"):
        cut_boxes(np.zeros((50, 60), np.float32), np.array([[5.0, 25.0]]), 20)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micrographs") / "set"
    config = small_config("micrographs", images=20)
    simulate(folder, SPECIMEN, config, keep_micrographs=True)
    return folder, config


def test_tables_name_the_micrographs_that_are_kept(kept):
    folder, config = kept
    blind, truth = (starfile.read(folder / name) for name in ("particles.star", "truth.star"))
    names = blind["particles"]["rlnMicrographName"].unique()
    assert sorted(names) == [f"micrographs/{path.name}" for path in sorted((folder / "micrographs").iterdir())]
    assert blind["optics"]["rlnMicrographOriginalPixelSize"].item() == pytest.approx(2.0)
    assert blind["optics"]["rlnImagePixelSize"].item() == pytest.approx(3.0)
    per_micrograph = truth["particles"].groupby("rlnMicrographName")["rlnDefocusU"]
    assert (per_micrograph.max() == per_micrograph.min()).all()
    plain = pd.read_csv(folder / "truth.csv", keep_default_na=False)
    assert (plain["snr"] > 0).all()
    content = json.loads((folder / "simulation.json").read_text())
    assert MicrographConfig.model_validate(content["configuration"]) == config


def test_kept_micrographs_hold_the_boxed_particles(kept):
    """Cut out by the coordinates of the table, inverted and normalised, they are the images."""
    folder, config = kept
    table = starfile.read(folder / "particles.star")["particles"]
    with mrcfile.open(folder / table["rlnMicrographName"].iloc[0]) as mrc:
        counts, pixel_A = mrc.data.astype(np.float32), float(mrc.voxel_size.x)
    assert mrcfile.validate(folder / table["rlnMicrographName"].iloc[0])
    assert counts.shape == (620, 840)
    assert pixel_A == pytest.approx(2.0)
    x, y = (int(table[f"rlnCoordinate{axis}"].iloc[0]) - config.extracted_px // 2 for axis in "XY")
    box = -counts[y : y + 192, x : x + 192]
    spectrum = np.fft.fftshift(np.fft.fft2(box))[33:160, 33:160]
    image = np.fft.fftshift(np.fft.fft2(mrcfile.read(folder / "particles.mrcs")[0]))[1:, 1:]
    spectrum[63, 63] = image[63, 63] = 0
    # Both have their centre at pixel n // 2, which is half the width of even boxes: no phase between them.
    agreement = np.vdot(spectrum, image).real / np.linalg.norm(spectrum) / np.linalg.norm(image)
    assert agreement > 0.9999


@pytest.mark.parametrize(("brightest", "kind"), [(127.0, np.int8), (128.0, np.uint16), (70000.0, np.float32)])
def test_counts_are_written_as_the_smallest_numbers_that_hold_them(tmp_path, brightest, kind):
    counts = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, brightest]], dtype=np.float32)
    for name, values, expected in (("counts", counts, kind), ("parts", counts + np.float32(0.5), np.float32)):
        write_micrograph(tmp_path / f"{name}.mrc", values, 2.0)
        read = mrcfile.read(tmp_path / f"{name}.mrc")
        assert read.dtype == expected
        np.testing.assert_array_equal(read, values)


def test_same_seed_same_files(kept, tmp_path):
    folder, config = kept
    simulate(tmp_path / "again", SPECIMEN, config, keep_micrographs=True)
    for path in sorted(folder.rglob("*.*")):
        assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_micrographs_are_not_left_unless_asked_for(tmp_path):
    simulate(tmp_path / "set", SPECIMEN, small_config(images=2))
    assert not (tmp_path / "set" / "micrographs").exists()
    single = SimulationConfig(images=2)
    with pytest.raises(ConfigurationError, match="no micrographs to keep"):
        simulate(tmp_path / "other", SPECIMEN, single, keep_micrographs=True)
    assert not (tmp_path / "other").exists()
