"""Whole alignments of a simulated set, whose truth went through pixels, a stack and a file."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import cryorbit as co
from cryorbit.alignment import images, orbit
from cryorbit.alignment import reader as reader_module
from cryorbit.alignment.learn import settings_for
from cryorbit.alignment.orbit import Alignment, ParticlePoses, align, align_others, ring_correlation
from cryorbit.alignment.reader import OpticsGroups, RingReader
from cryorbit.alignment.templates import AverageSums
from cryorbit.config import PreprocessingConfig
from cryorbit.conventions import wrap_deg
from cryorbit.estimation.outliers import ImageEvidence
from cryorbit.estimation.truth import Truth, read_truth
from cryorbit.optics import Optics
from cryorbit.preprocessing.dataset import prepare_images

from ..pipeline_sets import tiny_set
from .blobs import GEOMETRY, GRID, RINGS, draw_truth, make_batch, seen, white_noise
from .blobs import average_of as average_at

N, BOX, PIXEL_A = 160, 48, 6.0


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> tuple[RingReader, Truth]:
    star = tiny_set(tmp_path_factory.mktemp("set") / "s", images=N, pixel_size_A=PIXEL_A, particle_diameter_A=250.0)
    table = co.read_particles(star)
    preprocessing = PreprocessingConfig(box_size=BOX, particle_diameter_A=250.0)
    images = prepare_images(
        co.ImageStack(table.locations), PIXEL_A, BOX, preprocessing, table.frame["rlnImageName"].to_numpy()
    )
    reader = RingReader.of(table, images, "micrograph", (0.2, 4.2), torch.device("cpu"))
    return reader, read_truth(star.with_name("truth.star"), table)


@pytest.fixture(scope="module")
def whole(a_set) -> Alignment:
    return align(a_set[0], settings_for(0.5, 0, 1))


@pytest.fixture(scope="module")
def streamed(a_set) -> Alignment:
    return align(a_set[0], settings_for(0.5, 0, 1), sample=100)


def errors_deg(found: Alignment, truth: Truth) -> np.ndarray:
    """Of good particles, up to one turn of all."""
    error = np.radians(found.poses.psi_deg - truth.psi_deg)
    good = ~truth.is_outlier
    return np.degrees(np.angle(np.exp(1j * (error - np.angle(np.exp(1j * error[good]).mean())))))[good]


@pytest.mark.parametrize("which", ["whole", "streamed"])
def test_a_simulated_set_is_aligned(which, a_set, request):
    """Streamed: most of the particles never were in the average."""
    found, truth = request.getfixturevalue(which), a_set[1]
    error = np.abs(errors_deg(found, truth))
    assert np.median(error) < 3.0
    assert np.mean(error > 15) < 0.1
    assert len(found.poses) == N
    assert found.memory.learnt_from == (N if which == "whole" else 100)
    assert found.memory.model.isotropy_order == 1
    good = ~truth.is_outlier
    z = error / found.poses.psi_std_deg[good]
    assert 0.6 < 1.4826 * np.median(z) < 1.7
    assert np.median(found.poses.mode_probability[good]) > 0.95
    assert np.median(found.poses.psi_std_deg[good] / found.poses.psi_limit_deg[good]) == pytest.approx(1.0, abs=0.3)


def test_particles_that_were_streamed_fare_like_those_that_were_learnt_from(whole, streamed):
    turn = np.radians(wrap_deg(whole.poses.psi_deg - streamed.poses.psi_deg))
    agreement = np.abs(np.exp(1j * turn).mean())
    assert agreement > 0.9
    np.testing.assert_allclose(np.median(streamed.poses.psi_std_deg), np.median(whole.poses.psi_std_deg), rtol=0.25)
    assert streamed.average.particles == pytest.approx(whole.average.particles, rel=0.15)


def test_shifts_are_where_the_particles_lie(whole, a_set):
    """Up to one move of the average, in its own frame."""
    truth = a_set[1]
    good = ~truth.is_outlier
    shift = -truth.origin_A[good] / PIXEL_A
    found = whole.poses.shift_px[good]
    psi = np.radians(truth.psi_deg[good])
    rotation = np.stack([[np.cos(psi), -np.sin(psi)], [np.sin(psi), np.cos(psi)]]).transpose(2, 0, 1)
    moved = np.einsum("nij,nj->ni", rotation, found - shift)
    assert np.median(np.abs(moved - np.median(moved, axis=0))) < 0.25


def test_the_average_is_an_image_of_the_particle(whole):
    average = whole.average
    assert average.image.shape == (BOX, BOX)
    assert average.pixel_size_A == PIXEL_A
    assert average.frc[1:5].min() > 0.9
    assert (average.frc <= 1 + 1e-6).all()
    assert 2 * PIXEL_A < average.resolution_A < 60
    radius = np.hypot(*(np.indices((BOX, BOX)) - BOX // 2))
    # White protein in the middle on an empty background.
    assert average.image[radius < 10].mean() > 4 * np.abs(average.image[radius > 23].mean())


def test_limits_and_noise_are_reported(whole):
    assert (whole.limits.psi_rad > 0).all()
    assert whole.limits.defocus_um[0] == pytest.approx(0.2)
    assert whole.memory.model.noise.shape[0] == 1
    assert (whole.memory.model.noise > 0).all()


def test_junk_has_less_evidence(whole, a_set):
    junk = a_set[1].is_outlier
    share = whole.poses.evidence.likelihood_ratio / whole.poses.evidence.promise
    assert np.median(share[~junk]) > 0.7
    assert np.median(whole.poses.evidence.likelihood_ratio[~junk]) > 2 * np.median(
        whole.poses.evidence.likelihood_ratio[junk]
    )


def test_the_same_settings_give_the_same_poses_and_progress_goes_up_to_all(a_set, streamed):
    said = []
    again = align(a_set[0], settings_for(0.5, 0, 1), sample=100, progress=lambda *told: said.append(told))
    np.testing.assert_array_equal(again.poses.psi_deg, streamed.poses.psi_deg)
    np.testing.assert_array_equal(again.average.image, streamed.average.image)
    done = [count for count, _, _ in said]
    assert done == sorted(done)
    assert said[-1][:2] == (N, N)
    assert {total for _, total, _ in said} == {N}


def test_threads_find_what_one_finds(a_set, streamed, monkeypatch):
    def alone(reader, memory, tasks):
        return (align_others(reader.read(rows), memory, weight) for rows, weight in tasks)

    monkeypatch.setattr(orbit, "CHUNK", 40)
    found = {}
    for others in (alone, orbit.by_threads):
        found[others] = align(a_set[0], settings_for(0.5, 0, 1), sample=100, others=others)
    one, many = found.values()
    np.testing.assert_allclose(many.poses.psi_deg, one.poses.psi_deg, atol=1e-3)
    np.testing.assert_allclose(many.poses.defocus_um, one.poses.defocus_um, atol=1e-4)
    np.testing.assert_allclose(many.average.image, one.average.image, atol=1e-4 * np.abs(one.average.image).max())


def test_as_many_at_once_as_a_gpu_takes(a_set, streamed, monkeypatch):
    monkeypatch.setattr(images, "batch_size", lambda on_a_core, _device: 16 * on_a_core)
    monkeypatch.setattr(reader_module, "batch_size", lambda on_a_core, _device: 16 * on_a_core)
    found = align(a_set[0], settings_for(0.5, 0, 1), sample=100)
    good = found.poses.mode_probability > 0.9
    assert good.mean() > 0.5
    np.testing.assert_allclose(found.poses.defocus_um[good], streamed.poses.defocus_um[good], atol=1e-2)
    turned = wrap_deg(found.poses.psi_deg - streamed.poses.psi_deg)[good]
    assert np.abs(wrap_deg(turned - np.median(turned))).max() < 0.2


def test_a_group_of_few_images_is_aligned_with_the_others(a_set):
    reader = a_set[0]
    voltage = np.full(N, 300.0)
    voltage[17], voltage[40:60] = 200.0, 120.0
    distinct, group = np.unique(voltage, return_inverse=True)
    groups = OpticsGroups(group, tuple(Optics(float(kV)) for kV in distinct), (0.0,) * len(distinct))
    found = align(replace(reader, groups=groups), settings_for(0.5, 0, 1))
    assert np.isfinite(found.poses.psi_deg).all()
    assert found.memory.model.noise.shape[0] == 3


def test_parts_come_together_in_row_order():
    rows = [np.array([3, 0]), np.array([1]), np.array([4, 2])]

    def part(numbers: np.ndarray) -> ParticlePoses:
        values = numbers.astype(float)
        evidence = ImageEvidence(*(values for _ in fields(ImageEvidence)))
        wide = {"shift_px": np.stack([values, -values], axis=1), "residual": np.stack([values] * 3, axis=1)}
        names = [field.name for field in fields(ParticlePoses) if field.name != "evidence"]
        return ParticlePoses(**{name: wide.get(name, values) for name in names}, evidence=evidence)

    joined = ParticlePoses.room_for(5, part(rows[0]))
    assert np.isnan(joined.residual).all()
    for numbers in rows:
        joined.put(numbers, part(numbers))
    np.testing.assert_array_equal(joined.psi_deg, np.arange(5))
    np.testing.assert_array_equal(joined.shift_px[:, 1], -np.arange(5))
    np.testing.assert_array_equal(joined.evidence.promise, np.arange(5))
    assert len(joined) == 5


@pytest.mark.parametrize("seed", range(2))
def test_ring_correlation_is_one_for_equals_and_nothing_for_noise(seed):
    truth = draw_truth(60, seed)
    noise = [average_at(make_batch(white_noise(60, 10 * seed + part), 1.0), truth.poses())[0] for part in (0, 1)]
    same, _ = average_at(make_batch(seen(truth), 0.1), truth.poses())
    np.testing.assert_allclose(ring_correlation([same, same], GEOMETRY), 1.0, atol=1e-4)
    assert np.abs(ring_correlation(noise, GEOMETRY)[4:]).mean() < 0.2
    doubled = AverageSums(2 * same.numerator, 2 * same.power, 2 * same.particles)
    np.testing.assert_allclose(ring_correlation([same, doubled], GEOMETRY), 1.0, atol=1e-4)
    assert ring_correlation(noise, GEOMETRY).shape == (RINGS,)
    assert np.isfinite(ring_correlation([AverageSums.empty(GRID), same], GEOMETRY)).all()
