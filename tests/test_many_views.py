"""A file without classes: one view or several, and then a run of each."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import cryorbit as co
from cryorbit import first_look
from cryorbit import many_views as module
from cryorbit.classification.survey import Survey
from cryorbit.conventions import wrap_deg
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.first_look import Look
from cryorbit.rows import Rows

from .cli.test_cli import FAST, call
from .pipeline_sets import class_config, many_views, tiny_config, tiny_set


@pytest.mark.parametrize("seed", [3, 4])
def test_several_views_are_told_from_one_with_junk(tmp_path, seed):
    one = tiny_set(tmp_path / "one", images=500, seed=seed, outliers=0.2, defocus_um="1.0:2.5")
    found = co.look(co.read_particles(one), class_config())
    assert found.survey is not None
    assert not found.several
    several = many_views(tmp_path / "several", images=500, seed=seed)
    found = co.look(co.read_particles(several), class_config())
    assert found.several
    assert found.survey.views >= 3
    assert found.survey.elsewhere > 0.5
    assert "Several views" in found.said


def test_noise_is_of_no_view(tmp_path, monkeypatch):
    monkeypatch.setattr(first_look, "FEWEST_PARTICLES", 100)
    star = tiny_set(tmp_path / "set", images=120, outliers=0.0, snr=1e-6)
    found = co.look(co.read_particles(star), class_config())
    assert found.survey == Survey(0, 0, 0.0)
    assert not found.several
    assert found.doubtful
    assert "nothing was found" in found.said


def test_only_files_without_classes_are_looked_at(tmp_path, monkeypatch):
    seen = Survey(500, 1, 0.0)
    monkeypatch.setattr(first_look, "_survey", lambda *_: seen)
    table = co.read_particles(tiny_set(tmp_path / "set", images=40))
    many = table.take(np.arange(600) % 40)
    assert co.look(many) == Look(seen)
    for column in ("rlnDefocusU", "cryorbitClassProbability"):
        assert co.look(many, rows=Rows((f"{column}<30000",))) == Look(seen)
    assert co.look(many.with_columns({"rlnClassNumber": ["None"] * 600})) == Look(seen)
    numbers = np.arange(600) % 3
    assert co.look(many.with_columns({"rlnClassNumber": 0 * numbers})) == Look(seen)
    latent = co.make_config("fast", {"estimation": {"method": "latent"}})
    one, several = (many.with_columns({"rlnClassNumber": values}) for values in (0 * numbers + 1, numbers))
    for found, said, doubtful in (
        (co.look(table), "fewer than 500", False),
        (co.look(many, tiny_config()), "defoci", False),
        (co.look(many, latent), "alignment", False),
        (co.look(one, rows=Rows(("rlnClassNumber=1",))), "selected", False),
        (co.look(several, rows=Rows(("rlnClassNumber!=7",))), "has classes", True),
        (co.look(many, compared=True), "truth", False),
        (co.look(several), "has classes", True),
    ):
        assert found.survey is None
        assert not found.several
        assert said in found.said
        assert found.doubtful is doubtful


def test_a_run_of_one_view_is_told_of_doubts():
    assert Look(Survey(900, 3, 0.6)).doubtful
    assert Look(None, "the file has classes", has_classes=True).doubtful
    assert not Look(Survey(900, 1, 0.1)).doubtful
    between = Look(Survey(900, 5, 0.17))
    assert between.doubtful
    assert not between.several
    assert "perhaps" in between.said
    assert not Look(None, "they are fewer than 500").doubtful


@pytest.mark.parametrize(("there", "looked"), [("input/simulation.json", 1), (".lock", 1), ("notes.txt", 0)])
def test_only_a_folder_that_is_begun_is_not_looked_for(tmp_path, monkeypatch, there, looked):
    from cryorbit.commands import runs

    seen = []
    monkeypatch.setattr(first_look, "look", lambda *_: seen.append(1) or Look(None, "of the test"))
    monkeypatch.setattr(runs, "_run_until", lambda *_, **__: None)
    star = tiny_set(tmp_path / "set", images=30)
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).touch()
    assert call("run", star, "--out", tmp_path / "out")[0] == 0
    assert len(seen) == looked


def test_auto_overrules_a_number_in_the_settings(tmp_path, monkeypatch):
    from cryorbit.commands import runs

    asked = []
    monkeypatch.setattr(runs, "run_each_view", lambda _table, _out, choices, *_: asked.append(choices.config()))
    star = tiny_set(tmp_path / "set", images=30)
    call("run", star, "--out", tmp_path / "out", "--set", "classification.views=4", "--views", "auto")
    assert asked[0].classification.views is None


def test_a_look_that_fails_stops_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise ParticleDataError("set.mrcs: is gone.")

    monkeypatch.setattr(first_look, "_survey", fail)
    many = co.read_particles(tiny_set(tmp_path / "set", images=40)).take(np.arange(600) % 40)
    assert co.look(many).said.endswith("that failed: set.mrcs: is gone.")


def test_what_the_look_found_stays_with_the_run(tmp_path, monkeypatch):
    """In run.json and on the page; a file of several classes that is taken for one is warned of."""
    table = co.read_particles(tiny_set(tmp_path / "set", images=60))
    numbers = table.with_columns({"rlnClassNumber": np.arange(60) % 2})
    found = co.look(numbers, tiny_config())
    result = co.run(numbers, tmp_path / "out", tiny_config(), latent=False, look=found)
    manifest = json.loads((result.folder / "run.json").read_text())
    assert manifest["look"] == found.described()
    assert found.said in manifest["warnings"]
    assert "One view or several" in result.report.read_text()


def test_all_origins_of_a_class_are_in_its_frame(tmp_path):
    """Those in pixels too, which RELION 3.0 reads."""
    classified = co.read_particles(tiny_set(tmp_path / "set", images=40))
    zeros = np.zeros(40)
    rng = np.random.default_rng(1)
    psi, x, y = rng.uniform(-180, 180, 40), rng.normal(0, 3, 40), rng.normal(0, 3, 40)
    classified = classified.with_columns({
        "rlnAnglePsi": psi, "rlnOriginXAngst": x, "rlnOriginYAngst": y, "rlnOriginX": zeros, "rlnOriginY": zeros
    })  # fmt: skip
    refined = classified.with_columns({"rlnAnglePsi": wrap_deg(psi + 50)})
    found = module._in_class_frame(refined, classified)
    np.testing.assert_allclose(wrap_deg(found["rlnAnglePsi"] - psi), 0, atol=1e-4)
    np.testing.assert_allclose(found["rlnOriginXAngst"], x, atol=1e-4)
    np.testing.assert_allclose(found["rlnOriginX"], x / 8.0, atol=1e-4)
    np.testing.assert_allclose(found["rlnOriginY"], y / 8.0, atol=1e-4)
    assert set(found) <= set(module.REFINED)


def test_run_finds_the_views_by_itself_and_runs_each(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_PARTICLES", 30)
    monkeypatch.setattr(first_look, "FEWEST_PARTICLES", 200)
    star, out = many_views(tmp_path / "set", images=240), tmp_path / "out"
    small = ("--set", "classification.box_size=48", "--set", "classification.views=4")
    code, text, _ = call("run", star, "--out", out, *FAST, *small)
    assert code == 0
    assert "Views:" in text
    whole, of_classes = co.read_particles(out / "particles.star"), co.read_particles(out / "classes" / "particles.star")
    assert len(whole) == len(of_classes) == 240
    views = pd.read_csv(out / "views.csv")
    own = views[views["folder"].notna()]
    assert len(own) >= 2
    psi, names = whole.numbers("rlnAnglePsi", 0.0), of_classes.image_names.tolist()
    for folder, number in zip(own["folder"], own["class"], strict=True):
        assert (out / folder / "average.mrc").is_file()
        run = co.read_particles(out / folder / "particles.star")
        rows = [names.index(name) for name in run.image_names.tolist()]
        assert set(of_classes.numbers("rlnClassNumber", 0.0)[rows]) == {number}
        # As exact as the view's run, in the frame of the class: one turn apart from the one, about none from the other.
        turn = psi[rows] - run.numbers("rlnAnglePsi", 0.0)
        assert np.ptp(wrap_deg(turn - turn[0])) < 1e-3
        assert np.median(np.abs(wrap_deg(psi[rows] - of_classes.numbers("rlnAnglePsi", 0.0)[rows]))) < 5
    kept = [len(co.read_particles(out / part / "particles_kept.star")) for part in (".", "classes")]
    assert kept[0] <= kept[1]
    assert (out / "report.html").read_text().count("report.html") == 1 + len(views)
    code, _, error = call("export", out, "--out", tmp_path / "some.star")
    assert code == 2
    assert "several views" in error
    with pytest.raises(RunFolderError, match="several views"):
        co.rerun(out, "estimate")
    # A folder is gone on with as it was begun, and this one is finished.
    code, _, error = call("run", star, "--out", out, *FAST, *small)
    assert code == 2
    assert "holds a finished run" in error


def test_views_too_small_for_a_run_keep_the_poses_of_the_classification(tmp_path):
    star = many_views(tmp_path / "set", images=90)
    result = co.run_views(star, tmp_path / "out", class_config(3))
    assert result.views == {}
    assert len(result.particles) == 90
    np.testing.assert_array_equal(
        result.particles.numbers("rlnAnglePsi", 0.0), result.classes.particles.numbers("rlnAnglePsi", 0.0)
    )
    assert "too few to be run" in result.report.read_text()


def test_several_views_of_a_small_file_get_more_than_one_class():
    config = module._of_classes(co.make_config(), 600)
    assert 600 // config.classification.particles_per_view >= 8
    assert module._of_classes(co.make_config(), 100_000).classification.particles_per_view == 400


def test_what_cannot_work_is_refused_before_a_folder_is_made(tmp_path):
    star = tiny_set(tmp_path / "set", images=30)
    for options, said in (
        (["--views", "auto", "--defocus-prior", "blind"], "blind"), (["--views", "3", "--truth", star], "one view"),
        (["--views", "²"], "--views is"), (["--views", "3", "--set", "classification.mirror=tied"], "is tied"),
    ):  # fmt: skip
        code, _, error = call("run", star, "--out", tmp_path / "out", *options)
        assert code == 2
        assert said in error
        assert not (tmp_path / "out").exists()


def test_who_says_how_many_views_is_not_asked_again(tmp_path, monkeypatch):
    """With --views, or with the truth of one view, nobody looks at the images first."""
    from cryorbit.commands import runs, views

    asked = []
    monkeypatch.setattr(runs, "looked_at", lambda *_: asked.append("look"))
    monkeypatch.setattr(runs, "run_each_view", lambda *_: asked.append("views"))
    monkeypatch.setattr(runs, "_run_until", lambda *_, **__: asked.append("one"))
    star = tiny_set(tmp_path / "set", images=30)
    for options in ([], ["--views", "1"], ["--views", "auto"], ["--views", "7"], ["--truth", star]):
        call("run", star, "--out", tmp_path / "out", *options)
    assert asked == ["look", "one", "one", "views", "views", "look", "one"]
    assert (views.number_of_views("7"), views.number_of_views("auto")) == (7, None)
    code, _, error = call("run", star, "--out", tmp_path / "out", "--views", "some")
    assert code == 2
    assert "--views is 'some'" in error
