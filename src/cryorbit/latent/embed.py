"""Embedding: every particle image, and turned copies of it, as points of the latent space; streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.io.runs import write_arrays
from cryorbit.model.vaegan import Autoencoder
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.resample import rotate

BATCH = 256
# Four times the highest harmonic that is read: what an orbit has beyond half of this folds back into the low ones, and
# 12 turns cost the human 80S ribosome 0.9 degrees where 24 leave 0.07.
N_TURNS = 24

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Embedding:
    """Latent posterior of every particle and of its copies turned by equal steps.

    Attributes
    ----------
    mean, log_variance
        Of the image as it is, shape (n, latent).
    orbit
        Posterior mean of the image turned by ``k * 360 / turns`` degrees, shape (n, turns, latent); turn 0 is the
        image itself.
    orbit_log_variance
        Mean over the turns, shape (n, latent).
    """

    mean: np.ndarray
    log_variance: np.ndarray
    orbit: np.ndarray
    orbit_log_variance: np.ndarray

    @property
    def turns_deg(self) -> np.ndarray:
        """Angles of the turned copies, shape (turns,)."""
        turns = self.orbit.shape[1]
        return np.asarray(np.arange(turns) * (360.0 / turns))


@torch.no_grad()
def embed_batch(
    autoencoder: Autoencoder, images: Float[Tensor, "batch h w"], n_turns: int
) -> tuple[Float[Tensor, "batch turns latent"], Float[Tensor, "batch turns latent"]]:
    """Posterior mean and log-variance of each image under ``n_turns`` equal in-plane turns."""
    means, log_variances = [], []
    for turn in range(n_turns):
        psi = torch.full((len(images),), turn * 360.0 / n_turns, device=images.device)
        posterior = autoencoder.encode(rotate(images, psi) if turn else images)
        means.append(posterior.mean)
        log_variances.append(posterior.log_variance)
    return torch.stack(means, dim=1), torch.stack(log_variances, dim=1)


def embed(
    autoencoder: Autoencoder,
    cache: ParticleCache,
    n_turns: int = N_TURNS,
    progress: Progress | None = None,
) -> Embedding:
    """Embed all particles, a batch at a time.

    Parameters
    ----------
    autoencoder
        Trained, in evaluation mode.
    cache
        Standardised particle images.
    n_turns
        Copies per image, the image itself among them.
    progress
        Called with the number of images done and of all.
    """
    n, latent = len(cache), autoencoder.latent_dim
    mean, log_variance, orbit_log_variance = (np.empty((n, latent), dtype=np.float32) for _ in range(3))
    orbit = np.empty((n, n_turns, latent), dtype=np.float32)
    done = 0
    for images in cache.batches(BATCH):
        here = slice(done, done + len(images))
        means, log_variances = embed_batch(autoencoder, images, n_turns)
        orbit[here] = means.numpy()
        mean[here], log_variance[here] = means[:, 0].numpy(), log_variances[:, 0].numpy()
        orbit_log_variance[here] = log_variances.mean(dim=1).numpy()
        done += len(images)
        if progress is not None:
            progress(done, n)
    return Embedding(mean, log_variance, orbit, orbit_log_variance)


@torch.no_grad()
def embed_repeats(
    autoencoder: Autoencoder, cache: ParticleCache, embedding: Embedding, rows: np.ndarray, seed: int
) -> Embedding:
    """Embed what other exposures of some particles might have looked like, to see how well latent points repeat.

    The decoder's noise-free image of each particle gets the residual of another one, turned at random: noise as these
    data have it, white or not, on a particle whose place in the latent space is known (a residual bootstrap).

    Parameters
    ----------
    autoencoder, cache
        As for :func:`embed`.
    embedding
        Of all particles.
    rows
        Particles to repeat, shape (m,).
    seed
        For the exchange of residuals.

    References
    ----------
    Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 9.
    """
    generator = np.random.default_rng(seed)
    lender = generator.permutation(rows)
    turn = torch.from_numpy(generator.uniform(0.0, 360.0, len(rows)).astype(np.float32))
    parts = []
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        mean, lent_mean = (torch.from_numpy(embedding.mean[which[part]]) for which in (rows, lender))
        drawn, lent_drawn = (autoencoder.expected_images(autoencoder.decoder(z)).squeeze(1) for z in (mean, lent_mean))
        residual = autoencoder.target(cache.read(lender[part])).squeeze(1) - lent_drawn
        images = drawn + rotate(residual, turn[part])
        parts.append(embed_batch(autoencoder, images, embedding.orbit.shape[1]))
    means, log_variances = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Embedding(means[:, 0].numpy(), log_variances[:, 0].numpy(), means.numpy(), log_variances.mean(dim=1).numpy())


def save_embedding(path: Path, embedding: Embedding) -> None:
    """Write an embedding as an uncompressed ``.npz`` file."""
    write_arrays(path, **asdict(embedding))


def load_embedding(path: Path) -> Embedding | None:
    """Read what :func:`save_embedding` wrote; None where there is nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Embedding(**{name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, EOFError, TypeError, BadZipFile):
        return None
