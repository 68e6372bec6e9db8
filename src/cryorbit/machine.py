"""The machine: which device does the work, and what the C library does with memory that has been freed."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from cryorbit.errors import ConfigurationError

# Numbers of the GNU C library's mallopt, and the values it starts with.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
SECONDS_TO_ANSWER = 10.0
NO_CLUSTER = (
    "--ray-address {}: no Ray cluster answers there; start one with `ray start --head`, or leave the option out to use "
    "this machine alone."
)
USUAL_BYTES = 128 * 1024
LARGEST_TRIM, LARGEST_MMAP = (1 << 31) - 1, 1 << 30


def device_for(accelerator: str) -> torch.device:
    """The GPU where there is one and the configuration does not ask for the CPU."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


@dataclass(frozen=True)
class Workers:
    """Processes that share the work.

    Attributes
    ----------
    count
        How many; as many as there are cores, or GPUs, for None.
    ray_address
        Of the Ray cluster that has them; this machine alone for None.
    """

    count: int | None = None
    ray_address: str | None = None

    def check(self) -> None:
        """Refuse what cannot work before anything is begun.

        Raises
        ------
        ConfigurationError
            If Ray is not installed, or nobody answers at the address.
        """
        if find_spec("ray") is None:
            raise ConfigurationError(
                "--workers and --ray-address need Ray, which is not installed: pip install 'cryorbit[cluster]'."
            )
        if self.ray_address is not None:
            check_ray_address(self.ray_address)


def check_ray_address(ray_address: str) -> None:
    """Refuse an address at which nobody answers at once: Ray itself would wait for minutes."""
    host, colon, port = ray_address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        if ray_address == "auto":
            return
        raise ConfigurationError(f"--ray-address is {ray_address!r}; expected auto or HOST:PORT.")
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(NO_CLUSTER.format(ray_address)) from error


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what large arrays leave behind until the end, and give it all back then.

    The GNU C library returns every array above some megabytes to the system and takes it again, page by page, which
    costs a fifth of the time of an alignment. Threads share what is kept: by itself the library gives each a pool of
    its own, where what another has freed is of no use. With another library nothing happens.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP)
    mallopt(TRIM_THRESHOLD, LARGEST_TRIM)
    mallopt(ARENA_MAX, 1)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, USUAL_BYTES)
        mallopt(TRIM_THRESHOLD, USUAL_BYTES)
        malloc_trim(0)
