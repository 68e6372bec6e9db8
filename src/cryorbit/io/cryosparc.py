"""cryoSPARC's .cs files: read by uid with what passes through them, written back with fields added or replaced.

A .cs file is one NumPy record array. What a job did not change lies in a second file, of which the rows have the same
uid. Records are never unpickled. The particle table gets RELION's names and units; the records stay beside it as they
are, so that a field which cryorbit does not change comes out byte for byte.

References
----------
cryosparc-tools, ``Dataset`` (fields and the formats of files); pyem, ``csparc2star`` (the meaning of poses, shifts and
classes in RELION's terms).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.conventions import FloatArray
from cryorbit.errors import ParticleDataError
from cryorbit.io.headers import read_npy_header
from cryorbit.io.mrc import check_stacks
from cryorbit.io.runs import atomic_path
from cryorbit.io.stacks import find_stack
from cryorbit.io.star import write_star
from cryorbit.particles import TEXT_DTYPE, ImageLocations, Imaging, ParticleTable, Source

Records = NDArray[np.void]

UID, STACK, INDEX, PIXEL_SIZE = "uid", "blob/path", "blob/idx", "blob/psize_A"
POSE, SHIFT, SHIFT_PIXEL_SIZE = "alignments2D/pose", "alignments2D/shift", "alignments2D/psize_A"
COMPRESSED_MAGIC, NPY_MAGIC = b"\x94CSDAT", b"\x93NUMPY"
OURS = "cryorbit/"
# Fields of a 2D alignment, which cryoSPARC expects together.
ALIGNMENT_2D: Mapping[str, Any] = {
    "split": "<u4", SHIFT.split("/")[1]: ("<f4", (2,)), POSE.split("/")[1]: "<f4", "psize_A": "<f4", "error": "<f4",
    "error_min": "<f4", "resid_pow": "<f4", "slice_pow": "<f4", "image_pow": "<f4", "cross_cor": "<f4",
    "alpha": "<f4", "weight": "<f4", "pose_ess": "<f4", "shift_ess": "<f4", "class_posterior": "<f4", "class": "<u4",
    "class_ess": "<f4",
}  # fmt: skip


@dataclass(frozen=True)
class CsDocument:
    """Records of a .cs file, and of those that pass through it.

    Attributes
    ----------
    records
        Of the file itself, shape (n,).
    joined
        Further fields of the same particles, from files with the same uids, shape (n,); None where there are none.
    joined_paths
        Those files.
    """

    records: Records
    joined: Records | None
    joined_paths: tuple[Path, ...]

    def __contains__(self, field: object) -> bool:
        return self._holder(str(field)) is not None

    def __getitem__(self, field: str) -> NDArray[Any]:
        holder = self._holder(field)
        if holder is None:
            raise KeyError(field)
        return np.asarray(holder[field])

    def _holder(self, field: str) -> Records | None:
        for records in (self.records, self.joined):
            if records is not None and field in (records.dtype.names or ()):
                return records
        return None


def read_records(path: Path) -> Records:
    """The records of one .cs file.

    Raises
    ------
    ParticleDataError
        If the file is missing, no .cs file, compressed, truncated, or holds pickled objects.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
        what = "is a folder: give the .cs file inside it" if path.is_dir() else "does not exist"
        raise ParticleDataError(f"{path} {what}.")
    try:
        with path.open("rb") as handle:
            magic = handle.read(6)
            if magic == COMPRESSED_MAGIC:
                raise ParticleDataError(
                    f"{path}: is in cryoSPARC's compressed format; expected an uncompressed .cs file: save it with "
                    "cryosparc-tools, Dataset.load(path).save(path, format=1)."
                )
            if magic != NPY_MAGIC:
                raise ParticleDataError(f"{path}: is not a cryoSPARC .cs file; it begins with {magic!r}.")
            handle.seek(0)
            shape, _, dtype = read_npy_header(path, handle)
            offset = handle.tell()
    except OSError as error:
        raise ParticleDataError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    if dtype.names is None or len(shape) != 1:
        raise ParticleDataError(f"{path}: is an array of shape {shape} of {dtype}; expected the records of particles.")
    expected = offset + shape[0] * dtype.itemsize
    if path.stat().st_size < expected:
        raise ParticleDataError(
            f"{path}: is truncated: {path.stat().st_size} bytes where {shape[0]} records need {expected}; copy the "
            "file again."
        )
    if shape[0] == 0:
        raise ParticleDataError(f"{path}: holds no particles; expected at least one record.")
    with path.open("rb") as handle:
        handle.seek(offset)
        return np.fromfile(handle, dtype=dtype, count=shape[0])


