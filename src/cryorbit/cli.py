"""The command line: one way in, whatever goes wrong ends in a sentence."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from cryorbit.commands import files, runs, simulated, views
from cryorbit.commands.shared import app
from cryorbit.errors import CryorbitError
from cryorbit.machine import STARTED_BY_TORCHRUN, share_cores

# Typer carries its own copy of click from 0.26 on, and used the package before.
click_exceptions = sys.modules[typer.BadParameter.__mro__[1].__module__]

INTERRUPTED = 130
# In which --help lists them: the order of use.
ORDER = (
    simulated.demo, simulated.simulate, files.inspect, runs.run, views.classify, runs.apply, runs.train, runs.embed,
    runs.outliers, runs.estimate, runs.limits, files.evaluate, runs.search, simulated.reproduce, runs.report,
    files.review, files.export, files.relion_job,
)  # fmt: skip
app.registered_commands.sort(key=lambda command: ORDER.index(command.callback))


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


def _as_the_only_one() -> int:
    return app(standalone_mode=False) or 0


def _as_one_of_many() -> int:
    """The first of the processes that ``torchrun`` starts does everything; the others help it to train."""
    from cryorbit.training.team import Team
    from cryorbit.training.together import dismiss, follow

    Team.check()
    if not Team.of_environment().leads:
        follow()
        return 0
    code = _as_the_only_one()
    if code == 0:  # otherwise torchrun ends them
        dismiss()
    return code


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
    # A batch queue's polite request to stop is an interrupt like the user's own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        share_cores()
        code = _as_one_of_many() if STARTED_BY_TORCHRUN in os.environ else _as_the_only_one()
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
