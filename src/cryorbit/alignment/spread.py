"""The streaming part of an alignment, spread over the processes of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryorbit.alignment.memory import AverageMemory, from_plain
from cryorbit.alignment.orbit import Found, Others, Task, align_others, geometry_of
from cryorbit.alignment.reader import RingReader
from cryorbit.conventions import FloatArray


class Aligner:
    """Aligns particles with an average that was learnt elsewhere; made once in each process.

    Parameters
    ----------
    reader
        Of all particles.
    memory
        The average as :meth:`cryorbit.alignment.memory.AverageMemory.as_plain` gives it.
    """

    def __init__(self, reader: RingReader, memory: dict[str, Any]) -> None:
        self.reader = reader
        self.memory: AverageMemory = from_plain(memory, geometry_of(reader))

    def __call__(self, rows: NDArray[np.int64], weight: FloatArray) -> Found:
        """Poses of these particles, and their sums, on the CPU."""
        poses, sums = align_others(self.reader.read(rows), self.memory, weight)
        return poses, [part.to(torch.device("cpu")) for part in sums]


def over_cluster(workers: int | None = None) -> Others:
    """Who aligns: processes of the cluster that is connected, each with a GPU of its own where it works on one.

    Parameters
    ----------
    workers
        How many; as many as there are cores, or GPUs, if left out.
    """

    def others(reader: RingReader, memory: AverageMemory, tasks: Iterable[Task]) -> Iterator[Found]:
        from cryorbit.cluster import mapped

        on_gpu = reader.device.type == "cuda"
        found = mapped(Aligner, (reader, memory.as_plain()), tasks, workers, gpus=1.0 if on_gpu else 0.0)
        for poses, sums in found:
            yield poses, [part.to(reader.device) for part in sums]

    return others
