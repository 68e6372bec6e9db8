"""The page of a run that has no estimates yet: how far it is, or what stopped it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from cryorbit.io.runs import UNFINISHED, has_report, report_path, write_text
from cryorbit.report.alignment_figures import class_average
from cryorbit.report.drawing import Plot, save
from cryorbit.report.markup import embedded_figure, fill, table
from cryorbit.report.provenance import provenance, warnings_section
from cryorbit.report.record import RunRecord, unfinished_run
from cryorbit.report.training_figures import losses
from cryorbit.report.wording import particles

TEMPLATE = "unfinished.html"
AGAIN = "Nothing that was done is lost: the same command, given again, goes on from here."
MENDED = "Nothing that was done is lost: once that is mended, the same command goes on from here."
NOTICE_BEGINS, NOTICE_ENDS = "<!-- notice -->", "<!-- end of the notice -->"
# What can be drawn of a run without estimates.
FIGURES = (class_average, losses)
INTERRUPTED = "It was interrupted."


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    stages
        Name and title of all its stages, in their order.
    at
        Name of the one that is at work, or that stopped; None where the run did all that it was asked for.
    stopped
        Why it stopped, in the words that the user saw; None where it did not.
    """

    stages: Sequence[tuple[str, str]]
    at: str | None = None
    stopped: str | None = None


def write_unfinished(folder: Path, manifest: Mapping[str, Any], progress: Progress) -> None:
    """Write the page of a run that is not finished; on a whole one that is there already, say that it is of before.

    Parameters
    ----------
    folder
        Run folder.
    manifest
        What ``run.json`` will say.
    progress
        How far the run is.

    Raises
    ------
    RunFolderError
        If it cannot be written.
    """
    run = unfinished_run(folder, manifest)
    what, said, then = _in_words(run, progress)
    if has_report(folder):
        parts = [what + ".", said, progress.stopped or "", then]
        _put_notice(folder, f"What follows is of before. {' '.join(filter(None, parts))}")
        return
    # Drawing takes a second, which a run at work has better use for.
    figures = "" if progress.at is not None and progress.stopped is None else "\n".join(_figures(run))
    page = fill(
        TEMPLATE,
        mark=UNFINISHED,
        title=escape(f"{folder.resolve().name}: cryorbit report"),
        heading=escape(folder.resolve().name),
        what=what,
        said=escape(said),
        error="" if progress.stopped is None else f'<p class="warning">{escape(progress.stopped)}</p>',
        next=escape(then),
        stages=table("Stages", ["Stage", "State"], _rows(run, progress)),
        warnings=warnings_section(run),
        figures=figures,
        provenance=provenance(run),
    )
    write_text(report_path(folder), page)


def _in_words(run: RunRecord, progress: Progress) -> tuple[str, str, str]:
    """Heading, what happened, and what to do."""
    count = run.number("input", "particles")
    of = f" on {particles(int(count))} of {run.fact('input', 'path')}" if count is not None else ""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    titles = dict(progress.stages)
    if progress.at is None:
        return "A part of a run", f"This run{of} did the stages that it was asked for.", _on_with(run)
    stage = f"in the stage {titles[progress.at]!r}".replace("'", '"')
    if progress.stopped is not None:
        interrupted = progress.stopped == INTERRUPTED
        return "This run stopped", f"This run{of} stopped {stage} at {now}:", AGAIN if interrupted else MENDED
    said = f"This run{of} was at work {stage} when this page was written, at {now}."
    return "This run is at work", said, f"A later stage writes the page anew. If nothing is at work any more: {AGAIN}"


def _on_with(run: RunRecord) -> str:
    rest = "report" if run.fact("stages", "estimate", "finished") else "estimate"
    what = "For the figures and the map of all particles" if rest == "report" else "For the rest"
    return f"{what}: cryorbit {rest} {shlex.quote(str(run.folder.resolve()))}"


def _put_notice(folder: Path, text: str) -> None:
    page = report_path(folder).read_text(encoding="utf-8")
    notice = f'{NOTICE_BEGINS}<p class="warning">{escape(text)}</p>{NOTICE_ENDS}'
    write_text(report_path(folder), _without_notice(page).replace("<main>", f"<main>{notice}", 1))


def _without_notice(page: str) -> str:
    before, begins, rest = page.partition(NOTICE_BEGINS)
    _, ends, after = rest.partition(NOTICE_ENDS)
    return before + after if begins and ends else page


def remove_notice(folder: Path) -> None:
    """Take from the page of a run what says that it is of before: nothing was changed after all.

    Raises
    ------
    RunFolderError
        If it cannot be written.
    """
    if has_report(folder):
        page = report_path(folder).read_text(encoding="utf-8")
        if NOTICE_BEGINS in page:
            write_text(report_path(folder), _without_notice(page))


def _rows(run: RunRecord, progress: Progress) -> list[list[str]]:
    rows = []
    for name, title in progress.stages:
        facts = run.fact("stages", name)
        if isinstance(facts, Mapping) and facts.get("finished"):
            state = f"done in {float(facts.get('seconds', 0.0)):.1f} s"
        elif name == progress.at:
            state = "at work" if progress.stopped is None else "stopped"
        else:
            state = "to come"
        rows.append([title, state])
    return rows


def _figures(run: RunRecord) -> list[str]:
    drawn = []
    for draw in FIGURES:
        made = draw(run, None)
        if isinstance(made, Plot):
            folder = run.folder / "figures"
            folder.mkdir(exist_ok=True)
            drawn.append(embedded_figure(made, save(made.figure, folder, made.name), f"figures/{made.name}.pdf"))
    return drawn
