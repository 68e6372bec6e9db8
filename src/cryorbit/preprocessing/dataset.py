"""The cache: every particle image once, cropped and standardised, in sequential float16 shards.

Training reads images in random order, over and over. On thousands of stacks each read would be a search; in a few
files of equal images it is one call. They are read, not mapped: pages of a map count as the process's own memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.config import PreprocessingConfig
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.mrc import ImageStack
from cryorbit.io.runs import make_folder, write_arrays, write_text
from cryorbit.particles import ImageNames
from cryorbit.preprocessing.normalise import (
    Contrast,
    IntensityScale,
    choose_scale,
    detect_contrast,
    intensity_statistics,
    standardise,
)
from cryorbit.preprocessing.resample import cropped_pixel_size_A, fourier_crop

DEFAULT_DIAMETER_FRACTION = 0.75
STATISTICS_SAMPLE = 1000
READ_BATCH = 256
INDEX = "cache.json"
MAX_NAMED = 10

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CacheInfo:
    """What was done to the images on their way into the cache.

    Attributes
    ----------
    images, box_size, pixel_size_A
        Number of images, their width in pixels and their pixel size after cropping.
    original_box_size, original_pixel_size_A
        The same before.
    particle_radius_px
        Radius outside which the background was measured, in pixels of the cache.
    inverted
        Whether dark particles were turned white.
    contrast_significance, contrast_doubtful
        Of the detected sign, in standard errors; whether it is a guess.
    noise_free
        Whether the set was taken to have no noise, and one scale for all.
    shard_images
        Images in one shard, the last apart.
    looks_dark
        Whether the detected sign is that of dark particles, whatever was asked for.
    """

    images: int
    box_size: int
    pixel_size_A: float
    original_box_size: int
    original_pixel_size_A: float
    particle_radius_px: float
    inverted: bool
    contrast_significance: float
    contrast_doubtful: bool
    noise_free: bool
    shard_images: int
    looks_dark: bool = False


def contrast_remarks(info: CacheInfo, asked: str | None) -> tuple[str | None, str | None]:
    """What there is to say, and to warn of, about the sign that images were given.

    Parameters
    ----------
    info
        Of the images.
    asked
        How the sign was decided, such as "as asked"; None where it was detected.
    """
    remark, warning = None, None
    taken, look = ("dark" if dark else "bright" for dark in (info.inverted, info.looks_dark))
    if info.inverted:
        remark = f"Particles are darker than their background ({asked or 'detected'}): the images were inverted."
    if asked is None and info.contrast_doubtful:
        warning = (
            f"Particles were taken to be {taken}, but the images are not clear about it; look at the montage, and "
            "give --invert (dark) or --no-invert (bright)."
        )
    elif asked is not None and taken != look and not info.contrast_doubtful:
        warning = (
            f"Particles were taken to be {taken} ({asked}) but look {look}: if their images have the opposite "
            "contrast, none of the results holds; look at the montage."
        )
    return remark, warning


@dataclass(frozen=True)
class _Shard:
    """A file of float16 images of equal size, of which any can be read by itself.

    Attributes
    ----------
    path
        Of the ``.npy`` file.
    shape
        Images, height, width.
    offset
        Of the first image in bytes.
    """

    path: Path
    shape: tuple[int, int, int]
    offset: int

    @classmethod
    def of(cls, path: Path) -> _Shard:
        """Look at a file.

        Raises
        ------
        OSError, ValueError
            If it is missing, damaged or something else.
        """
        mapped = np.load(path, mmap_mode="r")
        if not isinstance(mapped, np.memmap) or mapped.dtype != np.float16 or mapped.ndim != 3:
            raise ValueError(f"{path}: holds no images")
        n, height, width = mapped.shape
        return cls(path, (n, height, width), mapped.offset)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Images of these rows, in this order."""
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.float16)
        size = images[:1].nbytes
        # Neighbours in the file are read at once.
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        with self.path.open("rb", buffering=0) as file:
            for first, last in pairwise([0, *ends.tolist(), len(rows)]):
                file.seek(self.offset + int(rows[first]) * size)
                if file.readinto(images[first:last].data.cast("B")) != (last - first) * size:
                    raise RunFolderError(f"{self.path}: is cut short; remove the folder, which is then made again.")
        return images


