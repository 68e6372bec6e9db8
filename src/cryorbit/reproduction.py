"""The paper's Table 1 and Figures 3 to 8: makes the sets, runs the main job on each, and sets the results beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cryorbit
from cryorbit.aligned import POSES, load_poses
from cryorbit.config import RunConfig, make_config, merge
from cryorbit.conventions import SELECT_ZSCORE
from cryorbit.errors import ConfigurationError
from cryorbit.estimation.truth import read_truth
from cryorbit.io import read_particles
from cryorbit.io.defocus_table import read_defocus_um
from cryorbit.io.fingerprints import file_sha256, identity
from cryorbit.io.runs import INPUT, REPRODUCTION, RunFolder, is_finished
from cryorbit.pipeline import run
from cryorbit.progress import Observer, Silent
from cryorbit.report.record import read_run
from cryorbit.report.reproduction_page import Provenance, write_reproduction
from cryorbit.report.reproduction_record import EXPERIMENTAL_LIKE, SIMULATED, ReproducedSet, with_teacher
from cryorbit.simulation import DefocusQuantiles, simulate, simulate_paper
from cryorbit.simulation.experimental_like import (
    JUNK,
    LIKE_CLASSES,
    MEAN_SNR,
    PIXEL_SIZE_A,
    VIEWS,
    SHIFT_px,
    VIEW_SPREAD_deg,
    experimental_like_config,
    experimental_like_projections,
    measured_defocus,
    usual_defocus,
)
from cryorbit.simulation.specimens import View, choose_projection
from cryorbit.simulation.view_spread import choose_specimen

DATASETS = {"simulated": (SIMULATED,), "experimental-like": tuple(LIKE_CLASSES)}
SIMULATED_IMAGES = 2544
# The six levels of the simulated set and a little more, so that none lies at the end of what is searched.
SIMULATED_RANGE_um = (0.4, 3.1)
# The paper has one latent axis more for its experimental sets.
PAPER_LATENT_DIM = 4
USUAL_VIEW = (40.0, 65.0)
FIGURES_STAGE = "figures"


@dataclass(frozen=True)
class Request:
    """What is to be reproduced, and with what.

    Attributes
    ----------
    dataset
        ``simulated``, ``experimental-like``, or None for both.
    map_path, structure_path
        The specimen; the phantom without either.
    view
        Rot and tilt in degrees of the simulated set, and of the view that the paper likens to it.
    defocus_table
        Measured defoci for the experimental-like sets.
    images
        Most images of a set; None for as many as in the paper.
    preset, seed, settings
        Of the runs.
    """

    dataset: str | None = None
    map_path: Path | None = None
    structure_path: Path | None = None
    view: View = USUAL_VIEW
    defocus_table: Path | None = None
    images: int | None = None
    preset: str = "fast"
    seed: int = 12345
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets, in the order in which they are made.

        Raises
        ------
        ConfigurationError
            If there is no such data set.
        """
        if self.dataset is None:
            return tuple(name for names in DATASETS.values() for name in names)
        if self.dataset not in DATASETS:
            raise ConfigurationError(
                f"--dataset is {self.dataset!r}; expected {' or '.join(DATASETS)}, or nothing for both."
            )
        return DATASETS[self.dataset]

    def images_of(self, name: str) -> int:
        """Number of images of a set."""
        most = SIMULATED_IMAGES if name == SIMULATED else LIKE_CLASSES[name].images
        return most if self.images is None else min(most, self.images)

    def config_of(self, name: str, defocus: DefocusQuantiles) -> RunConfig:
        """Configuration of the run on a set: latent method, blind within the range that is known, as in the paper."""
        known_um = SIMULATED_RANGE_um if name == SIMULATED else _range_um(defocus)
        ours: dict[str, Any] = {
            "seed": self.seed,
            "estimation": {"method": "latent", "defocus_prior": "blind", "defocus_range_um": known_um},
        }
        if self.preset == "paper" and name != SIMULATED:
            ours["model"] = {"latent_dim": PAPER_LATENT_DIM}
        return make_config(self.preset, merge(ours, self.settings))


