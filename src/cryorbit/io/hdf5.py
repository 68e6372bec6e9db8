"""HDF5 files of particles, as the paper's: a data set of images, and one of the same length for each label of RELION's.

``particles.h5`` may hold, say, ``particles`` of shape (n, height, width), ``_rlnDefocusU`` and ``_rlnDefocusV`` of
shape (n,), in the root or in groups. Reading them needs h5py (``pip install 'cryorbit[hdf5]'``).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.errors import ParticleDataError
from cryorbit.io.headers import StackHeader
from cryorbit.io.star_columns import StarColumns, read_imaging, treated_images
from cryorbit.particles import TEXT_DTYPE, ImageLocations, ParticleTable, Source, input_column

SUFFIXES = (".h5", ".hdf5")
# Names of the images' data set, in the order in which they are looked for; else it is the only one with three axes.
IMAGES = ("particles", "images", "data")
LABEL, IMAGE_NAME = "rln", "rlnImageName"
MOST_PIECE_BYTES = 500_000_000
# All that h5py raises on files that are not what they should be.
BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeDecodeError)


def _h5py(path: Path) -> Any:
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ParticleDataError(
            f"{path}: an HDF5 file needs h5py, which is not installed: pip install 'cryorbit[hdf5]'."
        ) from error
    return h5py


def _opened(path: Path) -> Any:
    h5py = _h5py(path)
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise ParticleDataError(f"{path} does not exist.")
    try:
        return h5py.File(path, "r")
    except BROKEN as error:
        raise ParticleDataError(f"{path}: is not a readable HDF5 file ({error}); copy it again.") from error


def _datasets(file: Any) -> dict[str, Any]:
    """All data sets of a file by their path in it, without links to other files."""
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if hasattr(item, "shape") and item.shape is not None and not item.is_virtual and not item.external:
            found[name] = item

    file.visititems(note)
    return found


def _images(path: Path, datasets: dict[str, Any]) -> Any:
    """The data set of images."""
    stacks = {name: item for name, item in datasets.items() if len(item.shape) == 3 and item.dtype.kind in "iuf"}
    named = [item for wanted in IMAGES for name, item in stacks.items() if name.rpartition("/")[2] == wanted]
    if named or len(stacks) == 1:
        return named[0] if named else next(iter(stacks.values()))
    what = f"{len(stacks)} of them ({', '.join(stacks)})" if stacks else "none"
    raise ParticleDataError(
        f"{path}: expected one data set of images, numbers of shape (n, height, width), called {IMAGES[0]} where there "
        f"are several; found {what}."
    )


def hdf5_header(path: Path) -> StackHeader:
    """Shape and kind of the images in an HDF5 file.

    Raises
    ------
    ParticleDataError
        If the file cannot be read, h5py is missing, or there is no data set of images.
    """
    with _opened(path) as file:
        try:
            images = _images(path, _datasets(file))
            n, height, width = map(int, images.shape)
            whole = _is_whole(images)
            dtype = np.dtype(images.dtype)
        except BROKEN as error:
            raise _damaged(path, error) from error
    if min(n, height, width) < 1 or not whole:
        raise ParticleDataError(
            f"{path}: does not hold all values of its images, which should have the shape ({n}, {height}, {width}): "
            "copy it again."
        )
    # Not a place in the file: images may lie in compressed pieces.
    return StackHeader(n, height, width, dtype, 0, SUFFIXES[0])


def _is_whole(images: Any) -> bool:
    """Whether all images were ever written, in pieces that fit in memory, however large they claim to be."""
    if images.chunks is None:
        return bool(images.id.get_storage_size() >= images.size * images.dtype.itemsize)
    pieces = math.prod(-(-length // piece) for length, piece in zip(images.shape, images.chunks, strict=True))
    piece_bytes = math.prod(images.chunks) * images.dtype.itemsize
    return bool(images.id.get_num_chunks() >= pieces and piece_bytes <= MOST_PIECE_BYTES)


def read_hdf5_images(path: Path, first: int, count: int) -> NDArray[Any]:
    """Images of an HDF5 file that follow each other, shape (count, height, width).

    Raises
    ------
    ParticleDataError
        If they cannot be read.
    """
    with _opened(path) as file:
        try:
            images: NDArray[Any] = _images(path, _datasets(file))[first : first + count]
        except BROKEN as error:
            raise _damaged(path, error) from error
    return images


def _damaged(path: Path, error: BaseException) -> ParticleDataError:
    if isinstance(error, ParticleDataError):
        return error
    return ParticleDataError(f"{path}: is damaged ({error}): copy the file again.")


def examine_hdf5(
    path: Path,
    stack_root: Path | None = None,  # noqa: ARG001 - all examiners are called alike
    check_images: bool = True,
    home: Path | None = None,
) -> tuple[ParticleTable, list[str]]:
    """Read an HDF5 file of particles and list what is wrong with its labels.

    Parameters
    ----------
    path
        The file, which holds its own images.
    stack_root, home
        Of no use here.
    check_images
        Whether to refuse images that are not square.

    Raises
    ------
    ParticleDataError
        If there are no images in it.
    """
    header = hdf5_header(path)
    problems: list[str] = []
    name = str((home or path).resolve())
    columns = {IMAGE_NAME: pd.Series([f"{i:06d}@{name}" for i in range(1, header.images + 1)], dtype=TEXT_DTYPE)}
    with _opened(path) as file:
        try:
            for where, item in _datasets(file).items():
                label = where.rpartition("/")[2].removeprefix("_")
                # What the images were called before: other files know them by that name.
                label = input_column(label) if label == IMAGE_NAME else label
                if not label.startswith((LABEL, input_column(LABEL))) or label in columns:
                    continue
                if item.shape != (header.images,):
                    problems.append(
                        f"{path}: {where} has the shape {item.shape}; expected ({header.images},), one of each image."
                    )
                    continue
                columns[label] = pd.Series(_texts(item[:]), dtype=TEXT_DTYPE)
        except BROKEN as error:
            raise _damaged(path, error) from error
    frame = pd.DataFrame(columns)
    star = StarColumns(path, frame, None)
    imaging = read_imaging(star)
    problems += star.problems
    if check_images:
        problems += treated_images(star)
    if check_images and header.height != header.width:
        problems.append(f"{path}: images are not square ({header.width} x {header.height}); expected square boxes.")
    rows = np.arange(header.images, dtype=np.int64)
    locations = ImageLocations((Path(name),), np.zeros_like(rows), rows)
    return ParticleTable(frame, rows, imaging, locations, Source(path, "hdf5")), problems


def _texts(values: NDArray[Any]) -> list[str]:
    """Values as they would stand in a STAR file, with all their digits; yes and no are 1 and 0 there."""
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.dtype.kind == "f":
        digits = 9 if values.dtype.itemsize <= 4 else 17
        return [f"{value:.{digits}g}" for value in values.tolist()]
    return [value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value) for value in values]
