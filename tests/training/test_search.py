"""A search compares trials by one measure, loses nothing to a kill, and leaves a configuration that `run` takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryorbit import make_config
from cryorbit.config import to_toml
from cryorbit.errors import ConfigurationError, RunFolderError, TrainingDivergedError
from cryorbit.io.runs import RunFolder
from cryorbit.model.losses import LossWeights
from cryorbit.model.vaegan import build_networks
from cryorbit.preprocessing.dataset import network_box_size
from cryorbit.training.objective import epoch_values, fixed_weights, objective, trial_curve
from cryorbit.training.space import SearchSpace
from cryorbit.training.trials import FAILED, FINISHED, STOPPED, TrialRecords, read_trial

from ..cli.test_cli import call
from ..pipeline_sets import TINY_RUN, tiny_set
from .conftest import tiny

# A search starts many processes, each of which imports all: minutes on a machine that is busy.
pytestmark = pytest.mark.timeout(1200)

WEIGHTS = LossWeights(regularisation=1.0, adversarial=0.0, cone=0.5)
terms = st.floats(-1e4, 1e4)


def record(epoch=1, **changes):
    values = {
        "reconstruction": 100.0,
        "kl": 10.0,
        "adversarial": 1.0,
        "cone": 2.0,
        "pose": 0.0,
        "total": 0.0,
        **changes,
    }
    return {"epoch": epoch, **{f"validation_{name}": value for name, value in values.items()}}


# -- the objective ---------------------------------------------------------------------------------------------


def test_objective_and_record_know_nothing_of_ray():
    program = (
        "import sys, cryorbit.training.objective, cryorbit.training.trials, cryorbit.hyperparameters; "
        "print([name for name in ('ray', 'hyperopt') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@given(reconstruction=terms, kl=terms, cone=terms, adversarial=terms, total=terms)
def test_the_objective_weighs_with_fixed_weights_only(reconstruction, kl, cone, adversarial, total):
    line = record(reconstruction=reconstruction, kl=kl, cone=cone, adversarial=adversarial, total=total)
    assert objective(line, WEIGHTS) == pytest.approx(reconstruction + kl + 0.5 * cone)


def test_a_trial_with_lighter_weights_gains_nothing_by_them():
    base = make_config().model
    lighter = base.model_copy(update={"lambda_reg": 0.001, "lambda_GAN": 4.0})
    assert fixed_weights(base) == LossWeights(base.lambda_reg, 0.0, base.lambda_cone, base.lambda_pose)
    # The same network, judged as its own trial would: its total is lower, its objective is not.
    line = record(total=100.0 + lighter.lambda_reg * 10.0)
    assert line["validation_total"] < objective(line, fixed_weights(base)) == 110.0


def test_a_trial_is_worth_what_training_would_keep_of_it():
    records = [record(1, total=5.0, kl=3.0), record(2, total=4.0, kl=4.0), record(3, total=6.0, kl=1.0)]
    values = list(epoch_values(records, WEIGHTS))
    assert [value.kept_epoch for value in values] == [1, 2, 2]
    assert [value.value for value in values] == [104.0, 105.0, 105.0]
    assert [value.loss for value in values] == [104.0, 105.0, 102.0]


def test_a_curve_that_was_left_goes_on_where_it_was(cache, tmp_path):
    whole = list(trial_curve(cache, tiny(), WEIGHTS, tmp_path / "whole"))
    assert [value.epoch for value in whole] == [1, 2, 3]
    curve = trial_curve(cache, tiny(), WEIGHTS, tmp_path / "parts")
    parts = [next(curve), next(curve)]
    curve.close()
    assert list(trial_curve(cache, tiny(), WEIGHTS, tmp_path / "parts", ended=True)) == parts == whole[:2]
    assert list(trial_curve(cache, tiny(), WEIGHTS, tmp_path / "parts")) == whole
    assert list(trial_curve(cache, tiny(), WEIGHTS, tmp_path / "parts")) == whole


def test_a_curve_says_that_it_diverged(cache, tmp_path):
    with pytest.raises(TrainingDivergedError):
        list(trial_curve(cache, tiny(learning_rate=1e18, schedule="constant"), WEIGHTS, tmp_path))


# -- the space -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["fast", "paper"])
@pytest.mark.parametrize("image_box", [16, 32, 40, 48, 64, 96, 100, 128, 200, 256])
def test_every_choice_sees_the_same_images_and_builds_a_network(preset, image_box):
    narrow = {"base_width": 1, "discriminator_width": 1, "architecture": "convolutional"}
    config = make_config(preset, {"model": narrow})
    if image_box < 2**config.model.n_blocks:
        pytest.skip("smaller than the network itself needs, which `run` refuses")
    space = SearchSpace.around(config, image_box)
    space.check(config, image_box)
    boxes = set()
    for n_blocks in space.n_blocks:
        model = space.applied(config, {"n_blocks": n_blocks}).model
        halvings = max(model.n_blocks, model.discriminator_blocks)
        boxes.add(network_box_size(image_box, config.preprocessing.box_size, 2**halvings))
        build_networks(max(boxes), model)
    assert len(boxes) == 1


def test_the_default_spaces_are_as_documented():
    fast, paper = (SearchSpace.around(make_config(preset), 128) for preset in ("fast", "paper"))
    assert asdict(paper) == {
        "learning_rate": (1e-4, 1e-2), "latent_dim": (3, 4), "n_blocks": (5, 6), "lambda_reg": (1e-3, 4.0),
        "lambda_GAN": (1e-3, 4.0), "hidden_layers": None,
    }  # fmt: skip
    assert asdict(fast) == {**asdict(paper), "n_blocks": None, "hidden_layers": (2, 3, 4)}
    convolutional = make_config("fast", {"model": {"architecture": "convolutional"}})
    assert asdict(SearchSpace.around(convolutional, 128)) == {**asdict(paper), "n_blocks": (3, 4, 5)}


def test_the_space_holds_the_configuration_and_keeps_what_is_off():
    config = make_config("fast", {"model": {"lambda_GAN": 0, "latent_dim": 8}, "training": {"learning_rate": 0.1}})
    space = SearchSpace.around(config, 64)
    assert space.lambda_GAN is None
    assert space.latent_dim == (3, 4, 8)
    assert space.learning_rate == (1e-4, 0.1)
    assert space.applied(config, space.parameters(config)) == config
    assert "lambda_GAN" not in space.parameters(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": (0.1, 0.01)}, "learning_rate is (0.1, 0.01); expected two numbers, 0 < low < high"),
        ({"latent_dim": ()}, "latent_dim has no values to choose from"),
        ({"n_blocks": (4, 7)}, "n_blocks = 7 cannot halve images of this box"),
        ({"lambda_reg": (2.0, 3.0)}, "lambda_reg = 1 of the configuration, with which the trials are compared"),
        (dict.fromkeys(("learning_rate", "latent_dim", "n_blocks", "lambda_reg", "lambda_GAN")), "nothing to search"),
    ],
)
def test_a_space_that_cannot_be_is_refused(changes, sentence):
    with pytest.raises(ConfigurationError) as caught:
        SearchSpace(**{"n_blocks": (3, 4), **changes}).check(make_config(), 64)
    assert sentence in str(caught.value)


# -- the record ------------------------------------------------------------------------------------------------


def test_what_ended_stays_and_what_failed_is_tried_again(cache, tmp_path):
    config = tiny(epochs=1)
    space = SearchSpace.around(config, 16)

    def records():
        return TrialRecords(tmp_path, config, space, fixed_weights(config.model))

    first = records()
    for number, state in enumerate((FINISHED, STOPPED, FAILED)):
        trial = first.begin({"learning_rate": 1e-3 * (number + 1)})
        list(trial_curve(cache, trial.config, trial.loss_weights, first.path(number)))
        first.end(number, state)
    again = records()
    assert [trial.state for trial in again.trials] == [FINISHED, STOPPED, "running"]
    assert again.trials[:2] == first.trials[:2]
    assert again.end(0, STOPPED) == first.trials[0]
    # Only a trial that was trained to the end can be the best: `run` trains to the end.
    assert again.best() == first.trials[0]
    assert not list(again.path(0).glob("checkpoint"))
    table, curves = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("trials", "curves"))
    assert table["trial"].tolist() == curves["trial"].tolist() == [0, 1, 2]
    assert np.allclose(table["value"], curves["value"])


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_a_configuration_survives_its_file(tmp_path, preset):
    changes = {
        "seed": 7, "model": {"lambda_reg": 0.1234567890123456789, "base_width": 7},
        "training": {"betas": [0.5, 0.9], "precision": "32-true"}, "estimation": {"defocus_range_um": [0.5, 2.0]},
    }  # fmt: skip
    config = make_config(preset, changes)
    file = tmp_path / "c.toml"
    file.write_text(to_toml(config))
    assert make_config(file=file) == config
    assert to_toml(make_config(preset)) == f'preset = "{preset}"\n'


def test_what_a_file_cannot_say_is_refused():
    with pytest.raises(ConfigurationError, match=r"training\.images_budget is None"):
        to_toml(make_config("fast", {"training": {"images_budget": None}}))


# -- the command -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set"), images=100)


@pytest.mark.parametrize("missing", ["ray", "hyperopt"])
def test_without_ray_the_remedy_is_named(particles, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "cryorbit.training.search", raising=False)
    code, _, err = call("search", particles, "--out", tmp_path / "out")
    assert code == 2
    assert f"of which {missing} cannot be imported: pip install 'cryorbit[search]'" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_mistakes_are_refused_before_the_work(particles, tmp_path):
    pytest.importorskip("ray", reason="the search needs ray: pip install 'cryorbit[search]'")
    (tmp_path / "notes.txt").write_text("mine")
    for arguments, sentence in (
        (["--out", tmp_path], "is not empty and holds no run"),
        (["--out", tmp_path / "new", "--trials", 0], "--trials"),
        (["--out", tmp_path / "new", "--set", "training.epoch=1"], "training.epoch"),
        (["--out", tmp_path / "new", "--ray-address", "127.0.0.1:1"], "no Ray cluster answers there"),
        (["--out", tmp_path / "new", "--ray-address", "somewhere"], "expected auto or HOST:PORT"),
    ):
        code, _, err = call("search", particles, *arguments)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert sentence in err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def command(particles, out, *more):
    # Unguided: an alignment of its own, and again for every trial what it draws, would take most of the time.
    settings = {**TINY_RUN, "training": {**TINY_RUN["training"], "epochs": 6, "guide": "none"}}
    pairs = [f"{part}.{name}={value}" for part, values in settings.items() for name, value in values.items()]
    options = [word for pair in pairs for word in ("--set", pair)]
    return [
        sys.executable, "-c", "from cryorbit.cli import main; main()", "search", particles, "--out", out,
        "--trials", "4", "--workers", "1", *options, *more,
    ]  # fmt: skip


def sessions():
    """Folders of Ray sessions of ours."""
    return set(Path("/tmp").glob("cryorbit-ray-*"))


@pytest.fixture(scope="module")
def uninterrupted(particles, tmp_path_factory):
    pytest.importorskip("ray", reason="the search needs ray: pip install 'cryorbit[search]'")
    pytest.importorskip("hyperopt", reason="the search needs hyperopt: pip install 'cryorbit[search]'")
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(command(particles, out), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return out, done


def test_a_search_tells_what_it_found_and_leaves_a_configuration(uninterrupted):
    out, done = uninterrupted
    summary = json.loads((out / "search.json").read_text())
    assert done.stdout.startswith(summary["sentence"])
    assert "Searching: 4 of 4" in done.stderr
    assert not [
        line
        for line in done.stderr.splitlines()
        if " ray" in line.lower() or ("Warning: 1" not in line and "Warning" in line)
    ]
    trials, curves = (pd.read_csv(out / f"{name}.csv") for name in ("trials", "curves"))
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert trials["state"].isin([FINISHED, STOPPED]).all()
    # The default is trained to the end, whatever the scheduler thinks of it.
    assert trials.loc[0, ["state", "epochs"]].tolist() == [FINISHED, 6]
    assert curves.groupby("trial").size().tolist() == trials["epochs"].tolist()
    finished = trials[trials["state"] == FINISHED]
    assert summary["best_value"] == pytest.approx(finished["value"].min())
    assert summary["default_value"] == pytest.approx(trials.loc[0, "value"])
    best = read_trial(out / "trials" / f"{summary['best_trial']:04d}")
    assert make_config(file=out / "best.toml") == best.config
    assert json.loads((out / "run.json").read_text())["finished"]
    assert not (out / "ray").exists()


def test_a_folder_with_a_search_is_no_run_and_is_not_searched_again(uninterrupted, particles):
    out, _ = uninterrupted
    with pytest.raises(RunFolderError, match=r"give its best\.toml to `cryorbit run --config`"):
        RunFolder.reopen(out)
    arguments = [str(word) for word in command(particles, out)[3:]]
    code, _, err = call(*arguments)
    assert code == 2
    assert "holds a finished run of this input and configuration" in err


def test_a_killed_search_goes_on_where_it_was(uninterrupted, particles, tmp_path):
    out, before = tmp_path / "out", sessions()
    process = subprocess.Popen(command(particles, out, "-q"), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / "trials" / "0001" / "metrics.jsonl").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = (out / "trials" / "0000" / "metrics.jsonl").read_bytes()
    assert read_trial(out / "trials" / "0000").state == FINISHED
    assert not (out / "search.json").exists()
    done = subprocess.run(command(particles, out), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "recorded already" in done.stderr
    assert (out / "trials" / "0000" / "metrics.jsonl").read_bytes() == first
    assert sessions() <= before
    # With one worker a search that was killed finds exactly what an uninterrupted one finds.
    for name in ("trials.csv", "curves.csv", "best.toml", "search.json"):
        assert (out / name).read_text() == (uninterrupted[0] / name).read_text(), name
