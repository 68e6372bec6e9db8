"""All particles of a table to the classes that a sample of them made: each image is read once, memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryorbit import threads
from cryorbit.alignment.orbit import geometry_of
from cryorbit.alignment.reader import RingReader
from cryorbit.alignment.templates import AverageSums, Geometry
from cryorbit.classification.assign import Halves, Settled, assign
from cryorbit.classification.bank import Bank
from cryorbit.classification.model import ClassModel
from cryorbit.classification.poses import ClassPoses
from cryorbit.classification.view_map import ViewMap

# Particles that are read, and classified, at a time: many enough that each class gets some.
CHUNK = 1024

Progress = Callable[[int, int, str], None]
Found = tuple[ClassPoses, list[Halves]]
# Who classifies: the reader, the classes, and rows in parts that do not depend on each other.
Others = Callable[[RingReader, Settled, Iterable[NDArray[np.int64]]], Iterator[Found]]


@dataclass(frozen=True)
class Classified:
    """All particles in their classes.

    Attributes
    ----------
    poses
        Of every particle, in row order.
    halves
        Sums of each class over all of them.
    """

    poses: ClassPoses
    halves: list[Halves]


def classify_all(
    reader: RingReader,
    rows: NDArray[np.int64],
    settled: Settled,
    progress: Progress = lambda _done, _total, _note: None,
    others: Others | None = None,
) -> Classified:
    """Give every particle its class and pose.

    Parameters
    ----------
    reader
        Of all particles.
    rows
        Those that the classes were learnt from, in the order of ``settled.poses``.
    settled
        The classes.
    progress
        Told of particles done, of all, and what is going on.
    others
        Who does the work; threads of this process if left out. Sums are added in the order of the parts, so that the
        result does not depend on who did which.
    """
    n = len(reader)
    left = np.ones(n, dtype=bool)
    left[rows] = False
    rest = np.flatnonzero(left)
    chunks = [rest[start : start + CHUNK] for start in range(0, len(rest), CHUNK)]
    parts, order, halves = [settled.poses], [rows], list(settled.halves)
    done = len(rows)
    progress(done, n, "")
    for now, (found, sums) in zip(chunks, (others or by_threads)(reader, settled, chunks), strict=True):
        parts.append(found)
        order.append(now)
        halves = [(a + c, b + d) for (a, b), (c, d) in zip(halves, sums, strict=True)]
        done += len(now)
        progress(done, n, "")
    back = np.concatenate(order).argsort()
    return Classified(ClassPoses.concatenate(parts).of_rows(back), halves)


def by_threads(reader: RingReader, settled: Settled, tasks: Iterable[NDArray[np.int64]]) -> Iterator[Found]:
    """Classes and sums of some particles after others, by threads of this process."""
    _ = reader.transform, reader.transfers  # made once, rather than by every thread
    geometry, radius = geometry_of(reader), reader.images.info.particle_radius_px
    return threads.mapped(lambda rows: assign(reader.read(rows), settled, geometry, radius), tasks)


def as_plain(settled: Settled, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Classes as tensors and numbers, for a file, with the rows that they were learnt from."""
    model, poses, view_map = settled.model, settled.poses, settled.view_map
    fields = {name: value for name, value in vars(poses).items() if name != "evidence"} | {
        f"evidence_{name}": value for name, value in vars(poses.evidence).items()
    }
    return {
        "rows": torch.from_numpy(rows),
        "poses": {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in fields.items()},
        "halves": [[(half.numerator, half.power, half.particles) for half in pair] for pair in settled.halves],
        "bank": (model.bank.harmonics, model.bank.log_share),
        "noise": model.noise, "mean_noise": model.mean_noise, "shift_spread_px": model.shift_spread_px,
        "tied": model.tied, "view_map": (view_map.counted, view_map.mean, view_map.axes),
    }  # fmt: skip


def from_plain(plain: dict[str, Any], geometry: Geometry) -> tuple[Settled, NDArray[np.int64]]:
    """What :func:`as_plain` wrote."""
    from cryorbit.classification.measure import averages_of
    from cryorbit.estimation.outliers import ImageEvidence

    arrays = {name: value.numpy() for name, value in plain["poses"].items()}
    evidence = {name.removeprefix("evidence_"): value for name, value in arrays.items() if name.startswith("evidence_")}
    own = {name: value for name, value in arrays.items() if not name.startswith("evidence_")}
    poses = ClassPoses(**own, evidence=ImageEvidence(**evidence))
    device = geometry.limit.device
    halves: list[Halves] = [
        (AverageSums(*first).to(device), AverageSums(*second).to(device)) for first, second in plain["halves"]
    ]
    mean_noise = plain["mean_noise"].to(device)
    templates = averages_of(halves, mean_noise, geometry)[0]
    bank = Bank(*(part.to(device) for part in plain["bank"]))
    view_map = ViewMap(*(part.to(device) for part in plain["view_map"]))
    noise = plain["noise"].to(device)
    model = ClassModel(bank, templates, noise, mean_noise, float(plain["shift_spread_px"]), bool(plain["tied"]))
    return Settled(model, view_map, halves, poses), plain["rows"].numpy()
