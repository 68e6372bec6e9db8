"""Headers of image stacks: MRC files, compressed or not, and NumPy arrays; checked before any memory is taken."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import tokenize
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.lib import format as npy

from cryorbit.errors import ParticleDataError

HEADER_BYTES = 1024
# A header longer than this describes no particles.
MOST_NPY_HEADER_BYTES = 1_000_000
# Compressed stacks are held in memory as a whole.
MOST_DECOMPRESSED_BYTES = 2_000_000_000
OPENERS: dict[str, Any] = {"": open, ".gz": gzip.open, ".bz2": bz2.open}
# Kinds of pixels by the mode of an MRC file (Cheng et al. 2015, J. Struct. Biol. 192, 146; mode 12: CCP-EM).
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
MODE_AT, STAMP_AT, LITTLE, BIG = 12, 212, 0x44, 0x11
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
    except (ValueError, SyntaxError, TypeError, EOFError, tokenize.TokenError, RecursionError) as error:
        raise ParticleDataError(f"{path} is not a NumPy array ({error}).") from error
    if any(length < 0 for length in shape):
        raise ParticleDataError(f"{path} is not a NumPy array: its header gives the shape {shape}.")
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
        found = _npy_header(path) if suffix == ".npy" else _mrc_header(path, suffix if suffix in OPENERS else "")
    except (OSError, EOFError, zlib.error) as error:
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


def _mrc_header(path: Path, compression: str) -> StackHeader:
    with OPENERS[compression](path, "rb") as handle:
        start: bytes = handle.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES:
        raise ParticleDataError(
            f"{path} holds {len(start)} bytes, less than the {HEADER_BYTES} of an MRC header: copy the file again."
        )
    # Not by mrcfile.open, which also reads the extended header, however long the file says that it is.
    header = np.frombuffer(start, dtype=HEADER_DTYPE.newbyteorder(_byte_order(start)))[0]
    mode, images, height, width = (int(header[name]) for name in ("mode", "nz", "ny", "nx"))
    if mode not in DTYPES:
        raise ParticleDataError(f"{path} is not an MRC file of images: its mode is {mode}, none of {list(DTYPES)}.")
    offset = HEADER_BYTES + int(header["nsymbt"])
    if min(images, height, width) < 1 or offset < HEADER_BYTES:
        raise ParticleDataError(
            f"{path} is not an MRC image stack: its header gives {images} images of {width} x {height} pixels behind "
            f"{offset} bytes."
        )
    dtype = np.dtype(DTYPES[mode]).newbyteorder(_byte_order(start))
    return StackHeader(images, height, width, dtype, offset, compression)


def _byte_order(start: bytes) -> Literal["<", ">"]:
    """By the machine stamp; where there is none, the order in which the mode is one."""
    stamp = start[STAMP_AT]
    if stamp in (LITTLE, BIG):
        return "<" if stamp == LITTLE else ">"
    (big,) = struct.unpack_from(">i", start, MODE_AT)
    (little,) = struct.unpack_from("<i", start, MODE_AT)
    return ">" if big in DTYPES and little not in DTYPES else "<"


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
    except (OSError, EOFError, zlib.error) as error:
        raise ParticleDataError(f"{path} is damaged ({error}): copy the file again.") from error
    if len(data) < header.all_bytes:
        raise ParticleDataError(
            f"{path} is truncated: {len(data)} bytes where its header promises {header.all_bytes}: copy the file again."
        )
    return data
