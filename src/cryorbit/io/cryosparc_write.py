"""Writing cryoSPARC's .cs files: every record with its uid and all its fields, what was found added or replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.errors import ParticleDataError
from cryorbit.io.cryosparc import FIELDS, OURS, OWN, SHIFT, SHIFT_PIXEL_SIZE
from cryorbit.io.cryosparc_records import CsDocument
from cryorbit.io.runs import atomic_path
from cryorbit.particles import ParticleTable

# Fields of the slots that cryorbit writes into, which cryoSPARC expects together.
_SLOTS: Mapping[str, Mapping[str, Any]] = {
    "alignments2D": {
        "split": "<u4", "shift": ("<f4", (2,)), "pose": "<f4", "psize_A": "<f4", "error": "<f4", "error_min": "<f4",
        "resid_pow": "<f4", "slice_pow": "<f4", "image_pow": "<f4", "cross_cor": "<f4", "alpha": "<f4",
        "weight": "<f4", "pose_ess": "<f4", "shift_ess": "<f4", "class_posterior": "<f4", "class": "<u4",
        "class_ess": "<f4",
    },
    "ctf": {
        "type": "S9", "exp_group_id": "<u4", "accel_kv": "<f4", "cs_mm": "<f4", "amp_contrast": "<f4", "df1_A": "<f4",
        "df2_A": "<f4", "df_angle_rad": "<f4", "phase_shift_rad": "<f4", "scale": "<f4", "scale_const": "<f4",
        "shift_A": ("<f4", (2,)), "tilt_A": ("<f4", (2,)), "trefoil_A": ("<f4", (2,)), "tetra_A": ("<f4", (4,)),
        "anisomag": ("<f4", (4,)), "bfactor": "<f4",
    },
}  # fmt: skip


def write_cs(path: Path, table: ParticleTable) -> None:
    """Write a table that came from a .cs file as one, every record with its uid and all its fields.

    Angles, shifts and defoci go into cryoSPARC's own fields, of which the former value stays in
    ``cryorbit/input/...``; what cryoSPARC has no field for goes into ``cryorbit/...``. What passed through is written,
    too, and where a field of a slot such as ``ctf`` is new, the whole slot.

    Raises
    ------
    ParticleDataError
        If the table did not come from a .cs file.
    """
    document = table.source.document
    if not isinstance(document, CsDocument):
        raise ParticleDataError(f"{table.name} was not read from a .cs file and cannot be written as one.")
    changed = _changed_fields(table, document)
    # What passed through stands beside the run no more: the file is to be read by itself.
    fields: dict[str, NDArray[Any]] = {name: document[name][table.ids] for name in document.names}
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
        if column in FIELDS:
            field, factor, offset = FIELDS[column]
            values = (table.numbers(column) - offset) / factor
            slot, name = field.split("/")
            kind = document[field].dtype if field in document else np.dtype(_SLOTS.get(slot, {}).get(name, "<f4"))
            new[field] = (values.round() if kind.kind in "iu" else values).astype(kind)
        elif column in (conventions.ORIGIN_X, conventions.ORIGIN_Y):
            origin_A = np.stack([table.numbers(name) for name in (conventions.ORIGIN_X, conventions.ORIGIN_Y)], axis=1)
            has_own = SHIFT in document and SHIFT_PIXEL_SIZE in document
            at = document[SHIFT_PIXEL_SIZE][table.ids] if has_own else table.imaging.pixel_size_A
            new[SHIFT] = (origin_A / np.asarray(at, dtype=np.float64)[:, None]).astype(np.float32)
        elif column in OWN:
            new[OURS + OWN[column]] = table.numbers(column).astype(np.float32)
    return new


def _rest_of_slot(
    slot: str, document: CsDocument, table: ParticleTable, have: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Fields that a slot needs beside one that is written, without effect."""
    rest: dict[str, NDArray[Any]] = {}
    imaging = table.imaging
    known: Mapping[str, Any] = {
        "alignments2D/psize_A": imaging.pixel_size_A, "alignments2D/class_posterior": 1, "alignments2D/alpha": 1,
        "ctf/type": b"imported", "ctf/accel_kv": imaging.voltage_kV, "ctf/cs_mm": imaging.cs_mm,
        "ctf/amp_contrast": imaging.amplitude_contrast, "ctf/scale": 1,
    }  # fmt: skip
    if slot == "ctf" and not np.isfinite(imaging.voltage_kV).all():
        return rest
    for name, kind in _SLOTS.get(slot, {}).items():
        field = f"{slot}/{name}"
        if field not in document and field not in have:
            rest[field] = np.zeros(len(table), dtype=np.dtype([("value", kind)]))["value"]
            rest[field][...] = known.get(field, rest[field])
    return rest
