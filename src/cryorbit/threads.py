"""Threads that share the work of a stage: one reads while another computes, and results keep the order of the tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from cryorbit.machine import allowed_threads

Task = TypeVar("Task")
Result = TypeVar("Result")

# More threads than this wait for each other in Python; what cores are left serve within torch's operations.
MOST_THREADS = 8
# Results that wait for an earlier one, for each thread.
AHEAD = 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch's operations use so many threads each, in this thread and in those that it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mapped(work: Callable[[Task], Result], tasks: Iterable[Task], threads: int | None = None) -> Iterator[Result]:
    """Results of ``work`` in the order of the tasks, of which only some are under way at a time.

    Parameters
    ----------
    work
        Does one task; called from several threads at once.
    tasks
        What to do.
    threads
        How many; as many as are allowed if left out. Those that are allowed beyond serve within torch's operations.

    Raises
    ------
    Exception
        What a task raised, when its turn comes; no further ones are begun.
    """
    most = allowed_threads()
    count = threads or min(most, MOST_THREADS)
    with torch_threads(max(1, most // count)):
        yield from _in_order(work, tasks, count)


def ahead(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """Results of ``work`` in the order of the tasks, by one thread that is a little ahead of who takes them."""
    return _in_order(work, tasks, 1)


def _in_order(work: Callable[[Task], Result], tasks: Iterable[Task], count: int) -> Iterator[Result]:
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count, "cryorbit") as pool:
        try:
            for task in tasks:
                if len(under_way) == (1 + AHEAD) * count:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(work, task))
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
