"""Writing an image stack piece by piece, and micrographs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import mrcfile
import numpy as np

from cryorbit.simulation.rendering import FloatImage

HEADER_BYTES = 1024
LABEL = b"cryorbit simulate"
# Largest numbers of MRC's modes 0 and 6; RELION reads both.
MOST_INT8, MOST_UINT16 = 127, 65535


class StackWriter:
    """An MRC stack of float32 images that is written in order and never held in memory.

    Images are appended to a plain file: a memory map would end the program, not raise an error, on a full
    disk.

    Parameters
    ----------
    path
        File to write.
    pixel_size_A
        Pixel size in Angstrom.
    """

    def __init__(self, path: Path, pixel_size_A: float) -> None:
        self.path = path
        self.pixel_size_A = pixel_size_A
        self.written = 0
        self._handle: IO[bytes] | None = None
        self._low, self._high = math.inf, -math.inf
        self._sum = self._sum_of_squares = 0.0
        self._pixels = 0
        self._header: Any = None

    def __enter__(self) -> StackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            if kind is None:
                self._finish(self._handle)
            self._handle.close()

    def append(self, images: FloatImage) -> None:
        """Append images of shape (batch, box, box)."""
        if self._handle is None:
            self._handle = self._start(images.shape[-1])
        pixels = np.ascontiguousarray(images, dtype="<f4")
        self._low, self._high = min(self._low, float(pixels.min())), max(self._high, float(pixels.max()))
        self._sum += float(pixels.sum(dtype=np.float64))
        self._sum_of_squares += float(np.square(pixels, dtype=np.float64).sum())
        self._handle.write(pixels.tobytes())
        self.written += len(images)
        self._pixels += pixels.size

    def _start(self, box: int) -> IO[bytes]:
        # mrcfile makes a correct header for a stack of one image; the rest follows behind it.
        with mrcfile.new(self.path, data=np.zeros((1, box, box), dtype="<f4"), overwrite=True) as mrc:
            mrc.set_image_stack()
            mrc.voxel_size = self.pixel_size_A
            self._header = mrc.header.copy()
        handle = self.path.open("r+b")
        handle.seek(HEADER_BYTES)
        return handle

    def _finish(self, handle: IO[bytes]) -> None:
        mean = self._sum / self._pixels
        header = self._header
        header.nz = self.written
        header.dmin, header.dmax, header.dmean = self._low, self._high, mean
        header.rms = math.sqrt(max(self._sum_of_squares / self._pixels - mean**2, 0.0))
        _label(header)
        handle.seek(0)
        handle.write(header.tobytes())
        handle.flush()
        os.fsync(handle.fileno())


def write_micrograph(path: Path, intensity: FloatImage, pixel_size_A: float) -> None:
    """Write a micrograph as an MRC file: counts as the smallest whole numbers that hold them, else float32.

    Parameters
    ----------
    path
        File to write.
    intensity
        Shape (h, w).
    pixel_size_A
        Pixel size in Angstrom.
    """
    kind = "<f4"
    if np.array_equal(intensity, np.rint(intensity)) and intensity.min() >= 0 and intensity.max() <= MOST_UINT16:
        kind = "<i1" if intensity.max() <= MOST_INT8 else "<u2"
    with mrcfile.new(path, data=intensity.astype(kind)) as mrc:
        mrc.voxel_size = pixel_size_A
        _label(mrc.header)


def _label(header: Any) -> None:
    # mrcfile's label holds the time, and the same simulation shall give the same bytes.
    header.label[:] = b""
    header.label[0] = LABEL
    header.nlabl = 1
