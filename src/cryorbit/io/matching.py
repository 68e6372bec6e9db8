"""Which particles of two files are the same."""

from __future__ import annotations

from itertools import product

import pandas as pd

from cryorbit.conventions import IMAGE_NAME
from cryorbit.io.cryosparc_records import UID, CsDocument
from cryorbit.io.star_columns import unquoted
from cryorbit.particles import TEXT_DTYPE, ParticleTable, input_column

# Column of the uids in STAR files that were made from .cs files.
UID_COLUMN = "cryosparcUid"
# What an image is called, and what it was called in a file that has since given it another name.
NAMES = (IMAGE_NAME, input_column(IMAGE_NAME))


def comparable_names(one: ParticleTable, other: ParticleTable) -> tuple[pd.Series, pd.Series]:
    """Names that are equal where particles of two tables are: uids where both have some in common, else of images."""
    pairs = [(_uids(one), _uids(other))]
    pairs += [(_column(one, first), _column(other, second)) for first, second in product(NAMES, repeat=2)]
    known = [(first, second) for first, second in pairs if first is not None and second is not None]
    for first, second in known:
        if first.isin(second).any():
            return first, second
    return unquoted(one.frame[IMAGE_NAME]), unquoted(other.frame[IMAGE_NAME])


def _column(table: ParticleTable, name: str) -> pd.Series | None:
    return unquoted(table.frame[name]) if name in table else None


def _uids(table: ParticleTable) -> pd.Series | None:
    document = table.source.document
    if isinstance(document, CsDocument):
        return pd.Series(document.records[UID][table.ids].astype(str), dtype=TEXT_DTYPE)
    return _column(table, UID_COLUMN)
