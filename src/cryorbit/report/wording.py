"""Numbers as words: one way of writing each quantity, for sentences and tables alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cryorbit.conventions import FloatArray

NOTHING = "–"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{int(value):,}"


def _with_unit(value: float | None, digits: int, unit: str) -> str:
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.{digits}f}{unit}"


def degrees(value: float | None) -> str:
    """An angle with its unit."""
    return _with_unit(value, 2, "°")


def micrometres(value: float | None) -> str:
    """A defocus with its unit."""
    return _with_unit(value, 3, " µm")


def angstrom(value: float | None) -> str:
    """A shift with its unit."""
    return _with_unit(value, 2, " Å")


def resolution(value: float | None) -> str:
    """A resolution with its unit."""
    return _with_unit(value, 1, " Å")


def ratio(value: float | None) -> str:
    """A number without unit."""
    return _with_unit(value, 3, "")


def percent(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100.0 * part / whole:.1f} %" if whole else NOTHING


def particles(number: int) -> str:
    """A number of particles, in words that agree with it."""
    return "1 particle" if number == 1 else f"{number:,} particles"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence: ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def typical(values: FloatArray) -> float | None:
    """Median of the finite values; None without any."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None
