"""Choosing particles of a run and writing them as a file of their own, which points to the original stacks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.conventions import IMAGE_NAME
from cryorbit.errors import ConfigurationError, ParticleDataError, RunFolderError
from cryorbit.io import (
    PARTICLE_SUFFIXES,
    particles_suffix,
    read_particles,
    read_written,
    write_particles,
    written_particles,
)
from cryorbit.io.cryosparc_star import write_as_star
from cryorbit.io.matching import comparable_names
from cryorbit.io.runs import MANIFEST, VIEWS, manifest_of, move_aside, read_table
from cryorbit.io.star_columns import unquoted
from cryorbit.particles import TEXT_DTYPE, ParticleTable
from cryorbit.selection_file import SavedSelection, read_selection

PARTS = ("kept", "dropped", "all")
SUFFIXES = (".star", ".cs")


@dataclass(frozen=True)
class Choice:
    """Which particles of a run; all conditions must hold.

    Attributes
    ----------
    part
        ``kept`` or ``dropped``, as the run decided, or ``all``; None for the kept ones where no other condition is
        given, and for all where one is.
    most_probability
        Of being an outlier, 0 to 1.
    most_z
        Of ``rlnParticleSelectZScore``.
    selection
        What the page saved, a particle file, or a text file with one image name on each line: those particles.
    complement
        Whether all other particles are chosen instead.
    """

    part: str | None = None
    most_probability: float | None = None
    most_z: float | None = None
    selection: Path | SavedSelection | None = None
    complement: bool = False

    def __post_init__(self) -> None:
        if self.part is not None and self.part not in PARTS:
            raise ConfigurationError(f"Unknown part {self.part!r}: expected one of {', '.join(PARTS)}.")
        if self.most_probability is not None and not 0.0 <= self.most_probability <= 1.0:
            raise ConfigurationError(f"The outlier probability is {self.most_probability:g}; expected 0 to 1.")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        The file.
    written, total
        Particles in it, and in the run.
    """

    path: Path
    written: int
    total: int


def export(folder: str | Path, out: str | Path, choice: Choice | None = None, *, overwrite: bool = False) -> Exported:
    """Write some particles of a run, with all columns of the run's particle file.

    Parameters
    ----------
    folder
        Run folder whose estimates are done.
    out
        File to write, .star or, where the run was on a cryoSPARC job, .cs.
    choice
        Which particles; the kept ones if left out.
    overwrite
        Whether another file of that name is moved aside.

    Raises
    ------
    RunFolderError
        If the run has no estimates, or the file exists or cannot be written.
    ParticleDataError
        If the selection cannot be read or names particles that the run does not have, or nothing is chosen.
    ConfigurationError
        If the format is unknown, or cannot be made of what the run was given.
    """
    folder, out, choice = Path(folder), Path(out), choice or Choice()
    if (manifest_of(folder) or {}).get("kind") == VIEWS:
        raise RunFolderError(
            f"{folder}: holds the runs of several views; its particles_kept file has what is kept of all. Export from "
            "the folder of one view, or from classes."
        )
    if not (folder / "estimates.parquet").is_file() or not written_particles(folder).is_file():
        raise RunFolderError(f"{folder}: has no estimates to export; give the folder of a finished cryorbit run.")
    table = read_written(folder)
    _check_target(out, folder, table, overwrite)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if "estimate" not in manifest.get("stages", {"estimate": None}):
        raise RunFolderError(
            f"{folder}: its estimates are being made again, or that was interrupted: let it end, or do 'cryorbit "
            f"estimate {folder}', before its particles are exported."
        )
    selection = choice.selection if isinstance(choice.selection, Path) else None
    kept = [manifest["input"]["path"], *manifest["input"].get("files", []), selection]
    if any(out.resolve() == Path(file).resolve() for file in kept if file is not None):
        raise RunFolderError(f"{out}: is what the run or the selection was read from; choose another place.")
    chosen = chosen_rows(folder, table, choice)
    if not chosen.any():
        raise ParticleDataError(f"{folder}: none of its {len(table):,} particles is chosen; loosen the conditions.")
    part = table.where(chosen)
    if out.exists():
        move_aside(out)
    write = write_particles if out.suffix == particles_suffix(table) else write_as_star
    write(out, part)
    return Exported(out, len(part), len(table))


