"""A file without classes: one view or several, and then a run of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import cryorbit as co
from cryorbit import many_views as module
from cryorbit.conventions import wrap_deg
from cryorbit.errors import RunFolderError
from cryorbit.many_views import survey, why_not_surveyed
from cryorbit.rows import Rows

from .cli.test_cli import FAST, call
from .pipeline_sets import class_config, many_views, tiny_config, tiny_set


@pytest.mark.parametrize("seed", [3, 4])
def test_several_views_are_told_from_one_with_junk(tmp_path, seed):
    one = tiny_set(tmp_path / "one", images=500, seed=seed, outliers=0.2, defocus_um="1.0:2.5")
    found = survey(co.read_particles(one), class_config())
    assert not found.several
    several = many_views(tmp_path / "several", images=500, seed=seed)
    found = survey(co.read_particles(several), class_config())
    assert found.several
    assert found.views >= 3
    assert found.elsewhere > 0.5


def test_noise_is_of_no_view(tmp_path):
    star = tiny_set(tmp_path / "set", images=120, outliers=0.0, snr=1e-6)
    assert not survey(co.read_particles(star), class_config()).several


def test_only_files_without_classes_are_looked_at(tmp_path):
    table = co.read_particles(tiny_set(tmp_path / "set", images=40))
    many = table.take(np.arange(600) % 40)
    config = co.make_config()
    assert not why_not_surveyed(many, config)
    assert "fewer than 500" in why_not_surveyed(table, config)
    assert "defoci" in why_not_surveyed(many, tiny_config())
    assert "alignment" in why_not_surveyed(many, co.make_config("fast", {"estimation": {"method": "latent"}}))
    assert "selected" in why_not_surveyed(many, config, Rows(("rlnClassNumber=1",)))
    assert not why_not_surveyed(many, config, Rows(("rlnDefocusU<30000",)))
    numbers = np.arange(600) % 3
    assert "has classes" in why_not_surveyed(many.with_columns({"rlnClassNumber": numbers}), config)
    assert not why_not_surveyed(many.with_columns({"rlnClassNumber": 0 * numbers}), config)
    assert not why_not_surveyed(many.with_columns({"rlnClassNumber": ["None"] * 600}), config)


@pytest.mark.usefixtures("few_figures")
def test_run_finds_the_views_by_itself_and_runs_each(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_PARTICLES", 30)
    monkeypatch.setattr(module, "FEWEST_SURVEYED", 200)
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
        (["--views", "²"], "--views is"),
    ):  # fmt: skip
        code, _, error = call("run", star, "--out", tmp_path / "out", *options)
        assert code == 2
        assert said in error
        assert not (tmp_path / "out").exists()


def test_who_says_how_many_views_is_not_asked_again(tmp_path, monkeypatch):
    """With --views, or with the truth of one view, nobody looks at the images first."""
    from cryorbit.commands import runs, views

    asked = []
    monkeypatch.setattr(runs, "seen_from_several_sides", lambda *_: asked.append("look") or False)
    monkeypatch.setattr(runs, "run_each_view", lambda *_: asked.append("views"))
    monkeypatch.setattr(runs, "_run_until", lambda *_, **__: asked.append("one"))
    star = tiny_set(tmp_path / "set", images=30)
    for options in ([], ["--views", "1"], ["--views", "auto"], ["--views", "7"], ["--truth", star]):
        call("run", star, "--out", tmp_path / "out", *options)
    assert asked == ["look", "one", "one", "views", "views", "one"]
    assert views.views_setting("7") == {"classification": {"views": 7}}
    code, _, error = call("run", star, "--out", tmp_path / "out", "--views", "some")
    assert code == 2
    assert "--views is 'some'" in error
