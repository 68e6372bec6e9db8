"""Embedding: every particle image, and turned copies of it, as points of the latent space; streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorbit import threads
from cryorbit.conventions import FloatArray
from cryorbit.io.runs import atomic_path, write_arrays
from cryorbit.machine import to_device
from cryorbit.model.vaegan import Autoencoder
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.resample import equal_turns, rotate

BATCH = 256
# Four times the highest harmonic that is read: what an orbit has beyond half of this folds back into the low ones, and
# 12 turns cost the human 80S ribosome 0.9 degrees where 24 leave 0.07.
N_TURNS = 24
# Particles whose orbits are looked at together: the rest stay in their file.
PART = 4096
ORBITS, POINTS = "latent_orbits.npy", "latent_points.npz"

Progress = Callable[[int, int], None]


class Posteriors(NamedTuple):
    """What an embedding says of some particles; arrays as :class:`Embedding` has them."""

    log_variance: np.ndarray
    orbit: np.ndarray
    orbit_log_variance: np.ndarray


class Orbits(Protocol):
    """Latent points of turned copies, in memory or in a file; what is asked for by rows is an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Particles, turns, latent axes."""

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Orbits of some particles, shape (m, turns, latent)."""


@dataclass(frozen=True)
class StoredOrbits:
    """Orbits in a ``.npy`` file, of which only what is asked for is read.

    Attributes
    ----------
    path
        Of the file.
    shape
        Particles, turns, latent axes.
    """

    path: Path
    shape: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> StoredOrbits:
        """Look at a file.

        Raises
        ------
        OSError, ValueError
            If it is missing or damaged.
        """
        return cls(path, np.load(path, mmap_mode="r").shape)

    def __getitem__(self, rows: Any) -> np.ndarray:
        # Mapped anew each time: pages of a map that stays count as the process's memory.
        return np.array(np.load(self.path, mmap_mode="r")[rows])


@dataclass(frozen=True)
class Embedding:
    """Latent posterior of every particle and of its copies turned by equal steps.

    Attributes
    ----------
    mean, log_variance
        Of the image as it is, shape (n, latent).
    orbit
        Posterior mean of the image turned by ``k * 360 / turns`` degrees, shape (n, turns, latent); turn 0 is the
        image itself. It may lie in a file.
    orbit_log_variance
        Mean over the turns, shape (n, latent).
    """

    mean: np.ndarray
    log_variance: np.ndarray
    orbit: Orbits
    orbit_log_variance: np.ndarray

    def __len__(self) -> int:
        return len(self.mean)

    def by_parts(self, of: Callable[[FloatArray], NDArray[Any]]) -> NDArray[Any]:
        """A function of orbits, of shape (m, turns, latent), for all particles; some thousands at a time."""
        starts = range(0, len(self), PART)
        return np.concatenate([of(self.orbit[start : start + PART].astype(np.float64)) for start in starts])

    @property
    def turns_deg(self) -> np.ndarray:
        """Angles of the turned copies, shape (turns,)."""
        turns = self.orbit.shape[1]
        return np.asarray(np.arange(turns) * (360.0 / turns))


@dataclass(frozen=True)
class KnownPoints:
    """Points that the same network has found before for some of the particles, from the same images.

    Attributes
    ----------
    embedding
        Of an earlier run.
    rows
        Row of each particle there, -1 for new ones, shape (n,).
    """

    embedding: Embedding
    rows: NDArray[np.int64]

    def of(self, known: NDArray[np.int64]) -> Posteriors:
        """Posteriors of rows of the earlier run."""
        earlier = self.embedding
        return Posteriors(earlier.log_variance[known], earlier.orbit[known], earlier.orbit_log_variance[known])


@torch.no_grad()
def embed_batch(
    autoencoder: Autoencoder, images: Float[Tensor, "batch h w"], n_turns: int
) -> tuple[Float[Tensor, "batch turns latent"], Float[Tensor, "batch turns latent"]]:
    """Posterior mean and log-variance of each image under ``n_turns`` equal in-plane turns."""
    posteriors = {turn: autoencoder.encode(turned) for turn, turned in equal_turns(images, n_turns)}
    in_order = [posteriors[turn] for turn in range(n_turns)]
    means = torch.stack([posterior.mean for posterior in in_order], dim=1)
    return means, torch.stack([posterior.log_variance for posterior in in_order], dim=1)


