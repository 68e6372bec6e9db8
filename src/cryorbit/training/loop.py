"""Training of the VAE-GAN; the only place that knows devices and precisions.

Every epoch draws its random numbers from (seed, epoch) alone, so a training that was interrupted and resumed
equals one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from cryorbit.config import RunConfig
from cryorbit.errors import RunFolderError, TrainingDivergedError
from cryorbit.io.runs import make_folder, write_arrays
from cryorbit.model import losses
from cryorbit.model.losses import LossTerms, LossWeights
from cryorbit.model.vaegan import Autoencoder, AutoencoderOutput, build_networks
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.resample import rotate
from cryorbit.training.checkpoint import BEST, LAST, Progress, load_checkpoint, network_state, save_checkpoint
from cryorbit.training.guard import Guard, active_axes
from cryorbit.training.metrics import append_record, drop_epochs_after, log_to_tensorboard, read_metrics

# Fabric announces its precision on every start, which is no news to a user.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

WARMUP_STEPS = 50
DISCRIMINATOR_MOMENTUM = 0.1
# A discriminator that is left alone is still looked at, every so many steps, to see whether it may play again.
DISCRIMINATOR_PROBE = 10
MIN_VALIDATION = 1
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


def choose_precision(requested: str, accelerator: str) -> Any:
    """``bf16-mixed`` where the hardware multiplies bf16 natively, else float32; a definite request is obeyed."""
    if requested != "auto":
        return requested
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def split_rows(n: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and for validation; at least one of each, the same one where there is only one."""
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    held_out = min(max(MIN_VALIDATION, round(fraction * n)), n - 1) if fraction > 0 else 0
    training = np.sort(order[held_out:])
    return training, np.sort(order[:held_out]) if held_out else training


def epochs_for(n_training: int, epochs: int, images_budget: int | None) -> int:
    """Epochs to train: the most allowed, or as many as show the budget of images."""
    if images_budget is None:
        return epochs
    return max(1, min(epochs, math.ceil(images_budget / n_training)))