def _passthrough_paths(path: Path) -> list[Path]:
    """Files of the same job that may hold the other fields of the same particles, the likeliest first."""
    others = [other for other in sorted(path.parent.glob("*passthrough*.cs")) if other != path]
    job = re.match(r"(?:cryosparc_)?((?:P\d+_)?J\d+)", path.name)
    return sorted(others, key=lambda other: job is None or job[1] not in other.name)


def _join(
    records: Records, others: list[tuple[Path, Records]], problems: list[str]
) -> tuple[Records | None, list[Path]]:
    """Fields of other files for the same uids, in the order of the records; files without all of them are left."""
    uid = records[UID]
    have = set(records.dtype.names or ())
    parts: list[tuple[str, NDArray[Any]]] = []
    used = []
    for path, other in others:
        if UID not in (other.dtype.names or ()):
            problems.append(f"{path}: has no field uid; expected one to tell which particle each record is of.")
            continue
        order = np.argsort(other[UID], kind="stable")
        place = np.minimum(np.searchsorted(other[UID], uid, sorter=order), len(other) - 1)
        rows = order[place]
        if not np.array_equal(other[UID][rows], uid):
            continue
        new = [name for name in other.dtype.names or () if name not in have]
        parts += [(name, other[name][rows]) for name in new]
        have.update(new)
        if new:
            used.append(path)
    if not parts:
        return None, used
    dtype = np.dtype([(name, values.dtype, values.shape[1:]) for name, values in parts])
    joined = np.empty(len(records), dtype=dtype)
    for name, values in parts:
        joined[name] = values
    return joined, used


def read_cs(path: Path, stack_root: Path | None = None, check_images: bool = True) -> ParticleTable:
    """Read a .cs file of particles, checking every record and, unless told otherwise, every stack's header.

    Raises
    ------
    ParticleDataError
        With every problem found, one sentence each.
    """
    table, problems = examine_cs(path, stack_root, check_images)
    if problems:
        raise ParticleDataError(problems)
    return table


def examine_cs(
    path: Path, stack_root: Path | None = None, check_images: bool = True
) -> tuple[ParticleTable, list[str]]:
    """Read a .cs file of particles and list what is wrong with its values and its stacks.

    Parameters
    ----------
    path
        The .cs file, or the .csg file of a group of results, which names its .cs files.
    stack_root
        Folder that paths of stacks start from; else the working folder and those above the file are tried.
    check_images
        Whether to look at the stacks.

    Raises
    ------
    ParticleDataError
        If the file holds no particles at all.
    """
    members = _group_members(path) if path.suffix == ".csg" else [path]
    records = read_records(members[0])
    if UID not in (records.dtype.names or ()):
        raise ParticleDataError(f"{members[0]}: has no field uid; expected a .cs file of particles.")
    problems = _uid_problems(members[0], records)
    # A passthrough file is looked for only where something is missing: its records may be many.
    complete = {STACK, "ctf/df1_A"} <= set(records.dtype.names or ())
    others = members[1:] or ([] if complete else _passthrough_paths(members[0]))
    joined, used = _join(records, [(other, read_records(other)) for other in others], problems)
    document = CsDocument(records, joined, tuple(used))
    if STACK not in document or INDEX not in document:
        looked = ", ".join(other.name for other in others) or "no passthrough file"
        raise ParticleDataError(
            f"{path}: does not say where the images are (no field {STACK}; looked into {looked}); give the job's .csg "
            "file, or put the passthrough .cs file of the job beside it."
        )
    frame, imaging = _columns(path, document, problems)
    locations = _locations(path, document, stack_root)
    if check_images:
        problems.extend(check_stacks(locations, frame["rlnImageName"].to_numpy(), str(path)))
    root = str(stack_root.resolve()) if stack_root is not None else None
    ids = np.arange(len(records), dtype=np.int64)
    return ParticleTable(frame, ids, imaging, locations, Source(path, "cryosparc", root, document)), problems


