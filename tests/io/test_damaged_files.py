"""Files damaged at random end in a sentence or are read, never in a traceback, a hang or a flood of memory."""

from __future__ import annotations

import gzip
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..cli.test_cli import call
from .conftest import OPTICS, PARTICLES, write_stack
from .test_cryosparc import BLOB, CTF, records

N, BOX = 5, 8
# Bytes that mean something to a parser, more often than others.
TELLING = st.one_of(
    st.sampled_from(
        [b"\0", b"\xff", b"\n", b"'", b'"', b";", b"#", b"_", b"loop_", b"data_", b"@", b"nan", b"-", b"1e999"]
    ),
    st.binary(max_size=6),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), TELLING), min_size=1, max_size=6)


def damaged(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Bytes with some cut out and others put in their place."""
    for where, length, new in edits:
        at = int(where * len(data))
        data = data[:at] + new + data[at + length :]
    return data


def project(folder: Path, stack: str) -> Path:
    images = np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype(np.float32)
    (folder / "Extract").mkdir()
    path = folder / "Extract" / stack
    if stack.endswith(".npy"):
        np.save(path, images)
    else:
        write_stack(folder / "a.mrcs", images)
        data = (folder / "a.mrcs").read_bytes()
        path.write_bytes(gzip.compress(data) if stack.endswith(".gz") else data)
    rows = [f"{i + 1:06d}@Extract/{stack} 'mic {i}.mrc' 15000.0 14500.0 12.0 1" for i in range(N)]
    star = folder / "particles.star"
    star.write_text(OPTICS + PARTICLES + "\n".join(rows) + "\n\n")
    return star


def cs_file(folder: Path, stack: str) -> Path:
    made = records(BLOB + CTF, n=N)
    made["blob/path"], made["blob/idx"] = f"Extract/{stack}".encode(), np.arange(N)
    path = folder / "particles.cs"
    with path.open("wb") as handle:
        np.save(handle, made)
    return path


CASES = {
    "STAR": ("a.mrcs", "particles.star"),
    "cs": ("a.mrcs", "particles.cs"),
    "MRC": ("a.mrcs", "Extract/a.mrcs"),
    "gzip": ("a.mrcs.gz", "Extract/a.mrcs.gz"),
    "npy": ("a.npy", "Extract/a.npy"),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_damage_ends_in_a_sentence(case, edits):
    stack, victim = CASES[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        star = project(folder, stack)
        path = cs_file(folder, stack) if case == "cs" else star
        before = (folder / victim).read_bytes()
        (folder / victim).write_bytes(damaged(before, edits))
        memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        code, out, err = call("inspect", path)
        assert time.monotonic() - began < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1_000_000  # kB
    assert code in (0, 2)
    assert (code == 2) == bool(err)
    assert "Traceback" not in out + err


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400), suffix=st.sampled_from([".star", ".cs", ".csg"]))
def test_noise_as_a_particle_file_is_refused(data, suffix):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"particles{suffix}"
        path.write_bytes(data)
        code, _, err = call("inspect", path)
    assert code == 2
    assert err
