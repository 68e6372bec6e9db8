"""From rows of a simulated set's table to images on rings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import cryorbit as co
from cryorbit import conventions
from cryorbit.alignment.polar import PolarTransform
from cryorbit.alignment.reader import MICROGRAPH_SPREAD_um, OpticsGroups, RingReader
from cryorbit.config import PreprocessingConfig
from cryorbit.optics import Optics
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import prepare_images

from ..pipeline_sets import tiny_set

N, BOX = 40, 32


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> ParticleTable:
    return co.read_particles(tiny_set(tmp_path_factory.mktemp("set") / "s", images=N, astigmatism_A=1500.0))


def reader_of(table: ParticleTable, prior: str = "blind", searched: tuple[float, float] = (0.3, 3.0)) -> RingReader:
    names = table.frame["rlnImageName"].to_numpy()
    images = prepare_images(co.ImageStack(table.locations), 8.0, BOX, PreprocessingConfig(box_size=BOX), names)
    return RingReader.of(table, images, prior, searched, torch.device("cpu"))


@pytest.fixture(scope="module")
def reader(table):
    return reader_of(table)


def test_rows_come_as_they_are_asked_for(reader):
    rows = np.array([7, 3, 39, 0, 3])
    found, every = reader.read(rows), reader.read(np.arange(N))
    assert len(found) == 5
    torch.testing.assert_close(found.samples, every.samples[rows])
    torch.testing.assert_close(found.astigmatism_rad, every.astigmatism_rad[rows])
    assert torch.equal(found.group, every.group[rows])
    assert len(reader.read(np.array([], dtype=np.int64))) == 0


def test_images_are_those_of_the_stack_on_rings(reader):
    rows = np.array([5, 21])
    expected = PolarTransform(reader.grid)(reader.images.read(rows))
    torch.testing.assert_close(reader.read(rows).samples, expected)


def test_rings_reach_the_same_part_of_nyquist(reader):
    assert reader.grid.box_size == BOX
    assert 0.6 < reader.grid.rings / (BOX / 2) < 0.7


def test_more_images_than_a_batch_are_read_whole(reader):
    rows = np.tile(np.arange(N), 4)
    samples = reader.read(rows).samples
    torch.testing.assert_close(samples[:N], samples[3 * N :])


def test_astigmatism_is_that_of_the_file(reader, table):
    found = reader.read(np.arange(N))
    half_um = (table.defocus_u_A - table.defocus_v_A) / 2e4
    np.testing.assert_allclose(found.astigmatism_um.numpy(), half_um, atol=1e-6)
    assert half_um.max() == pytest.approx(0.075, abs=1e-4)
    np.testing.assert_allclose(
        found.astigmatism_rad.numpy(), np.radians(table.numbers(conventions.DEFOCUS_ANGLE)), atol=1e-5
    )


def test_each_prior_says_what_it_knows_of_the_defocus(table):
    rows = np.array([4, 1])
    mean_um = torch.from_numpy(table.defocus_A[rows] / 1e4).float()
    blind, micrograph, given = (reader_of(table, p).read(rows).defocus for p in ("blind", "micrograph", "given"))
    assert blind.centre_um is None
    assert blind.fixed_um is None
    assert micrograph.fixed_um is None
    torch.testing.assert_close(micrograph.centre_um, mean_um)
    assert micrograph.spread_um == MICROGRAPH_SPREAD_um
    torch.testing.assert_close(given.fixed_um, mean_um)
    for defocus in (blind, micrograph, given):
        assert float(defocus.values_um[0]) == pytest.approx(0.3)
        assert float(defocus.values_um[-1]) == pytest.approx(3.0, abs=0.021)


def test_a_file_without_defocus_has_no_astigmatism(table):
    columns = [conventions.DEFOCUS_U, conventions.DEFOCUS_V, conventions.DEFOCUS_ANGLE]
    bare = replace(table, frame=table.frame.drop(columns=columns))
    found = reader_of(bare).read(np.arange(3))
    assert float(found.astigmatism_um.abs().max()) == 0.0
    assert found.defocus.centre_um is None


def test_one_microscope_is_one_group(table):
    groups = OpticsGroups.of(table)
    assert len(groups.optics) == 1
    assert (groups.group == 0).all()
    imaging = table.imaging
    assert groups.optics[0] == Optics(imaging.voltage_kV[0], imaging.cs_mm[0], imaging.amplitude_contrast[0])
    assert groups.phase_shift_deg == (0.0,)


def test_voltages_make_groups(table):
    voltage = np.where(np.arange(N) % 3 == 1, 200.0, 300.0)
    mixed = replace(table, imaging=replace(table.imaging, voltage_kV=voltage))
    groups = OpticsGroups.of(mixed)
    assert len(groups.optics) == 2
    np.testing.assert_array_equal([groups.optics[number].voltage_kV for number in groups.group], voltage)
    reader = reader_of(mixed)
    found = reader.read(np.arange(N))
    assert len(found.transfers) == 2
    defocus = torch.tensor([1.5])
    low, high = (found.transfers[int(found.group[row])].amplitude(defocus) for row in (1, 0))
    assert float((low - high).abs().max()) > 0.1
    sizes = [len(rows) for rows, _ in found.batches(torch.ones(2, reader.grid.rings), 1.0, 1000)]
    assert sorted(sizes) == sorted([(voltage == 200).sum(), (voltage == 300).sum()])


def test_numbers_of_the_file_and_phase_shifts_make_groups(table):
    label = np.where(np.arange(N) < 10, "1", "2").astype(object)
    phase = np.where(np.arange(N) % 2 == 0, 0.0, 88.0)
    groups = OpticsGroups.of(table.with_columns({"rlnOpticsGroup": label, "rlnPhaseShift": phase}))
    assert len(groups.optics) == 4
    assert sorted(set(groups.phase_shift_deg)) == [0.0, 90.0]
    for number in range(4):
        members = groups.group == number
        assert len(set(label[members])) == len(set(phase[members])) == 1


def test_what_a_file_does_not_say_is_taken_as_usual(table):
    nothing = np.full(N, np.nan)
    silent = replace(
        table, imaging=replace(table.imaging, voltage_kV=nothing, cs_mm=nothing, amplitude_contrast=nothing)
    )
    assert OpticsGroups.of(silent).optics == (Optics(),)


def test_the_order_of_rows_does_not_change_their_group(table):
    voltage = np.where(np.arange(N) % 4 == 0, 200.0, 300.0)
    mixed = replace(table, imaging=replace(table.imaging, voltage_kV=voltage))
    order = np.random.default_rng(0).permutation(N)
    one, other = OpticsGroups.of(mixed), OpticsGroups.of(mixed.take(order))
    np.testing.assert_array_equal(other.group, one.group[order])
