"""Reading and writing: the only room that knows file formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryorbit.errors import ParticleDataError
from cryorbit.io.cryosparc import examine_cs, field_names, judged_cs_rows, with_field
from cryorbit.io.cryosparc_records import CsDocument
from cryorbit.io.cryosparc_write import write_cs
from cryorbit.io.hdf5 import SUFFIXES, examine_hdf5
from cryorbit.io.mrc import ImageStack, check_stacks
from cryorbit.io.runs import run_identity, run_input
from cryorbit.io.star import examine_star, judged_star_rows, write_star, write_star_particles
from cryorbit.particles import Imaging, ParticleTable

__all__ = [
    "PARTICLE_SUFFIXES",
    "ImageStack",
    "examine_particles",
    "field_names",
    "particles_suffix",
    "read_particles",
    "read_some",
    "read_written",
    "with_field",
    "write_particles",
    "written_particles",
]

CRYOSPARC_SUFFIXES = (".cs", ".csg")
PARTICLE_SUFFIXES = (".star", *CRYOSPARC_SUFFIXES, *SUFFIXES)


def read_particles(path: str | Path, stack_root: str | Path | None = None, check_images: bool = True) -> ParticleTable:
    """Read a particle file and find its image stacks.

    Parameters
    ----------
    path
        RELION STAR file, 3.0 or later, cryoSPARC .cs or .csg file, or HDF5 file with images and RELION's labels.
    stack_root
        Folder that the file's image paths start from, where a project was moved; else the working folder, then
        the file's own folder and those above it are tried.
    check_images
        Whether to look at every stack's header.

    Raises
    ------
    ParticleDataError
        With every problem of the file and of its stacks, one sentence each.
    """
    table, problems = examine_particles(Path(path), Path(stack_root) if stack_root is not None else None, check_images)
    if problems:
        raise ParticleDataError(problems)
    return table


def examine_particles(
    path: Path, stack_root: Path | None = None, check_images: bool = True, home: Path | None = None
) -> tuple[ParticleTable, list[str]]:
    """Read a particle file as far as it can be understood, and list what is wrong with it.

    Parameters are those of :func:`read_particles`, and ``home``: a file in whose place it is to be read.

    Raises
    ------
    ParticleDataError
        If the file holds no particles at all.
    """
    if stack_root is None and home is None:
        home, stack_root = _where_it_came_from(path)
    suffix = path.suffix.lower()
    examine = examine_cs if suffix in CRYOSPARC_SUFFIXES else examine_hdf5 if suffix in SUFFIXES else examine_star
    return examine(path, stack_root, check_images, home)


def _where_it_came_from(path: Path) -> tuple[Path | None, Path | None]:
    """Of a file that a run wrote: the first input, from which its images' paths are counted, and their root.

    A run may have been given what another one wrote.
    """
    home: Path | None = None
    root: Path | None = None
    seen = {path}
    while path.name.startswith("particles") and run_identity(path.parent) is not None:
        home, root = run_input(path.parent)
        if root is not None or home in seen:
            break
        path = home
        seen.add(home)
    return home, root


def read_some(
    path: str | Path,
    stack_root: str | Path | None,
    choose: Callable[[ParticleTable], ParticleTable],
    check_images: bool = True,
) -> ParticleTable:
    """Read a particle file of which some rows are wanted; what is wrong with others does not matter.

    Parameters
    ----------
    path, stack_root, check_images
        As for :func:`read_particles`.
    choose
        Gives the rows that are wanted.

    Raises
    ------
    ParticleDataError
        With every problem of the file and of these rows, one sentence each.
    """
    table, problems = examine_particles(Path(path), Path(stack_root) if stack_root is not None else None, False)
    if problems:  # those of all rows together; what remains is wrong with the file
        of_rows = set(_judged_rows(table)[1])
        problems = [problem for problem in problems if problem not in of_rows]
    chosen = choose(table)
    # Read again: a row that spoils what the whole file says of all is not among these.
    imaging, of_chosen = _judged_rows(chosen)
    chosen = replace(chosen, imaging=imaging)
    problems += of_chosen
    if check_images:
        problems += check_stacks(chosen.locations, chosen.image_names, chosen.name)
    if problems:
        raise ParticleDataError(list(dict.fromkeys(problems)))
    return chosen


def _judged_rows(table: ParticleTable) -> tuple[Imaging, list[str]]:
    """Imaging of some rows, and what is wrong with their values, one sentence each."""
    is_cs = isinstance(table.source.document, CsDocument)
    return judged_cs_rows(table) if is_cs else judged_star_rows(table)


def particles_suffix(table: ParticleTable) -> str:
    """Suffix of the files that this table is written to: its own format."""
    return ".cs" if isinstance(table.source.document, CsDocument) else ".star"


def write_particles(path: str | Path, table: ParticleTable) -> None:
    """Write a table in the format of the file it came from; what was not changed comes out as it was.

    A table of an HDF5 file, or one made in memory, becomes a STAR file.
    """
    path = Path(path)
    if isinstance(table.source.document, CsDocument):
        write_cs(path, table)
    elif table.source.document is not None:
        write_star_particles(path, table)
    else:
        write_star(path, {"particles": table.frame})


def read_written(folder: Path) -> ParticleTable:
    """The particles of a run folder, their stacks where the run's input had them.

    Raises
    ------
    ParticleDataError
        If the file was changed so that it cannot be read.
    RunFolderError
        If there is no run in the folder.
    """
    run_input(folder)  # refuses a folder without a run
    home, root = _where_it_came_from(written_particles(folder))
    table, problems = examine_particles(written_particles(folder), root, check_images=False, home=home)
    if problems:
        raise ParticleDataError(problems)
    return table


def written_particles(folder: Path) -> Path:
    """The file of all particles in a run folder, in the format of the input; the STAR file where there is none yet."""
    records = folder / "particles.cs"
    return records if records.is_file() else folder / "particles.star"
