"""Commands that make particles with known truth: demo, simulate, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cryorbit.commands.choices import given, setting
from cryorbit.commands.options import (
    Debug,
    Overwrite,
    Preset,
    Quiet,
    Seed,
    Settings,
)
from cryorbit.commands.shared import app, evaluation_text, observing, tell


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

    with observing(quiet) as observer:
        result, evaluation = run_demo(out, images, seed, overwrite, observer)
    typer.echo(evaluation_text(evaluation.as_dict()))
    tell(result)


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
    views: Annotated[
        int | None,
        typer.Option(
            min=1, help="Directions to see it from, evenly over the sphere. Default: only --view.", show_default=False
        ),
    ] = None,
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

    changes = given(
        seed=seed, images=images, snr=snr, defocus_um=defocus, shift_px=shift, outliers=outliers,
        dose_per_nm2=dose, ice_nm=ice, views=views, view_spread_deg=None if views is None else 180.0,
    )  # fmt: skip
    for single in map(setting, settings or []):
        changes = merge(changes, single)
    config = simulation.make_simulation_config(preset, changes)
    with observing(quiet) as observer:
        observer.stage("Simulating")
        projection = simulation.choose_projections(map_file, structure, phantom, simulation.parse_view(view), config)
        simulation.simulate(out, projection, config, progress=observer.advance, keep_micrographs=keep_micrographs)
    typer.echo(f"Particles: {out / 'particles.star'} ({config.images:,}, truth in {out / 'truth.star'})")


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
    with observing(quiet) as observer:
        result = run_reproduction(out, request, overwrite=overwrite, observer=observer)
    typer.echo(f"{result.table.read_text(encoding='utf-8')}\nPage:      {result.page}")
