"""Commands that make runs and go on with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryorbit.commands.choices import Choices, given, range_um
from cryorbit.commands.options import (
    ConfigFile,
    Debug,
    DefocusRange,
    Folder,
    Invert,
    Method,
    OptionalOut,
    Out,
    OutlierColumn,
    Overwrite,
    Particles,
    Preset,
    Prior,
    Quiet,
    RayAddress,
    RunSeed,
    Seed,
    Select,
    Settings,
    Source,
    StackRoot,
    Subset,
    TruthFile,
    WorkerCount,
)
from cryorbit.commands.shared import app, observing, tell
from cryorbit.commands.views import ONE_VIEW, begun_of_views, looked_at, number_of_views, run_each_view
from cryorbit.errors import ConfigurationError, ParticleDataError

if TYPE_CHECKING:
    from cryorbit.first_look import Look
    from cryorbit.machine import Workers
    from cryorbit.particles import ParticleTable
    from cryorbit.pipeline import RunResult

LIMITS_FILE = "limits.csv"


def _run_until(
    stage: str,
    source: Path,
    out: Path | None,
    choices: Choices,
    quiet: bool,
    truth: Path | None = None,
    outlier_column: str | None = None,
    latent: bool = True,
    workers: Workers | None = None,
    table: ParticleTable | None = None,
    look: Look | None = None,
) -> RunResult:
    """A stage on a run folder, or all stages up to it on a particle file, which may have been read and looked at."""
    if not source.exists():
        raise ParticleDataError(f"{source} does not exist: give a file of particles, or a run folder.")
    from cryorbit.pipeline import rerun
    from cryorbit.pipeline import run as run_pipeline

    with observing(quiet) as observer:
        if source.is_dir():
            if out is not None:
                raise ConfigurationError(f"{source}: is a folder; with --out, give a file of particles.")
            changes = choices.changes_to_a_run(source)
            result = rerun(
                source, stage, estimation=changes, truth=truth, outlier_column=outlier_column, observer=observer,
                workers=workers,
            )  # fmt: skip
        else:
            if out is None:
                raise ConfigurationError(f"{source}: give --out, the run folder to make.")
            config = choices.config()
            rows = choices.rows()
            result = run_pipeline(
                rows.read(source, choices.stack_root) if table is None else table, out, config, rows=rows, until=stage,
                latent=latent, overwrite=choices.overwrite, truth=truth, outlier_column=outlier_column,
                observer=observer, workers=workers, look=look,
            )  # fmt: skip
    tell(result)
    return result


def _workers(count: int | None, ray_address: str | None) -> Workers | None:
    """Who shares the work, where anyone is asked for."""
    from cryorbit.machine import Workers

    return None if count is None and ray_address is None else Workers(count, ray_address)


@app.command()
def run(
    particles: Particles,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    method: Method = None,
    defocus_prior: Prior = None,
    defocus_range: DefocusRange = None,
    invert: Invert = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    views: Annotated[
        str | None,
        typer.Option(
            help="1: all are of one view. A number of classes or 'auto': classify first, then run on each view. "
            "Default: by a look at files without classes.",
            show_default=False,
        ),
    ] = None,
    truth: TruthFile = None,
    outlier_column: OutlierColumn = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The main job: train, find outliers, estimate angle and defocus, write particle files and the report."""
    estimation = given(method=method, defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, estimation, invert, select, subset)
    team = _workers(workers, ray_address)
    if views is not None:
        number = number_of_views(views)
        choices = replace(choices, others={} if views == ONE_VIEW else {"classification": {"views": number}})
    table = found = None
    if particles.is_file() and views != ONE_VIEW:
        table = choices.rows().read(particles, stack_root)
        alone = truth is not None or outlier_column is not None
        if alone and views is not None:
            raise ConfigurationError("--truth and --outlier-column compare the run of one view: leave out --views.")
        if team is not None:
            team.check()
        if views is None:
            found = looked_at(table, out, choices, quiet, alone)
        several = found.several if found is not None else begun_of_views(out, choices)
        if views is not None or (several and not alone):
            run_each_view(table, out, choices, quiet, team, found)
            return
    _run_until("report", particles, out, choices, quiet, truth, outlier_column, workers=team, table=table, look=found)


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="Folder of a finished run, such as a preview.", show_default=False)],
    particles: Annotated[
        Path | None,
        typer.Argument(help="More particles of the same view. Default: all of the run's own file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder to make, or to go on with.", show_default=False)
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add what is new in a file that has grown to the run itself.")
    ] = False,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    truth: TruthFile = None,
    outlier_column: OutlierColumn = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run on more particles with the average and the network of an earlier run: nothing is learnt again."""
    from cryorbit import applied
    from cryorbit.rows import Rows

    shared: dict[str, Any] = {
        "stack_root": stack_root, "truth": truth, "outlier_column": outlier_column,
        "workers": _workers(workers, ray_address),
    }  # fmt: skip
    if append:
        refused = {"--out": out, "--select": select, "--subset": subset, "--overwrite": overwrite or None}
        if given := [name for name, value in refused.items() if value is not None]:
            raise ConfigurationError(f"{given[0]}: cannot be given with --append, which adds to the run in {model}.")
        with observing(quiet) as observer:
            tell(applied.append(model, particles, observer=observer, **shared))
        return
    if out is None:
        raise ConfigurationError("Give --out, for a run of its own, or --append, which adds to the run itself.")
    if seed is not None and subset is None:
        raise ConfigurationError(
            f"--seed {seed}: draws a --subset only; what is applied is what {model} has learnt, with its own seed."
        )
    rows = Rows(tuple(select or ()), subset, 12345 if seed is None else seed)
    with observing(quiet) as observer:
        result = applied.apply(model, out, particles, rows=rows, overwrite=overwrite, observer=observer, **shared)
    tell(result)


@app.command()
def train(
    source: Source,
    out: OptionalOut = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    invert: Invert = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the network only."""
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, {}, invert, select, subset)
    _run_until("train", source, out, choices, quiet)


