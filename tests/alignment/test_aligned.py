"""Alignment as a step of a run: facts, warnings, and files that give back what was written."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

import cryorbit as co
from cryorbit import conventions
from cryorbit.aligned import (
    AVERAGE,
    AVERAGE_FRC,
    AlignmentOutcome,
    LatentHint,
    align_table,
    load_poses,
    save_outcome,
    signal_to_noise,
    told_marks,
    unknown_poses,
)  # fmt: skip
from cryorbit.alignment.orbit import ParticlePoses
from cryorbit.errors import RunFolderError
from cryorbit.estimation.outliers import ImageEvidence
from cryorbit.io.fingerprints import image_marks
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import PreparedImages, prepare_images

from ..pipeline_sets import tiny_config, tiny_set

N, BOX = 60, 48


def prepared(table: ParticleTable) -> PreparedImages:
    names = table.frame["rlnImageName"].to_numpy()
    return prepare_images(co.ImageStack(table.locations), 8.0, BOX, tiny_config().preprocessing, names)


def align(table: ParticleTable, latent: LatentHint | None = None, prior: str = "micrograph") -> AlignmentOutcome:
    config = tiny_config(estimation={"defocus_prior": prior})
    return align_table(table, prepared(table), config, latent, lambda *_: None)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> ParticleTable:
    return co.read_particles(tiny_set(tmp_path_factory.mktemp("set") / "s", images=N))


@pytest.fixture(scope="module")
def outcome(table) -> AlignmentOutcome:
    return align(table)


def same(one: ParticlePoses, other: ParticlePoses) -> None:
    for field in fields(ParticlePoses):
        if field.name == "evidence":
            for part in fields(ImageEvidence):
                np.testing.assert_array_equal(getattr(one.evidence, part.name), getattr(other.evidence, part.name))
        else:
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_facts_can_be_written_down(outcome):
    facts = json.loads(json.dumps(outcome.facts, allow_nan=False))
    assert facts["box_size"] == BOX
    assert facts["learnt_from"] == N
    assert facts["prior"] == "micrograph"
    assert 0 <= facts["supported"] <= 1
    assert facts["finest_A"] > 16.0


def test_what_is_saved_is_what_is_loaded(outcome, table, tmp_path):
    save_outcome(tmp_path, outcome, image_marks(table), told_marks(table, "micrograph", (0.2, 4.2)))
    same(load_poses(tmp_path), outcome.poses)
    assert (tmp_path / AVERAGE).is_file()
    assert len((tmp_path / AVERAGE_FRC).read_text().splitlines()) == 1 + len(outcome.average.frc)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        load_poses(tmp_path)


def test_too_few_particles_give_nothing_and_say_so(table, tmp_path):
    few = align(table.take(np.arange(19)))
    assert few.average is None
    assert not few.facts["identifiable"]
    assert "19 particles are too few" in few.warnings[0]
    assert (few.poses.psi_std_deg > 100).all()
    save_outcome(tmp_path, few, image_marks(table)[:19], told_marks(table, "given", (0.2, 4.2))[:19])
    same(load_poses(tmp_path), few.poses)
    assert not (tmp_path / AVERAGE).exists()


@pytest.mark.parametrize(("prior", "std_um"), [("given", 0.0), ("blind", 4.0 / np.sqrt(12))])
def test_what_is_known_without_an_alignment(table, prior, std_um):
    poses = unknown_poses(table, prior, (0.2, 4.2))
    np.testing.assert_allclose(poses.defocus_std_um, std_um)
    expected = table.numbers(conventions.DEFOCUS_U) / 1e4 if prior == "given" else 2.2
    np.testing.assert_allclose(poses.defocus_um, expected)


def test_a_missing_voltage_is_said_and_replaced(table):
    silent = replace(table, imaging=replace(table.imaging, voltage_kV=np.full(N, np.nan)))
    warnings = align(silent, prior="given").warnings
    assert any("gives no voltage" in warning for warning in warnings)


def test_what_the_latent_space_says_is_used(table):
    good = np.ones(N)
    good[:30] = 0.0
    found = align(table, LatentHint(good, None))
    assert found.average.particles <= 30
    assert len(found.poses) == N


def test_signal_to_noise_is_that_of_the_simulation(table, tmp_path):
    assert signal_to_noise(prepared(table), 0) == pytest.approx(0.5, rel=0.35)
    clean = co.read_particles(tiny_set(tmp_path / "clean", images=30, snr=0))
    assert signal_to_noise(prepared(clean), 0) == float("inf")
