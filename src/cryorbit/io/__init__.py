"""Reading and writing: the only room that knows file formats."""

from __future__ import annotations

from pathlib import Path

from cryorbit.errors import ParticleDataError
from cryorbit.io.mrc import ImageStack
from cryorbit.io.star import read_star, write_particles
from cryorbit.particles import ParticleTable

__all__ = ["ImageStack", "read_particles", "write_particles"]


def read_particles(path: str | Path, stack_root: str | Path | None = None) -> ParticleTable:
    """Read a particle file and find its image stacks.

    Parameters
    ----------
    path
        RELION STAR file, 3.0 or later.
    stack_root
        Folder that the file's image paths start from, where a project was moved; else the working folder, then
        the file's own folder and those above it are tried.

    Raises
    ------
    ParticleDataError
        With every problem of the file and of its stacks, one sentence each.
    """
    path = Path(path)
    if path.suffix == ".cs":
        raise ParticleDataError(
            f"{path}: cryoSPARC files cannot be read yet; convert it with pyem's csparc2star.py and give the STAR file."
        )
    return read_star(path, Path(stack_root) if stack_root is not None else None)
