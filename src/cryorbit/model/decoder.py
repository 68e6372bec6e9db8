"""The decoder p(x | z), which is also the generator of the adversarial game."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryorbit.model.batch_norm import BatchNorm2d
from cryorbit.model.encoder import LEAK, channel_ladder

BATCH_NORM_EPS = 1e-3
LOG_SCALE_RANGE = (-6.0, 6.0)


class Reconstruction(NamedTuple):
    """What the decoder draws, before any output non-linearity.

    Attributes
    ----------
    logits
        Image head, shape (batch, 1, h, w): log-odds of the intensity under the Bernoulli likelihood, the
        intensity itself under the Gaussian.
    log_scale
        Scale head, same shape: log of the per-pixel scale that weighs the reconstruction loss.
    """

    logits: Float[Tensor, "batch 1 h w"]
    log_scale: Float[Tensor, "batch 1 h w"]


def upsampling_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Nearest upsampling by 2, replication padding, 3 x 3 convolution, batch norm (which needs no bias), leaky ReLU."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.ReplicationPad2d(1),
        nn.Conv2d(channels_in, channels_out, kernel_size=3, bias=False),
        BatchNorm2d(channels_out, eps=BATCH_NORM_EPS),
        nn.LeakyReLU(LEAK),
    )


class Decoder(nn.Module):
    """Linear layer, upsampling blocks, then two 3 x 3 heads: the image and its per-pixel scale.

    Parameters
    ----------
    box_size, latent_dim, base_width, n_blocks
        As in :class:`cryorbit.model.encoder.Encoder`, which this mirrors.
    scale_head
        Whether the per-pixel scale is learnt; without it the log-scale is zero everywhere.
    """

    def __init__(self, box_size: int, latent_dim: int, base_width: int, n_blocks: int, scale_head: bool = True) -> None:
        super().__init__()
        channels = channel_ladder(base_width, n_blocks)[::-1]
        self.seed_shape = (channels[0], box_size // 2**n_blocks, box_size // 2**n_blocks)
        self.seed = nn.Sequential(nn.Linear(latent_dim, channels[0] * self.seed_shape[1] ** 2), nn.ReLU())
        self.blocks = nn.Sequential(
            *(upsampling_block(a, b) for a, b in pairwise(channels)),
            nn.Upsample(scale_factor=2, mode="nearest"),
        )
        self.image_head = nn.Conv2d(channels[-1], 1, kernel_size=3, padding=1)
        self.scale_head = nn.Conv2d(channels[-1], 1, kernel_size=3, padding=1) if scale_head else None

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Reconstruction:
        """Draw an image and its scale from each latent point."""
        features = self.blocks(self.seed(latent).unflatten(1, self.seed_shape))
        logits = self.image_head(features)
        if self.scale_head is None:
            return Reconstruction(logits=logits, log_scale=torch.zeros_like(logits))
        return Reconstruction(logits=logits, log_scale=self.scale_head(features).clamp(*LOG_SCALE_RANGE))