def _group_members(path: Path) -> list[Path]:
    """The .cs files that a group of results names, the one with the alignments first."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParticleDataError(f"{path}: cannot be read as a .csg file ({error}).") from error
    names = dict.fromkeys(re.findall(r"metafile:\s*['\"]?>?([^'\"\n]+?\.cs)['\"]?\s*$", text, flags=re.MULTILINE))
    members = [path.parent / Path(name).name for name in names]
    if not members:
        raise ParticleDataError(f"{path}: names no .cs file (no line 'metafile: >FILE.cs').")
    return sorted(members, key=lambda member: "passthrough" in member.name)


def _uid_problems(path: Path, records: Records) -> list[str]:
    unique, counts = np.unique(records[UID], return_counts=True)
    if len(unique) == len(records):
        return []
    return [f"{path}: uid {unique[counts > 1][0]} stands in {counts.max()} records; expected every uid once."]


def _paths(values: NDArray[Any]) -> list[str]:
    """Paths as text; cryoSPARC marks those within the project by a '>'."""
    texts = (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value) for value in values)
    return [text.removeprefix(">") for text in texts]


def _number_text(values: NDArray[Any]) -> list[str]:
    """Numbers with as many digits as tell one float32 from the next."""
    return [f"{value:.9g}" for value in np.asarray(values, dtype=np.float64).tolist()]


# RELION's column of a field, and its value in RELION's units.
_READ: Mapping[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    conventions.DEFOCUS_U: ("ctf/df1_A", lambda value: value),
    conventions.DEFOCUS_V: ("ctf/df2_A", lambda value: value),
    conventions.DEFOCUS_ANGLE: ("ctf/df_angle_rad", np.degrees),
    "rlnPhaseShift": ("ctf/phase_shift_rad", np.degrees),
    conventions.PSI: (POSE, np.degrees),
    "rlnClassNumber": ("alignments2D/class", lambda value: value + 1),
    "rlnCtfMaxResolution": ("ctf/ctf_fit_to_A", lambda value: value),
}


def _columns(path: Path, document: CsDocument, problems: list[str]) -> tuple[pd.DataFrame, Imaging]:
    """RELION's columns of the fields that cryorbit reads, as text, and typed views."""
    n = len(document.records)
    stacks, numbers = _paths(document[STACK]), document[INDEX].astype(np.int64) + 1
    columns: dict[str, list[str]] = {
        "rlnImageName": [f"{number:06d}@{stack}" for number, stack in zip(numbers.tolist(), stacks, strict=True)]
    }
    for name in ("location/micrograph_path", "micrograph_blob/path"):
        if name in document:
            columns["rlnMicrographName"] = _paths(document[name])
            break
    for column, (field, unit) in _READ.items():
        if field in document:
            values = unit(document[field].astype(np.float64))
            _note_not_finite(path, field, values, problems)
            columns[column] = _number_text(values)
    pixel_size = _floats(document, PIXEL_SIZE, n)
    if PIXEL_SIZE not in document or not (pixel_size > 0).all():
        problems.append(f"{path}: gives no pixel size above 0 ({PIXEL_SIZE}); expected one of every particle.")
    if SHIFT in document:
        at = _floats(document, SHIFT_PIXEL_SIZE, n) if SHIFT_PIXEL_SIZE in document else pixel_size
        origin_A = document[SHIFT].astype(np.float64) * at[:, None]
        columns[conventions.ORIGIN_X], columns[conventions.ORIGIN_Y] = map(_number_text, origin_A.T)
    frame = pd.DataFrame({name: pd.Series(values, dtype=TEXT_DTYPE) for name, values in columns.items()})
    imaging = Imaging(
        pixel_size, _floats(document, "ctf/accel_kv", n), _floats(document, "ctf/cs_mm", n),
        _floats(document, "ctf/amp_contrast", n),
    )  # fmt: skip
    return frame, imaging


def _note_not_finite(path: Path, field: str, values: FloatArray, problems: list[str]) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        problems.append(
            f"{path}, particle {wrong[0] + 1}: {field} is {values[wrong[0]]}, expected a number ({len(wrong)} such)."
        )


def _floats(document: CsDocument, field: str, n: int) -> FloatArray:
    return document[field].astype(np.float64) if field in document else np.full(n, np.nan)


def _locations(path: Path, document: CsDocument, stack_root: Path | None) -> ImageLocations:
    codes, unique = pd.factorize(document[STACK])
    stacks = tuple(find_stack(name, path, stack_root) for name in _paths(np.asarray(unique)))
    return ImageLocations(stacks, codes.astype(np.int64), document[INDEX].astype(np.int64))


# Field of a column that only cryorbit has, and of RELION's columns that cryoSPARC has no field for.
_OWN: Mapping[str, str] = {
    conventions.SELECT_ZSCORE: "outlier_z",
    conventions.POSE_PROBABILITY: "pose_probability",
    conventions.PSI_STD: "psi_std_deg",
    conventions.ORIGIN_STD: "origin_std_A",
    conventions.DEFOCUS_STD: "defocus_std_A",
    conventions.OUTLIER_PROBABILITY: "outlier_probability",
    conventions.OUTLIER_SCORE: "outlier_score",
    conventions.WEIGHT: "weight",
    conventions.LATENT_DEFOCUS: "latent_defocus_A",
    conventions.LATENT_DEFOCUS_STD: "latent_defocus_std_A",
}


