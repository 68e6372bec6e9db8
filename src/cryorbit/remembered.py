"""What an earlier run has learnt, for particles that come later: its average, its network, and what it found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.aligned import POSES, AverageTaken, load_poses
from cryorbit.alignment.orbit import Known
from cryorbit.errors import RunFolderError
from cryorbit.io import read_written
from cryorbit.io.runs import MANIFEST, RunFolder, read_table, write_bytes, write_table
from cryorbit.particles import ParticleTable
from cryorbit.training.checkpoint import BEST, load_checkpoint

# Within a run folder: what it took from another one, which may then be deleted.
MODEL = "model"
CHECKPOINT = "checkpoint"
AVERAGE_STATE = "average.pt"
METRICS = "metrics.jsonl"
ESTIMATES = "estimates.parquet"
IMAGES = "images.parquet"


@dataclass(frozen=True)
class Remembered:
    """An earlier run's results within the folder of a later one.

    Attributes
    ----------
    folder
        Where the copies lie.
    manifest
        The earlier run's.
    images
        Where the images of its particles lie: ``stack`` and ``slice`` of each.
    """

    folder: Path
    manifest: dict[str, Any]
    images: pd.DataFrame

    @classmethod
    def of(cls, run: RunFolder) -> Remembered | None:
        """What a run took from an earlier one; None where it began by itself."""
        if not run.manifest["input"].get("model"):
            return None
        folder = run.path / MODEL
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return cls(folder, manifest, read_table(folder / IMAGES))

    def rows_of(self, particles: ParticleTable) -> NDArray[np.int64]:
        """Which of its particles each of others is, by the image, shape (n,); -1 for new ones."""
        own = pd.MultiIndex.from_frame(self.images)
        first = np.flatnonzero(~own.duplicated())
        found = own[first].get_indexer(pd.MultiIndex.from_frame(_images_of(particles)))
        return np.where(found >= 0, first[found], -1).astype(np.int64)

    def average(self, particles: ParticleTable) -> AverageTaken | None:
        """Its average, and its poses for those of the particles that are in it; None where it had none."""
        path = self.folder / AVERAGE_STATE
        if not path.is_file():
            return None
        rows = self.rows_of(particles)
        seen = np.flatnonzero(rows >= 0)
        known = Known(seen, load_poses(self.folder).of_rows(rows[seen]))
        return AverageTaken(load_checkpoint(path), float(self.manifest["alignment"]["pixel_size_A"]), known)


def _images_of(particles: ParticleTable) -> pd.DataFrame:
    """Stack and slice of each particle: the same image, whatever file names it."""
    locations = particles.locations
    stacks = np.array([str(stack.resolve()) for stack in locations.stacks], dtype=object)
    return pd.DataFrame({"stack": stacks[locations.stack], "slice": locations.slice_index})


def copy_model(source: Path, run: RunFolder) -> None:
    """Copy into a run folder what :class:`Remembered` reads; does nothing where it is there already."""
    into = run.path / MODEL
    if (into / MANIFEST).is_file():
        return
    names = (f"{CHECKPOINT}/{BEST}", f"{CHECKPOINT}/{AVERAGE_STATE}", POSES, METRICS, MANIFEST)
    # The manifest last: it says that the rest is whole.
    write_table(run.file(MODEL, IMAGES), _images_of(read_written(source)))
    for name in names:
        if (source / name).is_file():
            write_bytes(run.file(MODEL, Path(name).name), (source / name).read_bytes())


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
    if learnt and not (folder / CHECKPOINT / AVERAGE_STATE).is_file():
        raise RunFolderError(f"{folder}: was made by a version that kept no average; run it again in another --out.")
