"""The discriminator of the adversarial game."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cryorbit.model.encoder import channel_ladder, downsampling_stack


class Discriminator(nn.Module):
    """Convolutions as in the encoder, one linear output: log-odds that an image is a real one.

    Parameters
    ----------
    box_size
        Width of the square images in pixels, a multiple of ``2 ** n_blocks``.
    base_width, n_blocks
        Channels after the first block; number of downsampling blocks (4 in the paper's code).
    """

    def __init__(self, box_size: int, base_width: int, n_blocks: int = 4) -> None:
        super().__init__()
        self.features = downsampling_stack(base_width, n_blocks)
        n_features = channel_ladder(base_width, n_blocks)[-1] * (box_size // 2**n_blocks) ** 2
        self.log_odds = nn.Linear(n_features, 1)

    def forward(self, images: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, " batch"]:
        """Log-odds of each image; the sigmoid of the paper is inside the loss, where it cannot saturate."""
        odds: Tensor = self.log_odds(self.features(images).flatten(1))
        return odds.squeeze(1)
