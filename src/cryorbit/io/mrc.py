"""Image stacks: many files behind one index, few of them open at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import mrcfile
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryorbit.errors import ParticleDataError
from cryorbit.io.hdf5 import SUFFIXES, hdf5_header, read_hdf5_images
from cryorbit.io.headers import StackHeader, read_decompressed, read_stack_header
from cryorbit.io.runs import atomic_path
from cryorbit.particles import ImageLocations, ImageNames

MAX_OPEN_FILES = 32
MAX_NAMED = 10
# Decompressed stacks are held up to this many bytes, and always one.
HELD_BYTES = 500_000_000
HDF5_BATCH = 64


def stack_header(path: Path) -> StackHeader:
    """Shape and layout of a stack of any kind.

    Raises
    ------
    ParticleDataError
        If it is missing, or no image stack.
    """
    return hdf5_header(path) if path.suffix.lower() in SUFFIXES else read_stack_header(path)


def check_stacks(locations: ImageLocations, names: ImageNames, table: str) -> list[str]:
    """Say everything that is wrong with the stacks of a table, from their headers alone.

    Parameters
    ----------
    locations
        Where the images are.
    names
        The image names as the file has them, for the messages.
    table
        What messages call the table.
    """
    problems: list[str] = []
    missing: list[Path] = []
    headers: dict[int, StackHeader] = {}
    used = np.unique(locations.stack).tolist()
    for number in used:
        path = locations.stacks[number]
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
            missing.append(path)
            continue
        try:
            headers[number] = stack_header(path)
        except ParticleDataError as error:
            problems.extend(error.problems)
    if missing:
        shown = ", ".join(map(str, missing[:MAX_NAMED])) + (", ..." if len(missing) > MAX_NAMED else "")
        problems.append(
            f"{table}: {len(missing)} of {len(used)} image stacks do not exist ({shown}); if the "
            "project was moved, point --stack-root to the folder that its paths start from."
        )
    count = np.full(len(locations.stacks), np.iinfo(np.int64).max)
    for number, header in headers.items():
        count[number] = header.images
    beyond = np.flatnonzero(locations.slice_index >= count[locations.stack])
    if len(beyond):
        row = int(beyond[0])
        stack = int(locations.stack[row])
        problems.append(
            f"{table}, particle {row + 1}: image {names[row]} does not exist; {locations.stacks[stack]} holds "
            f"{count[stack]} images ({len(beyond)} such particles): stack and particle file do not belong together."
        )
    sizes = {(header.width, header.height) for header in headers.values()}
    if any(width != height for width, height in sizes):
        problems.append(f"{table}: images are not square ({_sizes(sizes)}); expected square boxes: extract again.")
    elif len(sizes) > 1:
        problems.append(
            f"{table}: box sizes differ ({_sizes(sizes)}); expected one: run cryorbit on each size by "
            "itself, with --select rlnOpticsGroup=1 and so on."
        )
    return problems


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{width} x {height}" for width, height in sorted(sizes))


def write_image(path: Path, image: NDArray[np.floating[Any]], pixel_size_A: float) -> None:
    """Write one image, or a stack of images, as an MRC file of mode 2, atomically.

    Parameters
    ----------
    path
        Where to.
    image
        Shape (height, width), or (images, height, width).
    pixel_size_A
        For the header.

    Raises
    ------
    RunFolderError
        If the folder cannot be written or the disk is full.
    """
    with atomic_path(path) as beside:
        # mrcfile tells the format by the suffix, which the name beside keeps.
        file = mrcfile.new(beside)
        file.set_data(np.asarray(image, dtype=np.float32))
        if image.ndim == 3:
            file.set_image_stack()
        file.voxel_size = pixel_size_A
        # In place of the time of writing: the same image is the same file.
        file.header.label[0] = "cryorbit"
        file.close()


def read_image(path: Path) -> NDArray[np.float64]:
    """The first image of an MRC file, shape (height, width).

    Raises
    ------
    ParticleDataError
        If the file is missing or damaged.
    """
    first = np.zeros(1, dtype=np.int64)
    with ImageStack(ImageLocations((path,), first, first)) as stack:
        image: NDArray[np.float64] = stack.read(first)[0].astype(np.float64)
    return image


def read_images(path: Path) -> NDArray[np.float64]:
    """All images of an MRC file, shape (images, height, width).

    Raises
    ------
    ParticleDataError
        If the file is missing or damaged.
    """
    every = np.arange(stack_header(path).images, dtype=np.int64)
    with ImageStack(ImageLocations((path,), np.zeros_like(every), every)) as stack:
        return np.stack([image.astype(np.float64) for image in stack.read(every)])


class ImageStack:
    """Particle images spread over many files, read in any order as float32, by one thread at a time.

    Parameters
    ----------
    locations
        Where each image is.
    max_open_files
        Most files held open at once; a laptop allows a process 256 to 1,024 in all.

    Raises
    ------
    ParticleDataError
        If a stack is missing or damaged, or the boxes are not square and equal.
    """

    def __init__(self, locations: ImageLocations, max_open_files: int = MAX_OPEN_FILES) -> None:
        self._locations = locations
        self._max_open_files = max_open_files
        self._one_reads = Lock()
        self._open: OrderedDict[int, int] = OrderedDict()
        self._headers: dict[int, StackHeader] = {}
        self._decompressed: OrderedDict[int, bytes] = OrderedDict()
        sizes = {(self._header(int(s)).height, self._header(int(s)).width) for s in np.unique(locations.stack)}
        if len(sizes) != 1 or (size := next(iter(sizes)))[0] != size[1]:
            raise ParticleDataError(f"Expected square boxes of one size, found {_sizes(sizes)}.")
        self._box_size = size[0]

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: where the images are, not the files that are open here."""
        kept = {name: value for name, value in self.__dict__.items() if name != "_one_reads"}
        return kept | {"_open": OrderedDict(), "_decompressed": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._one_reads = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._locations.stack)

    @property
    def box_size(self) -> int:
        """Width of the square images in pixels."""
        return self._box_size

    def _header(self, stack: int) -> StackHeader:
        if stack not in self._headers:
            self._headers[stack] = stack_header(self._locations.stacks[stack])
        return self._headers[stack]

    def _descriptor(self, stack: int) -> int:
        if stack in self._open:
            self._open.move_to_end(stack)
            return self._open[stack]
        while len(self._open) >= self._max_open_files:
            os.close(self._open.popitem(last=False)[1])
        try:
            self._open[stack] = os.open(self._locations.stacks[stack], os.O_RDONLY)
        except OSError as error:
            raise ParticleDataError(f"{self._locations.stacks[stack]}: cannot be opened ({error.strerror}).") from error
        return self._open[stack]

    def _whole(self, stack: int) -> bytes:
        """A compressed stack in memory; those used last are held."""
        if stack in self._decompressed:
            self._decompressed.move_to_end(stack)
        else:
            self._decompressed[stack] = read_decompressed(self._locations.stacks[stack], self._header(stack))
            while len(self._decompressed) > 1 and sum(map(len, self._decompressed.values())) > HELD_BYTES:
                self._decompressed.popitem(last=False)
        return self._decompressed[stack]

    def _read_run(self, stack: int, first: int, count: int) -> NDArray[np.float32]:
        header = self._header(stack)
        if header.compression in SUFFIXES:
            return read_hdf5_images(self._locations.stacks[stack], first, count).astype(np.float32)
        wanted, start = count * header.image_bytes, header.data_offset + first * header.image_bytes
        data = self._bytes(stack, start, wanted)
        shape = (count, header.height, header.width)
        return np.frombuffer(data, dtype=header.dtype).reshape(shape).astype(np.float32)

    def read(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Images of these rows in this order, shape (len(rows), box, box).

        Neighbours in a file are fetched by one call, whatever the order asked for.
        """
        wanted = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        images = np.empty((len(wanted), self.box_size, self.box_size), dtype=np.float32)
        stack, index = self._locations.stack[wanted], self._locations.slice_index[wanted]
        order = np.lexsort((index, stack))
        breaks = (np.diff(stack[order]) != 0) | (np.diff(index[order]) != 1)
        for run in np.split(order, np.flatnonzero(breaks) + 1):
            if len(run):
                with self._one_reads:  # another may close the file, for there are too many
                    images[run] = self._read_run(int(stack[run[0]]), int(index[run[0]]), len(run))
        return images

    def middles(self, pixels: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The pixels in the middle of every image, stack by stack: rows, and their pixels, shape (k, pixels).

        Nothing else is read, so that a million images take a minute.
        """
        first = max((self.box_size**2 - pixels) // 2, 0)
        pixels = min(pixels, self.box_size**2)
        for stack in np.unique(self._locations.stack).tolist():
            rows = np.flatnonzero(self._locations.stack == stack)
            header, index = self._header(stack), self._locations.slice_index[rows]
            found = np.empty((len(rows), pixels), dtype=np.float32)
            if header.compression in SUFFIXES:
                for start in range(0, len(rows), HDF5_BATCH):
                    part = slice(start, start + HDF5_BATCH)
                    found[part] = self.read(rows[part]).reshape(-1, self.box_size**2)[:, first : first + pixels]
                yield rows, found
                continue
            skipped, wanted = first * header.dtype.itemsize, pixels * header.dtype.itemsize
            for k, start in enumerate((header.data_offset + index * header.image_bytes + skipped).tolist()):
                found[k] = np.frombuffer(self._bytes(stack, start, wanted), dtype=header.dtype)
            yield rows, found

    def _bytes(self, stack: int, start: int, wanted: int) -> bytes:
        """Bytes of a stack, which may be compressed."""
        if self._header(stack).compression:
            data = self._whole(stack)[start : start + wanted]
        else:
            data = os.pread(self._descriptor(stack), wanted, start)
        if len(data) != wanted:
            raise ParticleDataError(f"{self._locations.stacks[stack]}: became shorter while it was read.")
        return data

    def close(self) -> None:
        """Close the files that are open; a later read opens them again."""
        self._decompressed.clear()
        while self._open:
            os.close(self._open.popitem()[1])
