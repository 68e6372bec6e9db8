"""What one run has learnt serves other particles: the rest of a file after a preview, or another file."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cryorbit import conventions, read_particles, run, write_particles
from cryorbit.applied import apply
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.estimation.evaluation import align_angles
from cryorbit.pipeline import rerun
from cryorbit.rows import Rows

from .cli.test_cli import call
from .pipeline_sets import tiny_config, tiny_set

N, PREVIEW = 260, 160


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("apply") / "set", images=N)


@pytest.fixture(scope="module")
def preview(star):
    """A finished run on a part of the file."""
    return run(star, star.parent.parent / "preview", tiny_config(), rows=Rows((), PREVIEW, 4))


@pytest.fixture(scope="module")
def whole(preview, star):
    """The rest of the file after it."""
    return apply(preview.folder, star.parent.parent / "whole")


def angle_errors(result, star):
    truth = read_particles(star.with_name("truth.star"), check_images=False)
    good = truth.numbers("cryorbitTruthOutlier") == 0
    residual = align_angles(result.particles.psi_deg[good], truth.psi_deg[good]).residual_deg
    return np.abs(residual), good


def test_those_of_the_preview_keep_what_it_found(preview, whole):
    ids = preview.estimates["id"].to_numpy()
    assert len(ids) == PREVIEW
    for name in ("orbit_psi_deg", "orbit_defocus_um"):
        np.testing.assert_array_equal(whole.estimates[name].to_numpy()[ids], preview.estimates[name].to_numpy())


def test_the_rest_is_read_as_well(preview, whole, star):
    assert len(whole.particles) == N
    error, good = angle_errors(whole, star)
    new = ~np.isin(np.arange(N), preview.estimates["id"])[good]
    assert np.median(error[new]) < 3 * np.median(error[~new]) + 0.5
    known = read_particles(star.with_name("truth.star"), check_images=False).defocus_A / 1e4
    defocus_error = np.abs(whole.estimates["defocus_um"].to_numpy() - known)[good]
    assert np.median(defocus_error[new]) < 3 * np.median(defocus_error[~new]) + 0.02


def test_nothing_is_learnt_again(preview, whole):
    for name in ("best.pt", "told.npz"):
        assert (whole.folder / "checkpoint" / name).is_file()
    assert (whole.folder / "checkpoint/best.pt").read_bytes() == (preview.folder / "checkpoint/best.pt").read_bytes()
    before, after = (json.loads((result.folder / "run.json").read_text()) for result in (preview, whole))
    assert after["stages"]["train"]["epochs"] == before["stages"]["train"]["epochs"]
    for name in ("noise", "shift_spread_A", "isotropy_order"):
        assert after["alignment"][name] == before["alignment"][name]
    assert after["guide"] == before["guide"]
    assert whole.report.is_file()
    # The latent is read in the same frame, too.
    ids = preview.estimates["id"].to_numpy()
    turn = conventions.wrap_deg(
        whole.estimates["latent_psi_deg"].to_numpy()[ids] - preview.estimates["latent_psi_deg"].to_numpy()
    )
    assert abs(np.median(turn)) < 3


def test_a_sample_of_one_run_and_a_preview_are_the_same(star, tmp_path):
    """An alignment that learns from some rows, and a preview of these rows that is applied to all, find the same."""
    table = read_particles(star)
    sample = np.sort(np.random.default_rng(12345).choice(N, PREVIEW, replace=False))
    config = tiny_config(alignment={"learn_from": PREVIEW})
    at_once = run(star, tmp_path / "once", config, until="estimate", latent=False)
    first = run(table.take(sample), tmp_path / "first", config, until="estimate", latent=False)
    then = apply(first.folder, tmp_path / "then", until="estimate")
    for name in ("psi_deg", "defocus_um"):
        one, other = (result.estimates[name].to_numpy() for result in (at_once, then))
        np.testing.assert_allclose(one, other, atol=1e-3)
    averages = [(result.folder / "average.mrc").read_bytes() for result in (at_once, then)]
    assert len(averages[0]) == len(averages[1])


def test_a_preview_of_a_class_serves_that_class(star, tmp_path):
    classes = Rows(("rlnDefocusU>12000",), 100, 1)
    first = run(star, tmp_path / "first", tiny_config(), rows=classes, until="estimate", latent=False)
    then = apply(first.folder, tmp_path / "then", until="estimate")
    expected = Rows(classes.select).of(read_particles(star))
    assert 100 < len(expected) < N
    assert list(then.particles.frame["rlnImageName"]) == list(expected.frame["rlnImageName"])
    assert len(rerun(then.folder, "estimate").particles) == len(expected)


def test_it_stands_on_its_own_and_goes_on(preview, whole, star, tmp_path):
    """The earlier run may be deleted; stages can be done again."""
    copied = tmp_path / "preview"
    shutil.copytree(preview.folder, copied)
    out = tmp_path / "run"
    apply(copied, out, until="align")
    finished = apply(copied, out, until="estimate")
    np.testing.assert_array_equal(finished.particles.psi_deg, whole.particles.psi_deg)
    shutil.rmtree(copied)
    again = rerun(out, "estimate", estimation={"outlier_threshold": 0.2})
    np.testing.assert_array_equal(again.particles.psi_deg, whole.particles.psi_deg)


def test_particles_are_known_by_their_images_whatever_file_names_them(preview, whole, star, tmp_path):
    """A file of the same images in another order, with new ones among them."""
    table = read_particles(star)
    order = np.random.default_rng(5).permutation(N)
    write_particles(star.with_name("shuffled.star"), table.take(order))
    then = apply(preview.folder, tmp_path / "run", star.with_name("shuffled.star"), until="estimate")
    np.testing.assert_allclose(then.particles.psi_deg, whole.particles.psi_deg[order], atol=1e-2)
    known = np.isin(order, preview.estimates["id"])
    for name in ("orbit_psi_deg", "orbit_defocus_um"):
        found, expected = (result.estimates[name].to_numpy() for result in (then, whole))
        np.testing.assert_array_equal(found[known], expected[order][known])


def test_particles_without_an_angle_are_read_all_the_same(preview, tmp_path):
    noise = tiny_set(tmp_path / "noise", images=60, seed=3, outliers=0.9)
    table = read_particles(noise)
    junk = read_particles(noise.with_name("truth.star"), check_images=False).numbers("cryorbitTruthOutlier") != 0
    result = apply(preview.folder, tmp_path / "run", table.where(junk), until="estimate")
    assert len(result.particles) == junk.sum()


def test_a_changed_file_is_refused(tmp_path):
    star = tiny_set(tmp_path / "set", images=40)
    first = run(star, tmp_path / "first", tiny_config(), until="estimate", latent=False)
    write_particles(star, read_particles(star).take(np.arange(39)))
    with pytest.raises(ParticleDataError, match="has changed"):
        apply(first.folder, tmp_path / "then")


def test_other_particles_of_the_same_view(preview, whole, star, tmp_path):
    other = tiny_set(tmp_path / "other", images=40, seed=9)
    code, _, err = call("apply", preview.folder, other, "--out", tmp_path / "run", "-q")
    assert (code, err) == (0, "")
    result = read_particles(tmp_path / "run" / "particles.star", check_images=False)
    truth = read_particles(other.with_name("truth.star"), check_images=False)
    good = truth.numbers("cryorbitTruthOutlier") == 0
    error = np.abs(align_angles(result.psi_deg[good], truth.psi_deg[good]).residual_deg)
    assert np.median(error) < 3 * np.median(angle_errors(whole, star)[0]) + 0.5
    # Five particles are too few to learn from, but not to compare.
    few = apply(preview.folder, tmp_path / "few", read_particles(other).take(np.arange(5)), until="estimate")
    np.testing.assert_allclose(few.particles.psi_deg, result.psi_deg[:5], atol=0.5)


def test_what_does_not_fit_is_refused(preview, tmp_path):
    other = tiny_set(tmp_path / "other", images=30, pixel_size_A=6.0)
    with pytest.raises(ParticleDataError, match="not like those of the earlier run"):
        apply(preview.folder, tmp_path / "run", other)
    unfinished = run(other, tmp_path / "unfinished", tiny_config(), until="align", latent=False)
    with pytest.raises(RunFolderError, match="has no estimates yet"):
        apply(unfinished.folder, tmp_path / "run2")
    code, _, err = call("apply", preview.folder, "--out", tmp_path / "run3", "--seed", "3")
    assert code == 2
    assert "--seed" in err