class _Trainer:
    """State of one training: networks, optimisers, progress."""

    def __init__(self, cache: ParticleCache, config: RunConfig, folder: Path) -> None:
        self.cache, self.config, self.folder = cache, config, folder
        settings = config.training
        self.training_rows, self.validation_rows = split_rows(len(cache), settings.validation_fraction, config.seed)
        self.epochs = epochs_for(len(self.training_rows), settings.epochs, settings.images_budget)
        self.steps_per_epoch = math.ceil(len(self.training_rows) / settings.batch_size)
        self.weights = LossWeights(config.model.lambda_reg, config.model.lambda_GAN, config.model.lambda_cone)
        self.fabric = Fabric(
            accelerator=settings.accelerator,
            devices=1,
            precision=choose_precision(settings.precision, settings.accelerator),
        )
        torch.manual_seed(config.seed)
        self.raw_autoencoder, self.raw_discriminator = build_networks(cache.box_size, config.model)
        for network in (self.raw_autoencoder, self.raw_discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autoencoder, self.generator_optimiser = self.fabric.setup(
            self.raw_autoencoder, self._adam(self.raw_autoencoder)
        )
        self.discriminator, self.discriminator_optimiser = self.fabric.setup(
            self.raw_discriminator, self._adam(self.raw_discriminator)
        )
        for method in ("sample_prior", "encode"):
            self.autoencoder.mark_forward_method(method)
        self.progress = Progress()

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        settings = self.config.training
        return torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=settings.betas)

    # -- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            **network_state(self.raw_autoencoder, self.raw_discriminator, self.cache.box_size),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "progress": asdict(self.progress),
        }

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one."""
        path = self.folder / LAST
        if not (path.is_file() and (self.folder / BEST).is_file()):
            return
        try:
            state = load_checkpoint(path)
        except RunFolderError:  # damaged: better begin again than stop
            return
        self.raw_autoencoder.load_state_dict(state["autoencoder"])
        self.raw_discriminator.load_state_dict(state["discriminator"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        self.progress = Progress(**state["progress"])

    # -- one epoch ---------------------------------------------------------------------------------------------

    def learning_rate(self, step: int) -> float:
        """Rate at a step: a short linear start, then constant or half a cosine."""
        base = self.config.training.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
        if self.config.training.schedule == "constant":
            return base
        return base * max(0.5 * (1.0 + math.cos(math.pi * step / (self.epochs * self.steps_per_epoch))), 1e-3)

    def batches(self, epoch: int) -> Iterator[Float[Tensor, "batch h w"]]:
        """Training images of one epoch in random order, turned if so configured."""
        draw = np.random.default_rng((self.config.seed, epoch))
        order = self.training_rows[draw.permutation(len(self.training_rows))]
        for start in range(0, len(order), self.config.training.batch_size):
            images = self.cache.read(order[start : start + self.config.training.batch_size])
            images = self.fabric.to_device(images)
            if self.config.training.turn_images:
                images = turn_at_random(images)
            yield images

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; returns the mean of each term of the loss."""
        self.autoencoder.train()
        self.discriminator.train()
        torch.manual_seed(_epoch_seed(self.config.seed, epoch))
        totals: dict[str, float] = {}
        for number, images in enumerate(self.batches(epoch)):
            step = epoch * self.steps_per_epoch + number
            for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
                for group in optimiser.param_groups:
                    group["lr"] = self.learning_rate(step)
            output, terms = self.generator_step(images)
            values = terms.as_floats()
            if self.weights.adversarial > 0:
                values["discriminator"] = self.discriminator_step(output, step)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
            self.progress.images_seen += len(images)
        return {name: value / self.steps_per_epoch for name, value in totals.items()}

    def loss_terms(self, output: AutoencoderOutput) -> LossTerms:
        """All terms of the encoder's and decoder's loss."""
        zero = output.latent.new_zeros(())
        adversarial, cone = zero, zero
        if self.weights.adversarial > 0:
            drawn = self.raw_autoencoder.simulated_images(output.drawn)
            adversarial = losses.generator_adversarial(self.discriminator(drawn))
        if self.weights.cone > 0:
            cone = losses.cone(output.latent)
        return losses.total_loss(
            self.raw_autoencoder.reconstruction_loss(output),
            losses.kl_to_standard_normal(output.posterior),
            adversarial,
            cone,
            self.weights,
        )

    def generator_step(self, images: Float[Tensor, "batch h w"]) -> tuple[AutoencoderOutput, LossTerms]:
        """One step of encoder and decoder."""
        self.raw_discriminator.requires_grad_(False)
        output = self.autoencoder(images)
        terms = self.loss_terms(output)
        self.generator_optimiser.zero_grad()
        self.fabric.backward(terms.total)
        self.generator_optimiser.step()
        self.raw_discriminator.requires_grad_(True)
        self.raw_autoencoder.update_noise_variance(output)
        return output, terms

    def discriminator_step(self, output: AutoencoderOutput, step: int) -> float:
        """One step of the discriminator on real images and samples of the prior, unless it is too far ahead."""
        floor = self.config.training.discriminator_floor
        ahead = self.progress.discriminator_loss < floor
        if ahead and step % DISCRIMINATOR_PROBE:
            return self.progress.discriminator_loss
        with torch.no_grad():
            fake = self.autoencoder.sample_prior(len(output.target))
        real_odds, fake_odds = self.discriminator(output.target), self.discriminator(fake)
        loss = losses.discriminator_adversarial(real_odds, fake_odds)
        self.progress.discriminator_loss += DISCRIMINATOR_MOMENTUM * (
            float(loss.detach()) - self.progress.discriminator_loss
        )
        if self.progress.discriminator_loss >= floor:
            self.discriminator_optimiser.zero_grad()
            self.fabric.backward(loss)
            self.discriminator_optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], NDArray[np.float64]]:
        """Terms of the loss on the held-out images at the posterior mean, and those means."""
        self.autoencoder.eval()
        self.discriminator.eval()
        totals: dict[str, float] = {}
        means = []
        size = 4 * self.config.training.batch_size
        for start in range(0, len(self.validation_rows), size):
            images = self.fabric.to_device(self.cache.read(self.validation_rows[start : start + size]))
            if self.config.training.turn_images:
                # Turned like the training images, whose noise the interpolation softens: else the two losses differ.
                images = rotate(images, _golden_turns_deg(start, len(images)).to(images.device))
            output = self.autoencoder(images, sample=False)
            share = len(images) / len(self.validation_rows)
            for name, value in self.loss_terms(output).as_floats().items():
                totals[name] = totals.get(name, 0.0) + share * value
            means.append(output.posterior.mean.double().cpu().numpy())
        return totals, np.concatenate(means)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint32)[0])


