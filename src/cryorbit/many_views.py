"""Raw picks from all sides: classes first, then the main job on each view by itself, and all of it in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.classification.frames import in_frame_of
from cryorbit.classified import ClassifyResult, check_can_be_classified, classify, result_of
from cryorbit.config import RunConfig, make_config, merge
from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.errors import ConfigurationError
from cryorbit.io import particles_suffix, write_particles
from cryorbit.io.fingerprints import identity
from cryorbit.io.runs import VIEWS, RunFolder, is_finished, write_table
from cryorbit.machine import Workers
from cryorbit.manifest import new_manifest
from cryorbit.particles import ParticleTable
from cryorbit.pipeline import RunResult, run
from cryorbit.pipeline import result_of as result_of_run
from cryorbit.progress import Observer, Silent
from cryorbit.readings import check_outlier_method
from cryorbit.report.views_page import write_views_page
from cryorbit.results import pixel_origins
from cryorbit.rows import Rows

if TYPE_CHECKING:
    from cryorbit.first_look import Look

CLASSES, VIEW_TABLE = "classes", "views.csv"
# Kept particles below which a view is left as the classification has it.
FEWEST_PARTICLES = 200
# Classes that a file may have at least, if it has 50 particles for each.
FEWEST_CLASSES = 8
# What a view's own run knows better than the classification.
REFINED = (
    conventions.PSI, conventions.ORIGIN_X, conventions.ORIGIN_Y, *conventions.ORIGIN_PIXELS, conventions.DEFOCUS_U,
    conventions.DEFOCUS_V, conventions.POSE_PROBABILITY, conventions.SELECT_ZSCORE, conventions.PSI_STD,
    conventions.ORIGIN_STD, conventions.DEFOCUS_STD, conventions.OUTLIER_PROBABILITY, conventions.OUTLIER_SCORE,
    conventions.WEIGHT,
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


def run_views(
    particles: ParticleTable | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    rows: Rows | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    workers: Workers | None = None,
    look: Look | None = None,
) -> ManyViewsResult:
    """Classify raw picks, then run the main job on each class that was kept.

    Parameters
    ----------
    particles, rows, overwrite, observer, workers, look
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
    own = _of_classes(config, len(particle_table))
    # Refused now rather than after hours of work.
    check_can_be_classified(particle_table, own)
    check_outlier_method(config.estimation, has_latent=True)
    if config.classification.mirror == "tied":
        raise ConfigurationError(
            "classification.mirror is tied, and the run of a view compares all its images with one average, none of "
            "them reflected: leave it separate here (cryorbit classify takes it)."
        )
    if workers is not None:
        workers.check()
    manifest = new_manifest(particle_table, config, True, rows)
    if look is not None:
        manifest["look"] = look.described()
    manifest |= {"kind": VIEWS, "identity": identity({"kind": VIEWS, "of": manifest["identity"]})}
    needed = [*particle_table.source.all_files, *particle_table.locations.used]
    folder = RunFolder.create_or_continue(Path(out), manifest, overwrite, needed)
    try:
        done = folder.path / CLASSES
        finished = is_finished(done)
        classes = result_of(done) if finished else classify(particle_table, done, own, observer=observer)
        views = _run_each(folder.path, classes, config, observer, workers)
        result = _together(folder, classes, views)
        folder.manifest["finished"] = True
        folder.save()
        return result
    finally:
        folder.close()


