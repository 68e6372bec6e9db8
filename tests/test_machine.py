"""Law: no more threads than the machine, the container and the user allow, and no core left idle."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from cryorbit import machine
from cryorbit.errors import ConfigurationError


@pytest.fixture
def clean(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", machine.THREADS):
        monkeypatch.setenv(name, "")  # so that it is put back, whoever sets it
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("said", "expected"), [("max 100000", 64), ("250000 100000", 3), ("50000 100000", 1), ("6400000 100000", 64)]
)
def test_a_container_may_have_less_than_its_machine(said, expected, tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    quota.write_text(said + "\n")
    monkeypatch.setattr(machine, "CONTAINER_CORES", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.cores() == expected


@pytest.mark.parametrize(
    ("environment", "threads", "within"),
    [
        ({}, "8", "7"),
        ({"OMP_NUM_THREADS": "3"}, "3", "3"),
        ({machine.THREADS: "4"}, "4", "3"),
        ({machine.THREADS: "1"}, "1", "1"),
        ({machine.THREADS: "4", "OMP_NUM_THREADS": "2"}, "4", "2"),
    ],
)
def test_the_user_has_the_last_word(environment, threads, within, clean):
    clean.setattr(machine, "cores", lambda: 8)
    for name, value in environment.items():
        clean.setenv(name, value)
    machine.share_cores()
    assert (os.environ[machine.THREADS], os.environ["OMP_NUM_THREADS"]) == (threads, within)


@pytest.mark.parametrize("said", ["many", "0", "-1", "1.5"])
def test_what_is_no_number_of_threads_is_refused(said, clean):
    clean.setenv(machine.THREADS, said)
    with pytest.raises(ConfigurationError, match="CRYORBIT_THREADS"):
        machine.share_cores()


def test_the_command_line_says_so_in_a_sentence():
    environment = {**os.environ, machine.THREADS: "many"}
    done = subprocess.run(
        [sys.executable, "-m", "cryorbit", "--version"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    said = "cryorbit: The environment variable CRYORBIT_THREADS is 'many'; expected a number of threads.\n"
    assert done.stderr == said


def test_a_limit_holds_for_torch_as_well(clean):
    before = torch.get_num_threads()
    clean.setenv(machine.THREADS, "2")
    try:
        machine.limit_threads(1)
        assert machine.allowed_threads() == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    clean.delenv(machine.THREADS)
    assert machine.allowed_threads() == torch.get_num_threads()
