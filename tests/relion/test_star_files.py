"""RELION reads what cryorbit writes, and can select on it."""

from __future__ import annotations

import shutil
import subprocess

import pandas as pd
import pytest
import starfile

import cryorbit as co
from cryorbit.classified import classify

from ..pipeline_sets import class_config, many_views, tiny_config, tiny_set

pytestmark = pytest.mark.relion


@pytest.fixture(scope="module")
def handler():
    program = shutil.which("relion_star_handler")
    if program is None:
        pytest.skip("relion_star_handler is not on the PATH: install RELION 3.1 (Debian package `relion`)")
    return program


def relion(program, folder, *arguments):
    done = subprocess.run([program, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_relion_reads_and_selects(handler, tmp_path):
    star = tiny_set(tmp_path / "set", images=40)
    result = co.run(star, tmp_path / "run", tiny_config(), until="estimate")
    for name in ("particles", "particles_kept"):
        path = result.folder / f"{name}.star"
        relion(handler, tmp_path, "--i", path, "--o", tmp_path / "out.star", "--combine")
        ours, theirs = starfile.read(path)["particles"], starfile.read(tmp_path / "out.star")["particles"]
        assert len(ours) == len(theirs)
        assert set(ours.columns) - set(theirs.columns) <= {c for c in ours.columns if c.startswith("cryorbit")}
    table = starfile.read(result.folder / "particles.star")["particles"]
    middle = table["rlnParticleSelectZScore"].median()
    relion(
        handler, tmp_path, "--i", result.folder / "particles.star", "--o", tmp_path / "low.star", "--select",
        "rlnParticleSelectZScore", "--minval", -1e9, "--maxval", middle,
    )  # fmt: skip
    chosen = starfile.read(tmp_path / "low.star")["particles"]
    assert len(chosen) == (table["rlnParticleSelectZScore"] <= middle).sum()


def test_relion_reads_classes(tmp_path):
    """Its tools take the class averages, their table and the particles of a classification."""
    programs = {name: shutil.which(name) for name in ("relion_star_printtable", "relion_image_handler")}
    if None in programs.values():
        pytest.skip("RELION's tools are not on the PATH: install RELION 3.1 (Debian package `relion`)")
    result = classify(many_views(tmp_path / "set", images=60), tmp_path / "out", class_config(2))
    classes = pd.read_csv(tmp_path / "out" / "classes.csv")
    printed = relion(
        programs["relion_star_printtable"], tmp_path, result.folder / "classes.star", "data_model_classes",
        "rlnReferenceImage", "rlnClassDistribution",
    )  # fmt: skip
    assert len(printed.strip().splitlines()) == len(classes)
    stats = relion(programs["relion_image_handler"], tmp_path, "--i", result.folder / "classes.mrcs", "--stats")
    assert f"{len(classes)}" in stats
