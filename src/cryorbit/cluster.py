"""Ray: many processes, on this machine or on a cluster, of which some may die; imported only where it is asked for."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import ray

from cryorbit.errors import ConfigurationError, CryorbitError
from cryorbit.io.runs import make_folder, write_text
from cryorbit.machine import cores, limit_threads

# Ray writes no token into the home folder, reports to nobody, prints no tables, logs no second copy of the metrics,
# leaves the interrupt to us, and gives its workers the same share of a core as any other program: at its own niceness
# of 15 they stand still where anything else computes.
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_worker_niceness": "0",
}  # fmt: skip
SESSION_PREFIX = "cryorbit-ray-"
# Ray's sockets lie in its folder, and the system allows their paths 107 characters.
LONGEST_TEMPORARY = 20
OBJECT_STORE_BYTES = 100 * 2**20
# A worker may die with its machine; a task that kills each of its workers is to blame itself.
RETRIES = 5
# Results that wait for an earlier one, for each worker.
AHEAD = 4

Make = Callable[..., Callable[..., Any]]


@contextmanager
def connected(address: str | None, scratch: Path, workers: int | None) -> Iterator[None]:
    """Ray on this machine's cores alone, or the cluster at an address; nothing of it stays."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "include_dashboard": False}
    note = scratch / "session"
    _remove_session(note)
    make_folder(scratch)
    if address is None:
        short = None if len(tempfile.gettempdir()) <= LONGEST_TEMPORARY else "/tmp"
        temporary = tempfile.mkdtemp(prefix=SESSION_PREFIX, dir=short)
        write_text(note, temporary)
        quiet |= {
            "address": "local", "num_cpus": max(cores(), workers or 1), "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1", "_temp_dir": temporary,
        }  # fmt: skip
    at_termination = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address, quiet)
        # Ray answers this signal with a stack trace; whoever set it before knows better.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_termination)
        yield
    finally:
        ray.shutdown()
        _remove_session(note)
        shutil.rmtree(scratch, ignore_errors=True)


def _connect(address: str | None, settings: dict[str, Any]) -> None:
    if address is None:
        ray.init(**settings)
        return
    settings.pop("include_dashboard")
    try:
        ray.init(address=address, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"--ray-address {address}: cannot be used ({str(error).splitlines()[0]}).") from error


def _remove_session(note: Path) -> None:
    """Remove the files of a session, whether it ended well or was killed."""
    try:
        folder = Path(note.read_text(encoding="utf-8"))
    except OSError:
        return
    if folder.name.startswith(SESSION_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


# What this process has made already, by the name of the work.
_made: dict[str, Callable[..., Any]] = {}


def _do(work: str, common: list[Any], threads: int, task: tuple[Any, ...]) -> Any:
    """One task, by a process that makes the function when it first needs it."""
    if work not in _made:
        make, shared = ray.get(common[0])
        limit_threads(threads)
        _made.clear()
        _made[work] = make(*shared)
    return _made[work](*task)


def _got(result: Any) -> Any:
    """What a task gave, or the error that it raised, as it was raised."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        said = str(error).splitlines()[0]
        raise CryorbitError(
            f"A part of the work ended its process {RETRIES + 1} times ({said}); most likely it has too little memory: "
            "give fewer --workers."
        ) from error


def mapped(
    make: Make, shared: tuple[Any, ...], tasks: Iterable[tuple[Any, ...]], workers: int | None = None, gpus: float = 0.0
) -> Iterator[Any]:
    """Results of ``make(*shared)(*task)`` in the order of the tasks, whoever does them.

    A worker that dies is replaced, and its task done again, some times. Only some tasks are under way at a time,
    however many there are.

    Parameters
    ----------
    make
        Makes the function in each worker, from ``shared``; both are sent once.
    shared
        What all tasks have in common.
    tasks
        Arguments of each.
    workers
        Processes; as many as the cluster has cores (or GPUs, where these are wanted) if left out.
    gpus
        For each worker.

    Raises
    ------
    Exception
        What a task raised.
    CryorbitError
        If it ended its process again and again.
    """
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = max(1, int(have.get("CPU", 1)))
    workers = max(1, workers or int(have.get("GPU", 0) / gpus if gpus else cpus))
    threads = max(1, cpus // workers)
    do: Any = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(_do)
    common = ray.put((make, shared))  # whose arrays then lie once on each machine
    work = common.hex()
    todo, order = iter(tasks), count()
    running: dict[Any, int] = {}
    done: dict[int, Any] = {}
    following, sent = 0, 0
    while True:
        while len(running) < workers and sent - following < AHEAD * workers and (task := next(todo, None)) is not None:
            running[do.remote(work, [common], threads, task)] = next(order)
            sent += 1
        if following in done:
            yield done.pop(following)
            following += 1
        elif running:
            for result in ray.wait(list(running), num_returns=1)[0]:
                done[running.pop(result)] = _got(result)
        else:
            return
