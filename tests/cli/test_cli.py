"""The command line, as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from cryorbit import cli
from cryorbit.commands.choices import setting
from cryorbit.errors import ConfigurationError

from ..io.conftest import star_text, write_stack
from ..pipeline_sets import tiny_set

COMMANDS = [
    "demo", "simulate", "inspect", "run", "classify", "train", "embed", "outliers", "estimate", "limits", "evaluate",
    "search", "reproduce", "report", "export", "relion-job",
]  # fmt: skip
FAST = [
    "--set", "training.epochs=1", "--set", "model.base_width=4", "--set", "model.n_blocks=3",
    "--set", "model.discriminator_blocks=3", "--set", "preprocessing.box_size=32", "--set", "training.accelerator=cpu",
    "--set", "training.precision=32-true", "--set", "model.principal_images=64",
    "--set", "model.hidden_width=128", "-q",
]  # fmt: skip


def call(*arguments):
    """Exit code, output and error output of the program, in this process."""
    code = 0
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cryorbit", *map(str, arguments)])
        with runner.isolation() as (out, err, *_):
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code or 0
            return code, out.getvalue().decode(), err.getvalue().decode()


def test_every_command_has_help():
    code, out, _ = call("--help")
    assert code == 0
    for command in COMMANDS:
        assert command in out
        code, text, _ = call(command, "--help")
        assert code == 0
        assert "--seed" in text
        assert "--debug" in text


def test_help_imports_nothing_heavy():
    program = (
        "import sys, cryorbit.cli; heavy = ('torch', 'numpy', 'pandas', 'sklearn', 'ray'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture
def faults(tmp_path):
    images = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    write_stack(tmp_path / "a.mrcs", images)
    cut = tmp_path / "cut.mrcs"
    cut.write_bytes((tmp_path / "a.mrcs").read_bytes()[:-7])
    texts = {
        "missing": star_text(["1@gone.mrcs"]),
        "truncated": star_text(["1@cut.mrcs"]),
        "beyond": star_text(["4@a.mrcs"]),
        "text": "dear diary\n",
        "good": star_text([f"{i}@a.mrcs" for i in (1, 2, 3)]),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.star").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "gone.mrcs"),
        ("truncated", "is truncated"),
        ("beyond", "image 4@a.mrcs does not exist"),
        ("text", "is not a readable STAR file"),
        ("absent", "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(faults, name, sentence):
    code, _, err = call("run", faults / f"{name}.star", "--out", faults / "out")
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert not (faults / "out").exists()


def test_a_folder_that_is_not_empty_is_refused(faults):
    (faults / "out").mkdir()
    (faults / "out" / "notes.txt").write_text("mine")
    code, _, err = call("run", faults / "good.star", "--out", faults / "out", *FAST)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "is not empty" in err
    assert (faults / "out" / "notes.txt").read_text() == "mine"


def test_debug_shows_the_traceback(faults):
    with pytest.raises(ValueError, match="do not exist"):
        call("run", faults / "missing.star", "--out", faults / "out", "--debug")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "training.epoch=3"], "training.epoch"),
        (["--set", "training.epochs"], "expected name=value"),
        (["--defocus-range", "wide"], "expected two numbers in micrometres"),
        (["--defocus-prior", "hopeful"], "estimation.defocus_prior"),
        (["--preset", "slow"], "choose one of fast, paper"),
    ],
)
def test_mistakes_in_options_are_named(faults, arguments, sentence):
    code, _, err = call("run", faults / "good.star", "--out", faults / "out", *arguments)
    assert code == 2
    assert sentence in err
    assert not (faults / "out").exists()


def test_inspect_lists_everything_and_fails_on_problems(faults):
    code, out, _ = call("inspect", faults / "good.star")
    assert code == 0
    assert "3 particles in 1 stack " in out
    assert "box: 16 x 16" in out
    code, _, err = call("inspect", faults / "missing.star")
    assert code == 2
    assert "Problem:" in err


def test_the_stages_one_by_one(tmp_path):
    star = tiny_set(tmp_path / "set", images=40)
    out = tmp_path / "run"
    code, _, err = call("train", star, "--out", out, *FAST)
    assert (code, err) == (0, "")
    for command in ("embed", "outliers", "estimate", "report"):
        arguments = ["--defocus-prior", "blind"] if command == "estimate" else []
        code, text, err = call(command, out, "-q", *arguments)
        assert code == 0, err
    assert "report.html" in text
    code, text, _ = call("evaluate", out / "particles.star", star.with_name("truth.star"), "--json")
    metrics = json.loads(text)
    assert {
        "angle_rmse_deg", "angle_rmse_weighted_deg", "angle_median_deg", "defocus_rmse_um", "defocus_rmse_weighted_um",
        "outlier_auc", "angle_calibration",
    } <= metrics.keys()  # fmt: skip


def test_simulate_writes_what_it_was_asked_for(tmp_path):
    arguments = [
        "--images",
        "12",
        "--snr",
        "0.2",
        "--defocus",
        "1.0,2.0",
        "--outliers",
        "0.25",
        "--view",
        "30,60",
        "-q",
    ]
    code, out, err = call("simulate", tmp_path / "set", *arguments)
    assert code == 0, err
    assert {path.name for path in (tmp_path / "set").iterdir()} >= {
        "particles.mrcs", "particles.star", "truth.star", "truth.csv",
    }  # fmt: skip
    assert "12" in out
    code, _, err = call("simulate", tmp_path / "set", *arguments)
    assert code == 2
    code, _, err = call("simulate", tmp_path / "x", "--view", "up")
    assert code == 2
    assert "ROT,TILT" in err


SMALL_MICROGRAPHS = [
    "--preset", "micrographs", "--images", "4", "--set", "detector_px=[420, 420]", "--set", "magnification=25000",
    "--set", "extracted_px=192", "--set", "particles_per_micrograph=4", "-q",
]  # fmt: skip


def test_simulate_boxes_particles_from_micrographs(tmp_path):
    out = tmp_path / "set"
    arguments = ["--dose", "3000", "--ice", "20", "--snr", "0.3", "--keep-micrographs"]
    code, text, err = call("simulate", out, *SMALL_MICROGRAPHS, *arguments)
    assert code == 0, err
    assert "4, truth in" in text
    assert [path.name for path in (out / "micrographs").iterdir()] == ["micrograph_00001.mrc"]
    configuration = json.loads((out / "simulation.json").read_text())["configuration"]
    assert (configuration["dose_per_nm2"], configuration["ice_nm"], configuration["snr"]) == (3000.0, 20.0, 0.3)


def test_micrographs_that_cannot_be_simulated_are_refused_in_a_sentence(tmp_path):
    water = tmp_path / "water.pdb"
    water.write_text("HETATM    1  O   HOH A   1      10.000  10.000  10.000  1.00 10.00           O\nEND\n")
    for arguments, message in (
        (["--set", "extracted_px=500"], "boxes of 500 px are larger than the micrograph of 420 x 420 px"),
        (["--structure", water], "holds no atoms besides water and hydrogen"),
        (["--set", "typo=1"], "typo"),
        (["--preset", "noisy", "--dose", "100"], "belongs to whole micrographs"),
        (["--preset", "noisy", "--keep-micrographs"], "no micrographs to keep"),
    ):
        if "noisy" in arguments:
            code, _, err = call("simulate", tmp_path / "set", "-q", *arguments)
        else:
            code, _, err = call("simulate", tmp_path / "set", *SMALL_MICROGRAPHS, *arguments)
        assert code == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "set").exists()


def test_a_truth_can_be_named_on_the_command_line_only_if_it_exists(tmp_path):
    star = tiny_set(tmp_path / "set", images=12)
    code, _, err = call("run", star, "--out", tmp_path / "run", "--truth", tmp_path / "no.star", *FAST)
    assert code == 2
    assert "no.star does not exist" in err


def test_settings_are_read_as_toml():
    assert setting("a.b=3") == {"a": {"b": 3}}
    assert setting("a=blind") == {"a": "blind"}
    with pytest.raises(ConfigurationError):
        setting("=3")


def test_what_a_run_folder_cannot_change_is_refused(tmp_path):
    star = tiny_set(tmp_path / "set", images=30)
    out = tmp_path / "run"
    assert call("train", star, "--out", out, *FAST)[0] == 0
    for arguments in (["--set", "training.epochs=7"], ["--seed", "5"], ["--preset", "paper"], ["--overwrite"]):
        code, _, err = call("estimate", out, *arguments)
        assert code == 2
        assert arguments[0] in err
    assert call("estimate", out, "-q", "--set", "estimation.chart='pca'")[0] == 0
    assert json.loads((out / "run.json").read_text())["configuration"]["estimation"]["chart"] == "pca"
    code, _, err = call("embed", tmp_path / "nowhere")
    assert code == 2
    assert "does not exist" in err


def test_an_interrupt_is_said_and_leaves_a_run_to_go_on_with(tmp_path):
    star = tiny_set(tmp_path / "set", images=60)
    command = [sys.executable, "-m", "cryorbit.cli", "run", star, "--out", tmp_path / "run", *FAST]
    command += ["--set", "training.epochs=500", "--set", "training.patience=500"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "run" / "checkpoint" / "last.pt").is_file():
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.strip().endswith("the same command goes on from the last finished stage or epoch.")
    assert "Traceback" not in err
    code, _, err = call(*command[3:-4], "--set", "training.epochs=500", "--set", "training.patience=1")
    assert code == 2  # another configuration is another run
    assert "another input or configuration" in err


def test_usage_errors_are_one_sentence():
    for arguments in (["run"], ["fly"], ["run", "a.star", "--out"], ["run", "a.star", "--out", "x", "--seed", "many"]):
        code, _, err = call(*arguments)
        assert code == 2
        assert len(err.strip().splitlines()) == 1
