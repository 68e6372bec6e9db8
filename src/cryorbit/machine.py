"""The machine: which device does the work, and what the C library does with memory that has been freed."""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cryorbit.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
# How many threads a process may use; a user may set it, and whoever shares out the cores of a machine does.
THREADS = "CRYORBIT_THREADS"
# Microseconds of all cores in each period (control groups of Linux, version 2).
CONTAINER_CORES = Path("/sys/fs/cgroup/cpu.max")

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
    import torch  # slow, and the command line wants to know of the cores before it

    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values where the work is done; to a GPU they go while the processor does something else."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def cores() -> int:
    """Cores that this process may use, by its affinity and by what its container is given."""
    affinity = getattr(os, "sched_getaffinity", None)
    most = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = CONTAINER_CORES.read_text(encoding="ascii").split()  # "max" where there is no quota
        return max(1, min(most, math.ceil(int(quota) / int(period))))
    return most


def share_cores() -> None:
    """All cores for threads that do not wait for each other, one fewer within an operation, unless the user says.

    Threads of one small step wait for the slowest of them: on a shared machine with a core too few, training slows
    tenfold. To be called before torch is imported.

    Raises
    ------
    ConfigurationError
        If the user does not give a number.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if STARTED_BY_TORCHRUN in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]  # it sets this where the user does not, and only one process has much to do
    within = os.environ.get("OMP_NUM_THREADS", "")
    said = os.environ.setdefault(THREADS, within if within.isdecimal() else str(cores()))
    if not said.isdecimal() or int(said) == 0:
        raise ConfigurationError(f"The environment variable {THREADS} is {said!r}; expected a number of threads.")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(said) - 1)))


def allowed_threads() -> int:
    """Threads that this process may use: as many as ``CRYORBIT_THREADS`` says, or as torch would by itself."""
    import torch

    said = os.environ.get(THREADS, "")
    return max(1, int(said)) if said.isdecimal() else torch.get_num_threads()


def limit_threads(count: int) -> None:
    """Let this process use no more threads than this."""
    import torch

    os.environ[THREADS] = str(count)
    torch.set_num_threads(count)


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


def _c_library() -> ctypes.CDLL | None:
    """The GNU C library, where it is the system's."""
    try:
        library = ctypes.CDLL("libc.so.6")
        _ = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return None
    return library


def give_back_memory() -> None:
    """Return to the system all memory that is not in use, for what comes needs pieces of other sizes."""
    if (pyarrow := sys.modules.get("pyarrow")) is not None:
        pyarrow.default_memory_pool().release_unused()
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what large arrays leave behind until the end, and give it all back then.

    The GNU C library returns every array above some megabytes to the system and takes it again, page by page, which
    costs a fifth of the time of an alignment. Threads share what is kept: by itself the library gives each a pool of
    its own, where what another has freed is of no use. With another library nothing happens.
    """
    library = _c_library()
    if library is None:
        yield
        return
    mallopt = library.mallopt
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP)
    mallopt(TRIM_THRESHOLD, LARGEST_TRIM)
    mallopt(ARENA_MAX, 1)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, USUAL_BYTES)
        mallopt(TRIM_THRESHOLD, USUAL_BYTES)
        give_back_memory()
