"""Law: a run that grew with its file is what an apply to the whole file would have made, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryorbit import append, apply, read_particles, run, write_particles
from cryorbit.appending import folder_within
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.estimation.lesson import TOLD, read_seen
from cryorbit.first_look import Look
from cryorbit.io.mrc import ImageStack
from cryorbit.io.runs import APPENDING, MANIFEST
from cryorbit.latent.embed import load_embedding
from cryorbit.pipeline import rerun

from .cli.test_cli import call
from .pipeline_sets import tiny_config, tiny_set

N, EARLY, LATER = 160, 100, 130
FOUND = Look(None, "they are fewer than 500")


def rows_of(star: Path, rows, name: str) -> Path:
    """A file of some rows of another one, beside it."""
    path = star.with_name(name)
    write_particles(path, read_particles(star).take(np.asarray(rows)))
    return path


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("append") / "set", images=N, seed=7)


@pytest.fixture(scope="module")
def early(star):
    """A finished run on what the microscope had given at first."""
    return run(rows_of(star, range(EARLY), "early.star"), star.parent.parent / "early", tiny_config())


@pytest.fixture(scope="module")
def early_aligned(early, star):
    """The same without a network, which is made in a second."""
    return run(star.with_name("early.star"), star.parent.parent / "aligned", tiny_config(), latent=False, look=FOUND)


@pytest.fixture
def live(early, tmp_path):
    """A copy of it that may grow."""
    return Path(shutil.copytree(early.folder, tmp_path / "live"))


@pytest.fixture
def live_aligned(early_aligned, tmp_path):
    return Path(shutil.copytree(early_aligned.folder, tmp_path / "live"))


@pytest.fixture(scope="module")
def at_once(early, star):
    return apply(early.folder, star.parent.parent / "at_once", star)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run, apart from what is being made within it."""
    files = (path for path in folder.rglob("*") if path.is_file() and APPENDING not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def reads(monkeypatch) -> list[int]:
    """Counts the images that are read from stacks from now on."""
    counted: list[int] = []
    whole = ImageStack.read

    def counting(self, rows):
        counted.append(len(np.atleast_1d(rows)))
        return whole(self, rows)

    monkeypatch.setattr(ImageStack, "read", counting)
    return counted


def test_a_run_that_grew_is_what_an_apply_makes(live, early, at_once, star):
    (live / "notes.txt").write_text("mine")
    (live / "checkpoint" / "mine.txt").write_text("mine")
    grown = append(live, star)
    assert grown.folder == live
    assert len(grown.particles) == N
    for name in ("psi_deg", "defocus_um", "latent_psi_deg", "outlier_score", "outlier_probability"):
        one, other = (result.estimates[name].to_numpy() for result in (grown, at_once))
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(
        grown.estimates["orbit_psi_deg"].to_numpy()[:EARLY], early.estimates["orbit_psi_deg"].to_numpy()
    )
    before, then, applied = (read_seen(r.folder / "checkpoint" / TOLD) for r in (early, grown, at_once))
    assert 0 < before.sum() < EARLY
    np.testing.assert_array_equal(then, np.concatenate([before, np.zeros(N - EARLY, dtype=bool)]))
    np.testing.assert_array_equal(then, applied)
    assert (live / "notes.txt").read_text() == (live / "checkpoint" / "mine.txt").read_text() == "mine"
    assert (live / "checkpoint" / "last.pt").is_file()
    assert f"<title>{live.name}: " in grown.report.read_text()
    assert grown.report.is_file()
    assert not folder_within(live).exists()
    assert len(rerun(live, "estimate").particles) == N


def test_what_is_known_is_neither_read_nor_embedded_again(early, at_once, star, tmp_path, monkeypatch):
    counted = reads(monkeypatch)
    apply(early.folder, tmp_path / "then", star, until="prepare")
    assert sum(counted) == N + (N - EARLY)  # a sample of all, for their scale, and then the new ones
    found = apply(early.folder, tmp_path / "then", star, until="embed")
    new, before = (load_embedding(folder / "cache") for folder in (found.folder, early.folder))
    np.testing.assert_array_equal(new.orbit[:EARLY], before.orbit[:])
    assert np.abs(new.orbit[EARLY:] - load_embedding(at_once.folder / "cache").orbit[EARLY:]).max() < 1e-5


def test_rows_in_any_order_are_known_again(early, at_once, star, tmp_path):
    order = np.random.default_rng(3).permutation(N)
    mixed = apply(early.folder, tmp_path / "mixed", rows_of(star, order, "mixed.star"), until="embed")
    found, expected = (load_embedding(folder / "cache") for folder in (mixed.folder, at_once.folder))
    np.testing.assert_allclose(found.orbit[:], expected.orbit[order], atol=1e-5)
    np.testing.assert_allclose(found.log_variance, expected.log_variance[order], atol=1e-5)
    np.testing.assert_allclose(found.orbit_log_variance, expected.orbit_log_variance[order], atol=1e-5)


def test_a_network_that_was_trained_again_has_other_points(early, live, star, tmp_path):
    from cryorbit.training.checkpoint import BEST, load_checkpoint, save_checkpoint

    known = apply(live, tmp_path / "known", star, until="align")
    weights = load_checkpoint(live / "checkpoint" / BEST)
    weights["autoencoder"]["encoder.mean.bias"] += 1.0
    save_checkpoint(live / "checkpoint" / BEST, weights)
    then = apply(live, tmp_path / "known", star, until="embed")
    assert then.folder == known.folder
    before = load_embedding(early.folder / "cache")
    np.testing.assert_allclose(load_embedding(then.folder / "cache").mean[:EARLY], before.mean, atol=1e-5)


def test_a_file_that_grows_is_read_again_and_again(live_aligned, star, tmp_path):
    growing = tmp_path / "set"
    shutil.copytree(star.parent, growing)
    file = growing / "growing.star"
    for count in (LATER, N):
        write_particles(file, read_particles(star).take(np.arange(count)))
        assert len(append(live_aligned, file).particles) == count
    # What was found of the views stays with the run.
    assert json.loads((live_aligned / "run.json").read_text())["look"] == FOUND.described()
    # From here on it is the run's own file.
    before = contents(live_aligned)
    said = []

    class Listener:
        stage = advance = staticmethod(lambda *_: None)
        say = staticmethod(said.append)

    assert len(append(live_aligned, observer=Listener()).particles) == N
    assert "no particles that the run" in said[-1]
    assert contents(live_aligned) == before


class Stop(Exception):
    """Something that comes in between."""


def stop(*_args, **_kwargs):
    raise Stop


def stop_moving(patch, after: int) -> None:
    """Come in between when so many files have been moved into their place."""
    moved, move = iter(range(after)), shutil.move

    def move_some(*paths):
        if next(moved, None) is None:
            raise Stop
        return move(*paths)

    patch.setattr("cryorbit.appending.shutil.move", move_some)


@pytest.mark.parametrize("stop_at", ["align", "estimate", "moving"])
def test_an_interrupted_appending_leaves_a_run_and_goes_on(stop_at, live_aligned, at_once, star, monkeypatch):
    before = contents(live_aligned)
    with monkeypatch.context() as patch:
        if stop_at == "moving":
            stop_moving(patch, after=5)
        else:
            patch.setattr(f"cryorbit.stages.Job.{stop_at}", stop)
        with pytest.raises(Stop):
            append(live_aligned, star)
    if stop_at != "moving":
        assert contents(live_aligned) == before
    else:  # neither the one nor the other yet
        with pytest.raises(RunFolderError, match="its appending was cut short"):
            rerun(live_aligned, "estimate")
    grown = append(live_aligned, star)
    assert len(grown.particles) == N
    np.testing.assert_allclose(
        grown.estimates["psi_deg"].to_numpy(), at_once.estimates["psi_deg"].to_numpy(), atol=1e-6
    )
    assert not folder_within(live_aligned).exists()


def test_a_file_that_grew_while_it_was_appended_is_begun_again(live_aligned, star, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("cryorbit.stages.Job.estimate", lambda _self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append(live_aligned, rows_of(star, range(LATER), "later.star"))
    assert folder_within(live_aligned).is_dir()
    assert len(append(live_aligned, star).particles) == N


def test_a_truth_is_remembered_where_it_tells_of_all(live_aligned, star):
    said = []

    class Listener:
        stage = advance = staticmethod(lambda *_: None)
        say = staticmethod(said.append)

    early_truth = rows_of(star.with_name("truth.star"), range(EARLY), "early_truth.star")
    rerun(live_aligned, "report", truth=early_truth)
    append(live_aligned, rows_of(star, range(LATER), "later.star"), observer=Listener())
    assert any("will compare with no truth" in text and "early_truth.star: has no row" in text for text in said)
    assert "truth" not in json.loads((live_aligned / MANIFEST).read_text())
    said.clear()
    rerun(live_aligned, "report", truth=star.with_name("truth.star"))
    append(live_aligned, star, observer=Listener())
    assert "truth.star" in json.loads((live_aligned / MANIFEST).read_text())["truth"]
    assert not any("truth" in text for text in said)


def test_what_would_lose_particles_is_refused(live_aligned, star):
    before = contents(live_aligned)
    only_new = rows_of(star, range(EARLY - 30, N), "only_new.star")
    with pytest.raises(ParticleDataError, match=r"lacks 70 of the 100 particles of the run in .*live"):
        append(live_aligned, only_new)
    assert contents(live_aligned) == before


def test_what_cannot_be_is_refused(live_aligned, star, tmp_path):
    with pytest.raises(ParticleDataError, match="does not exist; name the file"):
        append(live_aligned, tmp_path / "nowhere.star")
    with pytest.raises(RunFolderError, match="not a run folder"):
        append(tmp_path, star)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--append", "--out", "x"], "--out: cannot be given with --append"),
        (["--append", "--select", "rlnClassNumber=1"], "--select: cannot be given with --append"),
        ([], "Give --out, for a run of its own, or --append"),
    ],
)
def test_one_way_or_the_other(given, said, live_aligned, star):
    code, _, error = call("apply", live_aligned, star, *given)
    assert code == 2
    assert said in error


def test_the_command_appends(live, star):
    code, out, error = call("apply", live, star, "--append")
    assert code == 0, error
    assert f"{N - EARLY} of the {N} particles of {star} are new." in error
    assert f"of {N} kept" in out
