"""What an earlier run has learnt, for particles that come later: its average, its network, and what it found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.aligned import IMAGE_MARK, POSES, TOLD_MARK, AverageTaken, load_poses
from cryorbit.alignment.orbit import Known
from cryorbit.errors import RunFolderError
from cryorbit.estimation.lesson import TOLD, read_seen
from cryorbit.io.fingerprints import image_marks
from cryorbit.io.runs import MANIFEST, RunFolder, read_table, run_identity, write_bytes, write_table
from cryorbit.particles import ParticleTable
from cryorbit.training.checkpoint import BEST, load_checkpoint

# Within a run folder: what it took from another one, which may then be deleted.
MODEL = "model"
CHECKPOINT = "checkpoint"
AVERAGE_STATE = "average.pt"
METRICS = "metrics.jsonl"
ESTIMATES = "estimates.parquet"
# Column of the poses that are kept here: which particles the network has learnt from.
SEEN = "seen_by_network"


@dataclass(frozen=True)
class Remembered:
    """An earlier run's results within the folder of a later one.

    Attributes
    ----------
    folder
        Where the copies lie.
    manifest
        The earlier run's.
    source
        Where that run was, and may still be.
    """

    folder: Path
    manifest: dict[str, Any]
    source: Path

    @classmethod
    def of(cls, run: RunFolder) -> Remembered | None:
        """What a run took from an earlier one; None where it began by itself.

        Raises
        ------
        RunFolderError
            If it is not there any more.
        """
        if not run.manifest["input"].get("model"):
            return None
        folder = run.path / MODEL
        try:
            source = Path(run.manifest["input"]["model"]["folder"])
            return cls(folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")), source)
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{folder}: has lost what was taken from {run.manifest['input']['model']['folder']} ({error}); "
                "do cryorbit apply again with another --out."
            ) from error

    def rows_of(self, particles: ParticleTable) -> NDArray[np.int64]:
        """Which of its particles each of others is, by the image, shape (n,); -1 for new ones.

        Images are known by their pixels: in a project that was moved, or another stack, they are the same; one that was
        put in the place of another is not.
        """
        path = self.folder / POSES
        if not path.is_file():
            return np.full(len(particles), -1, dtype=np.int64)
        return _places(read_table(path)[IMAGE_MARK].to_numpy(), image_marks(particles))

    def cached_rows(self, particles: ParticleTable) -> NDArray[np.int64] | None:
        """Row of each of other particles in the earlier run's cache, shape (n,), -1 for new ones; None if it is gone.

        What lies there is large, and is taken from where it is, or made again.
        """
        if run_identity(self.source) != self.manifest["identity"]:
            return None
        rows = self.rows_of(particles)  # its own particles first, then those that it knew from before
        return np.where(rows < int(self.manifest["input"]["particles"]), rows, -1)

    def seen(self, particles: ParticleTable) -> NDArray[np.bool_]:
        """Which of some particles its network has learnt from, shape (n,)."""
        rows, seen = self.rows_of(particles), read_table(self.folder / POSES)[SEEN].to_numpy()
        return np.asarray((rows >= 0) & seen[rows])

    def average(self, particles: ParticleTable) -> AverageTaken | None:
        """Its average, and its poses for those of the particles that are in it; None where it had none."""
        path = self.folder / AVERAGE_STATE
        if not path.is_file():
            return None
        marks, poses = image_marks(particles), read_table(self.folder / POSES)
        rows = _places(poses[IMAGE_MARK].to_numpy(), marks)
        seen = np.flatnonzero(rows >= 0)
        known = Known(seen, load_poses(self.folder).of_rows(rows[seen]))
        told = poses[TOLD_MARK].to_numpy()[rows[seen]]
        pixel_size_A = float(self.manifest["alignment"]["pixel_size_A"])
        return AverageTaken(load_checkpoint(path), pixel_size_A, known, told, pd.Series(marks).duplicated().to_numpy())


def _places(images: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Row of each of other images among the first ones; -1 where it is not there."""
    own = pd.Index(images)
    first = np.flatnonzero(~own.duplicated())
    found = own[first].get_indexer(pd.Index(others))
    return np.where(found >= 0, first[found], -1).astype(np.int64)


def copy_model(source: Path, run: RunFolder) -> None:
    """Copy into a run folder what :class:`Remembered` reads; does nothing where it is there already."""
    into = run.path / MODEL
    if (into / MANIFEST).is_file():
        return
    if (source / POSES).is_file():
        write_table(run.file(MODEL, POSES), _all_poses(source))
    # The manifest last: it says that the rest is whole.
    for name in (f"{CHECKPOINT}/{BEST}", f"{CHECKPOINT}/{AVERAGE_STATE}", METRICS, MANIFEST):
        if (source / name).is_file():
            write_bytes(run.file(MODEL, Path(name).name), (source / name).read_bytes())


def _all_poses(source: Path) -> pd.DataFrame:
    """Poses of all particles in a run's average: its own, and those that were in it when the run took it."""
    own, taken, told = read_table(source / POSES), source / MODEL / POSES, source / CHECKPOINT / TOLD
    own[SEEN] = read_seen(told) if told.is_file() else False
    if not taken.is_file():
        return own
    before = read_table(taken)
    new = _places(own[IMAGE_MARK].to_numpy(), before[IMAGE_MARK].to_numpy()) < 0
    return pd.concat([own, before[new]], ignore_index=True)


def check_model(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a run that has not learnt what it was to learn.

    Raises
    ------
    RunFolderError
        If it stopped too early, or was made by a version that kept no average.
    """
    if not (folder / ESTIMATES).is_file() or not manifest["stages"].get("estimate", {}).get("finished"):
        raise RunFolderError(f"{folder}: has no estimates yet; let the run end first, with the command it began with.")
    learnt = manifest.get("alignment", {}).get("learnt_from")
    if learnt and not (
        (folder / CHECKPOINT / AVERAGE_STATE).is_file()
        and {IMAGE_MARK, TOLD_MARK} <= set(read_table(folder / POSES).columns)
    ):
        raise RunFolderError(f"{folder}: was made by a version that kept no average; run it again in another --out.")
