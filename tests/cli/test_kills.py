"""A run that is killed at any moment goes on to the result of one that is not, and leaves its input alone."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ..pipeline_sets import tiny_set
from .test_cli import FAST

RESULTS = ("particles.star", "particles_kept.star", "estimates.parquet", "latent.parquet", "average.mrc")
# A test of any moment needs one; the benchmark kills.py tries as many as one likes.
PARTS = [0.15, 0.7]


def start(star, out):
    """The same command every time; on one thread, for sums in one order."""
    command = [sys.executable, "-m", "cryorbit", "run", star, "--out", out, "--defocus-prior", "blind", *FAST]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A set, what a run finds in it, and how long its stages took."""
    folder = tmp_path_factory.mktemp("kills")
    star = tiny_set(folder / "set", images=60)
    running = start(star, folder / "run")
    _, err = running.communicate(timeout=300)
    assert (running.returncode, err) == (0, "")
    stages = json.loads((folder / "run" / "run.json").read_text())["stages"]
    seconds = sum(stage["seconds"] for stage in stages.values())
    return star, [digest(folder / "run" / name) for name in RESULTS], seconds


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_run_goes_on_to_the_same_result(undisturbed, tmp_path, part):
    star, expected, seconds = undisturbed
    before = {path.name: digest(path) for path in star.parent.iterdir()}
    out = tmp_path / "run"
    running = start(star, out)
    while not (out / "run.json").is_file() and running.poll() is None:
        time.sleep(0.01)
    time.sleep(part * seconds)
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    if running.returncode == 0:
        pytest.skip("the run was over before it was killed")
    again = start(star, out)
    _, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, "")
    assert [digest(out / name) for name in RESULTS] == expected
    assert {path.name: digest(path) for path in star.parent.iterdir()} == before
    assert not list(out.rglob(".writing-*"))
