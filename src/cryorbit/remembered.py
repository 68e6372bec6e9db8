"""What an earlier run has learnt, for particles that come later: its average, its network, and what it found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorbit.aligned import POSES, AverageTaken, load_poses
from cryorbit.alignment.orbit import Known
from cryorbit.errors import RunFolderError
from cryorbit.io.runs import MANIFEST, RunFolder, read_table, write_bytes
from cryorbit.training.checkpoint import BEST, load_checkpoint

# Within a run folder: what it took from another one, which may then be deleted.
MODEL = "model"
CHECKPOINT = "checkpoint"
AVERAGE_STATE = "average.pt"
METRICS = "metrics.jsonl"
ESTIMATES = "estimates.parquet"


@dataclass(frozen=True)
class Remembered:
    """An earlier run's results within the folder of a later one.

    Attributes
    ----------
    folder
        Where the copies lie.
    manifest
        The earlier run's.
    ids
        Rows of the particle file that it ran on, shape (m,); empty if that was another file.
    """

    folder: Path
    manifest: dict[str, Any]
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, run: RunFolder) -> Remembered | None:
        """What a run took from an earlier one; None where it began by itself."""
        described = run.manifest["input"].get("model")
        if not described:
            return None
        folder = run.path / MODEL
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        ids = read_table(folder / ESTIMATES)["id"].to_numpy(dtype=np.int64)
        return cls(folder, manifest, ids if described["same_input"] else ids[:0])

    def average(self, ids: NDArray[np.int64]) -> AverageTaken | None:
        """Its average, and its poses for those of the particles that are in it; None where it had none.

        Parameters
        ----------
        ids
            Rows of the particle file that the present run is of, shape (n,).
        """
        path = self.folder / AVERAGE_STATE
        if not path.is_file():
            return None
        seen = np.flatnonzero(np.isin(ids, self.ids))
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids[order], ids[seen])]
        known = Known(seen, load_poses(self.folder).of_rows(rows))
        return AverageTaken(load_checkpoint(path), float(self.manifest["alignment"]["pixel_size_A"]), known)


def copy_model(source: Path, run: RunFolder) -> None:
    """Copy into a run folder what :class:`Remembered` reads; does nothing where it is there already."""
    into = run.path / MODEL
    if (into / MANIFEST).is_file():
        return
    names = (f"{CHECKPOINT}/{BEST}", f"{CHECKPOINT}/{AVERAGE_STATE}", POSES, METRICS, ESTIMATES, MANIFEST)
    # The manifest last: it says that the rest is whole.
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