@app.command()
def embed(
    source: Source,
    out: OptionalOut = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put every particle, and turned copies of it, into the latent space."""
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, {}, None, select, subset)
    _run_until("embed", source, out, choices, quiet)


@app.command()
def outliers(
    source: Source,
    out: OptionalOut = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    method: Method = None,
    outlier_method: Annotated[
        str | None,
        typer.Option("--detector", help="evidence, isolation_forest, robust_covariance or local_outlier_factor."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Outlier probability above which particles are dropped (0.5).")
    ] = None,
    invert: Invert = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score outliers: by the evidence of the alignment, or in the latent space with --method latent."""
    estimation = given(method=method, outlier_method=outlier_method, outlier_threshold=threshold)
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, estimation, invert, select, subset)
    _run_until("outliers", source, out, choices, quiet, latent=False)


@app.command()
def estimate(
    source: Source,
    out: OptionalOut = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    method: Method = None,
    defocus_prior: Prior = None,
    defocus_range: DefocusRange = None,
    invert: Invert = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Estimate angle, shift and defocus and write the particle files; the orbit method needs no trained network."""
    estimation = given(method=method, defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, estimation, invert, select, subset)
    _run_until("estimate", source, out, choices, quiet, latent=False, workers=_workers(workers, ray_address))


@app.command()
def limits(
    source: Source,
    out: OptionalOut = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    defocus_prior: Prior = None,
    defocus_range: DefocusRange = None,
    invert: Invert = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What these data allow: the Cramer-Rao bound of angle, shift and defocus, from their own average and noise."""
    estimation = given(defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(
        preset, config, settings, seed, stack_root, overwrite, {"method": "orbit", **estimation}, invert, select, subset
    )
    if not (source / LIMITS_FILE).is_file() or choices.changes_to_a_run(source).keys() - {"method"}:
        _run_until("align", source, out, choices, quiet, latent=False)
    typer.echo(_limits_text(source if source.is_dir() else out or source))


def _limits_text(folder: Path) -> str:
    """The bound at some defoci as a small table."""
    from cryorbit.io.runs import read_table

    path = folder / LIMITS_FILE
    if not path.is_file():
        return "There are too few particles to know what they allow."
    table = read_table(path)
    rows = table[(table["defocus_um"] / 0.5 % 1).round(6) % 1 == 0]
    lines = [f"{'defocus':>10s}{'angle':>12s}{'shift':>10s}{'defocus':>13s}{'nats':>8s}"]
    for row in rows.itertuples():
        angle, shift = f"{row.psi_limit_deg:8.3f} deg", f"{row.origin_limit_A:8.2f} A"
        lines.append(f"{row.defocus_um:7.1f} um{angle}{shift}{row.defocus_limit_um:10.4f} um{row.expected_nats:8.0f}")
    return "\n".join([*lines, f"All of it: {path}"])


@app.command()
def search(
    particles: Particles,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, or to go on with.", show_default=False)],
    trials: Annotated[int, typer.Option(min=1, help="Configurations to try; the first is the default.")] = 24,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time. Default: one on each core.", show_default=False)
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to use (auto or HOST:PORT); all its machines must see --out.", show_default=False
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    invert: Invert = None,
    select: Select = None,
    subset: Subset = None,
    stack_root: StackRoot = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search learning rate, depth, loss weights and latent dimension; best.toml is for `run --config`."""
    from cryorbit.hyperparameters import search

    choices = Choices(preset, config, settings, seed, stack_root, overwrite, {}, invert, select, subset)
    table, base = choices.rows().read(particles, stack_root), choices.config()
    with observing(quiet) as observer:
        result = search(
            table, out, base, trials=trials, workers=workers, ray_address=ray_address, overwrite=overwrite,
            observer=observer,
        )  # fmt: skip
    typer.echo(f"{result.sentence}\nBest:      {result.best}\nTrials:    {out / 'trials.csv'}")


@app.command()
def report(
    folder: Folder,
    truth: TruthFile = None,
    outlier_column: OutlierColumn = None,
    seed: Seed = 12345,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw the figures and the page of a run again."""
    from cryorbit.classified import redraw
    from cryorbit.pipeline import rerun

    if page := redraw(folder):
        typer.echo(f"Report:    {page}")
        return
    with observing(quiet) as observer:
        tell(rerun(folder, "report", truth=truth, outlier_column=outlier_column, observer=observer))
