"""Exported particles are those asked for, with every column of the run and the original stacks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cryorbit import read_particles, run
from cryorbit.errors import ConfigurationError, CryorbitError, ParticleDataError, RunFolderError
from cryorbit.io.runs import read_table
from cryorbit.selection import Choice, export

from .pipeline_sets import tiny_config, tiny_set
from .report.test_explorer import saved


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    star = tiny_set(folder / "set", outliers=0.2)
    return run(star, folder / "run", tiny_config(), latent=False), star


def names(path):
    return list(read_particles(path, check_images=False).frame["rlnImageName"])


def test_parts_are_those_of_the_run(finished, tmp_path):
    result, _ = finished
    sizes = {}
    for part in ("kept", "dropped", "all"):
        sizes[part] = export(result.folder, tmp_path / f"{part}.star", Choice(part)).written
        if part != "all":
            assert (tmp_path / f"{part}.star").read_bytes() == (result.folder / f"particles_{part}.star").read_bytes()
    assert sizes["kept"] + sizes["dropped"] == sizes["all"] == 60
    assert 0 < sizes["dropped"] < 30
    assert (tmp_path / "all.star").read_bytes() == (result.folder / "particles.star").read_bytes()
    assert export(result.folder, tmp_path / "default.star").written == sizes["kept"]


@pytest.mark.parametrize("limit", [0.01, 0.3, 0.99])
def test_thresholds_are_the_users(finished, tmp_path, limit):
    result, _ = finished
    estimates = read_table(result.folder / "estimates.parquet")
    export(result.folder, tmp_path / "p.star", Choice(most_probability=limit))
    assert names(tmp_path / "p.star") == list(estimates["image"][estimates["outlier_probability"] <= limit])
    most = float(np.quantile(estimates["outlier_z"], limit))
    export(result.folder, tmp_path / "z.star", Choice(most_z=most, complement=True))
    assert names(tmp_path / "z.star") == list(estimates["image"][estimates["outlier_z"] > most])


def test_a_saved_selection_is_followed(finished, tmp_path):
    result, star = finished
    every = names(star)
    chosen = [every[7], every[3], every[50]]
    (tmp_path / "chosen.txt").write_text("# mine\n" + "\n".join(chosen) + "\n")
    export(result.folder, tmp_path / "a.star", Choice(selection=tmp_path / "chosen.txt"))
    assert names(tmp_path / "a.star") == [every[3], every[7], every[50]]
    # A file that was exported is a selection too, here of all others.
    export(result.folder, tmp_path / "b.star", Choice(selection=tmp_path / "a.star", complement=True))
    assert sorted(names(tmp_path / "a.star") + names(tmp_path / "b.star")) == sorted(every)
    (tmp_path / "chosen.txt").write_text("7@elsewhere.mrcs\n")
    with pytest.raises(ParticleDataError, match="7@elsewhere"):
        export(result.folder, tmp_path / "c.star", Choice(selection=tmp_path / "chosen.txt"))


def test_the_exported_particles_are_found_from_the_same_place(finished, tmp_path, monkeypatch):
    result, star = finished
    monkeypatch.chdir(star.parent)
    export(result.folder, tmp_path / "k.star")
    table = read_particles(tmp_path / "k.star")
    assert {path.resolve() for path in table.locations.stacks} == {(star.parent / "particles.mrcs").resolve()}


def test_nothing_is_overwritten_unless_asked(finished, tmp_path):
    result, _ = finished
    taken = tmp_path / "taken.star"
    taken.write_text("mine")
    with pytest.raises(RunFolderError, match="exists"):
        export(result.folder, taken)
    assert taken.read_text() == "mine"
    assert export(result.folder, taken, overwrite=True).written > 0


@pytest.mark.parametrize(
    ("out", "choice", "says"),
    [
        ("a.csv", {}, "neither"),
        ("a.cs", {}, "uids"),
        ("nowhere/a.star", {}, "does not exist"),
        ("a.star", {"part": "best"}, "Unknown part"),
        ("a.star", {"most_probability": 2.0}, "0 to 1"),
        ("a.star", {"most_z": -1e9}, "none of its"),
        ("a.star", {"selection": "gone.txt"}, "gone.txt"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(finished, tmp_path, out, choice, says):
    result, _ = finished
    if "selection" in choice:
        choice = {"selection": tmp_path / choice["selection"]}
    with pytest.raises(CryorbitError, match=says):
        export(result.folder, tmp_path / out, Choice(**choice))
    assert not list(tmp_path.rglob("*.star"))


def test_a_run_folder_is_needed_and_is_not_written_to(finished, tmp_path):
    result, _ = finished
    with pytest.raises(RunFolderError, match="no estimates"):
        export(tmp_path, tmp_path / "a.star")
    with pytest.raises(RunFolderError, match="run's own"):
        export(result.folder, result.folder / "particles_kept.star", overwrite=True)
    with pytest.raises(ConfigurationError):
        export(result.folder, result.folder / "a.txt")


def test_a_selection_of_the_page_is_exported(finished, tmp_path):
    result, _ = finished
    chosen = np.arange(60) % 7 == 2
    sha256 = json.loads((result.folder / "run.json").read_text())["input"]["sha256"]
    path = saved(tmp_path / "page.json", chosen, input=sha256)
    export(result.folder, tmp_path / "a.star", Choice(selection=path))
    assert names(tmp_path / "a.star") == [
        name for name, one in zip(names(result.particles.source.path), chosen, strict=True) if one
    ]
    for other in (
        saved(tmp_path / "b.json", chosen, input="of another"),
        saved(tmp_path / "d.json", chosen, input=sha256, rows="other rows of the same file"),
        saved(tmp_path / "c.json", chosen[:59]),
    ):
        with pytest.raises(ParticleDataError, match="of another run"):
            export(result.folder, tmp_path / "b.star", Choice(selection=other))
