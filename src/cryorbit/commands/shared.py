"""What all commands share: the program itself, progress, and how results are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cryorbit.pipeline import RunResult
    from cryorbit.progress import Observer

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
def observing(quiet: bool) -> Iterator[Observer]:
    """Progress as bars on a terminal and as lines elsewhere, or none."""
    from cryorbit.progress import Bars, Lines, Silent

    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


def tell(result: RunResult) -> None:
    """Say where a run's results lie."""
    if result.report is not None:
        typer.echo(f"Report:    {result.report}")
    if result.particles is not None and result.estimates is not None:
        kept = int(result.estimates["kept"].sum())
        typer.echo(f"Particles: {result.particles.name} ({kept:,} of {len(result.particles):,} kept)")
    else:
        typer.echo(f"Run:       {result.folder}")


def evaluation_text(metrics: dict[str, Any]) -> str:
    """Metrics as lines."""
    rows = [f"{name:28s}{'-' if value is None else f'{value:,.4g}'}" for name, value in metrics.items()]
    return "\n".join(rows)