class ParticleCache:
    """Standardised images in shards, by row of the particle table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = CacheInfo(**json.loads((folder / INDEX).read_text(encoding="utf-8")))
        self.shards = [_Shard.of(path) for path in _shard_paths(folder, self.info)]

    def __len__(self) -> int:
        return self.info.images

    @property
    def box_size(self) -> int:
        """Width of the images in pixels."""
        return self.info.box_size

    def read(self, rows: NDArray[np.int64]) -> Float[Tensor, "batch h w"]:
        """Images of these rows, in this order, as float32."""
        images = np.empty((len(rows), self.box_size, self.box_size), dtype=np.float32)
        shard, within = np.divmod(np.asarray(rows, dtype=np.int64), self.info.shard_images)
        for number in np.unique(shard):
            here = shard == number
            images[here] = self.shards[number].read(within[here])
        return torch.from_numpy(images)

    def batches(self, batch_size: int) -> Iterator[Float[Tensor, "batch h w"]]:
        """All images in row order."""
        for start in range(0, len(self), batch_size):
            yield self.read(np.arange(start, min(start + batch_size, len(self)), dtype=np.int64))


def _shard_paths(folder: Path, info: CacheInfo) -> list[Path]:
    count = -(-info.images // info.shard_images)
    return [folder / f"shard_{number:05d}.npy" for number in range(count)]


def open_cache(folder: Path) -> ParticleCache | None:
    """The cache that an earlier run left; None where there is none, or a part of it is missing or damaged."""
    try:
        cache = ParticleCache(folder)
    except (OSError, ValueError, TypeError):
        return None
    return cache if sum(map(len, cache.shards)) == len(cache) else None


@dataclass(frozen=True)
class KnownImages:
    """Images that were standardised before, of some of the particles.

    Attributes
    ----------
    cache
        Of an earlier run.
    rows
        Row of each particle there, -1 for new ones, shape (n,).
    """

    cache: ParticleCache
    rows: NDArray[np.int64]

    def fit(self, info: CacheInfo) -> bool:
        """Whether what was done to them is what is to be done now; without noise it depends on the whole set."""
        same = ("box_size", "original_box_size", "particle_radius_px", "inverted", "noise_free")
        before = self.cache.info
        alike = all(getattr(before, name) == getattr(info, name) for name in same)
        return alike and before.pixel_size_A == info.pixel_size_A and not info.noise_free


def build_cache(
    stack: ImageStack,
    pixel_size_A: float,
    folder: Path,
    config: PreprocessingConfig,
    names: ImageNames,
    multiple: int = 1,
    progress: Progress | None = None,
    known: KnownImages | None = None,
) -> ParticleCache:
    """Read every image once, crop, standardise and store it.

    Parameters
    ----------
    stack
        The particle images.
    pixel_size_A
        Their pixel size in Angstrom.
    folder
        Where the shards go.
    config
        Box size, particle diameter, contrast, shard size.
    names
        Image names, for messages.
    multiple
        The cached box is a multiple of this, so that the network can halve it.
    progress
        Called with the number of images done and the number of all.
    known
        Images that need not be read again.

    Raises
    ------
    ParticleDataError
        If an image has NaN or infinite pixels, or is constant.
    """
    make_folder(folder)
    box_size = network_box_size(stack.box_size, config.box_size, multiple)
    prepared = prepare_images(stack, pixel_size_A, box_size, config, names)
    info = prepared.info
    old = known if known is not None and known.fit(info) else None
    done = 0
    for number, path in enumerate(_shard_paths(folder, info)):
        rows = np.arange(number * info.shard_images, min((number + 1) * info.shard_images, info.images))
        shard = np.empty((len(rows), box_size, box_size), dtype=np.float16)
        for start in range(0, len(rows), READ_BATCH):
            part = slice(start, start + READ_BATCH)
            shard[part] = _standardised(prepared, rows[part], old)
            done += len(rows[part])
            if progress is not None:
                progress(done, info.images)
        write_arrays(path, shard=shard)
    write_text(folder / INDEX, json.dumps(asdict(info), indent=2) + "\n")
    return ParticleCache(folder)


def _standardised(prepared: PreparedImages, rows: NDArray[np.int64], known: KnownImages | None) -> NDArray[np.float32]:
    """Images of these rows; from the stacks where they are not known."""
    if known is None:
        return prepared.read(rows).numpy()
    before = known.rows[rows]
    new = before < 0
    images = np.empty((len(rows), prepared.info.box_size, prepared.info.box_size), dtype=np.float32)
    if new.any():
        images[new] = prepared.read(rows[new]).numpy()
    if not new.all():
        images[~new] = known.cache.read(before[~new]).numpy()
    return images


@dataclass(frozen=True)
class PreparedImages:
    """Particle images straight from their stacks, cropped and standardised as they are read.

    Attributes
    ----------
    stack, names
        The images as they are, and what the file calls them.
    info
        What is done to them.
    scale
        How they are standardised.
    """

    stack: ImageStack
    names: ImageNames
    info: CacheInfo
    scale: IntensityScale

    def __len__(self) -> int:
        return len(self.stack)

    def read(self, rows: NDArray[np.int64]) -> Float[Tensor, "batch h w"]:
        """Images of these rows, in this order.

        Raises
        ------
        ParticleDataError
            If an image has NaN or infinite pixels, or is constant.
        """
        images = fourier_crop(_read_checked(self.stack, rows, self.names), self.info.box_size)
        return standardise(images, self.info.particle_radius_px, self.scale)


def prepare_images(
    stack: ImageStack,
    pixel_size_A: float,
    box_size: int,
    config: PreprocessingConfig,
    names: ImageNames,
) -> PreparedImages:
    """Look at a sample of the images and decide how all of them are standardised.

    Parameters
    ----------
    stack, pixel_size_A, config, names
        As for :func:`build_cache`.
    box_size
        Width in pixels after Fourier cropping.

    Raises
    ------
    ParticleDataError
        If an image of the sample has NaN or infinite pixels, or is constant.
    """
    new_pixel_size = cropped_pixel_size_A(pixel_size_A, stack.box_size, box_size)
    diameter = config.particle_diameter_A or DEFAULT_DIAMETER_FRACTION * box_size * new_pixel_size
    radius = min(0.5 * diameter / new_pixel_size, 0.5 * box_size - 1.0)
    contrast, scale = _survey(stack, box_size, radius, config.invert, names)
    info = CacheInfo(
        images=len(stack), box_size=box_size, pixel_size_A=new_pixel_size,
        original_box_size=stack.box_size, original_pixel_size_A=pixel_size_A, particle_radius_px=radius,
        inverted=scale.sign < 0, contrast_significance=contrast.significance,
        contrast_doubtful=contrast.doubtful, noise_free=scale.noise_free,
        shard_images=config.shard_images, looks_dark=contrast.dark_particles,
    )  # fmt: skip
    return PreparedImages(stack, names, info, scale)


def network_box_size(box_size: int, largest: int, multiple: int) -> int:
    """Largest multiple of ``multiple`` within both the images' box and the configured one.

    Raises
    ------
    ParticleDataError
        If the images are smaller than that.
    """
    fitting = min(box_size, largest) // multiple * multiple
    if fitting == 0:
        raise ParticleDataError(
            f"The particle images are {box_size} pixels wide, less than the {multiple} that the network needs: "
            "extract them with a larger box, or lower model.n_blocks."
        )
    return fitting


def _survey(
    stack: ImageStack, box_size: int, radius: float, invert: bool | None, names: ImageNames
) -> tuple[Contrast, IntensityScale]:
    """Contrast and scale of the set from a sample spread evenly over it."""
    rows = np.unique(np.linspace(0, len(stack) - 1, min(len(stack), STATISTICS_SAMPLE)).astype(np.int64))
    sample = torch.cat(
        [
            fourier_crop(_read_checked(stack, rows[start : start + READ_BATCH], names), box_size)
            for start in range(0, len(rows), READ_BATCH)
        ]
    )
    statistics = intensity_statistics(sample, radius)
    contrast = detect_contrast(sample, statistics)
    return contrast, choose_scale(statistics, contrast.dark_particles if invert is None else invert)


def _read_checked(stack: ImageStack, rows: NDArray[np.int64], names: ImageNames) -> Float[Tensor, "b h w"]:
    images = stack.read(rows)
    flat = images.reshape(len(images), -1)
    not_finite = ~np.isfinite(flat).all(axis=1)
    constant = flat.min(axis=1) == flat.max(axis=1)
    for wrong, what in ((not_finite, "have NaN or infinite pixels"), (constant, "are constant")):
        if wrong.any():
            shown = ", ".join(f"{names[row]} (particle {row + 1})" for row in rows[wrong][:MAX_NAMED])
            raise ParticleDataError(
                f"{int(wrong.sum())} images {what}, for instance {shown}; expected real particles: extract them "
                "again or remove these rows."
            )
    return torch.from_numpy(images)
