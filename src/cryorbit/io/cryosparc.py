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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.conventions import FloatArray
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.headers import read_npy_header
from cryorbit.io.mrc import check_stacks
from cryorbit.io.runs import atomic_path
from cryorbit.io.stacks import find_stack
from cryorbit.io.star import write_star
from cryorbit.io.star_columns import DEFOCI_A, PIXEL_SIZES_A, VOLTAGES_KV, out_of_range
from cryorbit.particles import TEXT_DTYPE, ImageLocations, Imaging, ParticleTable, Source, input_column

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
                    "cryosparc-tools under another name, Dataset.load(path).save(other_path, format=1)."
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
        same = other[UID][rows] == uid
        if not same.all():
            # Files of other jobs share no particle; one that has most of them was meant.
            if same.mean() > 0.5:
                problems.append(
                    f"{path}: lacks {int((~same).sum())} of the {len(uid)} uids; expected all of them: is it of an "
                    "earlier state of the job? Export the job again, or take the file away."
                )
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
    source = Source(path, "cryosparc", root, document, tuple(dict.fromkeys((path, members[0], *used))))
    return ParticleTable(frame, ids, imaging, locations, source), problems


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


# RELION's column of a field, and what its numbers are multiplied by and raised by to be RELION's.
_DEGREES = 180.0 / np.pi
_READ: Mapping[str, tuple[str, float, float]] = {
    conventions.DEFOCUS_U: ("ctf/df1_A", 1.0, 0.0),
    conventions.DEFOCUS_V: ("ctf/df2_A", 1.0, 0.0),
    conventions.DEFOCUS_ANGLE: ("ctf/df_angle_rad", _DEGREES, 0.0),
    "rlnPhaseShift": ("ctf/phase_shift_rad", _DEGREES, 0.0),
    conventions.PSI: (POSE, _DEGREES, 0.0),
    "rlnClassNumber": ("alignments2D/class", 1.0, 1.0),
    "rlnCtfMaxResolution": ("ctf/ctf_fit_to_A", 1.0, 0.0),
}
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


class _Fields:
    """Numbers of a document's fields; what is wrong with them is noted once."""

    def __init__(self, path: Path, document: CsDocument, problems: list[str]) -> None:
        self.path, self.document, self.problems = path, document, problems
        self.n = len(document.records)

    def numbers(self, field: str, width: int = 0) -> FloatArray | None:
        """A field as float64, shape (n,) or (n, width); None where it is absent or no such numbers."""
        if field not in self.document:
            return None
        values = self.document[field]
        shape = (self.n, width) if width else (self.n,)
        if values.dtype.kind not in "iuf" or values.shape != shape:
            self.problems.append(
                f"{self.path}: {field} holds {values.dtype} of shape {values.shape[1:]}; expected "
                f"{width or 'one'} number{'s' * (width > 1)} of each particle."
            )
            return None
        numbers: FloatArray = values.astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(numbers.reshape(self.n, -1)).all(axis=1))
        if len(wrong):
            self.problems.append(
                f"{self.path}, particle {wrong[0] + 1}: {field} is {numbers[wrong[0]]}, expected a number "
                f"({len(wrong)} such particles)."
            )
        return numbers

    def in_range(self, field: str, allowed: tuple[float, float], unit: str, remedy: str) -> FloatArray:
        """A field whose numbers a microscope can have, shape (n,); NaN where it is absent."""
        values = self.numbers(field)
        if values is None:
            return np.full(self.n, np.nan)
        sentence = out_of_range(str(self.path), field, values, allowed, unit, remedy)
        self.problems += [sentence] if sentence else []
        return values


def _columns(path: Path, document: CsDocument, problems: list[str]) -> tuple[pd.DataFrame, Imaging]:
    """RELION's columns of the fields that cryorbit reads, as text, and typed views."""
    fields = _Fields(path, document, problems)
    stacks, index = _paths(document[STACK]), fields.numbers(INDEX)
    index = np.zeros(fields.n) if index is None else index
    if (index < 0).any():
        problems.append(f"{path}, particle {int(np.argmax(index < 0)) + 1}: {INDEX} is below 0; expected 0 or more.")
    numbers = np.nan_to_num(np.maximum(index, 0)).astype(np.int64) + 1
    columns: dict[str, list[str]] = {
        "rlnImageName": [f"{number:06d}@{stack}" for number, stack in zip(numbers.tolist(), stacks, strict=True)]
    }
    for name in ("location/micrograph_path", "micrograph_blob/path"):
        if name in document:
            columns["rlnMicrographName"] = _paths(document[name])
            break
    imaging = Imaging(
        fields.in_range(PIXEL_SIZE, PIXEL_SIZES_A, "A", "correct it in cryoSPARC"),
        fields.in_range("ctf/accel_kv", VOLTAGES_KV, "kV", "300 kV is written 300, not 300000"),
        _or_nan(fields.numbers("ctf/cs_mm"), fields.n),
        fields.in_range("ctf/amp_contrast", (0.0, 1.0), "", "it is a fraction, such as 0.1"),
    )
    if PIXEL_SIZE not in document:
        problems.append(f"{path}: gives no pixel size ({PIXEL_SIZE}); expected one of every particle.")
    for name in ("ctf/df1_A", "ctf/df2_A"):
        values = fields.document[name] if name in document else np.zeros(0)
        if values.dtype.kind == "f" and values.ndim == 1:
            remedy = "underfocus is a positive number of Angstrom: correct or remove such particles"
            sentence = out_of_range(str(path), name, values.astype(np.float64), DEFOCI_A, "A", remedy)
            problems += [sentence] if sentence else []
    columns |= _read_columns(fields, imaging.pixel_size_A)
    frame = pd.DataFrame({name: pd.Series(values, dtype=TEXT_DTYPE) for name, values in columns.items()})
    return frame, imaging


