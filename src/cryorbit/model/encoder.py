"""The encoder q(z | x) of the variational autoencoder."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from cryorbit.model.batch_norm import BatchNorm2d

LEAK = 0.2
# A posterior is hardly wider than the prior: from further out the decoder draws images so wrong that a single one can
# throw the training of a noise-free set back (decision 0013).
LOG_VARIANCE_RANGE = (-12.0, 1.0)


def channel_ladder(base_width: int, n_blocks: int) -> list[int]:
    """Channels after each block: doubled from one to the next."""
    return [base_width * 2**i for i in range(n_blocks)]


def downsampling_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Convolution of kernel 4 and stride 2, batch norm (which needs no bias), leaky ReLU: half the width and height."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=4, stride=2, padding=1, bias=False),
        BatchNorm2d(channels_out),
        nn.LeakyReLU(LEAK),
    )


def downsampling_stack(base_width: int, n_blocks: int) -> nn.Sequential:
    """``n_blocks`` downsampling blocks from one channel on."""
    channels = [1, *channel_ladder(base_width, n_blocks)]
    return nn.Sequential(*(downsampling_block(a, b) for a, b in pairwise(channels)))


class LatentPosterior(NamedTuple):
    """Gaussian posterior over the latent variables of each image.

    Attributes
    ----------
    mean, log_variance
        Each of shape (batch, latent).
    """

    mean: Float[Tensor, "batch latent"]
    log_variance: Float[Tensor, "batch latent"]


class Encoder(nn.Module):
    """Convolutions with batch norm, then two linear heads for mean and log-variance (paper, section 3.1.3).

    Parameters
    ----------
    box_size
        Width of the square images in pixels, a multiple of ``2 ** n_blocks``.
    latent_dim
        Dimension of the latent space.
    base_width
        Channels after the first block.
    n_blocks
        Number of downsampling blocks.
    """

    def __init__(self, box_size: int, latent_dim: int, base_width: int, n_blocks: int) -> None:
        super().__init__()
        self.features = downsampling_stack(base_width, n_blocks)
        n_features = channel_ladder(base_width, n_blocks)[-1] * (box_size // 2**n_blocks) ** 2
        self.mean = nn.Linear(n_features, latent_dim)
        self.log_variance = nn.Linear(n_features, latent_dim)

    def forward(self, images: Float[Tensor, "batch 1 h w"]) -> LatentPosterior:
        """Posterior of each image; the log-variance is clamped so that one bad image cannot overflow the loss."""
        features = self.features(images).flatten(1)
        return LatentPosterior(
            mean=self.mean(features),
            log_variance=self.log_variance(features).clamp(*LOG_VARIANCE_RANGE),
        )
