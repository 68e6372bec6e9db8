"""Encoder and decoder on the coordinates along the principal images of a set.

The images of one view, however turned and defocused, lie close to a space of a few hundred dimensions. Their
coordinates in it are a bank of matched filters over the whole image, which a stack of convolutions needs millions
of images to learn; with the same time for training angles are three times more accurate, and drawing is cheaper:
docs/decisions/0010-guided-encoder.md. Zhao & Singer 2014, J. Struct. Biol. 186, 153, denoise in the same space.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryorbit.model.decoder import Reconstruction
from cryorbit.model.encoder import LOG_VARIANCE_RANGE, LatentPosterior

# Of the randomised decomposition (Halko, Martinsson & Tropp 2011): plenty for spectra that fall this fast.
OVERSAMPLING, POWER_ITERATIONS = 20, 3
# Coordinates weaker than this share of the strongest one's variance carry rounding errors only.
SMALLEST_SHARE = 1e-8
# Rings of an image, and the width of the coarse one whose pixels have little noise.
N_RINGS, COARSE_BOX = 8, 16
# Of a standardised image, whose background has a power of 1.
SMALLEST_POWER = 1e-3


class PrincipalImages(nn.Module):
    """Orthonormal images, and the typical size of the coordinates along them; zero until :meth:`fit`.

    Parameters
    ----------
    box_size
        Width of the square images in pixels.
    n_images
        How many; fewer where the box has fewer pixels.

    Attributes
    ----------
    images
        Shape (n_images, box_size ** 2).
    scale
        Shape (n_images,).
    """

    images: Tensor
    scale: Tensor

    def __init__(self, box_size: int, n_images: int) -> None:
        super().__init__()
        self.box_size = box_size
        n_images = min(n_images, box_size**2)
        self.register_buffer("images", torch.zeros(n_images, box_size**2))
        self.register_buffer("scale", torch.ones(n_images))

    @torch.no_grad()
    def fit(self, images: Float[Tensor, "n 1 h w"], noise_variance: float) -> None:
        """Take the principal images of a sample.

        Parameters
        ----------
        images
            What the encoder will see, with noise or without.
        noise_variance
            Of one pixel, beyond what is in the images: it sets the size of the weakest coordinates.
        """
        flat = images.flatten(1).float()
        found = min(len(self.scale), *flat.shape)
        components = min(found + OVERSAMPLING, *flat.shape)
        _, singular, axes = torch.pca_lowrank(flat, q=components, center=False, niter=POWER_ITERATIONS)
        variance = singular[:found].square() / len(flat) + noise_variance
        self.images.zero_()
        self.images[:found] = axes[:, :found].T
        self.scale.fill_(1.0)
        self.scale[:found] = variance.clamp(min=max(SMALLEST_SHARE * float(variance[0]), 1e-30)).sqrt()

    def coordinates(self, images: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch n"]:
        """Coordinates of images, in units of their typical size."""
        return images.flatten(1).float() @ self.images.T / self.scale

    def draw(self, coordinates: Float[Tensor, "batch n"]) -> Float[Tensor, "batch 1 h w"]:
        """Images of given coordinates."""
        return ((coordinates * self.scale) @ self.images).view(-1, 1, self.box_size, self.box_size)


class RingStatistics(nn.Module):
    """Brightness and power of an image by distance from its centre, in units of their spread; zero until :meth:`fit`.

    What is wrong with an image is often in none of its principal images: a neighbour at the rim, or a background that
    it brightened, by which the particle was dimmed. No turn changes these numbers much.

    Parameters
    ----------
    box_size
        Width of the square images in pixels.

    Attributes
    ----------
    centre, spread
        Of each number, shape (n,).
    """

    centre: Tensor
    spread: Tensor
    rings: Tensor
    coarse_rings: Tensor

    def __init__(self, box_size: int) -> None:
        super().__init__()
        self.coarser = max(1, box_size // COARSE_BOX)
        self.register_buffer("rings", _ring_means(box_size), persistent=False)
        self.register_buffer("coarse_rings", _ring_means(box_size // self.coarser), persistent=False)
        n = 2 * (self.rings.shape[1] + self.coarse_rings.shape[1])
        self.register_buffer("centre", torch.zeros(n))
        self.register_buffer("spread", torch.ones(n))

    @property
    def n_numbers(self) -> int:
        """How many numbers there are."""
        return len(self.centre)

    @torch.no_grad()
    def fit(self, images: Float[Tensor, "n 1 h w"]) -> None:
        """Take centre and spread from images as the encoder will see them, with their noise."""
        numbers = self._numbers(images)
        self.centre.copy_(numbers.mean(dim=0))
        self.spread.copy_(numbers.std(dim=0, correction=0).clamp(min=1e-6))

    def _numbers(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n numbers"]:
        fine = images.float()
        coarse = nn.functional.avg_pool2d(fine, self.coarser)
        parts = []
        for flat, rings in ((fine.flatten(1), self.rings), (coarse.flatten(1), self.coarse_rings)):
            parts += [flat @ rings, torch.log(flat.square() @ rings + SMALLEST_POWER)]
        return torch.cat(parts, dim=1)

    def forward(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n numbers"]:
        """The numbers of each image."""
        numbers: Tensor = (self._numbers(images) - self.centre) / self.spread
        return numbers


def _ring_means(box_size: int) -> Float[Tensor, "pixels rings"]:
    """Weights that average the pixels of each ring of the inscribed disc."""
    offset = torch.arange(box_size) - 0.5 * (box_size - 1)
    distance = torch.hypot(offset[:, None], offset[None, :]).flatten() / (0.5 * box_size)
    ring = (distance * N_RINGS).long()
    member = (ring[:, None] == torch.arange(N_RINGS)).float()
    return member / member.sum(dim=0).clamp(min=1.0)


def perceptron(widths: list[int]) -> nn.Sequential:
    """Linear layers, a GELU after each."""
    return nn.Sequential(*(module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.GELU())))


class ProjectionEncoder(nn.Module):
    """A perceptron with two linear heads on the coordinates of an image and the statistics of its rings.

    Parameters
    ----------
    principal, rings
        What is looked at.
    latent_dim
        Dimension of the latent space.
    width, layers
        Of the perceptron.
    """

    def __init__(
        self, principal: PrincipalImages, rings: RingStatistics, latent_dim: int, width: int, layers: int
    ) -> None:
        super().__init__()
        self.principal, self.rings = principal, rings
        self.features = perceptron([len(principal.scale) + rings.n_numbers, *[width] * layers])
        self.mean = nn.Linear(width, latent_dim)
        self.log_variance = nn.Linear(width, latent_dim)

    def forward(self, images: Float[Tensor, "batch 1 h w"]) -> LatentPosterior:
        """Posterior of each image; in full precision, since an angle is a small difference of large coordinates."""
        with torch.autocast(images.device.type, enabled=False):
            features = self.features(torch.cat([self.principal.coordinates(images), self.rings(images)], dim=1))
            return LatentPosterior(
                mean=self.mean(features), log_variance=self.log_variance(features).clamp(*LOG_VARIANCE_RANGE)
            )


class ProjectionDecoder(nn.Module):
    """A perceptron that gives the coordinates of an image; it has no scale head.

    Parameters are those of :class:`ProjectionEncoder`, without the rings.
    """

    def __init__(self, principal: PrincipalImages, latent_dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.principal = principal
        self.features = perceptron([latent_dim, *[width] * layers])
        self.coordinates = nn.Linear(width, len(principal.scale))

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Reconstruction:
        """Draw an image from each latent point."""
        with torch.autocast(latent.device.type, enabled=False):
            logits = self.principal.draw(self.coordinates(self.features(latent.float())))
        return Reconstruction(logits=logits, log_scale=torch.zeros_like(logits))
