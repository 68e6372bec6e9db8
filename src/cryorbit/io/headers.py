"""Headers of image stacks: MRC files, compressed or not, and NumPy arrays; checked before any memory is taken."""

from __future__ import annotations

import bz2
import gzip
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import mrcfile
import numpy as np
from numpy.lib import format as npy

from cryorbit.errors import ParticleDataError

HEADER_BYTES = 1024
# A header longer than this describes no particles.
MOST_NPY_HEADER_BYTES = 1_000_000
# Compressed stacks are held in memory as a whole.
MOST_DECOMPRESSED_BYTES = 2_000_000_000
OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
OTHER_COMPRESSED = (".xz", ".zip", ".zst", ".lz4")


@dataclass(frozen=True)
class StackHeader:
    """Shape and layout of one image stack.

    Attributes
    ----------
    images, height, width
        Number of images and their size in pixels.
    dtype
        Of one pixel, with its byte order.
    data_offset
        Byte at which the first image starts, behind header and extended header; in the decompressed file.
    compression
        ``.gz`` or ``.bz2``, or nothing.
    """

    images: int
    height: int
    width: int
    dtype: np.dtype
    data_offset: int
    compression: str = ""

    @property
    def image_bytes(self) -> int:
        """Size of one image in the file."""
        return self.height * self.width * self.dtype.itemsize

    @property
    def all_bytes(self) -> int:
        """Size of the file, header and all, when it is not compressed."""
        return self.data_offset + self.images * self.image_bytes


def read_npy_header(path: Path, handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and kind of the array in a ``.npy`` file, leaving the handle behind it.

    Raises
    ------
    ParticleDataError
        If there is no such header, or the array holds Python objects.
    """
    try:
        version = npy.read_magic(handle)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(handle, max_header_size=MOST_NPY_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, EOFError) as error:
        raise ParticleDataError(f"{path} is not a NumPy array ({error}).") from error
    if dtype.hasobject:
        raise ParticleDataError(f"{path} holds pickled Python objects, which are never loaded: save it anew.")
    return shape, fortran, dtype


def read_stack_header(path: Path) -> StackHeader:
    """Read and check the header of an image stack.

    Raises
    ------
    ParticleDataError
        If the file is missing, is no image stack, or holds fewer bytes than its header promises.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise ParticleDataError(f"{path} does not exist.")
    suffix = path.suffix.lower()
    if suffix in OTHER_COMPRESSED:
        raise ParticleDataError(f"{path} is compressed in a way that cannot be read ({suffix}): decompress it.")
    size = path.stat().st_size
    try:
        found = _npy_header(path) if suffix == ".npy" else _mrc_header(path, suffix if suffix in OPENERS else "", size)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParticleDataError(f"{path} cannot be read ({reason}); check the file and its permissions.") from error
    if found.compression:
        if found.all_bytes > MOST_DECOMPRESSED_BYTES:
            raise ParticleDataError(
                f"{path} holds {found.all_bytes:,} bytes when decompressed, too many: decompress it."
            )
    elif size < found.all_bytes:
        raise ParticleDataError(
            f"{path} is truncated: {size} bytes where its header promises {found.all_bytes} ({found.images} images of "
            f"{found.width} x {found.height} pixels): copy the file again."
        )
    return found


def _npy_header(path: Path) -> StackHeader:
    with path.open("rb") as handle:
        shape, fortran, dtype = read_npy_header(path, handle)
        offset = handle.tell()
    if fortran or len(shape) not in (2, 3) or min(shape) < 1 or dtype.kind not in "iuf":
        raise ParticleDataError(
            f"{path} is not an image stack: an array of shape {shape} of {dtype}{', in Fortran order' * fortran}; "
            "expected numbers of shape (images, height, width)."
        )
    images, height, width = shape if len(shape) == 3 else (1, *shape)
    return StackHeader(images, height, width, dtype, offset)


def _mrc_header(path: Path, compression: str, size: int) -> StackHeader:
    if compression:
        with OPENERS[compression](path, "rb") as handle:
            size = len(handle.read(HEADER_BYTES))
    if size < HEADER_BYTES:
        raise ParticleDataError(
            f"{path} holds {size} bytes, less than the {HEADER_BYTES} of an MRC header: copy the file again."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mrcfile.open(path, header_only=True, permissive=True) as mrc:
                header = mrc.header
                dtype = mrcfile.utils.data_dtype_from_header(header)
                shape = (int(header.nz), int(header.ny), int(header.nx))
                offset = HEADER_BYTES + int(header.nsymbt)
    except (ValueError, TypeError, AttributeError) as error:
        raise ParticleDataError(f"{path} is not an MRC file ({error}).") from error
    if min(shape) < 1 or offset < HEADER_BYTES or dtype.kind == "c":
        raise ParticleDataError(f"{path} is not an MRC image stack: its header gives {shape} pixels of {dtype}.")
    return StackHeader(*shape, dtype=dtype, data_offset=offset, compression=compression)


def read_decompressed(path: Path, header: StackHeader) -> bytes:
    """All bytes of a compressed stack, no more than its header promises.

    Raises
    ------
    ParticleDataError
        If they are fewer, or the file is damaged.
    """
    try:
        with OPENERS[header.compression](path, "rb") as handle:
            data: bytes = handle.read(header.all_bytes)
    except (OSError, EOFError) as error:
        raise ParticleDataError(f"{path} is damaged ({error}): copy the file again.") from error
    if len(data) < header.all_bytes:
        raise ParticleDataError(
            f"{path} is truncated: {len(data)} bytes where its header promises {header.all_bytes}: copy the file again."
        )
    return data
