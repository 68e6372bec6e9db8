"""The particle table: one carrier for a data set's rows, from the file that was read to the file that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cryorbit import conventions
from cryorbit.conventions import FloatArray
from cryorbit.errors import ParticleDataError

IntArray = NDArray[np.int64]

# Text columns are kept in Arrow's compact layout: a million rows of Python strings would not fit.
TEXT_DTYPE: Literal["string[pyarrow]"] = "string[pyarrow]"


class ImageNames(Protocol):
    """Names by row, whether Python's own strings or packed ones."""

    def __getitem__(self, row: Any, /) -> Any:
        """Name of the image of a row."""
        ...


@dataclass(frozen=True)
class Source:
    """Where a table came from, with all that a writer needs to give the rest of the file back unchanged.

    Attributes
    ----------
    path
        The file that was read, or None for a table made in memory.
    file_format
        Such as ``"star-3.1"``; the output has the same.
    stack_root
        Folder that image paths were told to start from.
    document
        The parsed file, for the module of :mod:`cryorbit.io` that made it and for no other.
    files
        Where the rows are spread over several files: all of them.
    """

    path: Path | None = None
    file_format: str = "memory"
    stack_root: str | None = None
    document: Any = field(default=None, repr=False, compare=False)
    files: tuple[Path, ...] = ()

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Every file that the table was read from."""
        return self.files or (() if self.path is None else (self.path,))


@dataclass(frozen=True)
class Imaging:
    """What the microscope's side of a file says of each particle, in one set of units; all arrays of shape (n,).

    Attributes
    ----------
    pixel_size_A
        Of the particle images.
    voltage_kV, cs_mm, amplitude_contrast
        NaN where the file does not say.
    """

    pixel_size_A: FloatArray
    voltage_kV: FloatArray
    cs_mm: FloatArray
    amplitude_contrast: FloatArray


@dataclass(frozen=True)
class ImageLocations:
    """Where each particle's image lies.

    Attributes
    ----------
    stacks
        The distinct image stacks, in order of first use.
    stack
        Index into ``stacks`` for each particle, shape (n,).
    slice_index
        Zero-based image within that stack, shape (n,).
    """

    stacks: tuple[Path, ...]
    stack: IntArray
    slice_index: IntArray

    @property
    def used(self) -> tuple[Path, ...]:
        """Those of the stacks that hold one of the images."""
        return tuple(self.stacks[number] for number in np.unique(self.stack))

    def take(self, rows: IntArray) -> ImageLocations:
        """Locations of the rows asked for, still against the same list of stacks."""
        return ImageLocations(self.stacks, self.stack[rows], self.slice_index[rows])


@dataclass(frozen=True)
class ParticleTable:
    """Rows of a particle file: its columns as text, typed views of the ones cryorbit needs, a stable id each.

    Attributes
    ----------
    frame
        One row per particle, the file's column names without the leading underscore, every value as it stands
        in the file.
    ids
        Row number in the file that was read, zero-based, shape (n,); selections keep it.
    imaging, locations
        Typed views made by the reader.
    source
        The file itself.
    changed
        Names of the columns that were added or replaced since reading.
    """

    frame: pd.DataFrame
    ids: IntArray
    imaging: Imaging
    locations: ImageLocations
    source: Source = Source()
    changed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, column: object) -> bool:
        return column in self.frame.columns

    @property
    def name(self) -> str:
        """How messages call this table."""
        return str(self.source.path) if self.source.path is not None else "the particle table"

    @property
    def image_names(self) -> ImageNames:
        """What the file calls the image of each row; packed, for there may be a million."""
        names: ImageNames = self.frame[conventions.IMAGE_NAME].array
        return names

    def numbers(self, column: str, default: float | None = None) -> FloatArray:
        """One column as float64, shape (n,).

        Raises
        ------
        ParticleDataError
            If the column is absent and no default is given, or a value is not a number.
        """
        if column not in self.frame.columns:
            if default is None:
                raise ParticleDataError(f"{self.name} has no column {column}.")
            return np.full(len(self), default, dtype=np.float64)
        values = as_numbers(self.frame[column])
        wrong = np.flatnonzero(np.isnan(values))
        for row in wrong:
            text = str(self.frame[column].iloc[row])
            if text.lower().strip("+-") != "nan":
                raise ParticleDataError(
                    f"{self.name}, particle {self.ids[row] + 1}: {column} is {text!r}, expected a number."
                )
        return values

    @property
    def has_defocus(self) -> bool:
        """Whether the file gives a defocus."""
        return conventions.DEFOCUS_U in self

    @property
    def defocus_u_A(self) -> FloatArray:
        """Larger defocus, shape (n,)."""
        return self.numbers(conventions.DEFOCUS_U)

    @property
    def defocus_v_A(self) -> FloatArray:
        """Smaller defocus, shape (n,); the larger one where the file gives only that."""
        return self.numbers(conventions.DEFOCUS_V if conventions.DEFOCUS_V in self else conventions.DEFOCUS_U)

    @property
    def defocus_A(self) -> FloatArray:
        """Mean defocus over directions, shape (n,)."""
        return 0.5 * (self.defocus_u_A + self.defocus_v_A)

    @property
    def psi_deg(self) -> FloatArray:
        """In-plane angle, shape (n,)."""
        return self.numbers(conventions.PSI)

    def take(self, rows: ArrayLike) -> ParticleTable:
        """The rows at these positions, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        imaging = Imaging(**{name: values[index] for name, values in vars(self.imaging).items()})
        return replace(
            self,
            frame=self.frame.iloc[index].reset_index(drop=True),
            ids=self.ids[index],
            imaging=imaging,
            locations=self.locations.take(index),
        )

    def where(self, mask: ArrayLike) -> ParticleTable:
        """The rows for which the mask is true.

        Raises
        ------
        ValueError
            If the mask has not one value per particle.
        """
        chosen = np.asarray(mask, dtype=bool)
        if chosen.shape != (len(self),):
            raise ValueError(f"Expected a mask of shape ({len(self)},), got {chosen.shape}.")
        return self.take(np.flatnonzero(chosen))

    def with_columns(self, columns: Mapping[str, ArrayLike]) -> ParticleTable:
        """A table with these columns added, or replaced where they exist; floats get six decimals, as in RELION.

        Raises
        ------
        ValueError
            If a column has not one value per particle.
        """
        frame = self.frame.copy(deep=False)
        for name, values in columns.items():
            array = np.asarray(values)
            if array.shape != (len(self),):
                raise ValueError(f"Column {name}: expected shape ({len(self)},), got {array.shape}.")
            frame[name] = pd.Series(as_text(array), dtype=TEXT_DTYPE, index=frame.index)
        new = tuple(name for name in columns if name not in self.changed)
        return replace(self, frame=frame, changed=self.changed + new)


def as_numbers(values: pd.Series) -> FloatArray:
    """Text as float64, shape (n,); NaN for what is no number, but a number may stand in quotation marks, as in STAR."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    failed = np.isnan(numbers)
    if failed.any():
        bare = values[failed].astype(str).str.replace(r"^(['\"])(.*)\1$", r"\2", regex=True)
        numbers[failed] = pd.to_numeric(bare, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers


def input_column(column: str) -> str:
    """Column in which one that cryorbit replaced is kept; the first value that a file ever had stays there."""
    return f"cryorbitInput{column.removeprefix('rln')}"


def as_text(values: NDArray[Any]) -> list[str]:
    """Values as they stand in a STAR file: floats with six decimals, everything else as it prints."""
    if np.issubdtype(values.dtype, np.floating):
        return [f"{value:.6f}" for value in values.tolist()]
    return [str(value) for value in values.tolist()]
