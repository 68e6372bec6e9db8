"""Checkpoints: the whole state after an epoch, so that a resumed training equals an uninterrupted one."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from cryorbit.config import ModelConfig
from cryorbit.errors import RunFolderError
from cryorbit.io.runs import write_bytes
from cryorbit.model.discriminator import Discriminator
from cryorbit.model.vaegan import Autoencoder, build_networks

LAST = "last.pt"
BEST = "best.pt"


@dataclass
class Progress:
    """Where a training stands, apart from weights and optimisers.

    Attributes
    ----------
    epoch
        Epochs finished.
    images_seen
        Training images shown so far.
    best_epoch, best_validation
        Epoch with the lowest validation loss, and that loss.
    discriminator_loss
        Running mean, by which the discriminator's turns are skipped.
    finished
        Whether training ended by itself.
    gradient_norm
        Running mean for encoder and decoder, by which single steps are held back; 0 before the first.
    """

    epoch: int = 0
    images_seen: int = 0
    best_epoch: int = 0
    best_validation: float = float("inf")
    discriminator_loss: float = 1.386
    finished: bool = False
    gradient_norm: float = 0.0


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state dictionary atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state dictionary; only tensors and plain values are accepted, never code.

    Raises
    ------
    RunFolderError
        If there is none, or it is damaged.
    """
    if not path.is_file():
        raise RunFolderError(f"{path}: there is no trained model; run `cryorbit train` first.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
        raise RunFolderError(f"{path}: is damaged ({type(error).__name__}); train again.") from error
    return state


def network_state(autoencoder: Autoencoder, discriminator: Discriminator, box_size: int) -> dict[str, Any]:
    """Weights, and what is needed to build the networks again."""
    return {
        "box_size": box_size,
        "autoencoder": autoencoder.state_dict(),
        "discriminator": discriminator.state_dict(),
    }


def load_autoencoder(path: Path, config: ModelConfig) -> Autoencoder:
    """The trained autoencoder of a checkpoint, in evaluation mode."""
    state = load_checkpoint(path)
    autoencoder, _ = build_networks(int(state["box_size"]), config)
    try:
        autoencoder.load_state_dict(state["autoencoder"])
    except RuntimeError as error:
        raise RunFolderError(f"{path}: does not fit the configured model: train again.") from error
    return autoencoder.eval()
