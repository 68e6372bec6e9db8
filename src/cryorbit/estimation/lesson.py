"""What a guided training was told, and how well it took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.model.cone import Cone

# Median absolute value of a normal distribution in units of its standard deviation.
NORMAL_MAD = 0.6745
FEWEST = 20


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


def error_ratio(errors: FloatArray, promised: FloatArray) -> float:
    """Size of errors over that of the deviations promised, each of shape (m,); 1 where there are too few to tell.

    Of medians, or a few pieces of junk decide.
    """
    if len(errors) < FEWEST or not np.median(promised) > 0:
        return 1.0
    return float(np.median(np.abs(errors)) / (NORMAL_MAD * np.median(promised)))
