"""Commands for particles of many views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from cryorbit.errors import ConfigurationError, CryorbitError

if TYPE_CHECKING:
    from cryorbit.machine import Workers
    from cryorbit.particles import ParticleTable

# What --views says of particles of a single view.
ONE_VIEW = "1"


@app.command()
def classify(
    particles: Particles,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, or to go on with.", show_default=False)],
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Classes to begin with; copies of a view are merged. Default: as many as it takes.",
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

    told = {"classification": given(views=views, mirror=mirror), "preprocessing": given(particle_diameter_A=diameter)}
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


def views_setting(text: str) -> dict[str, Any]:
    """What --views of a run says, as settings.

    Raises
    ------
    ConfigurationError
        If it is no number of classes, nor ``auto``.
    """
    if text == "auto":
        return {}
    if text == ONE_VIEW:
        return {}
    if not text.isdecimal() or not int(text):
        raise ConfigurationError(
            f"--views is {text!r}; expected a number of classes, 1 for particles of one view, or auto."
        )
    return {"classification": {"views": int(text)}}


def seen_from_several_sides(table: ParticleTable, out: Path, choices: Choices, quiet: bool) -> bool:
    """Whether particles of which nobody has said so are of several views, by a look at them.

    A folder that is there already is gone on with as it was begun.
    """
    from cryorbit.io.runs import VIEWS, manifest_of
    from cryorbit.many_views import survey, why_not_surveyed

    begun = manifest_of(out)
    if not choices.overwrite and (begun is not None or (out.is_dir() and any(out.iterdir()))):
        return (begun or {}).get("kind") == VIEWS
    config = choices.config()
    with observing(quiet) as observer:
        try:
            why_not = why_not_surveyed(table, config, choices.rows())
            if why_not:
                observer.say(f"Taken for particles of one view without a look, {why_not}.")
                return False
            observer.stage("Looking whether these are particles of one view")
            found = survey(table, config, observer)
        except CryorbitError as error:
            observer.say(f"Taken for particles of one view, for the look at them failed: {error}")
            return False
        share = f"{100 * found.elsewhere:.0f} % of {found.images:,} particles"
        if found.several:
            observer.say(
                f"Several views: of those looked at, {share} are of another than the most common one. All are "
                "classified first, then each view is run by itself (--views 1 takes them for one, --views with a "
                "number begins with so many classes)."
            )
        else:
            observer.say(
                f"One view: of those looked at, no more than {share} differ from the most common one (--views auto "
                "classifies them all the same)."
            )
    return found.several


def run_each_view(table: ParticleTable, out: Path, choices: Choices, quiet: bool, workers: Workers | None) -> None:
    """Classes first, then each view by itself."""
    from cryorbit.many_views import run_views

    with observing(quiet) as observer:
        result = run_views(
            table, out, choices.config(), rows=choices.rows(), overwrite=choices.overwrite, observer=observer,
            workers=workers,
        )  # fmt: skip
    typer.echo(
        f"Report:    {result.report}\n"
        f"Views:     {len(result.views)} (classes in {result.classes.folder})\n"
        f"Particles: {out / Path(result.classes.particles.name).name} "
        f"({int(result.kept.sum()):,} of {len(result.kept):,} kept)"
    )
