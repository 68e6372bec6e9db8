"""Commands that read and write particle files: inspect, evaluate, export; and RELION's job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cryorbit.commands.choices import Choices, given, range_um
from cryorbit.commands.options import (
    ConfigFile,
    Debug,
    Folder,
    Method,
    OutlierColumn,
    Particles,
    Preset,
    RunSeed,
    Seed,
    Select,
    Settings,
    StackRoot,
    Subset,
)
from cryorbit.commands.shared import app, evaluation_text
from cryorbit.errors import ConfigurationError


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
    from cryorbit.estimation.truth import detector_aucs, evaluate_tables, outlier_remark, read_truth
    from cryorbit.io import read_particles
    from cryorbit.io.runs import CLASSIFICATION, VIEWS, isotropy_order_beside, manifest_of

    table = read_particles(result, check_images=False)
    order = symmetry or isotropy_order_beside(result)
    known = read_truth(truth, table, outlier_column)
    if remark := outlier_remark(known, outlier_column):
        typer.echo(f"Note: {remark}", err=True)
    if (manifest_of(result.parent) or {}).get("kind") in (CLASSIFICATION, VIEWS):
        typer.echo(
            f"Note: {result}: has several classes, each with an offset of its angles of its own, of which equation 8 "
            "allows one: the figures of angles mean nothing here. Evaluate the run of one class.",
            err=True,
        )
    metrics = evaluate_tables(table, known, order).as_dict() | detector_aucs(result.parent, known)
    typer.echo(json.dumps(metrics, indent=2) if as_json else evaluation_text(metrics))


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
        typer.Option(
            help="What the page saved (.json), a particle file, or a text file with an image name on each line.",
            show_default=False,
        ),
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


@app.command()
def review(
    folder: Folder,
    into: Annotated[
        Path | None, typer.Option(help="Folder that exports are written to. Default: the working folder.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; any free one for 0.")] = 0,
    seed: Seed = 12345,
    debug: Debug = False,
) -> None:
    """Show the page of a run, served to this machine only: selections are exported, every particle can be seen."""
    from contextlib import suppress

    from cryorbit.review import Review, serve

    served = serve(Review(folder, into or Path.cwd()), port)
    typer.echo(f"Open {served.address} in a browser of this machine; Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        served.server.serve_forever()


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
    select: Select = None,
    subset: Subset = None,
    seed: RunSeed = None,
    debug: Debug = False,
) -> None:
    """The main job as an "External" job of RELION, which gives the options by itself: see the README."""
    from cryorbit.relion_job import run_as_job

    if network.lower() not in ("yes", "no"):
        raise ConfigurationError(f"--network is {network!r}; expected yes or no.")
    estimation = given(method=method, defocus_prior=defocus_prior, defocus_range_um=range_um(defocus_range))
    choices = Choices(preset, config, settings, seed, None, False, estimation, select=select, subset=subset)
    latent = network.lower() == "yes"
    kept = run_as_job(particles, out, choices.config(), threads, latent=latent, rows=choices.rows())
    typer.echo(f"Kept particles: {kept}")
