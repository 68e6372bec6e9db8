"""The folder of a simulated set."""

from __future__ import annotations

import itertools
import json

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from cryorbit.conventions import ORIGIN_X, ORIGIN_Y, TRUTH_KIND, TRUTH_OUTLIER
from cryorbit.errors import RunFolderError
from cryorbit.simulation import (
    SimulationConfig,
    draw_truth,
    iter_images,
    make_simulation_config,
    phantom_projection,
    simulate,
)

VIEW = (30.0, 60.0)
SPECIMEN = phantom_projection(view=VIEW)
CONFIG = make_simulation_config(
    "demo",
    {"images": 130, "box": 64, "pixel_size_A": 6.0, "outliers": 0.2, "astigmatism_A": 300.0, "seed": 7},
)
FILES = {"particles.mrcs", "particles.star", "truth.star", "truth.csv", "simulation.json"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "one"
    calls = []
    summary = simulate(folder, SPECIMEN, CONFIG, progress=lambda done, of: calls.append((done, of)))
    return folder, summary, calls


@pytest.fixture(scope="module")
def tables(simulated):
    folder, _, _ = simulated
    blind, truth = (starfile.read(folder / name) for name in ("particles.star", "truth.star"))
    return blind, truth, pd.read_csv(folder / "truth.csv", keep_default_na=False)


def test_folder_holds_the_promised_files_only(simulated):
    folder, summary, _ = simulated
    assert {path.name for path in folder.iterdir()} == FILES
    assert summary.particles == folder / "particles.star"
    assert (summary.images, summary.outliers) == (130, 26)


def test_progress_ends_at_all_images(simulated):
    _, _, calls = simulated
    assert calls[-1] == (130, 130)
    assert all(one[0] < two[0] for one, two in itertools.pairwise(calls))


def test_stack_is_a_valid_mrc_file(simulated):
    folder, _, _ = simulated
    path = folder / "particles.mrcs"
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack()
        assert mrc.data.shape == (130, 64, 64)
        assert mrc.data.dtype == np.float32
        assert float(mrc.voxel_size.x) == pytest.approx(6.0)
        assert float(mrc.header.dmax) == mrc.data.max()
        assert float(mrc.header.dmean) == pytest.approx(mrc.data.mean(), abs=1e-5)
        assert float(mrc.header.rms) == pytest.approx(mrc.data.std(), rel=1e-4)


def test_stack_holds_the_streamed_images(simulated):
    folder, _, _ = simulated
    streamed = np.concatenate([batch.numpy() for batch in iter_images(draw_truth(CONFIG), SPECIMEN, CONFIG)])
    np.testing.assert_array_equal(mrcfile.read(folder / "particles.mrcs"), streamed)


def test_truth_and_experiment_agree_row_by_row(tables):
    blind, truth, _ = tables
    pd.testing.assert_frame_equal(blind["optics"], truth["optics"])
    shared = [c for c in blind["particles"].columns if c not in ("rlnDefocusU", "rlnDefocusV")]
    pd.testing.assert_frame_equal(blind["particles"][shared], truth["particles"][shared])
    assert blind["particles"]["rlnImageName"].iloc[[0, -1]].tolist() == [
        "000001@particles.mrcs", "000130@particles.mrcs",
    ]  # fmt: skip


def test_experimenter_has_no_truth_of_single_particles(tables):
    blind, truth, _ = tables
    particles = blind["particles"]
    assert set(particles.columns) == {
        "rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOpticsGroup",
        "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle",
    }  # fmt: skip
    per_micrograph = particles.groupby("rlnMicrographName")
    for column in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        assert (per_micrograph[column].max() == per_micrograph[column].min()).all()
    mean = truth["particles"].groupby("rlnMicrographName")["rlnDefocusU"].mean()
    np.testing.assert_allclose(per_micrograph["rlnDefocusU"].first(), mean, atol=1e-3)
    # Nothing on the sheet tells junk from particles.
    junk = truth["particles"][TRUTH_OUTLIER].to_numpy() == 1
    assert abs(np.corrcoef(np.arange(len(junk)), junk)[0, 1]) < 0.3


def test_star_and_plain_truth_agree_with_the_drawn_one(tables):
    _, star, plain = tables
    drawn, star = draw_truth(CONFIG), star["particles"]
    np.testing.assert_allclose(star["rlnAnglePsi"], drawn.psi_deg, atol=1e-6)
    np.testing.assert_allclose(plain["psi_deg"], drawn.psi_deg, atol=1e-5)
    np.testing.assert_allclose(star["rlnDefocusU"] - star["rlnDefocusV"], 300.0, atol=1e-3)
    np.testing.assert_allclose(plain["defocus_um"] * 1e4, drawn.defocus_A, rtol=1e-6)
    np.testing.assert_allclose(star[ORIGIN_X], -plain["shift_x_px"] * 6.0, atol=1e-5)
    np.testing.assert_allclose(star[ORIGIN_Y], -plain["shift_y_px"] * 6.0, atol=1e-5)
    assert star[TRUTH_KIND].astype(str).tolist() == plain["kind"].tolist() == drawn.kind.tolist()
    assert star[TRUTH_OUTLIER].tolist() == plain["outlier"].tolist() == drawn.outlier.astype(int).tolist()
    assert (star["rlnAngleRot"].iloc[0], star["rlnAngleTilt"].iloc[0]) == VIEW
    assert plain["index"].tolist() == list(range(130))
    assert plain["snr"][~drawn.outlier].mean() == pytest.approx(0.1, rel=1e-3)


def test_configuration_is_kept_and_makes_the_set_again(simulated):
    folder, _, _ = simulated
    content = json.loads((folder / "simulation.json").read_text())
    assert SimulationConfig.model_validate(content["configuration"]) == CONFIG
    assert content["view_deg"] == list(VIEW)


def test_same_seed_same_bytes_other_seed_other_bytes(simulated, tmp_path):
    folder, _, _ = simulated
    simulate(tmp_path / "same", SPECIMEN, CONFIG)
    simulate(tmp_path / "other", SPECIMEN, CONFIG.model_copy(update={"seed": 8}))
    for name in FILES:
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"is not empty \(it holds notes.txt\); expected a new or empty"):
        simulate(tmp_path, SPECIMEN, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_used(tmp_path):
    simulate(tmp_path, SPECIMEN, CONFIG.model_copy(update={"images": 5}))
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunFolderError, match="cannot be written"):
        simulate(tmp_path / "out", SPECIMEN, CONFIG)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_an_unfinished_set(tmp_path, error):
    def stop(done, of):
        raise error

    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else RunFolderError):
        simulate(tmp_path / "out", SPECIMEN, CONFIG, progress=stop)
    assert not (tmp_path / "out").exists()


def test_leftovers_of_a_killed_simulation_do_not_block_the_folder(tmp_path):
    (tmp_path / ".partial-simulation").mkdir()
    (tmp_path / ".partial-simulation" / "particles.mrcs").write_bytes(b"half")
    simulate(tmp_path, SPECIMEN, CONFIG.model_copy(update={"images": 5}))
    assert {path.name for path in tmp_path.iterdir()} == FILES
