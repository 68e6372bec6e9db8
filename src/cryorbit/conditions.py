"""Conditions on the columns of a particle file, as a user writes them: ``rlnClassNumber=3,5``, ``|rlnX|>2``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.errors import ConfigurationError, ParticleDataError
from cryorbit.io import field_names, with_field
from cryorbit.io.star_columns import unquoted
from cryorbit.particles import ParticleTable

_WRITTEN = re.compile(
    r"\s*(?P<bar>\|?)_?(?P<column>\w[\w/.]*)(?P=bar)\s*(?:(?P<sign>!=|<=|>=|=|<|>)\s*(?P<values>.*?)\s*)?"
)
_COMPARED: Mapping[str, Callable[[FloatArray, float], NDArray[np.bool_]]] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


LARGEST_EXACT = 2.0**53


@dataclass(frozen=True)
class Condition:
    """One condition on each row.

    Attributes
    ----------
    text
        As it was written.
    column
        Without the leading underscore; or the field of a .cs file.
    absolute
        Whether the sign of the numbers is left out.
    sign
        One of ``= != < <= > >=``.
    values
        What is compared with: one number, or any values for ``=`` and ``!=``.
    """

    text: str
    column: str
    absolute: bool
    sign: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, option: str) -> Condition:
        """Read a condition; a column alone means that it is not 0.

        Raises
        ------
        ConfigurationError
            If it cannot be understood; ``option`` is what the user gave it by.
        """
        found = _WRITTEN.fullmatch(text)
        sign, values = (found["sign"] or "!=", found["values"]) if found else ("", None)
        parts = tuple(part.strip() for part in ("0" if values is None else values).split(","))
        numeric = sign in _COMPARED or bool(found and found["bar"])
        if (
            not found
            or not all(parts)
            or any(part[0] in "=<>" for part in parts)
            or (sign in _COMPARED and len(parts) > 1)
            or (numeric and None in _parsed(parts))
        ):
            raise ConfigurationError(
                f"{option} {text}: expected a condition such as rlnClassNumber=3,5, rlnDefocusU<20000 or "
                "'|rlnParticleSelectZScore|>2'."
            )
        return cls(text, found["column"], bool(found["bar"]), sign, parts)

    def holds(self, table: ParticleTable) -> NDArray[np.bool_]:
        """Whether it is true of each row, shape (n,).

        Raises
        ------
        ParticleDataError
            If there is no such column, or it does not hold the numbers that are compared with.
        """
        table = with_field(table, self.column)
        if self.column not in table:
            names = ", ".join(map(str, [*table.frame.columns, *field_names(table)]))
            raise ParticleDataError(f"{table.name}: has no column _{self.column} for '{self.text}'; it has {names}.")
        if self.sign in _COMPARED:
            return _COMPARED[self.sign](self._numbers(table), float(self.values[0]))
        wanted = _parsed(self.values)
        # Numbers above this, such as uids, are told apart as text only.
        exact = all(number is None or abs(number) < LARGEST_EXACT for number in wanted)
        if self.absolute or (exact and None not in wanted):
            same = np.isin(self._numbers(table), [value for value in wanted if value is not None])
        else:
            same = unquoted(table.frame[self.column]).isin(self.values).to_numpy(dtype=bool)
        return np.asarray(same if self.sign == "=" else ~same)

    def _numbers(self, table: ParticleTable) -> FloatArray:
        values = table.numbers(self.column)
        return np.abs(values) if self.absolute else values


def _parsed(values: tuple[str, ...]) -> list[float | None]:
    numbers = pd.to_numeric(pd.Series(values), errors="coerce")
    return [None if pd.isna(number) else float(number) for number in numbers]
