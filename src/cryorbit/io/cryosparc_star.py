"""Particles of a cryoSPARC job as a RELION STAR file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.cryosparc_records import UID, CsDocument
from cryorbit.io.matching import UID_COLUMN
from cryorbit.io.star import write_star
from cryorbit.particles import ParticleTable


def write_as_star(path: Path, table: ParticleTable) -> None:
    """Write a table that came from a .cs file as a RELION 3.1 STAR file; the uids stay in ``cryosparcUid``.

    RELION finds stacks from the folder it is started in, and wants them to end in ``.mrcs``. The present folder is
    taken for that one: stacks elsewhere get their whole path, and those that end otherwise links in a folder beside the
    file.

    Raises
    ------
    ParticleDataError
        If the table did not come from a .cs file.
    RunFolderError
        If the links cannot be made.
    """
    document = table.source.document
    if not isinstance(document, CsDocument):
        raise ParticleDataError(f"{table.name} was not read from a .cs file.")
    imaging = table.imaging
    settings = {
        "rlnVoltage": imaging.voltage_kV, "rlnSphericalAberration": imaging.cs_mm,
        "rlnAmplitudeContrast": imaging.amplitude_contrast, "rlnImagePixelSize": imaging.pixel_size_A,
    }  # fmt: skip
    known = {name: values.round(6) for name, values in settings.items() if np.isfinite(values).all()}
    if "blob/shape" in document:
        known["rlnImageSize"] = document["blob/shape"][table.ids][:, 0]
    group = document["ctf/exp_group_id"][table.ids] if "ctf/exp_group_id" in document else np.zeros(len(table))
    optics = pd.DataFrame({"group": group, **known})
    number = optics.groupby(list(optics.columns), sort=True).ngroup().to_numpy() + 1
    optics = optics.drop(columns="group").assign(rlnOpticsGroup=number).drop_duplicates("rlnOpticsGroup")
    optics = optics.sort_values("rlnOpticsGroup", ignore_index=True)
    optics.insert(0, "rlnOpticsGroupName", [f"opticsGroup{n}" for n in optics["rlnOpticsGroup"]])
    uid = document.records[UID][table.ids].astype(str)
    frame = table.frame.assign(rlnOpticsGroup=number, **{UID_COLUMN: uid})
    frame["rlnImageName"] = _linked(path, table)
    write_star(path, {"optics": optics, "particles": frame})


def _linked(path: Path, table: ParticleTable) -> list[str]:
    """Names of images as RELION takes them, by links where a stack does not end in ``.mrcs``."""
    folder, here = path.with_name(f"{path.stem}_stacks"), Path.cwd()
    paths: dict[int, Path] = {}
    try:
        for number in np.unique(table.locations.stack).tolist():
            stack = table.locations.stacks[number]
            if stack.suffix == ".mrcs":
                paths[number] = stack.relative_to(here) if stack.is_relative_to(here) else stack
                continue
            folder.mkdir(exist_ok=True)
            # Stacks of one name in several folders are kept apart, and a link means the same stack for ever: files that
            # were written before, and moved aside, still read theirs. The name itself cannot lead elsewhere.
            target = stack.resolve()
            paths[number] = folder / f"{hashlib.sha256(str(target).encode()).hexdigest()[:10]}_{stack.stem}.mrcs"
            if not (paths[number].is_symlink() and paths[number].readlink() == target):
                paths[number].symlink_to(target)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: links to the stacks cannot be made there ({error.strerror}); choose another place."
        ) from error
    where = zip(table.locations.slice_index.tolist(), table.locations.stack.tolist(), strict=True)
    return [f"{index + 1:06d}@{paths[number]}" for index, number in where]
