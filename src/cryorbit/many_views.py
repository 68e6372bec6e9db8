"""Raw picks from all sides: classes first, then the main job on each view by itself, and all of it in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.classification.survey import SAMPLE, Survey, survey_of
from cryorbit.classified import ClassifyResult, class_reader, classify, result_of
from cryorbit.conditions import Condition
from cryorbit.config import RunConfig, make_config, merge
from cryorbit.io import ImageStack, particles_suffix, write_particles
from cryorbit.io.fingerprints import identity
from cryorbit.io.runs import VIEWS, RunFolder, is_finished, write_table
from cryorbit.machine import Workers, freed_memory_kept
from cryorbit.manifest import new_manifest
from cryorbit.particles import ParticleTable
from cryorbit.pipeline import RunResult, run
from cryorbit.pipeline import result_of as result_of_run
from cryorbit.progress import Observer, Silent
from cryorbit.readings import resolve_prior
from cryorbit.report.views_page import write_views_page
from cryorbit.rows import Rows

CLASSES, VIEW_TABLE = "classes", "views.csv"
# Kept particles below which a view is left as the classification has it.
FEWEST_PARTICLES = 200
# Below so many there are no two such views among a fifth of junk.
FEWEST_SURVEYED = 500
# What a view's own run knows better than the classification.
REFINED = (
    conventions.PSI, conventions.ORIGIN_X, conventions.ORIGIN_Y, conventions.DEFOCUS_U, conventions.DEFOCUS_V,
    conventions.POSE_PROBABILITY, conventions.SELECT_ZSCORE, conventions.PSI_STD, conventions.ORIGIN_STD,
    conventions.DEFOCUS_STD, conventions.OUTLIER_PROBABILITY, conventions.OUTLIER_SCORE, conventions.WEIGHT,
)  # fmt: skip


@dataclass(frozen=True)
class ManyViewsResult:
    """What is left behind.

    Attributes
    ----------
    folder
        Where.
    classes
        The classification of all particles.
    views
        The run of each view, by the number of its class.
    particles
        Every input row: as its view's run has it, or the classification where there is none.
    kept
        Which of them are kept, shape (n,).
    report
        Path of the page that leads to those of the views.
    """

    folder: Path
    classes: ClassifyResult
    views: dict[int, RunResult]
    particles: ParticleTable
    kept: NDArray[np.bool_]
    report: Path


def can_be_surveyed(particles: ParticleTable, config: RunConfig, rows: Rows | None = None) -> bool:
    """Whether :func:`survey` can say anything about particles that have not been classified.

    They are not to be few, nor blind, nor chosen by a class or of several already, and an alignment is to follow.

    Parameters
    ----------
    particles
        To be looked at.
    config
        Of the run that they are for.
    rows
        How they were chosen from their file.
    """
    conditions = [Condition.parse(text, "--select") for text in (rows or Rows()).select]
    chosen = any("class" in condition.column.lower() for condition in conditions)
    classes = np.unique(particles.numbers(conventions.CLASS_NUMBER, 0.0))
    return (
        len(particles) >= FEWEST_SURVEYED and not chosen and len(classes) == 1
        and config.estimation.method == "orbit" and resolve_prior(particles, config.estimation) != "blind"
    )  # fmt: skip


def survey(particles: ParticleTable, config: RunConfig | None = None, observer: Observer | None = None) -> Survey:
    """Look at some particles, to tell whether all are of one view: some twenty seconds of a CPU.

    Parameters
    ----------
    particles
        With known defoci.
    config
        Of the run that they are for.
    observer
        Told of the progress.

    Raises
    ------
    ParticleDataError, ConfigurationError
        For mistakes that the user can mend.
    """
    config, observer = config or make_config(), observer or Silent()
    n = len(particles)
    rows = np.sort(np.random.default_rng(config.seed).choice(n, min(n, SAMPLE), replace=False)).astype(np.int64)
    with freed_memory_kept(), ImageStack(particles.locations) as stack:
        reader = class_reader(particles, config, stack)
        images = reader.read(rows)
        return survey_of(
            images, reader, config.seed,
            lambda note, part: observer.advance(int(part * len(rows)), len(rows), note),
        )  # fmt: skip


def run_views(
    particles: ParticleTable | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    rows: Rows | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    workers: Workers | None = None,
) -> ManyViewsResult:
    """Classify raw picks, then run the main job on each class that was kept.

    Parameters
    ----------
    particles, rows, overwrite, observer, workers
        As for :func:`cryorbit.run`.
    out
        Folder: the classification goes to ``classes``, each view to ``view_001`` and so on.
    config
        Of the classification and of all runs.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend.
    """
    config, rows, observer = config or make_config(), rows or Rows(), observer or Silent()
    particle_table = rows.of(particles) if isinstance(particles, ParticleTable) else rows.read(Path(particles))
    manifest = new_manifest(particle_table, config, True, rows)
    manifest |= {"kind": VIEWS, "identity": identity({"kind": VIEWS, "of": manifest["identity"]})}
    needed = [*particle_table.source.all_files, *particle_table.locations.used]
    folder = RunFolder.create_or_continue(Path(out), manifest, overwrite, needed)
    try:
        done = folder.path / CLASSES
        own = _of_classes(config)
        finished = is_finished(done)
        classes = result_of(done) if finished else classify(particle_table, done, own, observer=observer)
        views = _run_each(folder.path, classes, config, observer, workers)
        result = _together(folder.path, classes, views)
        folder.manifest["finished"] = True
        folder.save()
        return result
    finally:
        folder.close()


def _of_classes(config: RunConfig) -> RunConfig:
    """Configuration of the classification: of classes that are large enough for a run, where nobody has said more."""
    changes: dict[str, Any] = {"estimation": {"outlier_method": "auto"}}
    if config.classification.views is None:
        least = max(config.classification.particles_per_view, 2 * FEWEST_PARTICLES)
        changes["classification"] = {"particles_per_view": least}
    return make_config(config.preset, merge(config.model_dump(), changes))


def _run_each(
    folder: Path, classes: ClassifyResult, config: RunConfig, observer: Observer, workers: Workers | None,
) -> dict[int, RunResult]:  # fmt: skip
    """The main job on the particles of each class that is kept and large enough."""
    there = classes.classes[classes.classes["kept"]]
    large = there.loc[there["kept_particles"] >= FEWEST_PARTICLES, "class"].astype(int).tolist()
    if not large:
        observer.say(
            f"None of the {len(there)} kept classes has {FEWEST_PARTICLES} particles or more, which a run of its own "
            "needs: the poses are those of the classification. Fewer classes with --views would be larger."
        )
    # The sign of the images is a matter of the whole set.
    inverted = _inverted(classes.folder)
    config = make_config(config.preset, merge(config.model_dump(), {"preprocessing": {"invert": inverted}}))
    source = classes.folder / f"particles_kept{particles_suffix(classes.particles)}"
    views: dict[int, RunResult] = {}
    for place, one in enumerate(large, start=1):
        observer.say(f"View {one} ({place} of {len(large)}):")
        out = folder / f"view_{one:03d}"
        if is_finished(out):
            views[one] = result_of_run(out)
            continue
        rows = Rows((f"{conventions.CLASS_NUMBER}={one}",))
        views[one] = run(source, out, config, rows=rows, observer=observer, workers=workers)
    return views


def _inverted(folder: Path) -> bool:
    """Whether the classification changed the sign of the images."""
    return bool(json.loads((folder / "run.json").read_text(encoding="utf-8"))["images"]["inverted"])


def _together(folder: Path, classes: ClassifyResult, views: dict[int, RunResult]) -> ManyViewsResult:
    """One file of all particles, one of the kept ones, and a page that leads to the views."""
    particles, kept = classes.particles, classes.estimates["kept"].to_numpy(dtype=bool).copy()
    frame = particles.frame
    columns: dict[str, Any] = {name: frame[name].to_numpy(dtype=object).copy() for name in REFINED if name in frame}
    number = classes.estimates["class"].to_numpy()
    was_kept = kept.copy()
    facts = []
    for one, result in views.items():
        if result.particles is None or result.estimates is None:
            continue
        rows = np.flatnonzero((number == one) & was_kept)
        for name, values in columns.items():
            if name in result.particles.frame:
                values[rows] = result.particles.frame[name].to_numpy(dtype=object)
        kept[rows] = result.estimates["kept"].to_numpy(dtype=bool)
        facts.append({
            "class": one, "particles": len(rows), "kept": int(kept[rows].sum()),
            "psi_std_deg": float(result.estimates["psi_std_deg"].median()), "folder": result.folder.name,
        })  # fmt: skip
    table_of_all = particles.with_columns(columns)
    suffix = particles_suffix(table_of_all)
    for name, part in (("", None), ("_kept", kept), ("_dropped", ~kept)):
        write_particles(folder / f"particles{name}{suffix}", table_of_all if part is None else table_of_all.where(part))
    found = pd.DataFrame(facts, columns=["class", "particles", "kept", "psi_std_deg", "folder"])
    write_table(folder / VIEW_TABLE, found)
    page = write_views_page(folder, CLASSES, found, len(kept), int(kept.sum()), _too_few(classes, found))
    return ManyViewsResult(folder, classes, views, table_of_all, kept, page)


def _too_few(classes: ClassifyResult, views: pd.DataFrame) -> str:
    """What is said of kept classes that have no run of their own."""
    left = int(classes.classes["kept"].sum()) - len(views)
    if not left:
        return ""
    which = "1 kept class has" if left == 1 else f"{left} kept classes have"
    return (
        f"{which} fewer than {FEWEST_PARTICLES} particles, too few to be run: the poses are those of the "
        "classification."
    )
