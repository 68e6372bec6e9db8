"""One training in progress: networks, optimisers, devices, and a pass over the images.

Every epoch draws its random numbers from (seed, epoch) alone, so a training that was interrupted and resumed
equals one that was not.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, nn

from cryorbit.config import RunConfig
from cryorbit.errors import RunFolderError
from cryorbit.machine import to_device
from cryorbit.model import losses
from cryorbit.model.losses import POSE_AXES, LossTerms, LossWeights
from cryorbit.model.vaegan import AutoencoderOutput, build_networks
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.resample import rotate
from cryorbit.threads import ahead
from cryorbit.training.checkpoint import BEST, LAST, Progress, load_checkpoint, network_state
from cryorbit.training.guidance import Guide
from cryorbit.training.team import Share, Team

# Fabric announces its precision on every start, which is no news to a user.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

WARMUP_STEPS = 50
DISCRIMINATOR_MOMENTUM = 0.1
# A gradient this many times larger than the running mean is held back to that; others are up to four times larger.
GRADIENT_LIMIT = 5.0
GRADIENT_MOMENTUM = 0.02
# A discriminator that is left alone is still looked at, every so many steps, to see whether it may play again.
DISCRIMINATOR_PROBE = 10
MIN_VALIDATION = 1
# Images that the principal images of the projection are taken from.
PRINCIPAL_SAMPLE = 6000
# And of junk along with them, a quarter as many: what is not seen cannot be told from a particle.
PRINCIPAL_JUNK = 0.25
# What the encoder pretends to know of junk counts this many times: a particle's surprise has no bound, this has.
IGNORANCE = 4.0


def choose_precision(requested: str, accelerator: str) -> Any:
    """``bf16-mixed`` where the hardware multiplies bf16 natively, else float32; a definite request is obeyed."""
    if requested != "auto":
        return requested
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def split_rows(
    n: int, fraction: float, seed: int, most: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and for validation; at least one of each, the same one where there is only one.

    Parameters
    ----------
    n
        Particles.
    fraction
        For validation.
    seed
        Of the draw.
    most
        Rows altogether, at most; all if left out.
    """
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)[:most]
    n = len(order)
    held_out = min(max(MIN_VALIDATION, round(fraction * n)), n - 1) if fraction > 0 else 0
    training = np.sort(order[held_out:])
    return training, np.sort(order[:held_out]) if held_out else training


def epochs_for(n_training: int, epochs: int, images_budget: int | None) -> int:
    """Epochs to train: the most allowed, or as many as show the budget of images."""
    if images_budget is None:
        return epochs
    return max(1, min(epochs, math.ceil(images_budget / n_training)))


@dataclass(frozen=True)
class _Batch:
    """Training images of this process, the rows they are of, by how much they were turned; and the whole batch."""

    images: Float[Tensor, "share h w"]
    rows: NDArray[np.int64]
    turned_deg: Float[Tensor, " share"]
    share: Share
    all_rows: NDArray[np.int64]


def _fabric(team: Team, accelerator: str, precision: Any) -> Fabric:
    """One device for this process, and the means to add up gradients with others."""
    if team.size == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    fabric = Fabric(
        accelerator=accelerator, devices=team.local_size, num_nodes=team.size // team.local_size, precision=precision,
        strategy=DDPStrategy(broadcast_buffers=False),  # they are the same everywhere
    )  # fmt: skip
    fabric.launch()
    return fabric