def _range_um(defocus: DefocusQuantiles) -> tuple[float, float]:
    """Range of a distribution, widened to whole tenths of a micrometre."""
    low, high = defocus.values_um[0], defocus.values_um[-1]
    return max(math.floor(10.0 * low) / 10.0, 0.1), math.ceil(10.0 * high) / 10.0


@dataclass(frozen=True)
class Reproduction:
    """What a reproduction left behind."""

    folder: Path
    page: Path
    table: Path


def reproduce(
    out: Path, request: Request, *, overwrite: bool = False, observer: Observer | None = None
) -> Reproduction:
    """Make the sets, run the main job on each, and write table, figures and page; or go on where that was interrupted.

    Parameters
    ----------
    out
        Folder to make, or that of an unfinished reproduction of the same request.
    request
        What, and with what.
    overwrite
        Move another folder of that name aside.
    observer
        Told of the progress.

    Raises
    ------
    ConfigurationError, ParticleDataError, RunFolderError
        For mistakes that the user can mend.
    """
    observer = observer or Silent()
    defocus = (
        usual_defocus() if request.defocus_table is None else measured_defocus(read_defocus_um(request.defocus_table))
    )
    # Refused now rather than after the first set.
    choose_specimen(request.map_path, request.structure_path)
    configs = {name: request.config_of(name, defocus) for name in request.sets}
    files = [path for path in (request.map_path, request.structure_path, request.defocus_table) if path is not None]
    folder = RunFolder.create_or_continue(out, _manifest(request, configs, files), overwrite, files)
    try:
        for name, config in configs.items():
            if not folder.stage_done(name):
                started = time.perf_counter()
                _make_and_run(folder.path / name, name, request, defocus, config, observer)
                folder.record_stage(name, time.perf_counter() - started)
        observer.stage("Drawing the figures")
        started = time.perf_counter()
        sets = [_read_set(folder.path / name, name, config) for name, config in configs.items()]
        page = write_reproduction(folder.path, sets, _provenance(request, defocus, folder), request.seed)
        folder.manifest["finished"] = True
        folder.record_stage(FIGURES_STAGE, time.perf_counter() - started)
        observer.advance(1, 1)
        return Reproduction(folder.path, page, folder.path / "table1.md")
    finally:
        folder.close()


def _manifest(request: Request, configs: Mapping[str, RunConfig], files: list[Path]) -> dict[str, Any]:
    dumped = {name: config.model_dump(mode="json") for name, config in configs.items()}
    described = {
        "map": _described(request.map_path), "structure": _described(request.structure_path),
        "defocus_table": _described(request.defocus_table), "view_deg": list(request.view),
        "images": {name: request.images_of(name) for name in configs},
    }  # fmt: skip
    hashes = {str(path): file_sha256(path) for path in files}
    return {
        "program": "cryorbit",
        "version": cryorbit.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": REPRODUCTION,
        "identity": identity({"kind": REPRODUCTION, "configuration": dumped, "input": described, "hashes": hashes}),
        "sets": list(configs),
        "input": described,
        "configuration": dumped,
        "seeds": {"all": request.seed},
        "finished": False,
        "stages": {},
    }


