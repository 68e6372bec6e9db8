"""Records of cryoSPARC's .cs files, and of the files of the same job that pass through it, joined by uid.

A .cs file is one NumPy record array; what a job did not change lies in a second file, of which the rows have the same
uid. Records are never unpickled.

References
----------
cryosparc-tools, ``Dataset`` (fields and the formats of files).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorbit.errors import ParticleDataError
from cryorbit.io.headers import read_npy_header

Records = NDArray[np.void]

UID = "uid"
COMPRESSED_MAGIC, NPY_MAGIC = b"\x94CSDAT", b"\x93NUMPY"


@dataclass(frozen=True)
class CsDocument:
    """Records of a .cs file, and of those that pass through it.

    Attributes
    ----------
    records
        Of the file itself, shape (n,).
    joined
        Further fields of the same particles, from files with the same uids, shape (n,); None where there are none.
    paths
        All files that were read.
    """

    records: Records
    joined: Records | None
    paths: tuple[Path, ...]

    def __contains__(self, field: object) -> bool:
        return self._holder(str(field)) is not None

    def __getitem__(self, field: str) -> NDArray[Any]:
        holder = self._holder(field)
        if holder is None:
            raise KeyError(field)
        return np.asarray(holder[field])

    def of_rows(self, rows: NDArray[np.int64]) -> CsDocument:
        """Some of the records, in this order."""
        return replace(self, records=self.records[rows], joined=None if self.joined is None else self.joined[rows])

    @property
    def names(self) -> tuple[str, ...]:
        """All fields, those of the file itself first."""
        joined = () if self.joined is None else self.joined.dtype.names or ()
        return (*(self.records.dtype.names or ()), *joined)

    def _holder(self, field: str) -> Records | None:
        for records in (self.records, self.joined):
            if records is not None and field in (records.dtype.names or ()):
                return records
        return None


def read_document(path: Path, needed: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[CsDocument, list[str]]:
    """Records of a .cs or .csg file with those that pass through, and what is wrong with them, one sentence each.

    Parameters
    ----------
    path
        The file.
    needed
        Fields without which there is nothing to read.
    wanted
        Further fields for whose sake a passthrough file is looked for.

    Raises
    ------
    ParticleDataError
        If there is no uid, or a needed field is nowhere.
    """
    members = _group_members(path) if path.suffix == ".csg" else [path]
    records = read_records(members[0])
    if UID not in (records.dtype.names or ()):
        raise ParticleDataError(f"{members[0]}: has no field uid; expected a .cs file of particles.")
    problems = uid_problems(CsDocument(records, None, tuple(dict.fromkeys((path, members[0])))))
    # A passthrough file is looked for only where something is missing: its records may be many.
    complete = {*needed, *wanted} <= set(records.dtype.names or ())
    others = members[1:] or ([] if complete else _passthrough_paths(members[0]))
    found = [(other, read_records(other)) for other in others] if members[1:] else _readable(others)
    amiss: list[str] = []
    joined, used = _join(records, found, amiss)
    document = CsDocument(records, joined, tuple(dict.fromkeys((path, members[0], *used))))
    missing = [field for field in needed if field not in document]
    # A file that merely lies there, and is not needed, may be as it likes.
    if members[1:] or missing or not all(field in document for field in wanted):
        problems += amiss
    if missing:
        looked = ", ".join(other.name for other in others) or "no passthrough file"
        raise ParticleDataError(
            f"{path}: does not say where the images are (no field {missing[0]}; looked into {looked}); give the job's "
            ".csg file, or put the passthrough .cs file of the job beside it."
        )
    return document, problems


def _readable(paths: list[Path]) -> list[tuple[Path, Records]]:
    """Records of those files that have any: others of the same job, or of another one, may be empty or damaged."""
    found = []
    for path in paths:
        with suppress(ParticleDataError):
            found.append((path, read_records(path)))
    return found


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


def uid_problems(document: CsDocument) -> list[str]:
    """A sentence where a uid stands in several records."""
    # Of a .csg file, the first of those that it names.
    records, path = document.records, document.paths[1 if document.paths[0].suffix == ".csg" else 0]
    unique, counts = np.unique(records[UID], return_counts=True)
    if len(unique) == len(records):
        return []
    return [f"{path}: uid {unique[counts > 1][0]} stands in {counts.max()} records; expected every uid once."]
