"""The command line: verbs in order of use, each a few lines that call the library."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryorbit.choices import Choices, given, range_um, setting
from cryorbit.errors import ConfigurationError, CryorbitError, ParticleDataError
from cryorbit.options import (
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
    RunSeed,
    Seed,
    Select,
    Settings,
    Source,
    StackRoot,
    Subset,
    TruthFile,
)

if TYPE_CHECKING:
    from cryorbit.pipeline import RunResult
    from cryorbit.progress import Observer

# Typer carries its own copy of click from 0.26 on, and used the package before.
click_exceptions = sys.modules[typer.BadParameter.__mro__[1].__module__]

INTERRUPTED = 130
LIMITS_FILE = "limits.csv"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Which cryo-EM particles are junk, how is each one turned, what was its defocus: from the orbits that "
    "their images form in the latent space of a small network, without labels and without a 3D reference.",
    epilog="Start with `cryorbit demo`. Documentation of all columns and files: README.md.",
)


@contextmanager
def _observer(quiet: bool) -> Iterator[Observer]:
    from cryorbit.progress import Bars, Lines, Silent

    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


def _tell(result: RunResult) -> None:
    if result.report is not None:
        typer.echo(f"Report:    {result.report}")
    if result.particles is not None and result.estimates is not None:
        kept = int(result.estimates["kept"].sum())
        typer.echo(f"Particles: {result.particles.name} ({kept:,} of {len(result.particles):,} kept)")
    else:
        typer.echo(f"Run:       {result.folder}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("cryorbit_demo"),
    images: Annotated[int, typer.Option(min=1, help="Particles to simulate.")] = 2000,
    seed: Seed = 12345,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Simulate a small set with noise, shifts and junk, run the main job on it, compare with the truth."""
    from cryorbit.demo import run_demo

    with _observer(quiet) as observer:
        result, evaluation = run_demo(out, images, seed, overwrite, observer)
    typer.echo(_evaluation_text(evaluation.as_dict()))
    _tell(result)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    preset: Annotated[
        str,
        typer.Option(
            help="Single boxes: paper, noisy, junk, demo, low-snr. Whole micrographs: paper-micrographs, micrographs."
        ),
    ] = "noisy",
    map_file: Annotated[Path | None, typer.Option("--map", help="MRC map to project.", show_default=False)] = None,
    structure: Annotated[
        Path | None, typer.Option("--structure", help="mmCIF or PDB file to project.", show_default=False)
    ] = None,
    phantom: Annotated[bool, typer.Option("--phantom", help="Project the built-in phantom (the default).")] = False,
    view: Annotated[str, typer.Option(help="Viewing direction ROT,TILT in degrees.")] = "0,0",
    images: Annotated[int | None, typer.Option(help="Number of particles.", show_default=False)] = None,
    snr: Annotated[
        float | None, typer.Option(help="Signal over noise variance; 0 for none.", show_default=False)
    ] = None,
    defocus: Annotated[
        str | None, typer.Option(help="Micrometres: a range 0.5:2.5 or a series 0.5,1.0.", show_default=False)
    ] = None,
    shift: Annotated[float | None, typer.Option(help="Shift in pixels (sigma).", show_default=False)] = None,
    outliers: Annotated[float | None, typer.Option(help="Fraction of junk.", show_default=False)] = None,
    dose: Annotated[
        float | None, typer.Option(help="Micrographs: electrons per square nm.", show_default=False)
    ] = None,
    ice: Annotated[float | None, typer.Option(help="Micrographs: ice in nm; 0 for none.", show_default=False)] = None,
    keep_micrographs: Annotated[bool, typer.Option("--keep-micrographs", help="Write the micrographs, too.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, such as detector.mtf_nyquist=0.5.", show_default=False),
    ] = None,
    seed: Seed = 12345,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Simulate particles with known truth: particles.star, particles.mrcs, truth.star, truth.csv."""
    from cryorbit import simulation
    from cryorbit.config import merge

    projection = simulation.choose_projection(map_file, structure, phantom, simulation.parse_view(view))
    changes = given(
        seed=seed, images=images, snr=snr, defocus_um=defocus, shift_px=shift, outliers=outliers,
        dose_per_nm2=dose, ice_nm=ice,
    )  # fmt: skip
    for single in map(setting, settings or []):
        changes = merge(changes, single)
    config = simulation.make_simulation_config(preset, changes)
    with _observer(quiet) as observer:
        observer.stage("Simulating")
        simulation.simulate(out, projection, config, progress=observer.advance, keep_micrographs=keep_micrographs)
    typer.echo(f"Particles: {out / 'particles.star'} ({config.images:,}, truth in {out / 'truth.star'})")


@app.command()
def inspect(
    particles: Particles,
    stack_root: StackRoot = None,
    seed: Seed = 12345,
    debug: Debug = False,
) -> None:
    """Say what a particle file holds, and everything that is wrong with it."""
    from cryorbit.io.inspection import inspect_particles

    found = inspect_particles(particles, stack_root, seed)
    typer.echo("\n".join(found.facts))
    for remark in found.remarks:
        typer.echo(f"Note: {remark}")
    for problem in found.problems:
        typer.echo(f"Problem: {problem}", err=True)
    if found.problems:
        raise typer.Exit(2)
    typer.echo("Nothing is wrong.")


def _run_until(
    stage: str,
    source: Path,
    out: Path | None,
    choices: Choices,
    quiet: bool,
    truth: Path | None = None,
    outlier_column: str | None = None,
    latent: bool = True,
) -> RunResult:
    """A stage on a run folder, or all stages up to it on a particle file."""
    if not source.exists():
        raise ParticleDataError(f"{source} does not exist: give a file of particles, or a run folder.")
    from cryorbit.pipeline import rerun
    from cryorbit.pipeline import run as run_pipeline

    with _observer(quiet) as observer:
        if source.is_dir():
            if out is not None:
                raise ConfigurationError(f"{source}: is a folder; with --out, give a file of particles.")
            changes = choices.changes_to_a_run(source)
            result = rerun(
                source, stage, estimation=changes, truth=truth, outlier_column=outlier_column, observer=observer
            )
        else:
            if out is None:
                raise ConfigurationError(f"{source}: give --out, the run folder to make.")
            config = choices.config()
            rows = choices.rows()
            result = run_pipeline(
                rows.read(source, choices.stack_root), out, config, rows=rows, until=stage, latent=latent,
                overwrite=choices.overwrite, truth=truth, outlier_column=outlier_column, observer=observer,
            )  # fmt: skip
    _tell(result)
    return result


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
    truth: TruthFile = None,
    outlier_column: OutlierColumn = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The main job: train, find outliers, estimate angle and defocus, write particle files and the report."""
    estimation = given(method=method, defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, estimation, invert, select, subset)
    _run_until("report", particles, out, choices, quiet, truth, outlier_column)


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="Folder of a finished run, such as a preview.", show_default=False)],
    out: Out,
    particles: Annotated[
        Path | None,
        typer.Argument(help="More particles of the same view. Default: all of the run's own file.", show_default=False),
    ] = None,
    stack_root: StackRoot = None,
    truth: TruthFile = None,
    outlier_column: OutlierColumn = None,
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run on more particles with the average and the network of an earlier run: nothing is learnt again."""
    from cryorbit.io import read_particles
    from cryorbit.pipeline import apply as apply_model

    if seed is not None:
        raise ConfigurationError(f"--seed {seed}: what is applied is what {model} has learnt, with its own seed.")
    table = read_particles(particles, stack_root) if particles is not None else None
    with _observer(quiet) as observer:
        _tell(
            apply_model(
                model, out, table, overwrite=overwrite, truth=truth, outlier_column=outlier_column, observer=observer
            )
        )


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
    seed: RunSeed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Estimate angle, shift and defocus and write the particle files; the orbit method needs no trained network."""
    estimation = given(method=method, defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(preset, config, settings, seed, stack_root, overwrite, estimation, invert, select, subset)
    _run_until("estimate", source, out, choices, quiet, latent=False)


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
    import pandas as pd

    path = folder / LIMITS_FILE
    if not path.is_file():
        return "There are too few particles to know what they allow."
    table = pd.read_csv(path)
    rows = table[(table["defocus_um"] / 0.5 % 1).round(6) % 1 == 0]
    lines = [f"{'defocus':>10s}{'angle':>12s}{'shift':>10s}{'defocus':>13s}{'nats':>8s}"]
    for row in rows.itertuples():
        angle, shift = f"{row.psi_limit_deg:8.3f} deg", f"{row.origin_limit_A:8.2f} A"
        lines.append(f"{row.defocus_um:7.1f} um{angle}{shift}{row.defocus_limit_um:10.4f} um{row.expected_nats:8.0f}")
    return "\n".join([*lines, f"All of it: {path}"])


@app.command()
def evaluate(
    result: Annotated[Path, typer.Argument(help="particles.star of a run.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="truth.star of the same particles.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    outlier_column: OutlierColumn = None,
    symmetry: Annotated[
        int | None, typer.Option(min=1, help="n where the view has C_n symmetry. Default: what the run found.")
    ] = None,
    seed: Seed = 12345,
    debug: Debug = False,
) -> None:
    """Compare a result with the truth: equation 8 of the paper and company."""
    from cryorbit.estimation.truth import detector_aucs, evaluate_tables, read_truth
    from cryorbit.io import read_particles
    from cryorbit.io.runs import isotropy_order_beside

    table = read_particles(result, check_images=False)
    order = symmetry or isotropy_order_beside(result)
    known = read_truth(truth, table, outlier_column)
    metrics = evaluate_tables(table, known, order).as_dict() | detector_aucs(result.parent, known)
    typer.echo(json.dumps(metrics, indent=2) if as_json else _evaluation_text(metrics))


def _evaluation_text(metrics: dict[str, Any]) -> str:
    rows = [f"{name:28s}{'-' if value is None else f'{value:,.4g}'}" for name, value in metrics.items()]
    return "\n".join(rows)


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
    with _observer(quiet) as observer:
        result = search(
            table, out, base, trials=trials, workers=workers, ray_address=ray_address, overwrite=overwrite,
            observer=observer,
        )  # fmt: skip
    typer.echo(f"{result.sentence}\nBest:      {result.best}\nTrials:    {out / 'trials.csv'}")


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, or to go on with.", show_default=False)],
    dataset: Annotated[
        str | None,
        typer.Option(help="simulated or experimental-like. Default: both.", show_default=False),
    ] = None,
    map_file: Annotated[Path | None, typer.Option("--map", help="MRC map to project.", show_default=False)] = None,
    structure: Annotated[
        Path | None, typer.Option("--structure", help="mmCIF or PDB file to project.", show_default=False)
    ] = None,
    view: Annotated[str, typer.Option(help="Viewing direction ROT,TILT of the simulated set.")] = "40,65",
    defocus_table: Annotated[
        Path | None,
        typer.Option(help="Measured defoci: STAR or CSV with defocusU and defocusV.", show_default=False),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=20, help="Most images of a set. Default: the paper's.", show_default=False)
    ] = None,
    preset: Preset = None,
    settings: Settings = None,
    seed: Seed = 12345,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The paper's Table 1 and Figures 3 to 8, from simulated sets, beside what the paper has."""
    from cryorbit.config import merge
    from cryorbit.reproduction import Request
    from cryorbit.reproduction import reproduce as run_reproduction
    from cryorbit.simulation import parse_view

    changes: dict[str, Any] = {}
    for single in map(setting, settings or []):
        changes = merge(changes, single)
    request = Request(
        dataset, map_file, structure, parse_view(view), defocus_table, images, preset or "fast", seed, changes
    )
    with _observer(quiet) as observer:
        result = run_reproduction(out, request, overwrite=overwrite, observer=observer)
    typer.echo(f"{result.table.read_text(encoding='utf-8')}\nPage:      {result.page}")


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
    from cryorbit.pipeline import rerun

    with _observer(quiet) as observer:
        _tell(rerun(folder, "report", truth=truth, outlier_column=outlier_column, observer=observer))


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .star or .cs.", show_default=False)],
    part: Annotated[
        str | None,
        typer.Option(help="kept, dropped or all. Default: kept, or all where another condition is given."),
    ] = None,
    max_probability: Annotated[
        float | None, typer.Option(help="Most probability to be an outlier (0 to 1).", show_default=False)
    ] = None,
    max_zscore: Annotated[float | None, typer.Option(help="Most rlnParticleSelectZScore.", show_default=False)] = None,
    selection: Annotated[
        Path | None,
        typer.Option(help="Particle file, or text file with an image name on each line.", show_default=False),
    ] = None,
    complement: Annotated[bool, typer.Option("--complement", help="All other particles instead.")] = False,
    seed: Seed = 12345,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Move another file of that name aside first.")] = False,
    debug: Debug = False,
) -> None:
    """Write some particles of a run as a file of their own, for RELION or cryoSPARC to go on with."""
    from cryorbit.selection import Choice
    from cryorbit.selection import export as export_particles

    choice = Choice(part, max_probability, max_zscore, selection, complement)
    done = export_particles(folder, out, choice, overwrite=overwrite)
    typer.echo(f"Particles: {done.path} ({done.written:,} of {done.total:,})")


@app.command("relion-job")
def relion_job(
    particles: Annotated[Path, typer.Option("--in_parts", help="STAR file with particles.", show_default=False)],
    out: Annotated[Path, typer.Option("--o", help="Folder of the job.", show_default=False)],
    threads: Annotated[int, typer.Option("--j", min=1, help="Threads.")] = 1,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    method: Method = None,
    defocus_prior: Annotated[str | None, typer.Option("--defocus_prior", help="given, micrograph or blind.")] = None,
    defocus_range: Annotated[str | None, typer.Option("--defocus_range", help="Micrometres (0.3:4.0).")] = None,
    network: Annotated[
        str, typer.Option("--network", help="yes: train one too; no: only align, which takes seconds.")
    ] = "yes",
    seed: RunSeed = None,
    debug: Debug = False,
) -> None:
    """The main job as an "External" job of RELION, which gives the options by itself: see the README."""
    from cryorbit.relion_job import run_as_job

    if network.lower() not in ("yes", "no"):
        raise ConfigurationError(f"--network is {network!r}; expected yes or no.")
    estimation = given(method=method, defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(preset, config, settings, seed, None, False, estimation)
    kept = run_as_job(particles, out, choices.config(), threads, latent=network.lower() == "yes")
    typer.echo(f"Kept particles: {kept}")


def _version(show: bool) -> None:
    if show:
        from cryorbit import __version__

        typer.echo(f"cryorbit {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's mistake gets its sentence and exit code 2."""
    try:
        _main()
    except SystemExit as end:
        if end.code and sys.argv[1:2] == ["relion-job"]:
            from cryorbit.relion_markers import mark_failed

            mark_failed(sys.argv)
        raise


def _main() -> None:
    debug = "--debug" in sys.argv[1:]
    # Threads of one small step wait for the slowest of them: on a shared machine with a core too few, training slows
    # tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    # A batch queue's polite request to stop is an interrupt like the user's own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False) or 0
    except CryorbitError as error:
        if debug:
            raise
        typer.echo(f"cryorbit: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"cryorbit: {where}{error.strerror or error}; check the path and your rights there.", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except click_exceptions.ClickException as error:
        typer.echo(f"cryorbit: {error.format_message()} Try --help.", err=True)
        sys.exit(2)
    # Some versions of typer turn an interrupt into this exit code themselves.
    if code == INTERRUPTED:
        typer.echo("cryorbit: interrupted; the same command goes on from the last finished stage or epoch.", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
