"""cryoSPARC's .cs files as particle tables.

The table gets RELION's names and units; the records stay beside it as they are, so that a field which cryorbit does not
change comes out byte for byte.

References
----------
pyem, ``csparc2star`` (the meaning of poses, shifts and classes in RELION's terms).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.conventions import FloatArray
from cryorbit.io.cryosparc_records import CsDocument, read_document, uid_problems
from cryorbit.io.mrc import check_stacks
from cryorbit.io.stacks import find_stack
from cryorbit.io.star_columns import DEFOCI_A, PIXEL_SIZES_A, VOLTAGES_KV, out_of_range
from cryorbit.particles import TEXT_DTYPE, ImageLocations, Imaging, IntArray, ParticleTable, Source, input_column

STACK, INDEX, PIXEL_SIZE = "blob/path", "blob/idx", "blob/psize_A"
POSE, SHIFT, SHIFT_PIXEL_SIZE = "alignments2D/pose", "alignments2D/shift", "alignments2D/psize_A"
OURS = "cryorbit/"


def examine_cs(
    path: Path, stack_root: Path | None = None, check_images: bool = True, home: Path | None = None
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
    home
        File in whose place it is to be read: where its paths start from.

    Raises
    ------
    ParticleDataError
        If the file holds no particles at all.
    """
    document, problems = read_document(path, (STACK, INDEX), ("ctf/df1_A",))
    ids = np.arange(len(document.records), dtype=np.int64)
    frame, imaging = _columns(path, document, ids, problems)
    locations = _locations(home or path, document, stack_root)
    if check_images:
        problems.extend(check_stacks(locations, frame["rlnImageName"].to_numpy(), str(path)))
    root = str(stack_root.resolve()) if stack_root is not None else None
    source = Source(path, "cryosparc", root, document, document.paths)
    return ParticleTable(frame, ids, imaging, locations, source), problems


def judged_cs_rows(table: ParticleTable) -> tuple[Imaging, list[str]]:
    """Imaging of some rows of a .cs file, and what is wrong with them; their stacks are not looked at."""
    path, document = table.source.path, table.source.document
    if path is None:
        return table.imaging, []
    part = document.of_rows(table.ids)
    problems = uid_problems(part)
    return _columns(path, part, table.ids, problems)[1], problems


def field_names(table: ParticleTable) -> list[str]:
    """Fields of a table's .cs file that :func:`with_field` gives; none for other files."""
    document = table.source.document
    if not isinstance(document, CsDocument):
        return []
    return [name for name in document.names if document[name].ndim == 1]


def with_field(table: ParticleTable, field: str) -> ParticleTable:
    """A table with a field of its .cs file as a column of that name; as it is where the file has no such field."""
    document = table.source.document
    if not isinstance(document, CsDocument) or field in table or field not in document:
        return table
    values = document[field][table.ids]
    if values.ndim > 1:
        return table
    values = values.astype(np.int64) if values.dtype.kind == "b" else values
    text = _paths(values) if values.dtype.kind in "SUO" else [str(value) for value in values.tolist()]
    return replace(table, frame=table.frame.assign(**{field: pd.Series(text, dtype=TEXT_DTYPE)}))


def _paths(values: NDArray[Any]) -> list[str]:
    """Paths as text; cryoSPARC marks those within the project by a '>'."""
    texts = (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value) for value in values)
    return [text.removeprefix(">") for text in texts]


def _number_text(values: NDArray[Any]) -> list[str]:
    """Numbers with as many digits as tell one float32 from the next."""
    return [f"{value:.9g}" for value in np.asarray(values, dtype=np.float64).tolist()]


# RELION's column of a field, and what its numbers are multiplied by and raised by to be RELION's.
_DEGREES = 180.0 / np.pi
FIELDS: Mapping[str, tuple[str, float, float]] = {
    conventions.DEFOCUS_U: ("ctf/df1_A", 1.0, 0.0),
    conventions.DEFOCUS_V: ("ctf/df2_A", 1.0, 0.0),
    conventions.DEFOCUS_ANGLE: ("ctf/df_angle_rad", _DEGREES, 0.0),
    "rlnPhaseShift": ("ctf/phase_shift_rad", _DEGREES, 0.0),
    conventions.PSI: (POSE, _DEGREES, 0.0),
    conventions.CLASS_NUMBER: ("alignments2D/class", 1.0, 1.0),
    "rlnCtfMaxResolution": ("ctf/ctf_fit_to_A", 1.0, 0.0),
}
# Field of a column that only cryorbit has, and of RELION's columns that cryoSPARC has no field for.
OWN: Mapping[str, str] = {
    conventions.SELECT_ZSCORE: "outlier_z",
    conventions.POSE_PROBABILITY: "pose_probability",
    conventions.PSI_STD: "psi_std_deg",
    conventions.ORIGIN_STD: "origin_std_A",
    conventions.DEFOCUS_STD: "defocus_std_A",
    conventions.OUTLIER_PROBABILITY: "outlier_probability",
    conventions.OUTLIER_SCORE: "outlier_score",
    conventions.WEIGHT: "weight",
    conventions.CLASS_PROBABILITY: "class_probability",
    conventions.MIRRORED: "mirrored",
    conventions.LATENT_DEFOCUS: "latent_defocus_A",
    conventions.LATENT_DEFOCUS_STD: "latent_defocus_std_A",
}


