"""Appending to a run: it is made anew beside itself, from what it has, and what is new takes its place at the end.

So the run can be looked at and used meanwhile, and whatever stops the work leaves it as it was, or as it is to be.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from cryorbit.aligned import IMAGE_MARK, POSES
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.fingerprints import image_marks
from cryorbit.io.runs import LOCK, MANIFEST, is_finished, make_folder, read_table, run_identity
from cryorbit.particles import ParticleTable

SUFFIX = ".appending"


def folder_beside(run: Path) -> Path:
    """Where a run is made anew."""
    return run.resolve().with_name(run.resolve().name + SUFFIX)


def settle(run: Path) -> None:
    """Finish what an earlier appending left half done, where its result was whole.

    Raises
    ------
    RunFolderError
        If the folder cannot be written.
    """
    work = folder_beside(run)
    if work.is_dir() and (is_finished(work) or all(entry.name == LOCK for entry in work.iterdir())):
        take_place(run)


def make_room(run: Path, identity: str) -> Path:
    """Folder for the run as it is to be; what is left there of another one is removed.

    Raises
    ------
    RunFolderError
        If it holds something else.
    """
    work = folder_beside(run)
    if work.exists() and (found := run_identity(work)) != identity:
        if found is None:
            raise RunFolderError(f"{work}: stands where the run is to be made anew; give it another name.")
        shutil.rmtree(work)  # of a file that has grown since
    return work


def take_place(run: Path) -> None:
    """Move what was made beside a run into its folder; what the user has put there stays.

    ``run.json`` comes last: where the work is cut short, it says that there is more to move.
    """
    work = folder_beside(run)
    try:
        make_folder(run)
        entries = [entry for entry in work.iterdir() if entry.name not in (LOCK, MANIFEST)]
        for entry in [*entries, *filter(Path.is_file, [work / MANIFEST])]:
            into = run / entry.name
            if into.is_dir():
                shutil.rmtree(into)
            entry.replace(into)
        shutil.rmtree(work)
    except OSError as error:
        raise RunFolderError(
            f"{run}: what was made in {work} could not be moved there ({error.strerror}); free the place and give the "
            "same command again."
        ) from error


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