def write_cs(path: Path, table: ParticleTable) -> None:
    """Write a table that came from a .cs file as one, every record with its uid and all its fields.

    Angles, shifts and defoci go into cryoSPARC's own fields, of which the former value stays in
    ``cryorbit/input/...``; what cryoSPARC has no field for goes into ``cryorbit/...``. Where a field of a slot such as
    ``ctf`` is changed, the whole slot is written, wherever it was read.

    Raises
    ------
    ParticleDataError
        If the table did not come from a .cs file.
    """
    document = table.source.document
    if not isinstance(document, CsDocument):
        raise ParticleDataError(f"{table.name} was not read from a .cs file and cannot be written as one.")
    records = document.records[table.ids]
    changed = _changed_fields(table, document)
    fields: dict[str, NDArray[Any]] = {name: records[name] for name in records.dtype.names or ()}
    for name in changed:
        fields |= _rest_of_slot(name.split("/")[0], document, table, fields)
    for name, values in changed.items():
        if name in document and f"{OURS}input/{name}" not in document:
            fields[f"{OURS}input/{name}"] = document[name][table.ids]
        fields[name] = values
    dtype = np.dtype([(name, values.dtype, values.shape[1:]) for name, values in fields.items()])
    written = np.empty(len(table), dtype=dtype)
    for name, values in fields.items():
        written[name] = values
    with atomic_path(path) as beside, beside.open("wb") as handle:
        npy.write_array(handle, written, version=None, allow_pickle=False)


def _changed_fields(table: ParticleTable, document: CsDocument) -> dict[str, NDArray[Any]]:
    """New values of fields, from the columns that were added or replaced."""
    new: dict[str, NDArray[Any]] = {}
    for column in table.changed:
        if column in _READ:
            field = _READ[column][0]
            values = table.numbers(column)
            new[field] = (np.radians(values) if _READ[column][1] is np.degrees else values).astype(np.float32)
        elif column in (conventions.ORIGIN_X, conventions.ORIGIN_Y):
            origin_A = np.stack([table.numbers(name) for name in (conventions.ORIGIN_X, conventions.ORIGIN_Y)], axis=1)
            has_own = SHIFT in document and SHIFT_PIXEL_SIZE in document
            at = document[SHIFT_PIXEL_SIZE][table.ids] if has_own else table.imaging.pixel_size_A
            new[SHIFT] = (origin_A / np.asarray(at, dtype=np.float64)[:, None]).astype(np.float32)
        elif column in _OWN:
            new[OURS + _OWN[column]] = table.numbers(column).astype(np.float32)
    return new


def _rest_of_slot(
    slot: str, document: CsDocument, table: ParticleTable, have: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Fields that a slot needs beside one that is written: those that were read, or an empty 2D alignment."""
    joined = () if document.joined is None else document.joined.dtype.names or ()
    rest = {name: document[name][table.ids] for name in joined if name.startswith(f"{slot}/") and name not in have}
    if slot == "alignments2D" and POSE not in document and POSE not in have:
        for name, kind in ALIGNMENT_2D.items():
            rest[f"{slot}/{name}"] = np.zeros(len(table), dtype=np.dtype([("value", kind)]))["value"]
        rest[SHIFT_PIXEL_SIZE] = table.imaging.pixel_size_A.astype(np.float32)
        rest[f"{slot}/class_posterior"] = np.ones(len(table), dtype=np.float32)
    return rest


def write_as_star(path: Path, table: ParticleTable) -> None:
    """Write a table that came from a .cs file as a RELION 3.1 STAR file; the uids stay in ``cryosparcUid``.

    Raises
    ------
    ParticleDataError
        If the table did not come from a .cs file.
    """
    document = table.source.document
    if not isinstance(document, CsDocument):
        raise ParticleDataError(f"{table.name} was not read from a .cs file.")
    imaging = table.imaging
    settings = np.stack([imaging.voltage_kV, imaging.cs_mm, imaging.amplitude_contrast, imaging.pixel_size_A], axis=1)
    unique, group = np.unique(settings.round(6), axis=0, return_inverse=True)
    names = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize")
    numbers = np.arange(1, len(unique) + 1)
    optics: dict[str, Any] = {"rlnOpticsGroup": numbers, "rlnOpticsGroupName": [f"opticsGroup{n}" for n in numbers]}
    optics |= dict(zip(names, unique.T, strict=True))
    if "blob/shape" in document:
        first = [int(np.flatnonzero(group.ravel() == row)[0]) for row in range(len(unique))]
        optics |= {
            "rlnImageSize": document["blob/shape"][table.ids][first, 0],
            "rlnImageDimensionality": [2] * len(unique),
        }
    frame = table.frame.assign(
        rlnOpticsGroup=group.ravel() + 1, cryosparcUid=document.records[UID][table.ids].astype(str)
    )
    write_star(path, {"optics": pd.DataFrame(optics), "particles": frame})
