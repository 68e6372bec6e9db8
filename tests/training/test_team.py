"""Law: what is learnt does not depend on how many processes learn it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorbit import run
from cryorbit.errors import ConfigurationError
from cryorbit.hyperparameters import search
from cryorbit.machine import STARTED_BY_TORCHRUN
from cryorbit.training.checkpoint import BEST, LAST, load_checkpoint
from cryorbit.training.metrics import read_metrics
from cryorbit.training.team import Share, Team

from ..pipeline_sets import TINY_RUN, tiny_config, tiny_set
from . import together
from .guided_sets import aligned, cached_set, draw_poses

# Processes of their own do not know of what the tests make smaller.
WHOLE_RUNS = True
SECONDS = 300
NAMES = [name for name, _ in together.configurations()]


def torchrun(processes: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Start so many processes on this machine."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}, cwd=root, timeout=SECONDS,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder of what one process and what two have learnt."""
    folder = tmp_path_factory.mktemp("team")
    poses = draw_poses(51, seed=2)
    (folder / "cache").mkdir()
    cached_set(folder / "cache", poses)
    aligned(poses).save(folder / "guide.npz")
    together.main(folder)
    done = torchrun(2, "-m", "tests.training.together", str(folder))
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_does(name, trained):
    one, two = (load_checkpoint(trained / f"of_{processes}" / name / LAST) for processes in (1, 2))
    for network in ("autoencoder", "discriminator"):
        for part, values in one[network].items():
            np.testing.assert_allclose(two[network][part], values, rtol=1e-4, atol=1e-4, err_msg=part)
    assert two["progress"]["images_seen"] == one["progress"]["images_seen"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_keep_the_same_record(name, trained):
    one, two = (read_metrics(trained / f"of_{processes}" / f"{name}.jsonl") for processes in (1, 2))
    assert len(one) == len(two) == 2
    for before, after in zip(one, two, strict=True):
        for term, value in before.items():
            if isinstance(value, float) and term != "images_per_second":
                assert after[term] == pytest.approx(value, rel=1e-3, abs=1e-3), term


def test_unequal_numbers_of_processes_are_refused(monkeypatch):
    """As one of three machines with one, two and three processes sees it."""
    told = {STARTED_BY_TORCHRUN: "job", "WORLD_SIZE": "6", "GROUP_WORLD_SIZE": "3"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    Team.check()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigurationError, match=r"6 processes on 3 machines, of which 3 here; .* same --nproc-per"):
        Team.check()


def test_a_search_is_not_for_a_team(monkeypatch, tmp_path):
    for name, value in ((STARTED_BY_TORCHRUN, "job"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="start it without torchrun"):
        search(tiny_set(tmp_path / "set", images=30), tmp_path / "out", tiny_config())
    assert not (tmp_path / "out").exists()


def test_the_command_line_trains_by_two_processes(tmp_path):
    """The first does the run, and the second helps where a network is trained; the user sees one run."""
    star = tiny_set(tmp_path / "set")
    run(star, tmp_path / "one", tiny_config(), until="train")
    settings = [f"--set={room}.{name}={value}" for room, values in TINY_RUN.items() for name, value in values.items()]
    done = torchrun(2, "-m", "cryorbit", "train", str(star), "--out", str(tmp_path / "two"), "--quiet", *settings)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecated" not in done.stderr
    one, two = (load_checkpoint(tmp_path / folder / "checkpoint" / BEST)["autoencoder"] for folder in ("one", "two"))
    for part, values in one.items():
        np.testing.assert_allclose(two[part], values, rtol=1e-4, atol=1e-4, err_msg=part)


@pytest.mark.parametrize(("total", "size"), [(15, 2), (16, 4), (7, 7), (3, 4), (1, 2), (9, 1)])
def test_shares_make_a_batch(total, size):
    """Means over shares, each counted by its factor, have the mean over the batch as their mean."""
    values = np.random.default_rng(total).normal(size=total)
    shares = [Team(rank, size, size).share(total) for rank in range(size)]
    of_each = [share.factor * share.of(values).mean() for share in shares]
    assert np.mean(of_each) == pytest.approx(values.mean())
    if total >= size:
        assert sorted(np.concatenate([share.of(np.arange(total)) for share in shares])) == list(range(total))
    assert all(share.count == len(share.of(values)) for share in shares)


def test_random_numbers_are_those_of_the_whole_batch():
    drawn = []
    for share in (Share(9), Share(9, 0, 2), Share(9, 1, 2)):
        torch.manual_seed(5)
        drawn.append(share.normal_like(torch.empty(share.count, 3)))
    whole, even, odd = drawn
    torch.testing.assert_close(whole[0::2], even)
    torch.testing.assert_close(whole[1::2], odd)


def test_a_process_that_torchrun_has_not_started_is_alone(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Team.of_environment() == Team()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert Team.of_environment() == Team(3, 8, 1)
