"""An embedding spread over the processes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cryorbit.config import ModelConfig
from cryorbit.latent.embed import N_TURNS, PART, KnownPoints, Posteriors, posteriors_of
from cryorbit.machine import device_for
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.checkpoint import load_autoencoder


class Embedder:
    """Embeds particles of a cache; made once in each process.

    Parameters
    ----------
    cache, checkpoint
        Folder of the images and file of the weights; every machine must see them.
    model
        Of the network.
    accelerator
        Which device does the work.
    known
        Points that need not be found again.
    """

    def __init__(
        self, cache: Path, checkpoint: Path, model: ModelConfig, accelerator: str, known: KnownPoints | None = None
    ) -> None:
        self.cache, self.known = ParticleCache(cache), known
        self.autoencoder = load_autoencoder(checkpoint, model).to(device_for(accelerator))

    def __call__(self, start: int, stop: int) -> Posteriors:
        """Posteriors of the particles from ``start`` to before ``stop``."""
        found = posteriors_of(self.autoencoder, self.cache, start, stop, N_TURNS, self.known)
        return Posteriors(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def over_cluster(
    cache: Path,
    checkpoint: Path,
    model: ModelConfig,
    accelerator: str,
    workers: int | None = None,
    known: KnownPoints | None = None,
) -> Iterator[Posteriors]:
    """Posteriors of all particles in row order, by processes of the cluster that is connected.

    Parameters
    ----------
    cache, checkpoint, model, accelerator, known
        As for :class:`Embedder`; they lie on a disk that all machines see.
    workers
        How many; as many as there are cores, or GPUs, if left out.
    """
    from cryorbit.cluster import mapped

    n = len(ParticleCache(cache))
    tasks = ((start, min(start + PART, n)) for start in range(0, n, PART))
    gpus = 1.0 if device_for(accelerator).type == "cuda" else 0.0
    shared = (cache.resolve(), checkpoint.resolve(), model, accelerator, known)
    return mapped(Embedder, shared, tasks, workers, gpus)