class Trainer:
    """State of one training: networks, optimisers, progress."""

    def __init__(
        self, cache: ParticleCache, config: RunConfig, folder: Path, guide: Guide | None, team: Team | None = None
    ) -> None:
        self.cache, self.config, self.folder, self.team = cache, config, folder, team or Team()
        self.guide = guide if config.model.lambda_pose > 0 else None
        settings = config.training
        self.training_rows, self.validation_rows = split_rows(
            len(cache), settings.validation_fraction, config.seed, settings.learn_from
        )
        self.epochs = epochs_for(len(self.training_rows), settings.epochs, settings.images_budget)
        self.steps_per_epoch = math.ceil(len(self.training_rows) / settings.batch_size)
        model = config.model
        self.weights = LossWeights(model.lambda_reg, model.lambda_GAN, model.lambda_cone, model.lambda_pose)
        precision = choose_precision(settings.precision, settings.accelerator)
        self.fabric = _fabric(self.team, settings.accelerator, precision)
        torch.manual_seed(config.seed)
        self.raw_autoencoder, self.raw_discriminator = build_networks(cache.box_size, config.model)
        self._set_principal_images()
        for network in (self.raw_autoencoder, self.raw_discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autoencoder, self.generator_optimiser = self._set_up(self.raw_autoencoder)
        self.discriminator, self.discriminator_optimiser = self._set_up(self.raw_discriminator)
        for method in ("sample_prior", "encode"):
            self.autoencoder.mark_forward_method(method)
        self.progress = Progress()

    def _set_up(self, network: nn.Module) -> Any:
        """A network on its device, the same one in all processes, and its optimiser."""
        settings = self.config.training
        adam = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=settings.betas)
        with warnings.catch_warnings():
            # The other name for the same is not known to older versions of torch.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*is deprecated")
            prepared = self.fabric.setup(network, adam)
        if self.team.size > 1:
            for buffer in network.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))
        return prepared

    @torch.no_grad()
    def _set_principal_images(self) -> None:
        """Give projections what they project on: principal images of drawn images, or of turned ones."""
        principal, rings = self.raw_autoencoder.principal, self.raw_autoencoder.rings
        if principal is None or rings is None:
            return
        noise_variance = 0.0
        if self.guide is not None:
            n_junk = round(PRINCIPAL_JUNK * PRINCIPAL_SAMPLE)
            sampler = self.guide.sampler
            images, noisy = (
                torch.cat([sampler.draw(PRINCIPAL_SAMPLE, noise).images, sampler.draw_junk(n_junk, noise)])
                for noise in (False, True)
            )
            noise_variance = sampler.noise_variance
        else:
            draw = np.random.default_rng(self.config.seed)
            images = self.cache.read(draw.choice(self.training_rows, PRINCIPAL_SAMPLE))
            images = rotate(images, random_turns_deg(len(images), images.device))
            noisy = images
        principal.fit(self.raw_autoencoder.target(images), noise_variance)
        rings.fit(self.raw_autoencoder.target(noisy))

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

    def batches(self, epoch: int) -> Iterator[_Batch]:
        """Training images of one epoch in random order, turned if so configured."""
        draw = np.random.default_rng((self.config.seed, epoch))
        order = self.training_rows[draw.permutation(len(self.training_rows))]
        size = self.config.training.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        shares = [self.team.share(len(part)) for part in parts]
        own = [share.of(part) for share, part in zip(shares, parts, strict=True)]
        for share, all_rows, rows, read in zip(shares, parts, own, ahead(self.cache.read, own), strict=True):
            images = to_device(read, self.fabric.device)
            turned_deg = torch.zeros(len(rows), device=images.device)
            if self.config.training.turn_images:
                turned_deg = share.of(random_turns_deg(share.total, images.device))
                images = rotate(images, turned_deg)
            yield _Batch(images, rows, turned_deg, share, all_rows)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; returns the mean of each term of the loss."""
        self.autoencoder.train()
        self.discriminator.train()
        torch.manual_seed(_epoch_seed(self.config.seed, epoch))
        totals: dict[str, float] = {}
        for number, batch in enumerate(self.batches(epoch)):
            step = epoch * self.steps_per_epoch + number
            for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
                for group in optimiser.param_groups:
                    group["lr"] = self.learning_rate(step)
            output, terms = self.generator_step(batch)
            values = terms.as_floats()
            if self.weights.adversarial > 0:
                values["discriminator"] = self.discriminator_step(output, batch.share, step)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
            self.progress.images_seen += batch.share.total
        sums = self._mean_over_team(torch.tensor(list(totals.values()), dtype=torch.float64))
        return {name: value / self.steps_per_epoch for name, value in zip(totals, sums.tolist(), strict=True)}

    def _mean_over_team(self, values: Tensor) -> Tensor:
        """Mean of numbers over all processes."""
        if self.team.size == 1:
            return values
        mean: Tensor = self.fabric.all_reduce(self.fabric.to_device(values), reduce_op="mean")  # type: ignore[assignment]
        return mean

    @property
    def told_axes(self) -> int:
        """Latent axes that the pose term places, and nothing else does."""
        return POSE_AXES if self.guide is not None else 0

    def pose_loss(self, output: AutoencoderOutput, batch: _Batch, drawn: bool) -> Float[Tensor, ""]:
        """The pose term, of a batch and, if asked for, of images drawn along with it; a share of the whole batch's."""
        if self.guide is None:
            return output.latent.new_zeros(())
        total, every = batch.share.total, batch.share.every
        target, weight = map(self.fabric.to_device, self.guide.points(batch.rows, batch.turned_deg))
        whole = self.fabric.to_device(self.guide.weight_of(batch.all_rows).sum())
        loss = every * losses.pose_surprise(output.posterior, target, weight, whole)
        n_drawn = round(self.config.training.drawn_per_image * total) if drawn else 0
        if n_drawn == 0:
            return loss
        lesson, share = self.guide.draw(n_drawn), self.team.share(n_drawn)
        images, target, is_particle = (self.fabric.to_device(share.of(values)) for values in lesson)
        particles = self.fabric.to_device(lesson.is_particle.sum())
        posterior = self.autoencoder.encode(images)
        surprise = losses.pose_surprise(posterior, target, is_particle, particles)
        ignorance = IGNORANCE * losses.pose_ignorance(posterior, 1.0 - is_particle, n_drawn - particles)
        of_drawn = share.every * (particles * surprise + (n_drawn - particles) * ignorance)
        return (total * loss + of_drawn) / (total + n_drawn)

    def loss_terms(self, output: AutoencoderOutput, pose: Float[Tensor, ""], share: Share) -> LossTerms:
        """All terms of the encoder's and decoder's loss; their mean over all processes is that of the whole batch."""
        zero = output.latent.new_zeros(())
        adversarial, cone = zero, zero
        if self.weights.adversarial > 0:
            drawn = self.raw_autoencoder.simulated_images(output.drawn, share.normal_like)
            adversarial = losses.generator_adversarial(self._judged(drawn))
        if self.weights.cone > 0:
            cone = losses.cone(output.latent)
        return losses.total_loss(
            share.factor * self.raw_autoencoder.reconstruction_loss(output),
            share.factor * losses.kl_to_standard_normal(output.posterior),
            share.factor * adversarial,
            share.factor * cone,
            pose,
            self.weights,
        )

    def _judged(self, images: Float[Tensor, "share 1 h w"]) -> Float[Tensor, " share"]:
        """What the discriminator says, of which it is not to learn: no gradients of its are added up."""
        with self.fabric.autocast():
            odds: Tensor = self.raw_discriminator(images)
        return odds.float()

    def generator_step(self, batch: _Batch) -> tuple[AutoencoderOutput, LossTerms]:
        """One step of encoder and decoder."""
        self.raw_discriminator.requires_grad_(False)
        share = batch.share
        output = self.autoencoder(batch.images, told_axes=self.told_axes, normal_like=share.normal_like)
        terms = self.loss_terms(output, self.pose_loss(output, batch, drawn=True), share)
        self.generator_optimiser.zero_grad()
        self.fabric.backward(terms.total)
        self._hold_back()
        self.generator_optimiser.step()
        self.raw_discriminator.requires_grad_(True)
        variance = share.factor * self.raw_autoencoder.residual_variance(output)
        self.raw_autoencoder.update_noise_variance(self._mean_over_team(variance))
        return output, terms

    def _hold_back(self) -> None:
        """Scale down a gradient far larger than those before: without noise, single images can undo whole epochs."""
        usual = self.progress.gradient_norm
        limit = GRADIENT_LIMIT * usual if usual else float("inf")
        found = self.fabric.clip_gradients(
            self.autoencoder, self.generator_optimiser, max_norm=limit, error_if_nonfinite=False
        )
        norm = float(found) if found is not None else float("nan")
        if math.isfinite(norm):
            norm = min(norm, limit)
            self.progress.gradient_norm = usual + GRADIENT_MOMENTUM * (norm - usual) if usual else norm

    def discriminator_step(self, output: AutoencoderOutput, share: Share, step: int) -> float:
        """One step of the discriminator on real images and samples of the prior, unless it is too far ahead."""
        floor = self.config.training.discriminator_floor
        ahead = self.progress.discriminator_loss < floor
        if ahead and step % DISCRIMINATOR_PROBE:
            return self.progress.discriminator_loss
        with torch.no_grad():
            fake = self.autoencoder.sample_prior(share.count, share.normal_like)
        real_odds, fake_odds = self.discriminator(output.target), self.discriminator(fake)
        loss = share.factor * losses.discriminator_adversarial(real_odds, fake_odds)
        of_batch = float(self._mean_over_team(loss.detach()))
        self.progress.discriminator_loss += DISCRIMINATOR_MOMENTUM * (of_batch - self.progress.discriminator_loss)
        if self.progress.discriminator_loss >= floor:
            self.discriminator_optimiser.zero_grad()
            self.fabric.backward(loss)
            self.discriminator_optimiser.step()
        return of_batch

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], NDArray[np.float64]]:
        """Terms of the loss on the held-out images at the posterior mean, and those means; by each process alone."""
        self.autoencoder.eval()
        self.discriminator.eval()
        totals: dict[str, float] = {}
        means = []
        size = 4 * self.config.training.batch_size
        for start in range(0, len(self.validation_rows), size):
            rows = self.validation_rows[start : start + size]
            images = self.fabric.to_device(self.cache.read(rows))
            turned_deg = torch.zeros(len(rows), device=images.device)
            if self.config.training.turn_images:
                # Turned like the training images, whose noise the interpolation softens: else the two losses differ.
                turned_deg = _golden_turns_deg(start, len(images)).to(images.device)
                images = rotate(images, turned_deg)
            output = self.autoencoder(images, sample=False)
            batch = _Batch(images, rows, turned_deg, Share(len(rows)), rows)
            terms = self.loss_terms(output, self.pose_loss(output, batch, drawn=False), batch.share)
            for name, value in terms.as_floats().items():
                totals[name] = totals.get(name, 0.0) + value * len(images) / len(self.validation_rows)
            means.append(output.posterior.mean.double().cpu().numpy())
        return totals, np.concatenate(means)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint32)[0])


def _golden_turns_deg(first: int, count: int) -> Float[Tensor, " count"]:
    """Turns spread evenly over the circle, the same in every epoch."""
    return 360.0 * (torch.arange(first, first + count) * 0.5 * (math.sqrt(5.0) - 1.0)).remainder(1.0)


def random_turns_deg(count: int, device: torch.device) -> Float[Tensor, " count"]:
    """In-plane turns uniform on the circle."""
    return 360.0 * torch.rand(count, device=device)
