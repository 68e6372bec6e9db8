"""Progress: a bar on a terminal, plain lines in a log or a batch queue, nothing when asked to be quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

SECONDS_BETWEEN_LINES = 10.0


class Observer(Protocol):
    """Whoever wants to know how a run gets on."""

    def stage(self, title: str) -> None:
        """A new stage has begun."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So much of the stage is done."""

    def say(self, text: str) -> None:
        """Something that the user should read."""


class Silent:
    """Tells nobody."""

    def stage(self, title: str) -> None:
        """Ignore."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _with_rate(done: int, elapsed: float, note: str) -> str:
    """A note with the particles of a second before it, where it has no rate of its own and that is worth saying."""
    rate = done / elapsed if elapsed > 0 else 0.0
    return note if "/s" in note or rate < 2 else ", ".join(filter(None, (f"{rate:,.0f}/s", note)))


class Lines:
    """Plain lines, at most one every ten seconds within a stage."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._title = ""
        self._began = self._last = time.monotonic()

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def stage(self, title: str) -> None:
        """Print the title."""
        self._title, self._began = title, time.monotonic()
        self._last = self._began
        self._print(f"{title} ...")

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Print how far the stage is, its rate and the time left, now and then and at its end."""
        now = time.monotonic()
        if done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        elapsed = now - self._began
        rate = done / elapsed if elapsed > 0 else 0.0
        left = f", {_duration((total - done) / rate)} left" if done < total and rate > 0 else ""
        note = _with_rate(done, elapsed, note)
        self._print(f"{self._title}: {done:,} of {total:,} in {_duration(elapsed)}{left}{', ' + note if note else ''}")

    def say(self, text: str) -> None:
        """Print the text."""
        self._print(text)


class Bars:
    """Rich progress bars with rate and time left; a context manager, since the terminal must be given back."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task: int | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, title: str) -> None:
        """Start a new bar below the finished ones."""
        self._task = self._progress.add_task(title, total=None, note="")
        self._began = time.monotonic()

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            note = _with_rate(done, time.monotonic() - self._began, note)
            self._progress.update(self._task, completed=done, total=total, note=note)  # type: ignore[arg-type]

    def say(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)
