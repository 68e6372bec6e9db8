"""What an earlier run has learnt meets a project that was moved, images that were replaced, and another prior."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import torch

from cryorbit import ImageStack, read_particles, run, write_particles
from cryorbit.aligned import told_marks
from cryorbit.applied import apply
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.fingerprints import image_marks
from cryorbit.particles import ImageLocations
from cryorbit.pipeline import rerun
from cryorbit.rows import Rows

from .cli.test_cli import call
from .io.conftest import write_stack
from .pipeline_sets import tiny_config, tiny_set

N, PREVIEW = 140, 90


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("again") / "set", images=N, seed=4)


@pytest.fixture(scope="module")
def preview(star):
    """A finished run on a part of the file, aligned only."""
    rows = Rows((), PREVIEW, 4)
    return run(star, star.parent.parent / "preview", tiny_config(), rows=rows, until="estimate", latent=False)


@pytest.fixture(scope="module")
def whole(preview, star):
    return apply(preview.folder, star.parent.parent / "whole", until="estimate")


def in_average(result) -> float:
    """Particles that the two halves of a run's average hold, as far as these are sure of them."""
    state = torch.load(result.folder / "checkpoint" / "average.pt", weights_only=True)
    return sum(half["particles"] for half in state["halves"])


def orbit_psi(result) -> np.ndarray:
    return result.estimates["orbit_psi_deg"].to_numpy()


def moved(star: Path, to: Path) -> Path:
    """The set in another folder, under the same names."""
    shutil.copytree(star.parent, to)
    return to / star.name


def test_a_project_that_was_moved_is_the_same(preview, whole, star, tmp_path):
    then = apply(preview.folder, tmp_path / "run", moved(star, tmp_path / "elsewhere"), until="estimate")
    np.testing.assert_array_equal(orbit_psi(then), orbit_psi(whole))
    assert in_average(then) == pytest.approx(in_average(whole), rel=1e-6)


def test_the_root_of_a_project_that_was_moved_may_be_told(preview, whole, star, tmp_path):
    """The file stayed where it was, and its images went."""
    there = moved(star, tmp_path / "elsewhere")
    code, _, err = call("apply", preview.folder, "--out", tmp_path / "run", "--stack-root", there.parent, "-q")
    assert (code, err) == (0, "")
    assert str(there.parent) in json.loads((tmp_path / "run/run.json").read_text())["input"]["stack_root"]
    code, _, err = call("apply", preview.folder, "--out", tmp_path / "none", "--stack-root", tmp_path, "-q")
    assert code == 2
    assert str(tmp_path) in err


def test_images_that_were_replaced_are_new_ones(preview, whole, star, tmp_path):
    """Their angles were of other images."""
    there = moved(star, tmp_path / "elsewhere")
    other = tiny_set(tmp_path / "other", images=N, seed=77)
    shutil.copy(other.with_name("particles.mrcs"), there.with_name("particles.mrcs"))
    then = apply(preview.folder, tmp_path / "run", there, until="estimate")
    known = preview.estimates["id"].to_numpy()
    off = np.abs(orbit_psi(then) - orbit_psi(whole))[known]
    assert np.median(off) > 20
    assert in_average(then) > in_average(whole) + 0.3 * PREVIEW


