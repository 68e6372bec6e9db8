"""A run that has no estimates yet has a page all the same: how far it is, or what stopped it."""

from __future__ import annotations

import pytest

import cryorbit as co
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.runs import has_report
from cryorbit.review import Review
from cryorbit.selection import export
from cryorbit.stages import Job

from ..pipeline_sets import tiny_config, tiny_set


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "s")


def page_of(folder) -> str:
    return (folder / "report.html").read_text()


def test_it_says_at_which_stage_the_run_is_and_what_stopped_it(star, tmp_path, monkeypatch):
    at_work = []

    def fail(self):
        at_work.append(page_of(self.folder.path))
        raise ParticleDataError("stack <3>: is gone; put it back.")

    with monkeypatch.context() as patched:
        patched.setattr(Job, "outliers", fail)
        with pytest.raises(ParticleDataError):
            co.run(star, tmp_path / "run", tiny_config(), latent=False)
    assert "at work in the stage &quot;Finding outliers&quot;" in at_work[0]
    page = page_of(tmp_path / "run")
    for said in (
        "This run stopped",
        "60 particles",
        "stack &lt;3&gt;: is gone",
        "the same command",
        "done in",
        "to come",
    ):
        assert said in page
    assert "<img" in page  # the average is there already
    assert not has_report(tmp_path / "run")
    with pytest.raises(RunFolderError, match="has no report of a finished run"):
        Review(tmp_path / "run", tmp_path)
    # The same command goes on, and the whole page takes its place; that one no failure replaces.
    done = co.run(star, tmp_path / "run", tiny_config(), latent=False)
    assert done.report is not None
    whole = page_of(tmp_path / "run")
    assert "This run stopped" not in whole
    with monkeypatch.context() as patched:
        patched.setattr(Job, "outliers", fail)
        with pytest.raises(ParticleDataError):
            co.rerun(tmp_path / "run", "outliers")
    assert page_of(tmp_path / "run") == whole  # refused before anything was changed

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Job, "outliers", interrupt)
        with pytest.raises(KeyboardInterrupt):
            co.rerun(tmp_path / "run", "outliers")
    page = page_of(tmp_path / "run")
    assert "What follows is of before. This run stopped." in page
    assert "It was interrupted." in page
    with pytest.raises(RunFolderError, match="estimates are being made again"):
        export(tmp_path / "run", tmp_path / "out.star")
    co.rerun(tmp_path / "run", "report")
    assert "What follows is of before" not in page_of(tmp_path / "run")


def test_after_the_estimates_it_tells_how_to_draw_the_page(star, tmp_path):
    co.run(star, tmp_path / "a run", tiny_config(), until="estimate", latent=False)
    assert f"cryorbit report &#x27;{tmp_path / 'a run'}&#x27;" in page_of(tmp_path / "a run")


def test_a_part_of_a_run_says_so(star, tmp_path):
    done = co.run(star, tmp_path / "run", tiny_config(), until="train")
    assert done.report is None
    page = page_of(tmp_path / "run")
    assert "did the stages that it was asked for" in page
    assert f"cryorbit estimate {tmp_path / 'run'}" in page
    assert "Loss curves" in page


def test_a_page_that_cannot_be_written_does_not_stop_the_run(star, tmp_path, monkeypatch):
    from cryorbit.report import unfinished

    def full(path, text):
        raise RunFolderError("the disk is full")

    monkeypatch.setattr(unfinished, "write_text", full)
    assert co.run(star, tmp_path / "run", tiny_config(), latent=False).report is not None
