"""Defoci that were measured for another data set: a column of a STAR file or of a plain table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cryorbit import conventions
from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.errors import ParticleDataError
from cryorbit.io.star import read_loop
from cryorbit.io.star_columns import DEFOCI_A

EXPECTED = "expected columns defocusU and defocusV (or rlnDefocusU, rlnDefocusV) in Angstrom"


def read_defocus_um(path: Path) -> FloatArray:
    """Mean defocus of every row in micrometres, shape (n,).

    Parameters
    ----------
    path
        STAR file, or CSV file, also compressed, with ``defocusU`` and ``defocusV`` or RELION's names for them; the
        second may be missing.

    Raises
    ------
    ParticleDataError
        If the file cannot be read, has no such column, or holds what is no defocus in Angstrom.
    """
    if not path.is_file():
        raise ParticleDataError(f"{path} does not exist; expected a table of defoci: check the path.")
    columns = _columns(path)
    if "u" not in columns:
        raise ParticleDataError(f"{path}: has no column of defoci; {EXPECTED}.")
    values = np.stack([pd.to_numeric(column, errors="coerce").to_numpy(np.float64) for column in columns.values()])
    low, high = DEFOCI_A
    wrong = np.flatnonzero(~((values >= low) & (values <= high)).all(axis=0))
    if len(wrong):
        found = ", ".join(str(column.iloc[wrong[0]]) for column in columns.values())
        raise ParticleDataError(
            f"{path}, row {wrong[0] + 1}: the defocus is {found}; expected numbers from {low:g} to {high:g} Angstrom, "
            f"positive for underfocus ({len(wrong)} such rows)."
        )
    defocus_um = values.mean(axis=0) / ANGSTROM_PER_UM
    if len(defocus_um) < 2 or np.ptp(defocus_um) == 0:
        raise ParticleDataError(f"{path}: all {len(defocus_um)} defoci are the same; expected a distribution of them.")
    return np.asarray(defocus_um)


def _columns(path: Path) -> dict[str, pd.Series]:
    """The columns u and v, as far as there are any."""
    if path.suffix == ".star":
        frame = read_loop(path, (conventions.DEFOCUS_U,))
    else:
        try:
            frame = pd.read_csv(path, skipinitialspace=True)
        except (OSError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ParticleDataError(f"{path}: cannot be read as a table ({reason}); {EXPECTED}.") from error
    if frame is None:
        return {}
    found = {}
    for name in frame.columns:
        plain = str(name).strip().lower().removeprefix("_").removeprefix("rln").removesuffix("_a")
        if plain in ("defocusu", "defocusv"):
            found[plain[-1]] = frame[name]
    return found
