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


def perceptron(widths: list[int]) -> nn.Sequential:
    """Linear layers, a GELU after each."""
    return nn.Sequential(*(module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.GELU())))


class ProjectionEncoder(nn.Module):
    """A perceptron with two linear heads on the coordinates of an image.

    Parameters
    ----------
    principal
        The principal images.
    latent_dim
        Dimension of the latent space.
    width, layers
        Of the perceptron.
    """

    def __init__(self, principal: PrincipalImages, latent_dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.principal = principal
        self.features = perceptron([len(principal.scale), *[width] * layers])
        self.mean = nn.Linear(width, latent_dim)
        self.log_variance = nn.Linear(width, latent_dim)

    def forward(self, images: Float[Tensor, "batch 1 h w"]) -> LatentPosterior:
        """Posterior of each image; in full precision, since an angle is a small difference of large coordinates."""
        with torch.autocast(images.device.type, enabled=False):
            features = self.features(self.principal.coordinates(images))
            return LatentPosterior(
                mean=self.mean(features), log_variance=self.log_variance(features).clamp(*LOG_VARIANCE_RANGE)
            )


class ProjectionDecoder(nn.Module):
    """A perceptron that gives the coordinates of an image; it has no scale head.

    Parameters are those of :class:`ProjectionEncoder`.
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