def test_images_are_known_in_whatever_file_they_lie(preview, whole, star, tmp_path):
    """Restacked, with another header, compressed, in an HDF5 file."""
    table = read_particles(star)
    with ImageStack(table.locations) as stack:
        images = stack.read(np.arange(N))
    (tmp_path / "set").mkdir()
    parts = {"one.mrcs": images[:60], "two.mrcs": images[60:]}
    for name, part in parts.items():
        write_stack(tmp_path / "set" / name, part, 8.0)
    with mrcfile.open(tmp_path / "set" / "one.mrcs", "r+") as stack:
        stack.add_label("looked at by another program")
    (tmp_path / "set" / "two.mrcs.gz").write_bytes(gzip.compress((tmp_path / "set" / "two.mrcs").read_bytes()))
    names = [f"{k + 1}@set/one.mrcs" if k < 60 else f"{k - 59}@set/two.mrcs.gz" for k in range(N)]
    write_particles(tmp_path / "restacked.star", table.with_columns({"rlnImageName": names}))
    assert image_marks(read_particles(tmp_path / "restacked.star")).tolist() == image_marks(table).tolist()
    then = apply(preview.folder, tmp_path / "run", tmp_path / "restacked.star", until="estimate")
    np.testing.assert_array_equal(orbit_psi(then), orbit_psi(whole))
    assert in_average(then) == pytest.approx(in_average(whole), rel=1e-6)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["particles"] = images
    with ImageStack(ImageLocations((tmp_path / "a.h5",), np.zeros(N, int), np.arange(N))) as stack:
        ((_, pixels),) = stack.middles(512)
    np.testing.assert_array_equal(pixels, images.reshape(N, -1)[:, (48 * 48 - 512) // 2 :][:, :512])


@pytest.mark.parametrize("replaced", [0, 3, N - 1])
def test_one_replaced_image_is_new(star, tmp_path, replaced):
    there = moved(star, tmp_path / "set")
    with mrcfile.open(there.with_name("particles.mrcs"), "r+") as stack:
        stack.data[replaced] = stack.data[replaced][::-1]
    same = image_marks(read_particles(there)) == image_marks(read_particles(star))
    np.testing.assert_array_equal(np.flatnonzero(~same), [replaced])


def test_rows_that_repeat_an_image_count_once(preview, whole, star, tmp_path):
    table = read_particles(star)
    write_particles(star.with_name("twice.star"), table.take(np.r_[np.arange(N), np.arange(N)]))
    then = apply(preview.folder, tmp_path / "run", star.with_name("twice.star"), until="estimate")
    assert in_average(then) == pytest.approx(in_average(whole), rel=1e-6)
    np.testing.assert_allclose(orbit_psi(then)[N:], orbit_psi(then)[:N], atol=1e-2)


def test_what_was_told_a_generation_before_holds_no_longer(star, tmp_path):
    """A first run was given the defocus, a second one of other particles was not, nor is a third one of the first."""
    table = read_particles(star)
    blind = replace(table, frame=table.frame.drop(columns=["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]))
    config = tiny_config(estimation={"defocus_prior": None})
    first = run(table.take(np.arange(PREVIEW)), tmp_path / "a", config, until="estimate", latent=False)
    second = apply(first.folder, tmp_path / "b", blind.take(np.arange(PREVIEW, N)), until="estimate")
    third = apply(second.folder, tmp_path / "c", blind, until="estimate")
    assert (first.estimates["orbit_defocus_std_um"] == 0).all()
    assert (third.estimates["orbit_defocus_std_um"] > 0).all()
    assert in_average(third) == pytest.approx(in_average(second), rel=1e-6)


@pytest.mark.parametrize("change", ["voltage", "astigmatism", "phase"])
def test_other_optics_make_other_poses(preview, star, tmp_path, change):
    table = read_particles(star)
    if change == "voltage":
        other = replace(table, imaging=replace(table.imaging, voltage_kV=np.full(N, 120.0)))
    elif change == "astigmatism":
        columns = {
            "rlnDefocusU": table.defocus_u_A + 2500,
            "rlnDefocusV": table.defocus_v_A - 2500,
            "rlnDefocusAngle": np.full(N, 37.0),
        }
        other = table.with_columns(columns)
    else:
        other = table.with_columns({"rlnPhaseShift": np.full(N, 30.0)})
    known = preview.estimates["id"].to_numpy()
    then = apply(preview.folder, tmp_path / "run", other, until="estimate")
    assert (orbit_psi(then)[known] != orbit_psi(preview)).mean() > 0.9
    for prior in ("given", "blind"):
        marks = [told_marks(one, prior, (0.2, 4.2)) for one in (table, other)]
        assert (marks[0] != marks[1]).all()


def test_another_prior_holds_for_those_that_were_known_too(whole, preview, star, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    again = rerun(tmp_path / "run", "estimate", estimation={"defocus_prior": "given"})
    given = read_particles(star).defocus_A / 1e4
    np.testing.assert_allclose(again.estimates["orbit_defocus_um"], given, atol=1e-4)
    # Nobody is added to the average a second time.
    assert in_average(again) < N
    known = preview.estimates["id"].to_numpy()
    assert np.abs(whole.estimates["orbit_defocus_um"].to_numpy() - given)[known].max() > 1e-3


def test_a_defocus_that_was_corrected_since_is_taken(star, tmp_path):
    config = tiny_config(estimation={"defocus_prior": "given"})
    first = run(star, tmp_path / "first", config, rows=Rows((), PREVIEW, 4), until="estimate", latent=False)
    table = read_particles(star)
    corrected = table.defocus_A + np.where(np.arange(N) % 2, 500.0, 0.0)
    table = table.with_columns({"rlnDefocusU": corrected, "rlnDefocusV": corrected})
    write_particles(star.with_name("corrected.star"), table)
    then = apply(first.folder, tmp_path / "then", star.with_name("corrected.star"), until="estimate")
    np.testing.assert_allclose(then.estimates["orbit_defocus_um"], corrected / 1e4, atol=1e-4)
    ids = first.estimates["id"].to_numpy()
    same = orbit_psi(then)[ids] == orbit_psi(first)
    assert same[ids % 2 == 0].all()
    assert not same[ids % 2 == 1].all()


def test_nobody_is_counted_twice_by_a_third_run(preview, whole, star, tmp_path):
    """Of two files that follow a preview, the second has the preview's particles again."""
    table, known = read_particles(star), preview.estimates["id"].to_numpy()
    write_particles(star.with_name("new.star"), table.take(np.setdiff1d(np.arange(N), known)))
    second = apply(preview.folder, tmp_path / "second", star.with_name("new.star"), until="estimate")
    third = apply(second.folder, tmp_path / "third", star, until="estimate")
    np.testing.assert_array_equal(orbit_psi(third)[known], orbit_psi(preview))
    np.testing.assert_array_equal(orbit_psi(third), orbit_psi(whole))
    assert in_average(third) == pytest.approx(in_average(whole), rel=1e-6)


def test_a_single_new_particle(star, tmp_path):
    """A last part of one image is in one half of the average only."""
    table = read_particles(star)
    config = tiny_config(alignment={"learn_from": N - 1})
    at_once = run(table, tmp_path / "once", config, until="estimate", latent=False)
    assert len(at_once.particles) == N
    few = run(table.take(np.arange(PREVIEW)), tmp_path / "few", tiny_config(), until="estimate", latent=False)
    assert len(apply(few.folder, tmp_path / "then", table.take([PREVIEW]), until="estimate").particles) == 1


def test_conditions_choose_what_is_read(preview, star, tmp_path):
    condition = "rlnDefocusU<15000"
    code, _, err = call("apply", preview.folder, "--out", tmp_path / "run", "--select", condition, "--subset", 20, "-q")
    assert (code, err) == (0, "")
    result = read_particles(tmp_path / "run" / "particles.star", check_images=False)
    assert len(result) == 20
    assert (
        read_particles(star).take(Rows((condition,), 20, 12345).of(read_particles(star)).ids).defocus_A < 15000
    ).all()


def test_the_opposite_contrast_is_named(preview, star, tmp_path):
    there = moved(star, tmp_path / "set")
    with mrcfile.open(there.with_name("particles.mrcs"), "r+") as stack:
        stack.data[:] *= -1
    then = apply(preview.folder, tmp_path / "run", there, until="estimate")
    said = json.loads((then.folder / "run.json").read_text())["warnings"]
    assert any("opposite contrast" in warning for warning in said)
    assert not any(
        "opposite contrast" in text for text in json.loads((preview.folder / "run.json").read_text())["warnings"]
    )


def test_what_is_gone_is_named(preview, whole, star, tmp_path):
    there = moved(star, tmp_path / "set")
    first = run(there, tmp_path / "first", tiny_config(), until="estimate", latent=False)
    there.unlink()
    with pytest.raises(ParticleDataError, match=r"not there any more; name the file: cryorbit apply .*first PARTICLES"):
        apply(first.folder, tmp_path / "then")
    shutil.copytree(whole.folder, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "model")
    manifest = (tmp_path / "whole" / "run.json").read_text()
    with pytest.raises(RunFolderError, match=r"has lost what was taken from .*preview"):
        rerun(tmp_path / "whole", "estimate", estimation={"defocus_prior": "given"})
    assert (tmp_path / "whole" / "run.json").read_text() == manifest


def test_a_run_that_is_refused_is_left_as_it_was(preview, star, tmp_path):
    there = moved(star, tmp_path / "set")
    result = run(there, tmp_path / "run", tiny_config(), until="estimate", latent=False)
    manifest = result.folder / "run.json"
    before = json.loads(manifest.read_text())
    os.utime(there.with_name("particles.mrcs"), (1, 1))
    with pytest.raises(ParticleDataError, match="have changed or moved"):
        rerun(result.folder, "estimate", estimation={"defocus_prior": "given"})
    assert json.loads(manifest.read_text()) == before
    with pytest.raises(ParticleDataError, match="does not exist"):
        rerun(result.folder, "outliers", truth=tmp_path / "none.star")
    assert json.loads(manifest.read_text()) == before
