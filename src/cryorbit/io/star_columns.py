"""Numbers of a particle STAR file, and whether a microscope can have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from gemmi import cif

from cryorbit import conventions
from cryorbit.conventions import FloatArray
from cryorbit.particles import Imaging, IntArray, as_numbers

OPTICS_GROUP = "rlnOpticsGroup"
# What microscopes have; anything else is a unit mixed up or a file damaged.
VOLTAGES_KV = (10.0, 2000.0)
PIXEL_SIZES_A = (0.01, 1000.0)
DEFOCI_A = (1.0, 1.0e6)
# Columns that are read later, or not at all by cryorbit, and must be numbers all the same.
NUMBERS = ("rlnAnglePsi", "rlnAngleRot", "rlnAngleTilt", "rlnDefocusAngle", "rlnPhaseShift", "rlnParticleSelectZScore")


def out_of_range(
    name: str, what: str, values: FloatArray, allowed: tuple[float, float], unit: str, remedy: str, ids: IntArray
) -> str | None:
    """A sentence on values that no microscope has, with the row of the first by its id; None where there are none."""
    low, high = allowed
    wrong = np.flatnonzero((values < low) | (values > high))
    if not len(wrong):
        return None
    found = f"{name}, particle {ids[wrong[0]] + 1}: {what} is {values[wrong[0]]:g} {unit}".rstrip()
    return f"{found}; expected {low:g} to {high:g} ({len(wrong)} such particles): {remedy}."


def unquoted(values: pd.Series) -> pd.Series:
    """Text without STAR's quotation marks."""
    return values.map(cif.as_string) if values.str.startswith(("'", '"')).any() else values


class StarColumns:
    """Numbers of the particle rows, from their own columns or through their optics group.

    Parameters
    ----------
    path
        The file, for messages.
    frame
        Rows of it.
    optics
        Its table of optics groups, where it has one.
    ids
        Number of each row in the file, from 0; those of all its rows if left out.
    """

    def __init__(
        self, path: Path, frame: pd.DataFrame, optics: pd.DataFrame | None, ids: IntArray | None = None
    ) -> None:
        self.path = path
        self.ids = np.arange(len(frame)) if ids is None else ids
        self.frame = frame
        self.optics = optics
        self.problems: list[str] = []
        self.group_row = self._group_rows()

    def _group_rows(self) -> np.ndarray | None:
        if self.optics is None:
            return None
        if OPTICS_GROUP not in self.frame:
            if len(self.optics) == 1:
                return np.zeros(len(self.frame), dtype=np.int64)
            self.problems.append(
                f"{self.path}: has {len(self.optics)} optics groups but its particles have no column _{OPTICS_GROUP}."
            )
            return None
        groups, of_particle = unquoted(self.optics[OPTICS_GROUP]), unquoted(self.frame[OPTICS_GROUP])
        known = {group: row for row, group in enumerate(groups)}
        if len(known) < len(groups):
            twice = groups[groups.duplicated()].iloc[0]
            self.problems.append(f"{self.path}: optics group {twice} stands twice in data_optics; expected it once.")
        rows = of_particle.map(known)
        if rows.isna().any():
            particle = int(np.flatnonzero(rows.isna())[0])
            self.problems.append(
                f"{self.path}, particle {self.ids[particle] + 1}: optics group {of_particle.iloc[particle]} is "
                f"not in data_optics, which has {', '.join(known)} ({int(rows.isna().sum())} particles in all)."
            )
            return None
        return rows.to_numpy(dtype=np.int64)

    def numbers(self, *names: str) -> FloatArray | None:
        """The first of these columns that exists, per particle; None where there is none."""
        for name in names:
            if name in self.frame:
                return self._parsed(self.frame[name], name, "particle")
            if self.optics is not None and self.group_row is not None and name in self.optics:
                return np.asarray(self._parsed(self.optics[name], name, "optics group")[self.group_row])
        return None

    def check_range(self, what: str, values: FloatArray, allowed: tuple[float, float], unit: str, remedy: str) -> None:
        """Note values that no microscope has; those that are no numbers have been noted already."""
        sentence = out_of_range(str(self.path), what, values, allowed, unit, remedy, self.ids)
        self.problems += [sentence] if sentence else []

    def _parsed(self, values: pd.Series, name: str, kind: str) -> FloatArray:
        numbers = as_numbers(values)
        bad = ~np.isfinite(numbers)
        if kind != "particle" and self.group_row is not None:  # a group of no particle may be as it likes
            bad &= np.isin(np.arange(len(values)), self.group_row)
        wrong = np.flatnonzero(bad)
        if len(wrong):
            first = (self.ids if kind == "particle" else np.arange(len(values)))[wrong[0]]
            self.problems.append(
                f"{self.path}, {kind} {first + 1}: _{name} is {values.iloc[wrong[0]]!r}, expected a number "
                f"({len(wrong)} such values)."
            )
        return numbers