def _of_classes(config: RunConfig, particles: int) -> RunConfig:
    """Configuration of the classification: of classes that are large enough for a run, where nobody has said more.

    Of a small file still enough of them to tell its views apart.
    """
    changes: dict[str, Any] = {"estimation": {"outlier_method": "auto"}}
    if config.classification.views is None:
        least = min(2 * FEWEST_PARTICLES, particles // FEWEST_CLASSES)
        changes["classification"] = {"particles_per_view": max(config.classification.particles_per_view, least)}
    return make_config(config.preset, merge(config.model_dump(), changes))


def _run_each(
    folder: Path, classes: ClassifyResult, config: RunConfig, observer: Observer, workers: Workers | None,
) -> dict[int, RunResult]:  # fmt: skip
    """The main job on the particles of each class that is kept and large enough."""
    there = classes.classes[classes.classes["kept"]]
    large = there.loc[there["kept_particles"] >= FEWEST_PARTICLES, "class"].astype(int).tolist()
    if not large:
        observer.say(
            f"No class that was kept has {FEWEST_PARTICLES} particles, which a run of its own needs: the poses are "
            "those of the classification."
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


def _together(opened: RunFolder, classes: ClassifyResult, views: dict[int, RunResult]) -> ManyViewsResult:
    """One file of all particles, one of the kept ones, and a page that leads to the views."""
    folder, particles, kept = opened.path, classes.particles, classes.estimates["kept"].to_numpy(dtype=bool).copy()
    frame = particles.frame
    columns: dict[str, Any] = {name: frame[name].to_numpy(dtype=object).copy() for name in REFINED if name in frame}
    number = classes.estimates["class"].to_numpy()
    was_kept = kept.copy()
    run_of: dict[int, str] = {}
    for one, result in views.items():
        if result.particles is None or result.estimates is None:
            continue
        rows = np.flatnonzero((number == one) & was_kept)
        refined = result.particles.with_columns(_in_class_frame(result.particles, particles.take(rows)))
        for name, values in columns.items():
            if name in refined.frame:
                values[rows] = refined.frame[name].to_numpy(dtype=object)
        kept[rows] = result.estimates["kept"].to_numpy(dtype=bool)
        run_of[one] = result.folder.name
    table_of_all = particles.with_columns(columns)
    suffix = particles_suffix(table_of_all)
    for name, part in (("", None), ("_kept", kept), ("_dropped", ~kept)):
        write_particles(folder / f"particles{name}{suffix}", table_of_all if part is None else table_of_all.where(part))
    found = _facts(classes, table_of_all, kept, run_of)
    write_table(folder / VIEW_TABLE, found)
    remarks = [opened.manifest.get("look", {}).get("said", ""), _too_few(classes, views)]
    page = write_views_page(
        folder, CLASSES, found, len(kept), int(kept.sum()), [text for text in remarks if text], f"particles{suffix}"
    )
    return ManyViewsResult(folder, classes, views, table_of_all, kept, page)


def _in_class_frame(refined: ParticleTable, classified: ParticleTable) -> dict[str, FloatArray]:
    """Angles and origins of a view's run, against the average of its class as those of its other images are."""
    origins = (conventions.ORIGIN_X, conventions.ORIGIN_Y)
    # RELION's origin is what brings a particle to the middle: the shift with the other sign.
    shift, other_shift = (
        -np.stack([table.numbers(name) for name in origins], axis=1) for table in (refined, classified)
    )
    psi, shift = in_frame_of(refined.psi_deg, shift, classified.psi_deg, other_shift)
    return {
        conventions.PSI: wrap_deg(psi), origins[0]: -shift[:, 0], origins[1]: -shift[:, 1],
        **pixel_origins(classified, -shift),
    }  # fmt: skip


def _facts(
    classes: ClassifyResult, particles: ParticleTable, kept: NDArray[np.bool_], run_of: dict[int, str]
) -> pd.DataFrame:
    """One row for each class that was kept, whether it has a run of its own or not."""
    there = classes.classes[classes.classes["kept"]]["class"].astype(int)
    number, std_deg = classes.estimates["class"].to_numpy(), particles.numbers(conventions.PSI_STD, np.nan)
    rows = [
        {
            "class": one, "particles": int((number == one).sum()), "kept": int(kept[number == one].sum()),
            "psi_std_deg": float(np.median(std_deg[(number == one) & kept])) if kept[number == one].any() else np.nan,
            "folder": run_of.get(one, ""),
        }
        for one in there
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["class", "particles", "kept", "psi_std_deg", "folder"])


def _too_few(classes: ClassifyResult, views: dict[int, RunResult]) -> str:
    """What is said of kept classes that have no run of their own."""
    left = int(classes.classes["kept"].sum()) - len(views)
    if not left:
        return ""
    which = "1 kept class has" if left == 1 else f"{left} kept classes have"
    return (
        f"{which} fewer than {FEWEST_PARTICLES} particles, too few to be run: the poses are those of the "
        "classification."
    )
