"""The machine: which device does the work, and what the C library does with memory that has been freed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Numbers of the GNU C library's mallopt, and the values it starts with.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
USUAL_BYTES = 128 * 1024
LARGEST_TRIM, LARGEST_MMAP = (1 << 31) - 1, 1 << 30


def device_for(accelerator: str) -> torch.device:
    """The GPU where there is one and the configuration does not ask for the CPU."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what large arrays leave behind until the end, and give it all back then.

    The GNU C library returns every array above some megabytes to the system and takes it again, page by page, which
    costs a fifth of the time of an alignment. With another library nothing happens.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP)
    mallopt(TRIM_THRESHOLD, LARGEST_TRIM)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, USUAL_BYTES)
        mallopt(TRIM_THRESHOLD, USUAL_BYTES)
        malloc_trim(0)