def embed(
    autoencoder: Autoencoder,
    cache: ParticleCache,
    n_turns: int = N_TURNS,
    progress: Progress | None = None,
    store: Path | None = None,
    parts: Iterable[Posteriors] | None = None,
    known: KnownPoints | None = None,
) -> Embedding:
    """Embed all particles, a batch at a time.

    Parameters
    ----------
    autoencoder
        Trained, in evaluation mode, on the device that does the work.
    cache
        Standardised particle images.
    n_turns
        Copies per image, the image itself among them.
    progress
        Called with the number of images done and of all.
    store
        File that the orbits go to as they come; they stay in memory if left out.
    parts
        Posteriors of all particles in row order, where others do the work.
    known
        Points that need not be found again.

    Raises
    ------
    RunFolderError
        If that file cannot be written.
    """
    n, latent = len(cache), autoencoder.latent_dim
    mean, log_variance, orbit_log_variance = (np.empty((n, latent), dtype=np.float32) for _ in range(3))
    done = 0
    with _collected((n, n_turns, latent), store) as (add, collected):
        for found in parts or posteriors_of(autoencoder, cache, 0, n, n_turns, known):
            here = slice(done, done + len(found.orbit))
            add(found.orbit)
            mean[here], log_variance[here] = found.orbit[:, 0], found.log_variance
            orbit_log_variance[here] = found.orbit_log_variance
            done += len(found.orbit)
            if progress is not None:
                progress(done, n)
    return Embedding(mean, log_variance, collected(), orbit_log_variance)


def posteriors_of(
    autoencoder: Autoencoder,
    cache: ParticleCache,
    start: int,
    stop: int,
    n_turns: int = N_TURNS,
    known: KnownPoints | None = None,
) -> Iterator[Posteriors]:
    """Posteriors of the particles from ``start`` to before ``stop``, a batch at a time; by threads."""
    device = next(autoencoder.parameters()).device

    def embedded(rows: NDArray[np.int64]) -> Posteriors:
        means, log_variances = embed_batch(autoencoder, to_device(cache.read(rows), device), n_turns)
        return Posteriors(*(part.cpu().numpy() for part in (log_variances[:, 0], means, log_variances.mean(dim=1))))

    def of(first: int) -> Posteriors:
        rows = np.arange(first, min(first + BATCH, stop), dtype=np.int64)
        if known is None:
            return embedded(rows)
        new = known.rows[rows] < 0
        if new.all():
            return embedded(rows)
        before = known.of(known.rows[rows[~new]])
        if not new.any():
            return before
        both = (np.concatenate(parts) for parts in zip(embedded(rows[new]), before, strict=True))
        back = np.argsort(np.concatenate([np.flatnonzero(new), np.flatnonzero(~new)]))
        return Posteriors(*(part[back] for part in both))

    return threads.mapped(of, range(start, stop, BATCH))


@contextmanager
def _collected(
    shape: tuple[int, ...], store: Path | None
) -> Iterator[tuple[Callable[[np.ndarray], Any], Callable[[], Orbits]]]:
    """A way to add orbits in row order, and one to get them all; the second only after the end."""
    if store is None:
        parts: list[np.ndarray] = []
        yield parts.append, lambda: np.concatenate(parts)
        return
    with atomic_path(store) as beside, beside.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda part: file.write(np.ascontiguousarray(part, dtype="<f4").data), lambda: StoredOrbits.open(store)


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


def save_points(folder: Path, embedding: Embedding) -> None:
    """Write all but the orbits, which :func:`embed` has put into ``ORBITS`` of the same folder."""
    points = {name: getattr(embedding, name) for name in ("mean", "log_variance", "orbit_log_variance")}
    write_arrays(folder / POINTS, **points)


def load_embedding(folder: Path) -> Embedding | None:
    """What :func:`embed` and :func:`save_points` left in a folder; None where there is nothing whole."""
    try:
        orbits = StoredOrbits.open(folder / ORBITS)
        # Opened here: numpy leaves the file of a damaged archive open.
        with (folder / POINTS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            embedding = Embedding(orbit=orbits, **{name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, EOFError, TypeError, BadZipFile):
        return None
    return embedding if len(embedding) == orbits.shape[0] else None
