"""What a guided training was told, and how well it took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.errors import RunFolderError
from cryorbit.io.runs import write_arrays
from cryorbit.model.cone import Cone

# Median absolute value of a normal distribution in units of its standard deviation.
NORMAL_MAD = 0.6745
FEWEST = 20
# Beside the weights: what they were told. An alignment that is done again may turn its average another way.
TOLD = "told.npz"


@dataclass(frozen=True)
class Lesson:
    """What a guided training was told, and how well it took: particles that it did not see.

    Attributes
    ----------
    cone
        Where images were told to lie.
    rows
        Particles held out from the training, shape (m,).
    psi_deg, defocus_um
        What the alignment found for them, shape (m,).
    """

    cone: Cone
    rows: NDArray[np.int64]
    psi_deg: FloatArray
    defocus_um: FloatArray


def save_told(path: Path, psi_deg: FloatArray, defocus_um: FloatArray, seen: NDArray[np.bool_]) -> None:
    """Keep what is told of all particles, and which of them a training learnt from, each of shape (n,), as ``.npz``."""
    write_arrays(path, psi_deg=psi_deg, defocus_um=defocus_um, seen=seen)


def read_lesson(path: Path, cone: Cone, kept: NDArray[np.bool_]) -> Lesson:
    """The lesson of those particles, of some of shape (n,), that were held out, from the file of :func:`save_told`.

    Raises
    ------
    RunFolderError
        If the file is missing or damaged.
    """
    told = _read_told(path)
    rows = np.flatnonzero(kept & ~told["seen"])
    return Lesson(cone, rows, told["psi_deg"][rows], told["defocus_um"][rows])


def read_seen(path: Path) -> NDArray[np.bool_]:
    """Which particles a training learnt from, shape (n,), from the file of :func:`save_told`.

    Raises
    ------
    RunFolderError
        If the file is missing or damaged.
    """
    return np.asarray(_read_told(path)["seen"], dtype=bool)


def _read_told(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as told:
            return {name: told[name] for name in ("psi_deg", "defocus_um", "seen")}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise RunFolderError(
            f"{path}: is missing, damaged or of an earlier version; start a new run with --overwrite."
        ) from error


def common_error(errors: FloatArray) -> float:
    """What errors of shape (m,) have in common, their median; 0 where there are too few to tell."""
    return float(np.median(errors)) if len(errors) >= FEWEST else 0.0


def error_ratio(errors: FloatArray, promised: FloatArray) -> float:
    """Size of errors over that of the deviations promised, each of shape (m,); 1 where there are too few to tell.

    Of medians, or a few pieces of junk decide.
    """
    if len(errors) < FEWEST or not np.median(promised) > 0:
        return 1.0
    return float(np.median(np.abs(errors)) / (NORMAL_MAD * np.median(promised)))
