"""Particles with truth: images streamed from a truth table, and the folder that holds a simulated set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.conventions import FloatArray
from cryorbit.errors import RunFolderError
from cryorbit.simulation.noise import (
    Intensities,
    measure_intensities,
    noise_amplitude,
    noise_image,
    normalise,
    particle_disc,
)
from cryorbit.simulation.rendering import Renderer, clean_image, make_renderer
from cryorbit.simulation.settings import SimulationConfig
from cryorbit.simulation.specimens import Projection
from cryorbit.simulation.stack import StackWriter
from cryorbit.simulation.tables import write_configuration, write_tables
from cryorbit.simulation.truth import TruthTable, draw_truth

Progress = Callable[[int, int], None]

BATCH_IMAGES = 64
PARTIAL = ".partial-simulation"
# Moved into place in this order: a folder with the last of them holds a whole set.
FILES = ("particles.mrcs", "truth.csv", "truth.star", "simulation.json", "particles.star")


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive images of a simulated set.

    Attributes
    ----------
    images
        As an experimenter's extraction leaves them: background of mean 0 and standard deviation 1.
    signal_variance
        Variance of each image inside the particle's disc before noise and normalisation, shape (batch,).
    """

    images: Float[Tensor, "batch h w"]
    signal_variance: FloatArray


@dataclass(frozen=True)
class SimulationSummary:
    """Where a simulated set lies and how it was made.

    Attributes
    ----------
    particles, truth
        STAR file of the experimenter, and the one with the truth.
    images, outliers
        Number of images, and how many of them are junk.
    intensities
        Signal and noise before normalisation.
    """

    particles: Path
    truth: Path
    images: int
    outliers: int
    intensities: Intensities


def iter_batches(
    truth: TruthTable, renderer: Renderer, intensities: Intensities, batch_size: int = BATCH_IMAGES
) -> Iterator[ImageBatch]:
    """Make the images of a set batch by batch; an image does not depend on the batch it is in.

    Parameters
    ----------
    truth
        How every image is made.
    renderer
        The prepared specimen and the configuration.
    intensities
        The set's signal and noise.
    batch_size
        Images held at once.
    """
    config = renderer.config
    inside = particle_disc(renderer)
    amplitude = noise_amplitude(config.box, config.noise_spectrum) if config.noise_spectrum else None
    for start in range(0, len(truth), batch_size):
        rows = range(start, min(start + batch_size, len(truth)))
        images = np.empty((len(rows), config.box, config.box), dtype=np.float32)
        variance = np.empty(len(rows))
        for place, row in enumerate(rows):
            image = clean_image(renderer, truth, row)
            variance[place] = image[inside].astype(np.float64).var()
            if config.noise_free:
                # One scale for all: the background is only the ringing of the transfer function.
                images[place] = normalise(image, ~inside, std=intensities.clean_std)
            else:
                noise = noise_image(renderer, row, amplitude) * np.float32(intensities.noise_std)
                images[place] = normalise(image + noise, ~inside)
        yield ImageBatch(torch.from_numpy(images), variance)


def iter_images(
    truth: TruthTable,
    projection: Projection,
    config: SimulationConfig,
    batch_size: int = BATCH_IMAGES,
    other: Projection | None = None,
) -> Iterator[Float[Tensor, "batch h w"]]:
    """Stream the images of a set, never holding more than a batch.

    Parameters
    ----------
    truth
        From :func:`cryorbit.simulation.draw_truth` with the same configuration.
    projection
        The specimen.
    config
        The simulation.
    batch_size
        Images held at once; it does not change them.
    other
        Another particle for the junk; by default a phantom.
    """
    renderer = make_renderer(projection, config, other)
    for batch in iter_batches(truth, renderer, measure_intensities(renderer, truth), batch_size):
        yield batch.images


def simulate(
    out: Path,
    projection: Projection,
    config: SimulationConfig,
    other: Projection | None = None,
    progress: Progress | None = None,
) -> SimulationSummary:
    """Write a simulated set: images, the experimenter's STAR file, and the truth.

    The folder holds ``particles.mrcs``, ``particles.star``, ``truth.star``, ``truth.csv`` and
    ``simulation.json``.
    ``particles.star`` holds what an experimenter would have: the defocus is the micrograph's mean, and there
    are neither angles nor shifts. The same specimen and configuration give the same bytes.

    Parameters
    ----------
    out
        Folder to create; it may exist if it is empty.
    projection
        The specimen.
    config
        The simulation.
    other
        Another particle for the junk; by default a phantom.
    progress
        Called with the number of images written and of all.

    Raises
    ------
    RunFolderError
        If the folder is not empty or cannot be written; nothing is left of a set that was not finished.
    """
    out = Path(out)
    created = _claim(out)
    partial = out / PARTIAL
    try:
        partial.mkdir()
        summary = _write_set(partial, projection, config, other, progress)
        for name in FILES:
            (partial / name).replace(out / name)
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be written ({error.strerror}); make room or choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if created and not any(out.iterdir()):
            out.rmdir()
    return SimulationSummary(
        out / "particles.star", out / "truth.star", config.images, summary.outliers, summary.intensities
    )


@dataclass(frozen=True)
class _Written:
    outliers: int
    intensities: Intensities


def _write_set(
    folder: Path,
    projection: Projection,
    config: SimulationConfig,
    other: Projection | None,
    progress: Progress | None,
) -> _Written:
    truth = draw_truth(config)
    renderer = make_renderer(projection, config, other)
    intensities = measure_intensities(renderer, truth)
    variances = []
    with StackWriter(folder / "particles.mrcs", config.pixel_size_A) as stack:
        for batch in iter_batches(truth, renderer, intensities):
            stack.append(batch.images.numpy())
            variances.append(batch.signal_variance)
            if progress is not None:
                progress(stack.written, config.images)
    write_tables(folder, truth, projection, config, np.concatenate(variances), intensities)
    write_configuration(folder / "simulation.json", projection, config, intensities)
    return _Written(int(truth.outlier.sum()), intensities)


def _claim(out: Path) -> bool:
    """Create the folder or take an empty one; say whether it was created."""
    try:
        existed = out.exists()
        out.mkdir(parents=True, exist_ok=True)
        # Left by a simulation that was killed: nothing of it is of use.
        shutil.rmtree(out / PARTIAL, ignore_errors=True)
        held = sorted(path.name for path in out.iterdir())
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    if held:
        raise RunFolderError(
            f"{out} is not empty (it holds {held[0]}); expected a new or empty folder: choose another one."
        )
    return not existed