def _described(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _make_and_run(
    folder: Path, name: str, request: Request, defocus: DefocusQuantiles, config: RunConfig, observer: Observer
) -> None:
    """Simulate a set into the input of its own run folder, and run the main job on it; what is there is kept."""
    title = "the simulated set" if name == SIMULATED else f"{name.replace('_', ' ')} ({EXPERIMENTAL_LIKE})"
    particles, truth = folder / INPUT / "particles.star", folder / INPUT / "truth.star"
    if not particles.is_file():
        observer.stage(f"Simulating {title}")
        _simulate(folder / INPUT, name, request, defocus, observer)
    if not is_finished(folder):
        observer.say(f"Running on {title}.")
        run(particles, folder, config, truth=truth, observer=observer)


def _simulate(out: Path, name: str, request: Request, defocus: DefocusQuantiles, observer: Observer) -> None:
    images = request.images_of(name)
    if name == SIMULATED:
        projection = choose_projection(request.map_path, request.structure_path, False, request.view)
        simulate_paper(out, projection, request.seed, progress=observer.advance, images=images)
        return
    like, specimen = LIKE_CLASSES[name], choose_specimen(request.map_path, request.structure_path)
    # Sets of one seed would share their angles and defoci.
    config = experimental_like_config(defocus, request.seed + 1 + list(LIKE_CLASSES).index(name), images)
    simulate(out, experimental_like_projections(like, specimen, request.view), config, progress=observer.advance)


def _read_set(folder: Path, name: str, config: RunConfig) -> ReproducedSet:
    """A run and its truth, for the report."""
    import numpy as np

    from cryorbit.training.trainer import split_rows

    result = read_run(folder)
    particles = read_particles(folder / "particles.star", check_images=False)
    truth = read_truth(folder / INPUT / "truth.star", particles)
    table = read_particles(folder / INPUT / "truth.star", check_images=False)
    z_score = table.numbers(SELECT_ZSCORE) if SELECT_ZSCORE in table else None
    if (folder / POSES).is_file():
        poses = load_poses(folder)
        result = with_teacher(result, poses.psi_deg, poses.defocus_um)
    held_out = np.zeros(len(result), dtype=bool)
    settings = config.training
    held_out[split_rows(len(result), settings.validation_fraction, config.seed, settings.learn_from)[1]] = True
    order = LIKE_CLASSES[name].symmetry_order if name in LIKE_CLASSES else 1
    return ReproducedSet(name, result, truth, z_score, held_out, order)


def _provenance(request: Request, defocus: DefocusQuantiles, folder: RunFolder) -> Provenance:
    specimen = request.map_path or request.structure_path
    named = f"the specimen in {specimen.name}" if specimen is not None else "cryorbit's phantom, a made-up particle"
    ingredients = []
    if SIMULATED in request.sets:
        ingredients.append(
            f"Simulated set: {named}, {request.images_of(SIMULATED):,} particles boxed from simulated micrographs "
            "without noise, six levels of defocus from 0.5 to 3 µm, as the paper describes its own."
        )
    if any(name != SIMULATED for name in request.sets):
        low, high = _range_um(defocus)
        source = (
            f"measured ones ({request.defocus_table.name})" if request.defocus_table is not None
            else "a gamma distribution fitted to the summary of a real data set (EMPIAR-10028)"
        )  # fmt: skip
        ingredients += [
            f"Experimental-like sets ({EXPERIMENTAL_LIKE}): {named}, in boxes of 128 px of {PIXEL_SIZE_A:.2f} Å; "
            f"defoci drawn after {source}, {low:g} to {high:g} µm; noise with more power at low frequency; a mean "
            f"ratio of signal to noise of {MEAN_SNR:g}, differing more than threefold between particles; shifts of"
            f" {SHIFT_px:g} px along each axis; every particle seen from one of {VIEWS} directions within "
            f"{VIEW_SPREAD_deg:g} degrees of the view; {100 * JUNK:g} % junk of five kinds.",
            "Z-scores are drawn, not computed: normal with mean 0 and deviation 0.9 for particles, 3.2 and 1.0 "
            "for junk, so that |Z| > 2 calls 2.6 % of the particles junk and misses 11.5 % of the junk.",
            "View 30 is made nearly three-fold: each projection is averaged with its turns by 120 and 240 "
            "degrees, and 5 % of its own shape is left in.",
            "The range that equation 7 takes as known is that of all defoci; it assumes that they are uniform in "
            "it, which measured ones are not, so the paper's formula for the defocus is at a disadvantage here.",
        ]
    seconds = {name: facts["seconds"] for name, facts in folder.manifest["stages"].items()}
    facts = {
        "cryorbit": cryorbit.__version__, "Created": str(folder.manifest["created"]), "Preset": request.preset,
        "Seed": str(request.seed), "Specimen": specimen.name if specimen is not None else "phantom",
        "View (rot, tilt in degrees)": f"{request.view[0]:g}, {request.view[1]:g}",
        "Settings": ", ".join(map(str, request.settings.items())) or "those of the preset",
        "Time taken (s)": ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()),
    }  # fmt: skip
    return Provenance(ingredients, facts)
