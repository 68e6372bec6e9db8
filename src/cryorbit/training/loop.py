"""Training of the VAE-GAN, epoch by epoch, each logged and saved before the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cryorbit.config import RunConfig
from cryorbit.errors import TrainingDivergedError
from cryorbit.io.runs import make_folder, write_arrays
from cryorbit.model.vaegan import Autoencoder, build_networks
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.checkpoint import BEST, LAST, load_checkpoint, network_state, save_checkpoint
from cryorbit.training.guard import Guard, active_axes
from cryorbit.training.guidance import Guide
from cryorbit.training.metrics import append_record, drop_epochs_after, log_to_tensorboard, read_metrics
from cryorbit.training.team import Team
from cryorbit.training.trainer import Trainer

PREVIEW_IMAGES = 6
PREVIEW_EPOCHS = (1, 3, 10)

EpochReport = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with its number, the most epochs there can be, and the terms of the loss."""


@dataclass(frozen=True)
class TrainingResult:
    """What training left behind.

    Attributes
    ----------
    autoencoder
        The networks of the best epoch, in evaluation mode on the CPU.
    epochs, best_epoch
        Epochs trained, and the one with the lowest validation loss.
    warnings
        What the guard noticed.
    """

    autoencoder: Autoencoder
    epochs: int
    best_epoch: int
    warnings: tuple[str, ...]


def train(
    cache: ParticleCache,
    config: RunConfig,
    folder: Path,
    metrics: Path,
    report: EpochReport | None = None,
    guide: Guide | None = None,
    team: Team | None = None,
) -> TrainingResult:
    """Train a VAE-GAN on cached particles, or go on with a training that was interrupted.

    Parameters
    ----------
    cache
        Standardised particle images.
    config
        Model, loss and optimisation.
    folder
        Where checkpoints go: ``last.pt`` after every epoch, ``best.pt`` at the lowest validation loss.
    metrics
        JSON-lines file to which every epoch's loss terms are appended.
    report
        Called after each epoch.
    guide
        Of a guided training; None leaves the pose term out.
    team
        Processes that train together, of which each calls this function; the lead alone writes. This one alone if
        left out.

    Raises
    ------
    TrainingDivergedError
        If the loss is no number any more.
    """
    make_folder(folder)
    trainer = Trainer(cache, config, folder, guide, team)
    for record in _epochs(trainer, metrics):
        if report is not None:
            numbers = {name: value for name, value in record.items() if isinstance(value, float)}
            report(trainer.progress.epoch, trainer.epochs, numbers)
    autoencoder, _ = build_networks(cache.box_size, config.model)
    autoencoder.load_state_dict(load_checkpoint(folder / BEST)["autoencoder"])
    warnings = [warning for record in read_metrics(metrics) for warning in record["warnings"]]
    return TrainingResult(
        autoencoder.eval(),
        trainer.progress.epoch,
        trainer.progress.best_epoch,
        tuple(dict.fromkeys(warnings)),
    )


def train_by_epochs(
    cache: ParticleCache,
    config: RunConfig,
    folder: Path,
    metrics: Path,
    guide: Guide | None = None,
    team: Team | None = None,
) -> Iterator[dict[str, Any]]:
    """The same training an epoch at a time, for who decides in between whether to go on; gives each line of metrics."""
    make_folder(folder)
    yield from _epochs(Trainer(cache, config, folder, guide, team), metrics)


def _epochs(trainer: Trainer, metrics: Path) -> Iterator[dict[str, Any]]:
    """Epochs from the last checkpoint to the end, each logged and saved before it is handed out."""
    trainer.resume()
    leads = trainer.team.leads
    if leads:
        drop_epochs_after(metrics, trainer.progress.epoch)
    guard = Guard()
    while not trainer.progress.finished:
        with trainer.team.cores_shared():
            record = _one_epoch(trainer, guard)
        if leads:
            append_record(metrics, record)
            if trainer.config.training.tensorboard:
                log_to_tensorboard(metrics.with_name("tensorboard"), record)
            save_checkpoint(trainer.folder / LAST, trainer.state())
        yield record


def _one_epoch(trainer: Trainer, guard: Guard) -> dict[str, Any]:
    """Train, validate, keep the best weights and a few drawn images; returns the line for the metrics file."""
    progress = trainer.progress
    started = time.perf_counter()
    training_terms = trainer.train_epoch(progress.epoch)
    seconds = time.perf_counter() - started
    validation_terms, latent_mean = trainer.validate()
    if trainer.team.size > 1:  # or machines that round differently would end at different epochs
        validation_terms = trainer.team.told(validation_terms)
    if not math.isfinite(validation_terms["total"]):
        raise TrainingDivergedError(
            f"Training diverged in epoch {progress.epoch + 1} (the loss is no number any more): lower "
            "training.learning_rate, or give --set training.precision=32-true."
        )
    progress.epoch += 1
    if validation_terms["total"] < progress.best_validation:
        progress.best_validation, progress.best_epoch = validation_terms["total"], progress.epoch
        if trainer.team.leads:
            weights = network_state(trainer.raw_autoencoder, trainer.raw_discriminator, trainer.cache.box_size)
            save_checkpoint(trainer.folder / BEST, weights)
    patience = trainer.config.training.patience
    progress.finished = progress.epoch >= trainer.epochs or progress.epoch - progress.best_epoch >= patience
    if trainer.team.leads and (progress.epoch in PREVIEW_EPOCHS or progress.finished):
        _save_preview(trainer)
    return {
        "epoch": progress.epoch,
        **{f"train_{name}": value for name, value in training_terms.items()},
        **{f"validation_{name}": value for name, value in validation_terms.items()},
        "noise_variance": float(trainer.raw_autoencoder.noise_variance),
        "active_axes": active_axes(latent_mean),
        "images_seen": progress.images_seen,
        "images_per_second": round(len(trainer.training_rows) / seconds, 1),
        "warnings": guard.watch(training_terms.get("discriminator"), latent_mean),
    }


@torch.no_grad()
def _save_preview(trainer: Trainer) -> None:
    """Keep a few held-out images and what the decoder makes of them, for the figure over epochs."""
    rows = trainer.validation_rows[:PREVIEW_IMAGES]
    trainer.autoencoder.eval()
    output = trainer.autoencoder(trainer.fabric.to_device(trainer.cache.read(rows)), sample=False)
    drawn = trainer.raw_autoencoder.expected_images(output.drawn)
    path = trainer.folder / f"preview_{trainer.progress.epoch:04d}.npz"
    arrays = {"images": output.target.float().cpu().numpy(), "drawn": drawn.float().cpu().numpy()}
    write_arrays(path, rows=rows, **arrays)
