"""Which rows of a particle file a run takes: those of some classes, a random preview."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryorbit.conditions import Condition
from cryorbit.errors import ConfigurationError, ParticleDataError
from cryorbit.io import read_particles, read_some
from cryorbit.particles import ParticleTable


@dataclass(frozen=True)
class Rows:
    """A choice of rows.

    Attributes
    ----------
    select
        Conditions on columns, all of which must hold; see :class:`cryorbit.conditions.Condition`.
    subset
        This many of those rows, drawn at random; all of them where they are fewer, or if left out.
    seed
        Of the draw.
    """

    select: tuple[str, ...] = ()
    subset: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.subset is not None and self.subset < 1:
            raise ConfigurationError(f"--subset is {self.subset}; expected 1 or more particles.")
        for text in self.select:
            Condition.parse(text, "--select")

    def __bool__(self) -> bool:
        return bool(self.select) or self.subset is not None

    def of(self, table: ParticleTable) -> ParticleTable:
        """These rows of a table, in its order.

        Raises
        ------
        ParticleDataError
            If a condition names a column that is not there, or no row is left.
        """
        chosen = np.ones(len(table), dtype=bool)
        for text in self.select:
            chosen &= Condition.parse(text, "--select").holds(table)
        rows = np.flatnonzero(chosen)
        if not len(rows):
            raise ParticleDataError(
                f"{table.name}: none of its {len(table):,} particles fulfils {' and '.join(self.select)}; see the "
                "columns with 'cryorbit inspect'."
            )
        if self.subset is not None and self.subset < len(rows):
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, self.subset, replace=False))
        return table if len(rows) == len(table) else table.take(rows)

    def read(self, path: Path, stack_root: str | Path | None = None, check_images: bool = True) -> ParticleTable:
        """These rows of a file; what is wrong with others does not matter.

        Raises
        ------
        ParticleDataError
            With every problem found, one sentence each.
        """
        if not self:
            return read_particles(path, stack_root, check_images)
        return read_some(path, stack_root, self.of, check_images)

    def described(self) -> dict[str, Any]:
        """As plain values, for ``run.json``; :func:`rows_from` reads them."""
        return asdict(self)


def rows_from(described: dict[str, Any] | None) -> Rows:
    """The choice that ``run.json`` tells of; all rows where it tells of none."""
    return Rows(tuple(described["select"]), described["subset"], described["seed"]) if described else Rows()