def _read_columns(fields: _Fields, pixel_size_A: FloatArray) -> dict[str, list[str]]:
    """Columns of numbers: RELION's, in its units, cryorbit's own, and the former values of what it replaced."""
    columns: dict[str, list[str]] = {}
    for prefix, kept in (("", str), (f"{OURS}input/", input_column)):
        for column, (field, factor, offset) in _READ.items():
            values = fields.numbers(prefix + field)
            if values is not None:
                columns[kept(column)] = _number_text(values * factor + offset)
        shift = fields.numbers(prefix + SHIFT, width=2)
        if shift is not None:
            at = fields.numbers(SHIFT_PIXEL_SIZE)
            origin_A = shift * (pixel_size_A if at is None else at)[:, None]
            for axis, column in enumerate((conventions.ORIGIN_X, conventions.ORIGIN_Y)):
                columns[kept(column)] = _number_text(origin_A[:, axis])
    for column, name in _OWN.items():
        values = fields.numbers(OURS + name)
        if values is not None:
            columns[column] = _number_text(values)
    return columns


def _or_nan(values: FloatArray | None, n: int) -> FloatArray:
    return np.full(n, np.nan) if values is None else values


def _locations(path: Path, document: CsDocument, stack_root: Path | None) -> ImageLocations:
    codes, unique = pd.factorize(document[STACK])
    index = document[INDEX]
    sound = index.dtype.kind in "iuf" and index.ndim == 1
    slices = np.maximum(np.nan_to_num(index), 0).astype(np.int64) if sound else np.zeros(len(codes), dtype=np.int64)
    stacks = tuple(find_stack(name, path, stack_root) for name in _paths(np.asarray(unique)))
    return ImageLocations(stacks, codes.astype(np.int64), slices)


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
            field, factor, offset = _READ[column]
            values = (table.numbers(column) - offset) / factor
            kind = document[field].dtype if field in document else np.dtype("<f4")
            new[field] = (values.round() if kind.kind in "iu" else values).astype(kind)
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
    if slot == "alignments2D":
        for name, kind in ALIGNMENT_2D.items():
            field = f"{slot}/{name}"
            if field not in document and field not in have:
                rest[field] = np.zeros(len(table), dtype=np.dtype([("value", kind)]))["value"]
                if field == SHIFT_PIXEL_SIZE:
                    rest[field] = table.imaging.pixel_size_A.astype(np.float32)
                elif name in ("class_posterior", "alpha"):
                    rest[field] = np.ones(len(table), dtype=np.float32)
    return rest


def write_as_star(path: Path, table: ParticleTable) -> None:
    """Write a table that came from a .cs file as a RELION 3.1 STAR file; the uids stay in ``cryosparcUid``.

    RELION wants stacks to end in ``.mrcs``. Where they do not, links of that kind are made in a folder beside the file.

    Raises
    ------
    ParticleDataError
        If the table did not come from a .cs file.
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
    frame = table.frame.assign(rlnOpticsGroup=number, cryosparcUid=uid)
    frame["rlnImageName"] = _linked(path, table)
    write_star(path, {"optics": optics, "particles": frame})


def _linked(path: Path, table: ParticleTable) -> list[str]:
    """Names of images as RELION takes them, by links where a stack does not end in ``.mrcs``."""
    names: list[str] = table.frame["rlnImageName"].tolist()
    stacks = table.locations.stacks
    wrong = {number for number in np.unique(table.locations.stack).tolist() if stacks[number].suffix != ".mrcs"}
    if not wrong:
        return names
    folder = path.with_name(f"{path.stem}_stacks")
    links = {}
    try:
        folder.mkdir(exist_ok=True)
        for number in wrong:
            # The number keeps stacks of one name in several folders apart; the name itself cannot lead elsewhere.
            link = folder / f"{number:05d}_{stacks[number].stem}.mrcs"
            link.unlink(missing_ok=True)
            link.symlink_to(stacks[number].resolve())
            links[number] = link
    except OSError as error:
        raise RunFolderError(f"{folder}: links to the stacks cannot be made there ({error.strerror}).") from error
    at = table.locations.stack.tolist()
    return [
        f"{name.split('@', 1)[0]}@{links[number]}" if number in links else name
        for name, number in zip(names, at, strict=True)
    ]
