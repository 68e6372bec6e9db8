"""Appending to a run: it is made anew within itself, from what it has, and what is new takes its place at the end.

So the run can be looked at and used meanwhile, and whatever stops the work leaves it as it was, or as it is to be.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from cryorbit.aligned import IMAGE_MARK, POSES
from cryorbit.errors import ParticleDataError
from cryorbit.io.fingerprints import image_marks
from cryorbit.io.runs import APPENDING, LOCK, MANIFEST, atomic_path, make_folder, read_table, run_identity
from cryorbit.particles import ParticleTable


def folder_within(run: Path) -> Path:
    """Where a run is made anew: in a folder of its own name, on its own disk."""
    return run / APPENDING / run.resolve().name


def make_room(run: Path, identity: str) -> Path:
    """Folder for the run as it is to be; what is left there of another one is removed."""
    work = folder_within(run)
    if run_identity(work) != identity:
        shutil.rmtree(run / APPENDING, ignore_errors=True)  # of a file that has grown since
    return work


def take_place(run: Path) -> None:
    """Move what was made within a run to where it belongs, file by file; what else is there stays.

    ``run.json`` comes last: where the work is cut short, the one that waits says that there is more to move.

    Raises
    ------
    RunFolderError
        If the folder cannot be written.
    """
    work = folder_within(run)
    files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != LOCK)
    for file in sorted(files, key=lambda path: path == work / MANIFEST):
        into = run / file.relative_to(work)
        make_folder(into.parent)
        with atomic_path(into) as beside:  # a folder of the run may be a link to another disk
            shutil.move(file, beside)
    shutil.rmtree(run / APPENDING, ignore_errors=True)


def new_rows(run: Path, particles: ParticleTable) -> int:
    """How many of a file's particles a run does not have yet.

    Raises
    ------
    ParticleDataError
        If the file lacks particles that the run has: appending would lose them.
    """
    if not (run / POSES).is_file():
        raise ParticleDataError(f"{run}: has no alignment, by which its particles are known again; give --out.")
    own = read_table(run / POSES)[IMAGE_MARK].to_numpy()
    marks = image_marks(particles)
    lost = int((~np.isin(own, marks)).sum())
    if lost:
        raise ParticleDataError(
            f"{particles.name}: lacks {lost:,} of the {len(own):,} particles of the run in {run}, which would be lost; "
            "give a file that holds all of them and the new ones, or --out for a run of its own."
        )
    return int((~np.isin(marks, own)).sum())
