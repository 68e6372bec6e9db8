"""What a run has learnt, applied to more particles: in a run of their own, or added to the run itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryorbit.appending import make_room, new_rows, take_place
from cryorbit.config import RunConfig, make_config, merge
from cryorbit.errors import ParticleDataError
from cryorbit.estimation.truth import read_truth
from cryorbit.io.runs import MANIFEST, RunFolder, is_pending
from cryorbit.machine import Workers
from cryorbit.manifest import input_hash, new_manifest
from cryorbit.particles import ParticleTable
from cryorbit.pipeline import KnownTruth, RunResult, result_of, run_job
from cryorbit.progress import Observer, Silent
from cryorbit.remembered import check_model, copy_model
from cryorbit.rows import Rows, rows_from


def apply(
    model: str | Path,
    out: str | Path,
    particles: ParticleTable | str | Path | None = None,
    *,
    rows: Rows | None = None,
    stack_root: str | Path | None = None,
    until: str = "report",
    overwrite: bool = False,
    truth: str | Path | None = None,
    outlier_column: str | None = None,
    observer: Observer | None = None,
    workers: Workers | None = None,
) -> RunResult:
    """Run on more particles with what an earlier run has learnt: no average is learnt again and no network trained.

    Parameters
    ----------
    model
        Folder of the earlier run, such as a preview.
    particles
        Of the same view and boxes. If left out, those of the earlier run's file of which its conditions hold, not the
        random part alone. Those that the run was of, by their images, keep what it found for them.
    rows
        Which of these particles; all if left out.
    stack_root
        Folder that the file's image paths start from; where the earlier run found them, if left out.
    out, until, overwrite, truth, outlier_column, observer, workers
        As for :func:`run`.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend.
    """
    if workers is not None:
        workers.check()
    model = Path(model)
    opened = RunFolder.reopen(model)
    try:
        check_model(model, opened.manifest)
        rows = rows or Rows()
        if isinstance(particles, ParticleTable):
            table = rows.of(particles)
        elif particles is not None:
            table = rows.read(Path(particles), stack_root)
        else:
            rows, table = _rest_of(model, opened.manifest["input"], rows, stack_root)
        config, manifest = _manifest(model, opened.manifest, table, rows)
        needed = [*table.source.all_files, *table.locations.used, model]
        folder = RunFolder.create_or_continue(Path(out), manifest, overwrite, needed)
        try:
            copy_model(model, folder)
            opened.close()  # from here on the earlier run may serve others, or go
            return run_job(folder, config, table, until, KnownTruth.of(truth, outlier_column), observer, workers)
        finally:
            folder.close()
    finally:
        opened.close()


def append(
    run: str | Path,
    particles: str | Path | None = None,
    *,
    stack_root: str | Path | None = None,
    truth: str | Path | None = None,
    outlier_column: str | None = None,
    observer: Observer | None = None,
    workers: Workers | None = None,
) -> RunResult:
    """Add to a run the particles by which a file has grown: the earlier ones keep what was found for them.

    The run can be looked at meanwhile. An appending that is interrupted goes on with the same call, or begins again
    where the file has grown further.

    Parameters
    ----------
    run
        Folder of a finished run.
    particles
        File that holds all particles of the run, known by their images, and new ones; by default the run's own file.
        What the run chose by conditions is chosen of it.
    truth, outlier_column
        As for :func:`run`; by default those that the run has, where they tell of the new particles too.
    stack_root, observer, workers
        As for :func:`run`.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend.
    """
    if workers is not None:
        workers.check()
    run, observer = Path(run), observer or Silent()
    opened = RunFolder.reopen(run, to_append=True)
    try:
        if is_pending(run):
            take_place(run)
            opened.manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
        before = opened.manifest
        check_model(run, before)
        recorded = before["input"]
        rows = Rows(rows_from(recorded.get("rows")).select)
        path = Path(particles or recorded["path"] or "PARTICLES")
        if not path.exists():
            raise ParticleDataError(f"{path}: does not exist; name the file: cryorbit apply {run} PARTICLES --append.")
        table = rows.read(path, stack_root or recorded.get("stack_root"))
        new = new_rows(run, table)
        if not new:
            observer.say(f"{path}: has no particles that the run in {run} does not have; nothing was done.")
            return result_of(run)
        observer.say(f"{new:,} of the {len(table):,} particles of {path} are new.")
        known = KnownTruth.of(truth, outlier_column) or _truth_of_all(before, table, observer)
        config, manifest = _manifest(run, before, table, rows)
        manifest |= {"look": before["look"]} if "look" in before else {}
        folder = RunFolder.create_or_continue(make_room(run, manifest["identity"]), manifest)
        try:
            copy_model(run, folder)
            run_job(folder, config, table, "report", known, observer, workers)
        finally:
            folder.close()
        take_place(run)
        return result_of(run)
    finally:
        opened.close()


def _truth_of_all(before: Mapping[str, Any], table: ParticleTable, observer: Observer) -> KnownTruth | None:
    """The truth that a run was compared with, where it tells of the new particles too."""
    if before.get("truth") is None:
        return None
    known = KnownTruth(Path(before["truth"]), before.get("outlier_column"))
    try:
        read_truth(known.path, table, known.outlier_column)
    except ParticleDataError as error:
        observer.say(f"Warning: the page will compare with no truth. {error}")
        return None
    return known


def _manifest(
    model: Path, before: Mapping[str, Any], table: ParticleTable, rows: Rows
) -> tuple[RunConfig, dict[str, Any]]:
    """Configuration and ``run.json`` of a run that takes all but its particles from an earlier one."""
    saved = merge(before["configuration"], {"preprocessing": {"invert": before["images"]["inverted"]}})
    config, described = make_config(saved["preset"], saved), {"folder": str(model.resolve())}
    described["identity"] = before["identity"]
    return config, new_manifest(table, config, bool(before.get("latent", True)), rows, described)


def _rest_of(
    model: Path, recorded: Mapping[str, Any], rows: Rows, stack_root: str | Path | None
) -> tuple[Rows, ParticleTable]:
    """All particles of the file of an earlier run, which may have been on a random part of them."""
    path, again = Path(recorded["path"]), f"name the file: cryorbit apply {model} PARTICLES"
    if not path.exists():
        raise ParticleDataError(f"{path}: the file of the run in {model} is not there any more; {again}.")
    # A preview of some classes serves those classes.
    rows = replace(rows, select=(*rows_from(recorded.get("rows")).select, *rows.select))
    table = rows.read(path, stack_root or recorded.get("stack_root"))
    if input_hash(table.source.all_files) != recorded["sha256"]:
        raise ParticleDataError(f"{path}: has changed since the run in {model}; if that is meant, {again}.")
    return rows, table
