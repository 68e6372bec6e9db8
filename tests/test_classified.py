"""Classification from a file of raw picks to files, columns and a page; resumed, refused and exported."""

from __future__ import annotations

import json
from dataclasses import replace

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import cryorbit as co
from cryorbit.classified import STAGES, ClassJob, classify, redraw
from cryorbit.errors import ConfigurationError, ParticleDataError, RunFolderError

from .pipeline_sets import class_config, many_views


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified")
    star = many_views(folder / "set")
    truth = pd.read_csv(folder / "set" / "truth.csv")
    return star, truth, classify(star, folder / "out", class_config())


def test_views_and_junk_are_told_apart(classified):
    _, truth, result = classified
    junk = truth["outlier"].to_numpy(dtype=bool)
    estimates = result.estimates
    assert roc_auc_score(junk, estimates["outlier_score"]) > 0.9
    view = truth["tip_deg"].rank(method="dense").astype(int).to_numpy()[~junk]
    number = estimates["class"].to_numpy()[~junk]
    likely = pd.Series(view).groupby(number).agg(lambda values: values.mode()[0])
    assert adjusted_rand_score(view, likely.loc[number]) > 0.8


def test_every_row_comes_out_with_its_class_and_pose(classified):
    star, _, result = classified
    before, after = starfile.read(star)["particles"], starfile.read(result.folder / "particles.star")["particles"]
    assert after["rlnMicrographName"].tolist() == before["rlnMicrographName"].tolist()
    numbers = [name.split("@")[0] for name in after["rlnImageName"]]
    assert numbers == [name.split("@")[0] for name in before["rlnImageName"]]
    for name in before.columns:
        assert name in after
    classes = pd.read_csv(result.folder / "classes.csv")
    assert set(after["rlnClassNumber"]) == set(classes["class"])
    assert (classes["defocus_std_um"] == 0).all(), "the file's defocus is trusted"
    counts = after["rlnClassNumber"].value_counts()
    assert (counts.loc[classes["class"]].to_numpy() == classes["particles"].to_numpy()).all()
    assert after["rlnMaxValueProbDistribution"].between(0, 1).all()
    assert after["cryorbitClassProbability"].between(0, 1.000001).all()
    kept, dropped = (
        starfile.read(result.folder / f"particles_{part}.star")["particles"] for part in ("kept", "dropped")
    )
    assert len(kept) + len(dropped) == len(before)
    assert (kept["cryorbitOutlierProbability"] <= 0.5).all()


def test_averages_are_in_the_order_of_the_classes(classified):
    _, _, result = classified
    classes = pd.read_csv(result.folder / "classes.csv")
    star = starfile.read(result.folder / "classes.star")
    with mrcfile.open(result.folder / "classes.mrcs") as stack:
        averages, pixel_size = np.array(stack.data), float(stack.voxel_size.x)
        assert stack.is_image_stack()
    assert averages.shape == (len(classes), 48, 48)
    assert pixel_size == pytest.approx(8.0)
    references = star["model_classes"]["rlnReferenceImage"].tolist()
    assert references == [f"{k + 1:06d}@{(result.folder / 'classes.mrcs').resolve()}" for k in range(len(classes))]
    assert star["model_classes"]["rlnClassDistribution"].sum() == pytest.approx(1.0, abs=1e-4)
    # The kept ones come first, the largest first.
    kept = classes["kept"].to_numpy()
    assert (np.diff(kept.astype(int)) <= 0).all()
    assert (np.diff(classes.loc[kept, "kept_particles"]) <= 0).all()


def test_poses_are_those_of_the_truth(classified):
    """Angles up to one turn for each class, places up to where its average has its centre."""
    _, truth, result = classified
    table, estimates = result.particles, result.estimates
    for number in (1, 2, 3):
        rows = np.flatnonzero((estimates["class"] == number) & estimates["kept"] & (truth["outlier"] == 0))
        turn = np.radians(table.numbers("rlnAnglePsi", 0.0)[rows] - truth["psi_deg"].to_numpy()[rows])
        error = np.degrees(np.angle(np.exp(1j * turn) / np.exp(1j * turn).mean()))
        assert np.median(np.abs(error)) < 3.0
        for axis, name in zip("XY", ("shift_x_px", "shift_y_px"), strict=True):
            place_px = -table.numbers(f"rlnOrigin{axis}Angst", 0.0)[rows] / 8.0
            assert np.corrcoef(place_px, truth[name].to_numpy()[rows])[0, 1] > 0.7


def test_the_page_has_every_class(classified):
    _, _, result = classified
    page = (result.folder / "report.html").read_text()
    assert page.count('<button type="button" data-class=') == len(result.classes)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (result.folder / "figures" / "class_averages.png").is_file()


def test_a_finished_one_is_not_overwritten_and_another_number_is_another_one(classified):
    star, _, result = classified
    for views in (6, 5):
        with pytest.raises(RunFolderError, match="--overwrite"):
            classify(star, result.folder, class_config(views))


def test_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    star = many_views(tmp_path / "set", images=120)
    whole = classify(star, tmp_path / "whole", class_config(3))

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassJob, "estimate", stop)
        with pytest.raises(KeyboardInterrupt):
            classify(star, tmp_path / "cut", class_config(3))
    manifest = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert list(manifest["stages"]) == ["learn"]
    monkeypatch.setattr(ClassJob, "learn", stop)  # what is done is not done again
    resumed = classify(star, tmp_path / "cut", class_config(3))
    assert list(json.loads((tmp_path / "cut" / "run.json").read_text())["stages"]) == list(STAGES)
    pd.testing.assert_frame_equal(resumed.estimates, whole.estimates)


