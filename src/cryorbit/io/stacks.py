"""Where the image stacks of a project are: paths in particle files start from its root, which a file does not name."""

from __future__ import annotations

import os
from pathlib import Path


def find_stack(name: str, particle_file: Path, stack_root: Path | None) -> Path:
    """Where a stack's path leads; the most likely place where it is nowhere.

    Parameters
    ----------
    name
        As it stands in the particle file.
    particle_file
        That file: its folder and those above it are tried, after the working folder.
    stack_root
        The folder that paths start from, where the user says so.
    """
    given = Path(name)
    if given.is_absolute() and stack_root is None:
        return given
    relative = Path(*given.parts[1:]) if given.is_absolute() else given
    home = particle_file.resolve().parent
    roots = [stack_root] if stack_root is not None else [Path.cwd(), home, *home.parents]
    for root in roots:
        if os.path.exists(root / relative):  # noqa: PTH110 - Path.exists raises where a name is too long
            return root / relative
    return roots[0] / relative if stack_root is not None else home / relative
