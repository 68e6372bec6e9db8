"""Whole runs on a tiny set: every file, every row, the same result however often they are interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import starfile

import cryorbit as co
from cryorbit import stages
from cryorbit.errors import ConfigurationError, ParticleDataError, RunFolderError
from cryorbit.estimation.lesson import TOLD, save_told
from cryorbit.estimation.truth import evaluate_tables, read_truth
from cryorbit.io import read_particles
from cryorbit.io.runs import RunFolder
from cryorbit.progress import Silent
from cryorbit.training.trainer import split_rows

from .pipeline_sets import tiny_config, tiny_set

OUR_COLUMNS = {
    "rlnAnglePsi", "rlnDefocusU", "rlnDefocusV", "rlnParticleSelectZScore", "cryorbitAnglePsiStd",
    "cryorbitDefocusStd", "cryorbitOutlierProbability", "cryorbitOutlierScore", "cryorbitWeight",
}  # fmt: skip


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "s")


@pytest.fixture(scope="module")
def finished(star, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return co.run(co.read_particles(star), out, tiny_config(), truth=star.with_name("truth.star"))


def test_a_run_leaves_every_promised_file(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert {
        "particles.star", "particles_kept.star", "particles_dropped.star", "estimates.parquet", "latent.parquet",
        "checkpoint", "metrics.jsonl", "figures", "report.html", "run.json",
    } <= names  # fmt: skip
    manifest = json.loads((finished.folder / "run.json").read_text())
    assert manifest["finished"]
    assert set(manifest["stages"]) == set(stages.STAGES)
    assert {"version", "configuration", "seeds", "input", "isotropy_order", "stages"} <= manifest.keys()


def test_every_row_and_column_of_the_input_is_there(finished, star):
    before, after = starfile.read(star)["particles"], starfile.read(finished.folder / "particles.star")["particles"]
    assert set(before.columns) | OUR_COLUMNS <= set(after.columns)
    untouched = [column for column in before.columns if column not in OUR_COLUMNS]
    pd.testing.assert_frame_equal(after[untouched], before[untouched])
    parts = [starfile.read(finished.folder / f"particles_{part}.star") for part in ("kept", "dropped")]
    names = [name for part in parts for name in np.atleast_1d(np.asarray(part["particles"]["rlnImageName"]))]
    assert sorted(names) == sorted(before["rlnImageName"])


def test_the_numbers_of_all_files_agree(finished):
    estimates = pd.read_parquet(finished.folder / "estimates.parquet")
    latent = pd.read_parquet(finished.folder / "latent.parquet")
    table = finished.particles
    assert (estimates["id"] == latent["id"]).all()
    np.testing.assert_allclose(table.psi_deg, estimates["psi_deg"], atol=1e-6)
    np.testing.assert_allclose(table.defocus_A, estimates["defocus_um"] * 1e4, atol=1e-2)
    np.testing.assert_allclose(table.numbers("cryorbitWeight"), np.expm1(estimates["defocus_um"]), rtol=1e-4)
    kept = read_particles(finished.folder / "particles_kept.star", check_images=False)
    assert len(kept) == estimates["kept"].sum() == len(finished.kept)
    assert (estimates["psi_std_deg"] > 0).all()
    assert estimates["outlier_probability"].between(0, 1).all()


def test_evaluation_knows_the_truth_whatever_the_order(finished, star):
    table = read_particles(finished.folder / "particles.star", check_images=False)
    truth = star.with_name("truth.star")
    metrics = evaluate_tables(table, read_truth(truth, table))
    assert metrics.inliers == 54
    assert metrics.outlier_auc is not None
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    again = evaluate_tables(shuffled, read_truth(truth, shuffled))
    assert np.isclose(again.angle_rmse_deg, metrics.angle_rmse_deg)
    assert np.isclose(again.outlier_auc, metrics.outlier_auc)


def test_a_truth_of_other_particles_is_refused(finished, tmp_path):
    table = read_particles(finished.folder / "particles.star", check_images=False)
    other = tiny_set(tmp_path / "other", images=30)
    with pytest.raises(ParticleDataError, match="has no row for"):
        read_truth(other.with_name("truth.star"), table)


def test_a_network_asked_for_later_is_trained(star, tmp_path):
    """Of a run that began without one."""
    first = co.run(star, tmp_path / "run", tiny_config(), until="estimate", latent=False)
    assert not (first.folder / "checkpoint" / "best.pt").exists()
    co.rerun(first.folder, "train")
    assert (first.folder / "checkpoint" / "best.pt").is_file()


@pytest.mark.parametrize("stage", stages.STAGES[:-1])
def test_an_interrupted_run_goes_on_to_the_same_result(finished, star, tmp_path, stage):
    class Interrupt(BaseException):
        pass

    class Interrupter:
        def stage(self, title):
            if title == stages.TITLES[stages.STAGES[stages.STAGES.index(stage) + 1]]:
                raise Interrupt

        def advance(self, done, total, note=""):
            pass

        say = stage

    with pytest.raises(Interrupt):
        co.run(star, tmp_path / "run", tiny_config(), observer=Interrupter())
    result = co.run(star, tmp_path / "run", tiny_config())
    pd.testing.assert_frame_equal(result.estimates, finished.estimates)


def test_a_run_is_refused_over_another_and_over_itself(finished, star):
    for config in (tiny_config(), tiny_config(seed=2)):
        with pytest.raises(RunFolderError, match="--overwrite"):
            co.run(star, finished.folder, config)


def test_estimates_can_be_done_again_with_other_settings(star, tmp_path):
    first = co.run(star, tmp_path / "run", tiny_config(), until="estimate")
    again = co.rerun(tmp_path / "run", "estimate", estimation={"defocus_range_um": (1.0, 5.0)})
    assert again.estimates["defocus_um"].median() > first.estimates["defocus_um"].median()
    given = co.rerun(tmp_path / "run", "estimate", estimation={"defocus_prior": "given"})
    np.testing.assert_allclose(given.particles.defocus_A, co.read_particles(star).defocus_A)
    assert "cryorbitLatentDefocus" in given.particles


def test_a_deleted_cache_is_made_again(star, tmp_path):
    import shutil

    first = co.run(star, tmp_path / "run", tiny_config(), until="estimate")
    shutil.rmtree(tmp_path / "run" / "cache")
    again = co.rerun(tmp_path / "run", "estimate")
    pd.testing.assert_frame_equal(again.estimates, first.estimates)


def test_dark_particles_give_the_same_result(finished, star, tmp_path):
    import mrcfile

    folder = tmp_path / "dark"
    folder.mkdir()
    (folder / "particles.star").write_text(star.read_text())
    with mrcfile.open(star.with_name("particles.mrcs")) as white, mrcfile.new(folder / "particles.mrcs") as dark:
        dark.set_data(-white.data)
        dark.set_image_stack()
    said = []

    class Listener:
        def stage(self, title):
            pass

        def advance(self, done, total, note=""):
            pass

        def say(self, text):
            said.append(text)

    result = co.run(folder / "particles.star", tmp_path / "run", tiny_config(), until="estimate", observer=Listener())
    assert any("inverted" in text for text in said)
    np.testing.assert_allclose(result.estimates["outlier_score"], finished.estimates["outlier_score"], rtol=1e-3)


@pytest.mark.parametrize("n", [1, 7])
def test_a_handful_of_particles_runs_to_the_end(star, tmp_path, n):
    result = co.run(co.read_particles(star).take(np.arange(n)), tmp_path / "run", tiny_config())
    assert len(result.particles) == n
    assert (result.estimates["psi_std_deg"] > 100).all()
    assert result.report is not None


def test_trusting_a_defocus_that_is_not_there_is_refused(star, tmp_path):
    from cryorbit.results import resolve_prior

    table = co.read_particles(star)
    bare = table.frame.drop(columns=["rlnDefocusU", "rlnDefocusV"])
    without = dataclasses.replace(table, frame=bare)
    config = tiny_config(estimation={"defocus_prior": "given"})
    with pytest.raises(ConfigurationError, match="--defocus-prior blind"):
        resolve_prior(without, config.estimation)
    assert resolve_prior(without, tiny_config(estimation={}).estimation) == "blind"
    assert resolve_prior(table, tiny_config(estimation={}).estimation) == "given"


def test_one_network_learns_what_another_run_learns(star, tmp_path, finished):
    again = co.run(star, tmp_path / "run", tiny_config(), until="estimate")
    pd.testing.assert_frame_equal(again.estimates, finished.estimates)


def test_later_stages_follow_an_earlier_one_that_is_done_again(star, tmp_path):
    out = tmp_path / "run"
    co.run(star, out, tiny_config(), truth=star.with_name("truth.star"))
    page = (out / "report.html").read_bytes()
    again = co.rerun(out, "outliers", estimation={"outlier_threshold": 0.001})
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["finished"]
    assert manifest["outliers"]["kept"] == again.estimates["kept"].sum() == len(again.kept)
    assert (out / "report.html").read_bytes() != page
    # The command that made the run is another one now: it must not be taken to go on with this.
    with pytest.raises(RunFolderError, match="another input or configuration"):
        co.run(star, out, tiny_config())


def test_the_page_is_drawn_again_without_the_images(star, tmp_path):
    import shutil

    shutil.copytree(star.parent, tmp_path / "set")
    co.run(tmp_path / "set" / "particles.star", tmp_path / "run", tiny_config())
    shutil.rmtree(tmp_path / "set")
    assert co.rerun(tmp_path / "run", "report").report is not None
    with pytest.raises(ParticleDataError, match="does not exist"):
        co.rerun(tmp_path / "run", "estimate")


def test_other_images_under_the_old_names_are_refused(star, tmp_path):
    import shutil

    shutil.copytree(star.parent, tmp_path / "set")
    co.run(tmp_path / "set" / "particles.star", tmp_path / "run", tiny_config(), until="estimate")
    shutil.rmtree(tmp_path / "run" / "cache")
    tiny_set(tmp_path / "other", seed=9)
    shutil.copy(tmp_path / "other" / "particles.mrcs", tmp_path / "set" / "particles.mrcs")
    with pytest.raises(ParticleDataError, match="have changed or moved"):
        co.rerun(tmp_path / "run", "estimate")


@pytest.mark.parametrize("victim", ["cache/shard_00000.npy", "cache/cache.json", "cache/latent_orbits.npy"])
def test_a_damaged_cache_is_made_again(star, finished, tmp_path, victim):
    co.run(star, tmp_path / "run", tiny_config(), until="estimate")
    (tmp_path / "run" / victim).write_bytes(b"rubbish")
    again = co.rerun(tmp_path / "run", "estimate")
    pd.testing.assert_frame_equal(again.estimates, finished.estimates)


def test_replaced_columns_stay_beside(finished, star):
    table = finished.particles
    before = co.read_particles(star)
    assert (table.frame["cryorbitInputDefocusU"] == before.frame["rlnDefocusU"]).all()


def test_an_angle_that_cannot_be_read_replaces_nothing(star, tmp_path):
    table = co.read_particles(star).with_columns({"rlnAnglePsi": np.linspace(-170, 170, 60)})
    result = co.run(table.take(np.arange(9)), tmp_path / "run", tiny_config())
    np.testing.assert_array_equal(result.particles.frame["rlnAnglePsi"], table.frame["rlnAnglePsi"][:9])
    assert (result.particles.numbers("cryorbitAnglePsiStd") > 100).all()


def test_training_that_diverges_is_said(star, tmp_path):
    config = tiny_config(training={"epochs": 2, "precision": "32-true", "learning_rate": 1e30})
    with pytest.raises(ConfigurationError, match="diverged"):
        co.run(star, tmp_path / "run", config)


def test_a_defocus_that_is_not_there_is_missed_before_the_training(star, tmp_path):
    table = co.read_particles(star)
    bare = dataclasses.replace(table, frame=table.frame.drop(columns=["rlnDefocusU", "rlnDefocusV"]))
    with pytest.raises(ConfigurationError, match="--defocus-prior blind"):
        co.run(bare, tmp_path / "run", tiny_config(estimation={"defocus_prior": "given"}))
    assert not (tmp_path / "run").exists()


class Listener:
    """Notes which stages are run, and what is said."""

    def __init__(self):
        self.stages, self.said = [], []

    def stage(self, title):
        self.stages.extend(name for name, known in stages.TITLES.items() if known == title)

    def advance(self, done, total, note=""):
        pass

    def say(self, text):
        self.said.append(text)


SHORT = {"training": {"epochs": 1, "precision": "32-true", "accelerator": "cpu"}}
UNGUIDED = {"training": {**SHORT["training"], "guide": "none"}}


def saved_weights(folder):
    return (folder / "checkpoint" / "best.pt").read_bytes()


@pytest.mark.parametrize(
    ("changes", "last", "order"),
    [
        (SHORT, "train", ["prepare", "align", "train"]),
        (UNGUIDED, "align", ["prepare", "train", "embed", "align"]),
    ],
)
def test_a_guided_training_follows_the_alignment_and_another_precedes_it(star, tmp_path, changes, last, order):
    listener = Listener()
    co.run(star, tmp_path / "run", tiny_config(**changes), until=last, observer=listener)
    assert listener.stages == order
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (manifest["guide"] is not None) == (last == "train")


def test_another_defocus_prior_aligns_again_and_keeps_the_network(finished, star, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    del manifest["stages"]["report"]  # a page takes longer than all the rest
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    listener, before = Listener(), saved_weights(tmp_path / "run")
    again = co.rerun(tmp_path / "run", "estimate", estimation={"defocus_prior": "given"}, observer=listener)
    assert listener.stages == ["align", "outliers", "estimate"]
    assert saved_weights(tmp_path / "run") == before
    np.testing.assert_allclose(again.estimates["orbit_defocus_um"], co.read_particles(star).defocus_A / 1e4)
    for column in ("latent_psi_deg", "latent_defocus_um"):
        np.testing.assert_allclose(again.estimates[column], finished.estimates[column])


def test_a_network_is_measured_by_what_it_was_told(finished, star, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    kept = np.ones(60, dtype=bool)
    kept[:20] = False

    def lesson():
        config = tiny_config(**SHORT)
        folder = RunFolder.reopen(tmp_path / "run")
        try:
            return stages.Job(folder, config, co.read_particles(star), Silent()).lesson(kept)
        finally:
            folder.close()

    before = lesson()
    seen, held_out = split_rows(60, 0.2, tiny_config().seed)
    np.testing.assert_array_equal(before.rows, held_out[held_out >= 20])
    assert not set(before.rows) & set(seen)
    # An alignment that is done again may turn its average another way.
    path = tmp_path / "run" / "alignment.parquet"
    told = pd.read_parquet(path)
    np.testing.assert_allclose(before.psi_deg, told["psi_deg"][before.rows])
    told.assign(psi_deg=told["psi_deg"] + 40, defocus_um=told["defocus_um"] + 1).to_parquet(path)
    after = lesson()
    np.testing.assert_array_equal(after.psi_deg, before.psi_deg)
    np.testing.assert_array_equal(after.defocus_um, before.defocus_um)
    (tmp_path / "run" / "checkpoint" / TOLD).rename(tmp_path / "told.npz")
    with pytest.raises(RunFolderError, match=r"told\.npz: is missing"):
        lesson()
    (tmp_path / "told.npz").rename(tmp_path / "run" / "checkpoint" / TOLD)
    # Particles that were learnt from say nothing of the error on others.
    save_told(tmp_path / "run" / "checkpoint" / TOLD, told["psi_deg"], told["defocus_um"], np.ones(60, dtype=bool))
    assert len(lesson().rows) == 0


def test_without_an_angle_the_training_is_not_guided_and_says_so(tmp_path):
    noise = tiny_set(tmp_path / "set", images=40, snr=1e-6)
    listener = Listener()
    result = co.run(noise, tmp_path / "run", tiny_config(**SHORT), until="estimate", observer=listener)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["guide"] is None
    assert not manifest["chart"]["guided"]
    assert any("without its guidance" in text for text in listener.said)
    assert len(result.estimates) == 40


def test_the_latent_method_is_guided_and_writes_its_own_angles(star, tmp_path):
    estimation = {"method": "latent", "defocus_prior": "blind"}
    result = co.run(star, tmp_path / "run", tiny_config(**SHORT, estimation=estimation), until="estimate")
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(manifest["stages"])[:3] == ["prepare", "align", "train"]
    assert manifest["chart"]["guided"]
    assert manifest["isotropy_order"] == manifest["guide"]["order"]
    np.testing.assert_allclose(result.particles.psi_deg, result.estimates["latent_psi_deg"], atol=1e-6)
    assert np.ptp(result.particles.psi_deg) > 0
    assert result.estimates["psi_std_deg"].between(0, 104).all()