def test_those_that_are_not_learnt_from_are_classified_as_well(tmp_path):
    star = many_views(tmp_path / "set")
    truth = pd.read_csv(tmp_path / "set" / "truth.csv")
    result = classify(star, tmp_path / "out", class_config(6, classification={"learn_from": 120}))
    junk = truth["outlier"].to_numpy(dtype=bool)
    assert result.estimates["class"].notna().all()
    assert roc_auc_score(junk, result.estimates["outlier_score"]) > 0.85


def test_reflections_can_be_tied(tmp_path):
    star = many_views(tmp_path / "set", images=150)
    result = classify(star, tmp_path / "out", class_config(3, classification={"mirror": "tied"}))
    assert set(result.particles.numbers("cryorbitMirrored", -1.0)) <= {0.0, 1.0}
    assert "cryorbitMirrored" in (tmp_path / "out" / "report.html").read_text()


def test_defoci_near_the_file_s_are_refined(tmp_path):
    star = many_views(tmp_path / "set", images=150, outliers=0.0)
    result = classify(star, tmp_path / "out", class_config(3, estimation={"defocus_prior": "micrograph"}))
    truth = pd.read_csv(tmp_path / "set" / "truth.csv")["defocus_um"].to_numpy()
    before = co.read_particles(star).defocus_A / 1e4
    after = result.particles.defocus_A / 1e4
    assert np.median(np.abs(after - truth)) < 2 * np.median(np.abs(before - truth)) + 0.05
    std_A = pd.Series(result.particles.numbers("cryorbitDefocusStd", 0.0))
    assert (std_A > 0).all()
    of_class = std_A.groupby(result.particles.numbers("rlnClassNumber", 0.0)).median() / 1e4
    np.testing.assert_allclose(result.classes["defocus_std_um"], of_class.loc[result.classes["class"]], rtol=1e-3)
    assert "µm</td>" in result.report.read_text()


def test_old_class_numbers_stay_beside(tmp_path):
    star = many_views(tmp_path / "set", images=60)
    table = co.read_particles(star).with_columns({"rlnClassNumber": np.arange(60) % 7})
    co.write_particles(tmp_path / "set" / "classes.star", table)
    result = classify(tmp_path / "set" / "classes.star", tmp_path / "out", class_config(2))
    assert result.particles.numbers("cryorbitInputClassNumber", -1.0).tolist() == (np.arange(60) % 7).tolist()


def test_mistakes_get_their_sentence(tmp_path):
    star = many_views(tmp_path / "set", images=40)
    with pytest.raises(ParticleDataError, match="40 particles, too few for 50 classes"):
        classify(star, tmp_path / "out", class_config(50))
    with pytest.raises(ConfigurationError, match="defoci that are known"):
        classify(star, tmp_path / "out", class_config(2, estimation={"defocus_prior": "blind"}))
    table = co.read_particles(star)
    bare = table.frame.drop(columns=["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"])
    with pytest.raises(ConfigurationError, match="has no defocus"):
        classify(replace(table, frame=bare), tmp_path / "out", class_config(2))
    assert not (tmp_path / "out").exists()


def test_a_run_cannot_go_on_in_its_folder(classified):
    _, _, result = classified
    with pytest.raises(RunFolderError, match="classification"):
        co.rerun(result.folder, "estimate")


def test_what_it_wrote_finds_its_images_from_anywhere(classified, tmp_path, monkeypatch):
    _, _, result = classified
    monkeypatch.chdir(tmp_path)
    table = co.read_particles(result.folder / "particles_kept.star")
    assert all(path.is_file() for path in table.locations.used)


def test_kept_particles_of_a_class_are_exported(classified, tmp_path):
    from cryorbit.selection import Choice, export

    _, _, result = classified
    done = export(result.folder, tmp_path / "kept.star", Choice())
    assert done.written == int(result.estimates["kept"].sum())
    one = co.read_particles(tmp_path / "kept.star", check_images=False)
    assert len(one) == done.written


def test_the_page_is_drawn_again(classified):
    _, _, result = classified
    before = (result.folder / "report.html").read_text()
    (result.folder / "report.html").unlink()
    assert redraw(result.folder) == result.folder / "report.html"
    again = (result.folder / "report.html").read_text()
    assert again.count("data-class=") == before.count("data-class=")


def test_what_was_learnt_is_learnt_again_where_its_file_is_damaged(tmp_path, monkeypatch):
    star = many_views(tmp_path / "set", images=60)

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassJob, "estimate", stop)
        with pytest.raises(KeyboardInterrupt):
            classify(star, tmp_path / "out", class_config(2))
    (tmp_path / "out" / "checkpoint" / "classes.pt").write_bytes(b"no")
    assert len(classify(star, tmp_path / "out", class_config(2)).estimates) == 60


def test_a_single_class_has_a_page_too(tmp_path):
    star = many_views(tmp_path / "set", images=60, outliers=0.0)
    result = classify(star, tmp_path / "out", class_config(1))
    assert result.estimates["class"].unique().tolist() == [1]
    assert "data-class=" in result.report.read_text()


def test_old_reflections_are_not_left_standing(tmp_path):
    star = many_views(tmp_path / "set", images=60)
    table = co.read_particles(star).with_columns({"cryorbitMirrored": np.ones(60, dtype=int)})
    co.write_particles(tmp_path / "set" / "tied.star", table)
    result = classify(tmp_path / "set" / "tied.star", tmp_path / "out", class_config(2))
    assert not result.particles.numbers("cryorbitMirrored", -1.0).any()
