"""The main job: runs its stages in the order in which particles travel, and goes on where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cryorbit.config import RunConfig, make_config, merge
from cryorbit.errors import ConfigurationError, CryorbitError, ParticleDataError, RunFolderError
from cryorbit.estimation.truth import outlier_remark, read_truth
from cryorbit.io import read_written, written_particles
from cryorbit.io.runs import RunFolder, has_report, read_table, report_path
from cryorbit.machine import Workers
from cryorbit.manifest import input_hash, new_manifest, run_identity_of
from cryorbit.particles import ParticleTable
from cryorbit.progress import Observer, Silent
from cryorbit.readings import check_outlier_method, resolve_prior
from cryorbit.remembered import Remembered
from cryorbit.rows import Rows, rows_from
from cryorbit.stages import LATENT_STAGES, STAGES, Job, stages_of

if TYPE_CHECKING:
    from cryorbit.first_look import Look

# Settings that change what the alignment itself finds.
SEARCHED = {"method", "defocus_prior", "defocus_range_um"}


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    folder
        The run folder.
    particles
        Every input row with cryorbit's columns; None if the run stopped before the estimates.
    estimates
        The same numbers as a table, and both ways of reading the latent space; None likewise.
    report
        Path of the page, if it was written.
    """

    folder: Path
    particles: ParticleTable | None
    estimates: pd.DataFrame | None
    report: Path | None

    @property
    def kept(self) -> ParticleTable:
        """Particles below the outlier threshold.

        Raises
        ------
        RunFolderError
            If the run stopped before the estimates.
        """
        if self.particles is None or self.estimates is None:
            raise RunFolderError(f"{self.folder}: the run stopped before the outliers were found.")
        return self.particles.where(self.estimates["kept"].to_numpy())


def run(
    particles: ParticleTable | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    rows: Rows | None = None,
    until: str = "report",
    latent: bool = True,
    overwrite: bool = False,
    truth: str | Path | None = None,
    outlier_column: str | None = None,
    observer: Observer | None = None,
    workers: Workers | None = None,
    look: Look | None = None,
) -> RunResult:
    """Run the main job on particles, or go on with one that was interrupted.

    Parameters
    ----------
    particles
        Table from :func:`cryorbit.read_particles`, or the path of a particle file.
    out
        Run folder, new or empty, or holding an unfinished run of the same particles and configuration.
    config
        From :func:`cryorbit.make_config`; the preset ``fast`` by default.
    rows
        Which of the particles; all if left out.
    until
        Last stage to run, one of :data:`STAGES`.
    latent
        Whether to train a network and read its latent space too; the orbit method can do without.
    overwrite
        Move another folder of that name aside.
    truth
        STAR or .cs file with the truth, for the report.
    outlier_column
        Which of its rows are outliers, as for :func:`cryorbit.estimation.truth.read_truth`.
    observer
        Told of the progress.
    workers
        Processes that share alignment and embedding; this one alone if left out.
    look
        What was found of how many views there are, for the report.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend.
    """
    config = config or make_config()
    rows = rows or Rows()
    table = rows.of(particles) if isinstance(particles, ParticleTable) else rows.read(Path(particles))
    latent = latent or config.estimation.method == "latent"
    # Refused now rather than after hours of work.
    if workers is not None:
        workers.check()
    resolve_prior(table, config.estimation)
    check_outlier_method(config.estimation, latent)
    needed = [
        *filter(None, [*table.source.all_files, Path(truth) if truth is not None else None]),
        *table.locations.used,
    ]
    manifest = new_manifest(table, config, latent, rows)
    if look is not None:
        manifest["look"] = look.described()
    folder = RunFolder.create_or_continue(Path(out), manifest, overwrite, needed)
    try:
        return run_job(folder, config, table, until, KnownTruth.of(truth, outlier_column), observer, workers)
    finally:
        folder.close()


def rerun(
    folder: str | Path,
    stage: str,
    *,
    estimation: Mapping[str, Any] | None = None,
    truth: str | Path | None = None,
    outlier_column: str | None = None,
    observer: Observer | None = None,
    workers: Workers | None = None,
) -> RunResult:
    """Do one stage of an earlier run again, and then the later ones that had been done.

    Parameters
    ----------
    folder
        Run folder.
    stage
        Stage to do again; stages before it that are missing are done first.
    estimation
        Changes to the configuration of outliers and estimates.
    truth, outlier_column, observer, workers
        As for :func:`run`.

    Raises
    ------
    RunFolderError
        If there is no run in the folder.
    ParticleDataError
        If its particles are gone or changed.
    """
    if workers is not None:
        workers.check()
    opened = RunFolder.reopen(Path(folder))
    unchanged, left = deepcopy(opened.manifest), None
    try:
        config, table, last = _told_anew(opened, stage, estimation or {})
        left = set(opened.manifest["stages"])
        opened.save()
        return run_job(opened, config, table, last, KnownTruth.of(truth, outlier_column), observer, workers)
    except (ParticleDataError, ConfigurationError):
        from cryorbit.report.unfinished import remove_notice

        # What was refused before it began leaves the run as it was, finished and with its settings.
        if left is not None and set(opened.manifest["stages"]) == left:
            opened.manifest.clear()
            opened.manifest.update(unchanged)
            opened.save()
            remove_notice(opened.path)
        raise
    finally:
        opened.close()


