"""Training learns, resumes exactly, stops in time, and says when something goes wrong."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from cryorbit import make_config
from cryorbit.errors import ConfigurationError, RunFolderError
from cryorbit.training.checkpoint import BEST, LAST, load_autoencoder, load_checkpoint
from cryorbit.training.guard import Guard, active_axes
from cryorbit.training.loop import train
from cryorbit.training.metrics import read_metrics
from cryorbit.training.trainer import GRADIENT_LIMIT, Trainer, epochs_for, split_rows

from .conftest import TINY, tiny


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def test_training_lowers_the_loss_and_logs_every_term(cache, tmp_path):
    train(cache, tiny(epochs=15), tmp_path / "c", tmp_path / "metrics.jsonl")
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["epoch"] for record in records] == list(range(1, 16))
    assert records[-1]["validation_total"] < records[0]["validation_total"]
    terms = {"reconstruction", "kl", "adversarial", "cone", "total"}
    for record in records:
        assert {f"{part}_{term}" for part in ("train", "validation") for term in terms} <= record.keys()
        weighted = record["train_reconstruction"] + record["train_kl"] + 0.01 * record["train_adversarial"]
        assert np.isclose(record["train_total"], weighted, rtol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e2, 1e6])
def test_one_huge_gradient_is_held_back(cache, tmp_path, factor):
    """It counts as much as the largest that is usual; usual ones stay as they are."""
    trainer = Trainer(cache, tiny(), tmp_path, None)
    norms = []

    def step(scale):
        trainer.generator_optimiser.zero_grad()
        for parameter in trainer.raw_autoencoder.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        norm = float(torch.sqrt(sum(p.grad.square().sum() for p in trainer.raw_autoencoder.parameters())))
        trainer._hold_back()
        held = float(torch.sqrt(sum(p.grad.square().sum() for p in trainer.raw_autoencoder.parameters())))
        norms.append(norm)
        return held / norm

    for _ in range(5):
        assert step(1.0) == pytest.approx(1.0)
    assert step(factor) == pytest.approx(min(1.0, GRADIENT_LIMIT / factor), rel=1e-3)
    # What is usual has hardly changed by it.
    assert norms[0] <= trainer.progress.gradient_norm <= 1.1 * norms[0]
    assert step(1.0) == pytest.approx(1.0)
    assert step(float("inf")) != 1.0
    assert np.isfinite(trainer.progress.gradient_norm)


def test_a_resumed_training_equals_an_uninterrupted_one(cache, tmp_path):
    train(cache, tiny(), tmp_path / "whole", tmp_path / "whole.jsonl")

    class Interrupt(Exception):
        pass

    def stop_after_first(epoch, *_):
        if epoch == 1:
            raise Interrupt

    with pytest.raises(Interrupt):
        train(cache, tiny(), tmp_path / "parts", tmp_path / "parts.jsonl", stop_after_first)
    # An epoch that was logged, but whose checkpoint an interrupt prevented, must not be logged twice.
    with (tmp_path / "parts.jsonl").open("a") as handle:
        handle.write(json.dumps({"epoch": 2, "warnings": []}) + '\n{"epoch": 3, "tra')
    train(cache, tiny(), tmp_path / "parts", tmp_path / "parts.jsonl")
    for name in (LAST, BEST):
        one, other = (load_checkpoint(tmp_path / folder / name) for folder in ("whole", "parts"))
        same(one["autoencoder"], other["autoencoder"])
        same(one["discriminator"], other["discriminator"])
    logs = [read_metrics(tmp_path / f"{name}.jsonl") for name in ("whole", "parts")]
    for record in (*logs[0], *logs[1]):
        record.pop("images_per_second")
    assert logs[0] == logs[1]


def test_the_seed_decides(cache, tmp_path):
    states = []
    for number, seed in enumerate((1, 1, 2)):
        config = tiny(epochs=1).model_copy(update={"seed": seed})
        train(cache, config, tmp_path / str(number), tmp_path / f"{number}.jsonl")
        states.append(load_checkpoint(tmp_path / str(number) / BEST)["autoencoder"])
    same(states[0], states[1])
    assert not torch.equal(states[0]["encoder.mean.weight"], states[2]["encoder.mean.weight"])


def test_training_stops_when_validation_no_longer_improves(cache, tmp_path):
    # A rate so low that nothing moves: no epoch is better than the first.
    config = tiny(epochs=40, patience=2, learning_rate=1e-15, schedule="constant")
    model = config.model.model_copy(update={"likelihood": "bernoulli", "lambda_GAN": 0.0})
    result = train(cache, config.model_copy(update={"model": model}), tmp_path / "c", tmp_path / "m.jsonl")
    assert (result.best_epoch, result.epochs) == (1, 3)


def test_without_the_gan_there_is_no_discriminator_loss(cache, tmp_path):
    config = make_config("fast", {**TINY, "model": {**TINY["model"], "lambda_GAN": 0.0}})
    train(cache, config, tmp_path / "c", tmp_path / "m.jsonl")
    (record, *_) = read_metrics(tmp_path / "m.jsonl")
    assert "train_discriminator" not in record
    assert record["train_adversarial"] == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_both_presets_train_in_both_precisions(cache, tmp_path, preset, precision):
    config = make_config(preset, {**TINY, "training": {**TINY["training"], "epochs": 1, "precision": precision}})
    result = train(cache, config, tmp_path / "c", tmp_path / "m.jsonl")
    assert np.isfinite(read_metrics(tmp_path / "m.jsonl")[0]["validation_total"])
    autoencoder = load_autoencoder(tmp_path / "c" / BEST, config.model)
    images = cache.read(np.arange(4))
    assert torch.equal(autoencoder.encode(images).mean, result.autoencoder.encode(images).mean)


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 1)), (2, (1, 1)), (7, (6, 1)), (100, (80, 20))])
def test_rows_are_split_without_overlap(n, expected):
    training, validation = split_rows(n, 0.2, seed=0)
    assert (len(training), len(validation)) == expected
    assert n == 1 or not set(training) & set(validation)
    assert set(training) | set(validation) == set(range(n))


def test_of_very_many_a_sample_is_trained_on():
    training, validation = split_rows(1000, 0.2, seed=3, most=100)
    assert (len(training), len(validation)) == (80, 20)
    assert not set(training) & set(validation)
    assert max(training) > 500
    for few in (50, 100):
        np.testing.assert_array_equal(split_rows(few, 0.2, 3, 100)[0], split_rows(few, 0.2, 3)[0])


def test_a_large_set_needs_fewer_epochs():
    assert epochs_for(1600, 40, 120_000) == 40
    assert epochs_for(100_000, 40, 120_000) == 2
    assert epochs_for(10**7, 40, 120_000) == 1
    assert epochs_for(10**7, 40, None) == 40


def test_the_guard_speaks_once_and_only_when_it_must():
    rng = np.random.default_rng(0)
    healthy, collapsed = rng.normal(size=(50, 3)), np.zeros((50, 3))
    assert [Guard().watch(1.3, healthy) for _ in range(9)] == [[]] * 9
    guard = Guard()
    said = [guard.watch(0.01, collapsed) for _ in range(9)]
    assert [len(warnings) for warnings in said] == [0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert "discriminator has won" in said[2][0]
    assert "collapsed" in said[2][1]
    assert active_axes(np.stack([rng.normal(size=50), np.zeros(50)], 1)) == 1


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="there is no trained model"):
        load_checkpoint(tmp_path / BEST)
    (tmp_path / BEST).write_bytes(b"nonsense")
    with pytest.raises(RunFolderError, match=r"best\.pt: is damaged"):
        load_checkpoint(tmp_path / BEST)


def test_tensorboard_gets_the_same_numbers_or_is_asked_for(cache, tmp_path):
    config = tiny(epochs=1, tensorboard=True)
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ConfigurationError, match="TensorBoard is not installed"):
            train(cache, config, tmp_path / "c", tmp_path / "m.jsonl")
    else:
        train(cache, config, tmp_path / "c", tmp_path / "m.jsonl")
        assert any((tmp_path / "tensorboard").iterdir())