# Fields whose names alone would not tell everyone what is wrong.
_NAMED = {PIXEL_SIZE: f"the pixel size ({PIXEL_SIZE})"}


class _Fields:
    """Numbers of a document's fields; what is wrong with them is noted once."""

    def __init__(self, path: Path, document: CsDocument, ids: IntArray, problems: list[str]) -> None:
        self.path, self.document, self.ids, self.problems = path, document, ids, problems
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
                f"{self.path}, particle {self.ids[wrong[0]] + 1}: {field} is {numbers[wrong[0]]}, expected a number "
                f"({len(wrong)} such particles)."
            )
        return numbers

    def in_range(
        self, field: str, allowed: tuple[float, float] = (-np.inf, np.inf), unit: str = "", remedy: str = ""
    ) -> FloatArray:
        """A field whose numbers a microscope can have, shape (n,); NaN where it is absent."""
        values = self.numbers(field)
        if values is None:
            return np.full(self.n, np.nan)
        sentence = out_of_range(str(self.path), _NAMED.get(field, field), values, allowed, unit, remedy, self.ids)
        self.problems += [sentence] if sentence else []
        return values


def _columns(path: Path, document: CsDocument, ids: IntArray, problems: list[str]) -> tuple[pd.DataFrame, Imaging]:
    """RELION's columns of the fields that cryorbit reads, as text, and typed views."""
    fields = _Fields(path, document, ids, problems)
    stacks, index = _paths(document[STACK]), fields.numbers(INDEX)
    index = np.zeros(fields.n) if index is None else index
    if (index < 0).any():
        problems.append(f"{path}, particle {ids[np.argmax(index < 0)] + 1}: {INDEX} is below 0; expected 0 or more.")
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
        fields.in_range("ctf/cs_mm"),
        fields.in_range("ctf/amp_contrast", (0.0, 1.0), "", "it is a fraction, such as 0.1"),
    )
    if PIXEL_SIZE not in document:
        problems.append(f"{path}: gives no pixel size ({PIXEL_SIZE}); expected one of every particle.")
    for name in ("ctf/df1_A", "ctf/df2_A"):
        values = fields.document[name] if name in document else np.zeros(0)
        if values.dtype.kind == "f" and values.ndim == 1:
            remedy = "underfocus is a positive number of Angstrom: correct or remove such particles"
            sentence = out_of_range(str(path), name, values.astype(np.float64), DEFOCI_A, "A", remedy, ids)
            problems += [sentence] if sentence else []
    columns |= _read_columns(fields, imaging.pixel_size_A)
    frame = pd.DataFrame({name: pd.Series(values, dtype=TEXT_DTYPE) for name, values in columns.items()})
    return frame, imaging


def _read_columns(fields: _Fields, pixel_size_A: FloatArray) -> dict[str, list[str]]:
    """Columns of numbers: RELION's, in its units, cryorbit's own, and the former values of what it replaced."""
    columns: dict[str, list[str]] = {}
    for prefix, kept in (("", str), (f"{OURS}input/", input_column)):
        for column, (field, factor, offset) in FIELDS.items():
            values = fields.numbers(prefix + field)
            if values is not None:
                columns[kept(column)] = _number_text(values * factor + offset)
        shift = fields.numbers(prefix + SHIFT, width=2)
        if shift is not None:
            at = fields.numbers(SHIFT_PIXEL_SIZE)
            origin_A = shift * (pixel_size_A if at is None else at)[:, None]
            for axis, column in enumerate((conventions.ORIGIN_X, conventions.ORIGIN_Y)):
                columns[kept(column)] = _number_text(origin_A[:, axis])
    for column, name in OWN.items():
        values = fields.numbers(OURS + name)
        if values is not None:
            columns[column] = _number_text(values)
    return columns


def _locations(path: Path, document: CsDocument, stack_root: Path | None) -> ImageLocations:
    codes, unique = pd.factorize(document[STACK])
    index = document[INDEX]
    sound = index.dtype.kind in "iuf" and index.ndim == 1
    slices = np.maximum(np.nan_to_num(index), 0).astype(np.int64) if sound else np.zeros(len(codes), dtype=np.int64)
    stacks = tuple(find_stack(name, path, stack_root) for name in _paths(np.asarray(unique)))
    return ImageLocations(stacks, codes.astype(np.int64), slices)
