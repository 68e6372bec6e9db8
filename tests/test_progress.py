"""Lines for a log file say how far, how fast and how long; bars go to a terminal."""

from __future__ import annotations

import io

import pytest

from cryorbit import progress
from cryorbit.progress import Bars, Lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_say_rate_and_time_left_and_not_too_often(clock):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.stage("Aligning")
    for second in range(1, 41):
        clock[0] = 100.0 + second
        lines.advance(50 * second, 2000)
    said = stream.getvalue().splitlines()
    assert said[0] == "Aligning ..."
    assert said[1] == "Aligning: 500 of 2,000 in 0:10, 0:30 left, 50/s"
    assert len(said) == 5
    assert said[-1] == "Aligning: 2,000 of 2,000 in 0:40, 50/s"


def test_a_note_with_its_own_rate_stays_as_it_is(clock):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.stage("Training")
    clock[0] += 60
    lines.advance(600, 600, "loss 3.0, 512 images/s")
    assert stream.getvalue().endswith("in 1:00, loss 3.0, 512 images/s\n")


def test_bars_show_text_as_it_is(capsys):
    with Bars() as bars:
        bars.stage("Reading particles")
        bars.advance(3, 10, "[red]no markup[/red] of files")
        bars.say("a [bold]name[/bold]")
    assert "a [bold]name[/bold]" in capsys.readouterr().err