def _check_target(out: Path, folder: Path, table: ParticleTable, overwrite: bool) -> None:
    if out.suffix not in SUFFIXES:
        raise ConfigurationError(f"{out}: is neither a .star nor a .cs file; choose the format by the suffix.")
    if out.suffix == ".cs" and particles_suffix(table) != ".cs":
        raise ConfigurationError(
            f"{out}: a .cs file needs the uids of a cryoSPARC job, and {folder} ran on a STAR file; give a .star file."
        )
    if out.resolve().parent == folder.resolve():
        raise RunFolderError(f"{out}: lies in the run folder, whose files are the run's own; choose another place.")
    if out.is_dir() or (out.exists() and not overwrite):
        raise RunFolderError(f"{out}: exists already; choose another --out, or give --overwrite, which moves it aside.")
    if not out.resolve().parent.is_dir():
        raise RunFolderError(f"{out}: its folder does not exist; make it first.")


def chosen_rows(folder: Path, table: ParticleTable, choice: Choice) -> NDArray[np.bool_]:
    """Whether each particle of a run's file is chosen, shape (n,)."""
    estimates = read_table(folder / "estimates.parquet")
    if len(estimates) != len(table):
        raise RunFolderError(
            f"{folder}: its estimates are of {len(estimates)} particles and its particle file has {len(table)}; "
            "do 'cryorbit estimate' again there."
        )
    conditions = [choice.most_probability, choice.most_z, choice.selection]
    part = choice.part or ("kept" if all(condition is None for condition in conditions) else "all")
    kept = estimates["kept"].to_numpy(dtype=bool)
    chosen = {"kept": kept, "dropped": ~kept, "all": np.ones(len(table), dtype=bool)}[part]
    if choice.most_probability is not None:
        chosen = chosen & (estimates["outlier_probability"].to_numpy() <= choice.most_probability)
    if choice.most_z is not None:
        chosen = chosen & (estimates["outlier_z"].to_numpy() <= choice.most_z)
    if choice.selection is not None:
        chosen = chosen & _selected(choice.selection, folder, table)
    return ~chosen if choice.complement else chosen


def _selected(path: Path | SavedSelection, folder: Path, table: ParticleTable) -> NDArray[np.bool_]:
    """Which particles a selection names."""
    if isinstance(path, SavedSelection) or path.suffix.lower() == ".json":
        return _of_the_page(path if isinstance(path, SavedSelection) else read_selection(path), path, folder, table)
    if path.suffix.lower() in PARTICLE_SUFFIXES:
        names, own = comparable_names(read_particles(path, check_images=False), table)
    else:
        names, own = _listed(path), unquoted(table.frame[IMAGE_NAME])
        if len(names) and names.str.isdigit().all():  # numbers in the run's input, as the page gives them
            own = pd.Series((table.ids + 1).astype(str), index=own.index, dtype=TEXT_DTYPE)
    strangers = names[~names.isin(own)]
    if len(strangers):
        raise ParticleDataError(
            f"{path}: names {len(strangers)} images that the run does not have, such as {strangers.min()}; give a "
            "selection of the same particles."
        )
    return own.isin(names).to_numpy(dtype=bool)


def _of_the_page(saved: SavedSelection, path: object, folder: Path, table: ParticleTable) -> NDArray[np.bool_]:
    """A selection that was made on the page of this run."""
    own = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["input"]
    # Runs of as many rows of one file may be of different ones.
    other = any(
        said is not None and said != own.get(name)
        for name, said in (("sha256", saved.input_sha256), ("ids", saved.rows))
    )
    if len(saved.chosen) != len(table) or other:
        raise ParticleDataError(
            f"{path}: is a selection of {len(saved.chosen):,} particles of another run than {folder}, which has "
            f"{len(table):,}; give one that was saved from its own page."
        )
    return saved.chosen


def _listed(path: Path) -> pd.Series:
    """Names of images, one on each line of a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParticleDataError(
            f"{path}: cannot be read ({error}); give a particle file, or a text file with an image name on each line."
        ) from error
    return pd.Series([line.strip() for line in lines if line.strip() and not line.startswith("#")], dtype=TEXT_DTYPE)
