"""Configuration is checked before anything is read, and says what is wrong with it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cryorbit import make_config
from cryorbit.errors import ConfigurationError


def test_later_settings_win(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "paper"\n[training]\nepochs = 5\nbatch_size = 4\n')
    config = make_config("fast", {"training": {"epochs": 7}}, file)
    assert (config.preset, config.model.n_blocks, config.training.epochs, config.training.batch_size) == (
        "paper", 5, 7, 4,
    )  # fmt: skip


def test_a_saved_configuration_makes_the_same_again():
    config = make_config("paper", {"seed": 3, "estimation": {"defocus_range_um": (0.3, 4.0)}})
    assert make_config(config.preset, config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training": {"epoch": 3}}, "training.epoch"),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"preprocessing": {"box_size": 60}}, "choose a multiple of 16"),
        ({"model": {"latent_dim": 2, "lambda_cone": 1.0}}, "three latent axes"),
        ({"estimation": {"defocus_range_um": (2.0, 1.0)}}, "0 < low < high"),
        ({"estimation": {"method": "magic"}}, "estimation.method"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_config("fast", changes)


def test_unknown_presets_and_files_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="choose one of fast, paper"):
        make_config("slow")
    with pytest.raises(ConfigurationError, match=r"absent\.toml: cannot be read"):
        make_config(file=tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ConfigurationError, match="is not a TOML file"):
        make_config(file=tmp_path / "bad.toml")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        make_config().seed = 3


def test_the_pose_term_needs_the_axes_of_the_cone():
    with pytest.raises(ConfigurationError, match="lambda_pose") as refusal:
        make_config("fast", {"model": {"latent_dim": 2}})
    assert "latent_dim to 3 or 4" in str(refusal.value)
    assert "; model" not in str(refusal.value)  # one sentence
    assert make_config("fast", {"model": {"latent_dim": 2, "lambda_pose": 0.0}}).model.latent_dim == 2