def _golden_turns_deg(first: int, count: int) -> Float[Tensor, " count"]:
    """Turns spread evenly over the circle, the same in every epoch."""
    return 360.0 * (torch.arange(first, first + count) * 0.5 * (math.sqrt(5.0) - 1.0)).remainder(1.0)


def turn_at_random(images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
    """Every image under an in-plane turn of its own, uniform on the circle."""
    return rotate(images, 360.0 * torch.rand(len(images), device=images.device))


def train(
    cache: ParticleCache, config: RunConfig, folder: Path, metrics: Path, report: EpochReport | None = None
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

    Raises
    ------
    TrainingDivergedError
        If the loss is no number any more.
    """
    make_folder(folder)
    trainer = _Trainer(cache, config, folder)
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


def train_by_epochs(cache: ParticleCache, config: RunConfig, folder: Path, metrics: Path) -> Iterator[dict[str, Any]]:
    """The same training an epoch at a time, for who decides in between whether to go on; gives each line of metrics."""
    make_folder(folder)
    yield from _epochs(_Trainer(cache, config, folder), metrics)


def _epochs(trainer: _Trainer, metrics: Path) -> Iterator[dict[str, Any]]:
    """Epochs from the last checkpoint to the end, each logged and saved before it is handed out."""
    trainer.resume()
    drop_epochs_after(metrics, trainer.progress.epoch)
    guard = Guard()
    while not trainer.progress.finished:
        record = _one_epoch(trainer, guard)
        append_record(metrics, record)
        if trainer.config.training.tensorboard:
            log_to_tensorboard(metrics.with_name("tensorboard"), record)
        save_checkpoint(trainer.folder / LAST, trainer.state())
        yield record


def _one_epoch(trainer: _Trainer, guard: Guard) -> dict[str, Any]:
    """Train, validate, keep the best weights and a few drawn images; returns the line for the metrics file."""
    progress = trainer.progress
    started = time.perf_counter()
    training_terms = trainer.train_epoch(progress.epoch)
    seconds = time.perf_counter() - started
    validation_terms, latent_mean = trainer.validate()
    if not math.isfinite(validation_terms["total"]):
        raise TrainingDivergedError(
            f"Training diverged in epoch {progress.epoch + 1} (the loss is no number any more): lower "
            "training.learning_rate, or give --set training.precision=32-true."
        )
    progress.epoch += 1
    if validation_terms["total"] < progress.best_validation:
        progress.best_validation, progress.best_epoch = validation_terms["total"], progress.epoch
        weights = network_state(trainer.raw_autoencoder, trainer.raw_discriminator, trainer.cache.box_size)
        save_checkpoint(trainer.folder / BEST, weights)
    patience = trainer.config.training.patience
    progress.finished = progress.epoch >= trainer.epochs or progress.epoch - progress.best_epoch >= patience
    if progress.epoch in PREVIEW_EPOCHS or progress.finished:
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
def _save_preview(trainer: _Trainer) -> None:
    """Keep a few held-out images and what the decoder makes of them, for the figure over epochs."""
    rows = trainer.validation_rows[:PREVIEW_IMAGES]
    trainer.autoencoder.eval()
    output = trainer.autoencoder(trainer.fabric.to_device(trainer.cache.read(rows)), sample=False)
    drawn = trainer.raw_autoencoder.expected_images(output.drawn)
    path = trainer.folder / f"preview_{trainer.progress.epoch:04d}.npz"
    arrays = {"images": output.target.float().cpu().numpy(), "drawn": drawn.float().cpu().numpy()}
    write_arrays(path, rows=rows, **arrays)
