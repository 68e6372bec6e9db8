"""Work that is spread over processes: in order, whole whoever dies, and the same as that of one process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import cryorbit as co
from cryorbit.alignment import orbit
from cryorbit.alignment.spread import Aligner
from cryorbit.errors import ConfigurationError, CryorbitError, ParticleDataError
from cryorbit.machine import Workers

from .pipeline_sets import tiny_config, tiny_set

pytest.importorskip("ray", reason="Ray is not installed: pip install 'cryorbit[cluster]'")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers on this machine."""
    from cryorbit.cluster import connected

    with connected(None, tmp_path_factory.mktemp("cluster") / "ray", 2):
        yield


class Squares:
    """Squares numbers; dies once at one of them, and complains of another."""

    def __init__(self, dies_at: int, note: Path) -> None:
        self.dies_at, self.note = dies_at, note

    def __call__(self, number: int) -> int:
        if number == self.dies_at and not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise ParticleDataError(f"{number} is no number of a particle.")
        return number**2


class Deadly:
    """Ends whoever works for it."""

    def __call__(self, _number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


class DyingAligner(Aligner):
    """An aligner whose process is killed once, in the middle."""

    note: Path

    def __init__(self, reader, memory, note) -> None:
        super().__init__(reader, memory)
        self.note = note

    def __call__(self, rows, weight):
        if not self.note.exists() and rows[0] > 60:
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows, weight)


def test_results_come_in_order_though_a_worker_dies_and_complaints_are_heard(cluster, tmp_path):
    from cryorbit.cluster import mapped

    note = tmp_path / "died"
    found = mapped(Squares, (17, note), ((number,) for number in [*range(40), -3, 1]), 2)
    assert [next(found) for _ in range(40)] == [number**2 for number in range(40)]
    assert note.exists()
    with pytest.raises(ParticleDataError, match="-3 is no number of a particle"):
        next(found)


class Niceness:
    """How much it gives way to others."""

    def __call__(self) -> int:
        return os.nice(0)


def test_workers_do_not_give_way_to_every_other_program(cluster):
    """At Ray's own niceness of 15 they stand still where anything else computes."""
    from cryorbit.cluster import mapped

    assert list(mapped(Niceness, (), [()], 1)) == [os.nice(0)]


def test_work_that_ends_every_worker_is_given_up(cluster, monkeypatch):
    from cryorbit import cluster as ours

    monkeypatch.setattr(ours, "RETRIES", 1)
    with pytest.raises(CryorbitError, match=r"ended its process 2 times .* too little memory: give fewer --workers"):
        next(ours.mapped(Deadly, (), [(1,)], 2))


def test_an_alignment_by_many_is_that_by_one_though_a_worker_dies(cluster, tmp_path, monkeypatch):
    from cryorbit.cluster import mapped

    monkeypatch.setattr(orbit, "CHUNK", 20)
    star = tiny_set(tmp_path / "set", images=160)
    changes = {"alignment": {"learn_from": 60}}
    alone = co.run(star, tmp_path / "alone", tiny_config(**changes), latent=False, until="estimate")
    note = tmp_path / "died"

    def spread(self):
        def others(reader, memory, tasks):
            yield from mapped(DyingAligner, (reader, memory.as_plain(), note), tasks, 2)

        yield others

    from contextlib import contextmanager

    from cryorbit.stages import Job

    monkeypatch.setattr(Job, "_spread", contextmanager(spread))
    many = co.run(star, tmp_path / "many", tiny_config(**changes), latent=False, until="estimate")
    assert note.exists()
    for name in ("psi_deg", "psi_std_deg", "defocus_um", "origin_x_A", "origin_y_A", "outlier_probability"):
        np.testing.assert_allclose(many.estimates[name], alone.estimates[name], atol=1e-4, err_msg=name)
    images = [co.io.mrc.read_image(folder / "average.mrc") for folder in (many.folder, alone.folder)]
    np.testing.assert_allclose(*images, atol=1e-4)


def test_an_embedding_by_many_is_that_by_one(cluster, tmp_path, monkeypatch):
    from cryorbit.latent import spread
    from cryorbit.latent.embed import embed
    from cryorbit.preprocessing.dataset import ParticleCache
    from cryorbit.training.checkpoint import BEST, load_autoencoder

    monkeypatch.setattr(spread, "PART", 16)
    done = co.run(tiny_set(tmp_path / "set", images=70), tmp_path / "run", tiny_config(), until="train")
    cache, checkpoint, model = done.folder / "cache", done.folder / "checkpoint" / BEST, tiny_config().model
    images, autoencoder = ParticleCache(cache), load_autoencoder(checkpoint, model)
    alone = embed(autoencoder, images)
    many = embed(autoencoder, images, parts=spread.over_cluster(cache, checkpoint, model, "cpu", 2))
    np.testing.assert_allclose(many.orbit[:], alone.orbit[:], atol=1e-4)
    np.testing.assert_allclose(many.log_variance, alone.log_variance, atol=1e-4)


def test_a_cluster_that_does_not_answer_is_named_at_once(tmp_path):
    star = tiny_set(tmp_path / "set", images=30)
    with pytest.raises(ConfigurationError, match="no Ray cluster answers there"):
        co.run(star, tmp_path / "run", tiny_config(), workers=Workers(2, "127.0.0.1:1"))
    assert not (tmp_path / "run").exists()