def _told_anew(opened: RunFolder, asked: str, estimation: Mapping[str, Any]) -> tuple[RunConfig, ParticleTable, str]:
    """Configuration, particles and last stage of a run of which a stage is to be done again, noted in its manifest."""
    manifest, stage = opened.manifest, asked
    changed = {name: value for name, value in estimation.items() if value is not None}
    saved = manifest["configuration"]
    config = make_config(saved["preset"], merge(saved, {"estimation": changed}))
    table = _table_of(opened, stage)
    resolve_prior(table, config.estimation)
    Remembered.of(opened)  # refused now where what was taken is gone
    if stage in LATENT_STAGES:
        manifest["latent"] = True  # asked for now, if it was not before
    has_network = bool(manifest.get("latent", True)) or opened.stage_done("embed")
    if config.estimation.method == "latent" and not has_network:
        raise ConfigurationError(
            f"{opened.path}: has no network, which the latent method needs; use cryorbit run with the particle "
            "file and another --out."
        )
    check_outlier_method(config.estimation, has_network)
    order = stages_of(config)
    manifest["configuration"] = config.model_dump(mode="json")
    manifest["identity"] = run_identity_of(config, manifest["input"], bool(manifest.get("latent", True)))
    if stage != "report" and config.estimation.method == "orbit" and SEARCHED & changed.keys():
        stage = min(stage, "align", key=order.index)
    done = [name for name in order if opened.stage_done(name)]
    for later in order[order.index(stage) :]:
        # A network stays as good as it was when the alignment is done again with another prior.
        if not (stage == "align" and later in LATENT_STAGES):
            manifest["stages"].pop(later, None)
    manifest["finished"] = False
    return config, table, max([asked, *done], key=order.index)


def _table_of(folder: RunFolder, stage: str) -> ParticleTable:
    """Particles of a run: as it wrote them where only the page is drawn again, else as it read them."""
    if stage == "report" and folder.stage_done("estimate") and written_particles(folder.path).is_file():
        return read_written(folder.path)
    recorded = folder.manifest["input"]
    path = Path(recorded["path"])
    root = recorded.get("stack_root")
    table = rows_from(recorded.get("rows")).read(path, root, check_images=False)
    if input_hash(table.source.all_files) != recorded["sha256"]:
        raise ParticleDataError(f"{path}: has changed since the run in {folder.path}; start a new run with it.")
    if len(table) != recorded["particles"]:
        raise ParticleDataError(
            f"{folder.path}: ran on {recorded['particles']} of the {len(table)} particles of {path}; its stages can be "
            "done again from Python only, by calling run with the same selection."
        )
    return table


@dataclass(frozen=True)
class KnownTruth:
    """A file with the truth, and which of its rows are outliers."""

    path: Path
    outlier_column: str | None

    @classmethod
    def of(cls, path: str | Path | None, outlier_column: str | None) -> KnownTruth | None:
        """As the user gives it; None where there is none."""
        if path is None and outlier_column is not None:
            raise ConfigurationError(
                f"--outlier-column {outlier_column}: of which file? Give --truth too; it may be the particle file."
            )
        return None if path is None else cls(Path(path), outlier_column)


def run_job(
    folder: RunFolder,
    config: RunConfig,
    table: ParticleTable,
    until: str,
    known: KnownTruth | None,
    observer: Observer | None,
    workers: Workers | None,
) -> RunResult:
    """Run the stages of an open folder, up to one, and give what it then holds."""
    if until not in STAGES:
        raise CryorbitError(f"Unknown stage {until!r}: expected one of {', '.join(STAGES)}.")
    job = Job(folder, config, table, observer or Silent(), workers)
    # A page that was drawn with the truth is drawn with it again.
    before = folder.manifest.get("truth")
    if known is None and before is not None and Path(before).is_file():
        known = KnownTruth(Path(before), folder.manifest.get("outlier_column"))
    if known is not None:
        job.truth = read_truth(known.path, table, known.outlier_column)
        if remark := outlier_remark(job.truth, known.outlier_column):
            job.observer.say(f"Warning: {remark}")
        folder.manifest |= {"truth": str(known.path.resolve()), "outlier_column": known.outlier_column}
    job.run(until)
    return result_of(folder.path)


def result_of(folder: Path) -> RunResult:
    """What is in the folder now."""
    particles = estimates = None
    if (folder / "estimates.parquet").is_file():
        estimates = read_table(folder / "estimates.parquet")
        particles = read_written(folder)
    return RunResult(folder, particles, estimates, report_path(folder) if has_report(folder) else None)
