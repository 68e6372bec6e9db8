"""Commands for particles of many views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryorbit.commands.choices import Choices, given
from cryorbit.commands.options import (
    ConfigFile,
    Debug,
    Invert,
    Overwrite,
    Particles,
    Quiet,
    RunSeed,
    Select,
    Settings,
    StackRoot,
    Subset,
)
from cryorbit.commands.shared import app, observing
from cryorbit.errors import ConfigurationError

if TYPE_CHECKING:
    from cryorbit.first_look import Look
    from cryorbit.machine import Workers
    from cryorbit.particles import ParticleTable

# What --views says of particles of a single view.
ONE_VIEW = "1"
MOST_VIEWS = 1000


@app.command()
def classify(
    particles: Particles,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, or to go on with.", show_default=False)],
    views: Annotated[
        str | None,
        typer.Option(
            help="Classes to begin with; copies of a view are merged. Default (or 'auto'): as many as it takes.",
            show_default=False,
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="separate (default) or tied: whether a view and its reflection are two classes or one.",
            show_default=False,
        ),
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(help="Of the particle in Angstrom. Default: three quarters of the box.", show_default=False),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    defocus_prior: Annotated[
        str | None, typer.Option(help="given (trust the file; the default) or micrograph (refine it).")
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
    """2D classification of raw picks without a reference: class averages, junk, every particle's class and pose."""
    from cryorbit.classified import classify as classify_particles

    number = {} if views is None else {"views": number_of_views(views)}
    told = {"classification": number | given(mirror=mirror), "preprocessing": given(particle_diameter_A=diameter)}
    choices = Choices(
        None, config, settings, seed, stack_root, overwrite, given(defocus_prior=defocus_prior), invert, select,
        subset, told,
    )  # fmt: skip
    chosen, rows = choices.config(), choices.rows()
    with observing(quiet) as observer:
        result = classify_particles(
            rows.read(particles, stack_root), out, chosen, rows=rows, overwrite=overwrite, observer=observer
        )
    kept = int(result.estimates["kept"].sum())
    good = int(result.classes["kept"].sum())
    typer.echo(
        f"Report:    {result.report}\n"
        f"Classes:   {out / 'classes.mrcs'} ({good} of particles, {len(result.classes) - good} of junk)\n"
        f"Particles: {result.particles.name} ({kept:,} of {len(result.particles):,} kept)"
    )


def number_of_views(text: str) -> int | None:
    """What --views says: a number of classes to begin with, or None for as many as it takes.

    Raises
    ------
    ConfigurationError
        If it is no number of classes, nor ``auto``.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_VIEWS:
        raise ConfigurationError(f"--views is {text!r}; expected a number of classes, 1 to {MOST_VIEWS}, or auto.")
    return int(text)


WHAT_FOLLOWS = {
    True: "All are classified first, then each view is run by itself (--views 1 takes them for one, --views with a "
    "number begins with so many classes).",
    False: "They are run as one view (--views auto classifies first).",
}


def looked_at(table: ParticleTable, out: Path, choices: Choices, quiet: bool, compared: bool) -> Look | None:
    """What a look at particles of which nobody has said of how many views they are finds; None where none is needed.

    A folder that is there already is gone on with as it was begun, or refused.
    """
    from cryorbit.first_look import look
    from cryorbit.io.runs import contents

    if not choices.overwrite and contents(out):
        return None
    with observing(quiet) as observer:
        found = look(table, choices.config(), choices.rows(), observer, compared)
        observer.say(f"{found.said} {WHAT_FOLLOWS[found.several]}" if found.survey else found.said)
    return found


def begun_of_views(out: Path, choices: Choices) -> bool:
    """Whether a folder that is to be gone on with is one of several views."""
    from cryorbit.io.runs import VIEWS, manifest_of

    return not choices.overwrite and (manifest_of(out) or {}).get("kind") == VIEWS


def run_each_view(
    table: ParticleTable, out: Path, choices: Choices, quiet: bool, workers: Workers | None, look: Look | None
) -> None:
    """Classes first, then each view by itself."""
    from cryorbit.many_views import run_views

    with observing(quiet) as observer:
        result = run_views(
            table, out, choices.config(), rows=choices.rows(), overwrite=choices.overwrite, observer=observer,
            workers=workers, look=look,
        )  # fmt: skip
    typer.echo(
        f"Report:    {result.report}\n"
        f"Views:     {len(result.views)} (classes in {result.classes.folder})\n"
        f"Particles: {out / Path(result.classes.particles.name).name} "
        f"({int(result.kept.sum()):,} of {len(result.kept):,} kept)"
    )
