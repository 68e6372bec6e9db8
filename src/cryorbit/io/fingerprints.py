"""Telling whether files are still what they were, without reading terabytes of images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryorbit.particles import ParticleTable

# Pieces of a stack that its mark is made of, spread evenly over it; the header, with its statistics, is in the first.
MARKED_PIECES, PIECE_BYTES = 8, 4096
MOST_HASHED_BYTES = 2_000_000_000


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; of one too large to be read for that, such as images with their labels, its mark."""
    if path.stat().st_size > MOST_HASHED_BYTES:
        return f"{stack_mark(path):016x}"
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stacks_fingerprint(stacks: tuple[Path, ...]) -> str:
    """Digest of path, size and time of change of every stack: hashing terabytes of images would take hours."""
    digest = hashlib.sha256()
    for stack in stacks:
        status = stack.stat()
        digest.update(f"{stack.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def stack_mark(stack: Path) -> int:
    """A number of 64 bits that a stack keeps wherever it is moved to: of its size and of pieces of its content."""
    size = stack.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with stack.open("rb") as handle:
        for start in np.linspace(0, max(size - PIECE_BYTES, 0), MARKED_PIECES).astype(np.int64).tolist():
            digest.update(os.pread(handle.fileno(), PIECE_BYTES, start))
    return int.from_bytes(digest.digest()[:8], "little")


def image_marks(particles: ParticleTable) -> pd.DataFrame:
    """Which image each particle is, whatever its stack is called: ``image_mark`` of the stack and ``image_slice``."""
    locations = particles.locations
    marks = np.zeros(len(locations.stacks), dtype=np.uint64)
    for number in np.unique(locations.stack):
        marks[number] = stack_mark(locations.stacks[number])
    return pd.DataFrame({"image_mark": marks[locations.stack], "image_slice": locations.slice_index})


def identity(parts: Mapping[str, Any]) -> str:
    """Digest of what decides a run's result; the same command has the same identity."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