def _pixel_size_A(columns: StarColumns) -> FloatArray:
    """Pixel size of every particle image, from whichever way this RELION version says it."""
    pixel_size = columns.numbers("rlnImagePixelSize", "rlnPixelSize")
    if pixel_size is None:
        detector, magnification = columns.numbers("rlnDetectorPixelSize"), columns.numbers("rlnMagnification")
        if detector is not None and magnification is not None and (magnification > 0).all():
            pixel_size = conventions.pixel_size_from_magnification_A(detector, magnification)
    if pixel_size is None:
        if columns.group_row is not None or columns.optics is None:
            columns.problems.append(
                f"{columns.path}: gives no pixel size; expected _rlnImagePixelSize in data_optics, or "
                "_rlnDetectorPixelSize and _rlnMagnification of the particles."
            )
        return np.full(len(columns.frame), np.nan)
    columns.check_range("the pixel size", pixel_size, PIXEL_SIZES_A, "A", "correct _rlnImagePixelSize")
    return pixel_size


# What was done to the images before, by the column that says so; and the way to images without it.
_TREATED = {
    "rlnCtfDataAreCtfPremultiplied": "multiplied by their contrast transfer functions",
    "rlnCtfDataArePhaseFlipped": "corrected by flipping phases",
}


def treated_images(columns: StarColumns) -> list[str]:
    """Sentences on images that are not as the microscope made them; their contrast transfer is another one."""
    found = []
    for name, what in _TREATED.items():
        values = columns.numbers(name)
        if values is not None and (values == 1).any():
            found.append(
                f"{columns.path}: {int((values == 1).sum())} of {len(values)} images were {what} (_{name} is 1); "
                "expected images as they are in the micrographs: extract them again without that."
            )
    return found


def read_imaging(columns: StarColumns) -> Imaging:
    """Pixel size and optics of every particle; what is wrong with them is noted in ``columns.problems``."""
    absent = np.full(len(columns.frame), np.nan)

    def or_absent(values: FloatArray | None) -> FloatArray:
        return absent if values is None else values

    voltage = or_absent(columns.numbers("rlnVoltage"))
    columns.check_range("_rlnVoltage", voltage, VOLTAGES_KV, "kV", "300 kV is written 300, not 300000")
    contrast = or_absent(columns.numbers("rlnAmplitudeContrast"))
    columns.check_range("_rlnAmplitudeContrast", contrast, (0.0, 1.0), "", "it is a fraction, such as 0.1")
    for name in (conventions.DEFOCUS_U, conventions.DEFOCUS_V):
        defocus = columns.numbers(name)
        if defocus is not None:
            remedy = "underfocus is a positive number of Angstrom: correct or remove such particles"
            columns.check_range(f"_{name}", defocus, DEFOCI_A, "A", remedy)
    for name in NUMBERS:
        columns.numbers(name)
    return Imaging(
        pixel_size_A=_pixel_size_A(columns),
        voltage_kV=voltage,
        cs_mm=or_absent(columns.numbers("rlnSphericalAberration")),
        amplitude_contrast=contrast,
    )
