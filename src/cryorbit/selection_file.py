"""Selections that people made on the page, as the small files that it saves."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorbit.errors import ParticleDataError

KIND = "selection"


@dataclass(frozen=True)
class SavedSelection:
    """Which particles of a run were chosen.

    Attributes
    ----------
    name
        What the user called it.
    input_sha256
        Of the run's particle file; None where the page did not know.
    rows
        Digest of the rows of that file that the run was of; None likewise.
    chosen
        Whether each particle of the run is in it, shape (n,).
    """

    name: str
    input_sha256: str | None
    rows: str | None
    chosen: NDArray[np.bool_]


def read_selection(path: Path) -> SavedSelection:
    """Read a selection that the page saved.

    Raises
    ------
    ParticleDataError
        If the file cannot be read, or is no selection.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParticleDataError(
            f"{path}: cannot be read as a selection ({error}); give the .json file that the page of the run saved."
        ) from error
    return parse_selection(content, str(path))


def parse_selection(content: Any, name: str) -> SavedSelection:
    """The same of a selection that was read already; ``name`` is what messages call it.

    Raises
    ------
    ParticleDataError
        If it is no selection.
    """
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("program") != "cryorbit":
        raise ParticleDataError(f"{name}: is not a selection of cryorbit's; give the .json file that the page saved.")
    count, selected = content.get("particles"), content.get("selected")
    try:
        bits = base64.b64decode(str(content.get("bits")), validate=True)
    except (binascii.Error, ValueError):
        bits = b""
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= 8 * len(bits) < count + 8:
        raise ParticleDataError(
            f"{name}: is damaged (its bits are not one for each of {count} particles): save it again."
        )
    chosen = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little", count=count).astype(bool)
    if chosen.sum() != selected:
        raise ParticleDataError(
            f"{name}: is damaged (it has {chosen.sum()} particles and says that there are {selected}): save it again."
        )
    sha256, rows = (value if isinstance(value, str) else None for value in (content.get("input"), content.get("rows")))
    return SavedSelection(str(content.get("name", "")), sha256, rows, chosen)
