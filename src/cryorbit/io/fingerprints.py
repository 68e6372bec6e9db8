"""Telling whether files are still what they were, without reading terabytes of images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorbit.io.mrc import ImageStack
from cryorbit.particles import ParticleTable

# Pixels of an image that tell it from all others.
MARKED_PIXELS = 512
# Pieces of a large file that stand for it, spread evenly over it.
MARKED_PIECES, PIECE_BYTES = 16, 4096
MOST_HASHED_BYTES = 2_000_000_000


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; of one too large to be read for that, such as images with their labels, its mark."""
    if path.stat().st_size > MOST_HASHED_BYTES:
        return f"{_mark(path):016x}"
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stacks_fingerprint(stacks: tuple[Path, ...]) -> str:
    """Digest of path, size and time of change of every stack: hashing terabytes of images would take hours."""
    digest = hashlib.sha256()
    for stack in stacks:
        status = stack.stat()
        digest.update(f"{stack.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _mark(path: Path) -> int:
    """A number of 64 bits of a file's size and of pieces of its content."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as handle:
        for start in np.linspace(0, max(size - PIECE_BYTES, 0), MARKED_PIECES).astype(np.int64).tolist():
            digest.update(os.pread(handle.fileno(), PIECE_BYTES, start))
    return int.from_bytes(digest.digest()[:8], "little")


def image_marks(particles: ParticleTable) -> NDArray[np.uint64]:
    """A number of 64 bits for every particle that its image keeps in whatever file it lies, shape (n,).

    It is of the pixels in the middle of the image, as float32: noise makes them differ from image to image.

    Raises
    ------
    ParticleDataError
        If a stack is missing or damaged.
    """
    marks = np.empty(len(particles), dtype=np.uint64)
    with ImageStack(particles.locations) as stack:
        for rows, pixels in stack.middles(MARKED_PIXELS):
            digests = b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in pixels)
            marks[rows] = np.frombuffer(digests, dtype="<u8")
    return marks


def identity(parts: Mapping[str, Any]) -> str:
    """Digest of what decides a run's result; the same command has the same identity."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
