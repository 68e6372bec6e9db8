"""Particles with truth: images streamed from a truth table, and the folder that holds a simulated set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cryorbit.errors import ConfigurationError, RunFolderError
from cryorbit.simulation.boxes import iter_boxes
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.micrographs import Micrograph, make_scene
from cryorbit.simulation.noise import Intensities, measure_intensities
from cryorbit.simulation.presets import make_simulation_config
from cryorbit.simulation.rendering import make_renderer
from cryorbit.simulation.settings import SimulationConfig
from cryorbit.simulation.single_images import BATCH_IMAGES, ImageBatch, iter_batches
from cryorbit.simulation.specimens import Projection
from cryorbit.simulation.stack import StackWriter, write_micrograph
from cryorbit.simulation.tables import micrograph_name, write_configuration, write_tables
from cryorbit.simulation.truth import TruthTable, draw_truth

Progress = Callable[[int, int], None]

PARTIAL = ".partial-simulation"
MICROGRAPHS = "micrographs"
# Moved into place in this order: a folder with the last of them holds a whole set.
FILES = (MICROGRAPHS, "particles.mrcs", "truth.csv", "truth.star", "simulation.json", "particles.star")


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


def iter_images(
    truth: TruthTable,
    projection: Projection | Sequence[Projection],
    config: SimulationConfig,
    batch_size: int = BATCH_IMAGES,
    other: Projection | None = None,
) -> Iterator[Float[Tensor, "batch h w"]]:
    """Stream the images of a set, never holding more than a batch or a micrograph.

    Parameters
    ----------
    truth
        From :func:`cryorbit.simulation.draw_truth` with the same configuration.
    projection
        The specimen; as many projections of it as the configuration has views.
    config
        The simulation.
    batch_size
        Most images at once; it does not change them.
    other
        Another particle for the junk; by default a phantom.
    """
    if isinstance(config, MicrographConfig):
        for batch in iter_boxes(make_scene(truth, _only(projection), config, other)):
            for start in range(0, len(batch.images), batch_size):
                yield batch.images[start : start + batch_size]
        return
    renderer = make_renderer(projection, config, other)
    for batch in iter_batches(truth, renderer, measure_intensities(renderer, truth), batch_size):
        yield batch.images


def simulate(
    out: Path,
    projection: Projection | Sequence[Projection],
    config: SimulationConfig,
    other: Projection | None = None,
    progress: Progress | None = None,
    keep_micrographs: bool = False,
) -> SimulationSummary:
    """Write a simulated set: images, the experimenter's STAR file, and the truth.

    The folder holds ``particles.mrcs``, ``particles.star``, ``truth.star``, ``truth.csv`` and
    ``simulation.json``, and the micrographs in ``micrographs/`` where they are kept.
    ``particles.star`` holds what an experimenter would have: the defocus is the micrograph's mean, and there
    are neither angles nor shifts. The same specimen and configuration give the same bytes.

    Parameters
    ----------
    out
        Folder to create; it may exist if it is empty.
    projection
        The specimen; as many projections of it as the configuration has views.
    config
        The simulation; a :class:`~cryorbit.simulation.MicrographConfig` for particles boxed from whole micrographs.
    other
        Another particle for the junk; by default a phantom.
    progress
        Called with the number of images written and of all.
    keep_micrographs
        Whether to write the micrographs, too: 94 MB each without noise at the paper's size, 24 MB with.

    Raises
    ------
    ConfigurationError
        If micrographs are to be kept where none are made.
    RunFolderError
        If the folder is not empty or cannot be written; nothing is left of a set that was not finished.
    """
    if keep_micrographs:
        _check_has_micrographs(config)
    out = Path(out)
    created = _claim(out)
    partial = out / PARTIAL
    try:
        partial.mkdir()
        if keep_micrographs:
            (partial / MICROGRAPHS).mkdir()
        summary = _write_set(partial, projection, config, other, progress)
        for name in FILES if keep_micrographs else FILES[1:]:
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


def simulate_paper(
    out: Path,
    projection: Projection,
    seed: int = 12345,
    progress: Progress | None = None,
    keep_micrographs: bool = False,
    images: int = 2544,
) -> SimulationSummary:
    """Write the simulated set of the paper: 2,544 particles from 53 micrographs without noise.

    Parameters
    ----------
    out
        Folder to create; it may exist if it is empty.
    projection
        The specimen; the paper's is the human 80S ribosome.
    seed
        Of all random numbers.
    progress
        Called with the number of images written and of all.
    keep_micrographs
        Whether to write the micrographs, too: 5 GB.
    images
        Number of particles; the paper's, unless a smaller set is wanted.

    Raises
    ------
    RunFolderError
        If the folder is not empty or cannot be written.

    References
    ----------
    Miolane et al. 2020, section 4.1 (arXiv:1911.08121).
    """
    config = make_simulation_config("paper-micrographs", {"seed": seed, "images": images})
    return simulate(out, projection, config, progress=progress, keep_micrographs=keep_micrographs)


@dataclass(frozen=True)
class _Written:
    outliers: int
    intensities: Intensities


def _write_set(
    folder: Path,
    projection: Projection | Sequence[Projection],
    config: SimulationConfig,
    other: Projection | None,
    progress: Progress | None,
) -> _Written:
    truth = draw_truth(config)
    intensities, batches = _make_images(folder, truth, projection, config, other)
    variances = []
    with StackWriter(folder / "particles.mrcs", config.pixel_size_A) as stack:
        for batch in batches:
            stack.append(batch.images.numpy())
            variances.append(batch.signal_variance)
            if progress is not None:
                progress(stack.written, config.images)
    view = projection if isinstance(projection, Projection) else projection[0]
    write_tables(folder, truth, view, config, np.concatenate(variances), intensities)
    write_configuration(folder / "simulation.json", view, config, intensities)
    return _Written(int(truth.outlier.sum()), intensities)


def _make_images(
    folder: Path,
    truth: TruthTable,
    projection: Projection | Sequence[Projection],
    config: SimulationConfig,
    other: Projection | None,
) -> tuple[Intensities, Iterator[ImageBatch]]:
    """Signal and noise of a set, and its images; micrographs are written to their folder where there is one."""
    if not isinstance(config, MicrographConfig):
        renderer = make_renderer(projection, config, other)
        intensities = measure_intensities(renderer, truth)
        return intensities, iter_batches(truth, renderer, intensities)

    def keep(micrograph: Micrograph) -> None:
        write_micrograph(folder / micrograph_name(micrograph.number), micrograph.intensity, config.micrograph_pixel_A)

    scene = make_scene(truth, _only(projection), config, other)
    return scene.intensities, iter_boxes(scene, keep if (folder / MICROGRAPHS).is_dir() else None)


def _only(projection: Projection | Sequence[Projection]) -> Projection:
    """The specimen of micrographs, which is seen from one direction."""
    if isinstance(projection, Projection):
        return projection
    (only,) = projection
    return only


def _check_has_micrographs(config: SimulationConfig) -> None:
    if not isinstance(config, MicrographConfig):
        raise ConfigurationError(
            f"Preset {config.preset!r} makes single boxes, so there are no micrographs to keep: choose "
            "paper-micrographs or micrographs."
        )


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
