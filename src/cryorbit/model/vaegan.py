"""The VAE-GAN: an autoencoder and a discriminator, and the likelihood that ties them to the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryorbit.config import ModelConfig
from cryorbit.model.decoder import Decoder, Reconstruction
from cryorbit.model.discriminator import Discriminator
from cryorbit.model.encoder import Encoder, LatentPosterior
from cryorbit.model.losses import bernoulli_reconstruction, gaussian_reconstruction
from cryorbit.model.projection import PrincipalImages, ProjectionDecoder, ProjectionEncoder, RingStatistics
from cryorbit.preprocessing.normalise import disc_mask, scale_to_unit_range

Likelihood = Literal["bernoulli", "gaussian"]
# Standard normal numbers of the shape of a tensor.
Normal = Callable[[Tensor], Tensor]

NOISE_VARIANCE_FLOOR = 0.01
NOISE_VARIANCE_MOMENTUM = 0.02
# A posterior that starts narrow lets the first epochs learn images rather than noise.
INITIAL_LOG_VARIANCE = -3.0


class AutoencoderOutput(NamedTuple):
    """One pass through encoder and decoder.

    Attributes
    ----------
    target
        The images as the network sees them.
    posterior
        Latent posterior of each image.
    latent
        Sample of the posterior, shape (batch, latent).
    drawn
        Reconstruction from the sample.
    """

    target: Float[Tensor, "batch 1 h w"]
    posterior: LatentPosterior
    latent: Float[Tensor, "batch latent"]
    drawn: Reconstruction


class Autoencoder(nn.Module):
    """Encoder, decoder and likelihood.

    Parameters
    ----------
    box_size
        Width of the square images in pixels.
    config
        Architecture and likelihood.
    """

    mask: Tensor
    noise_variance: Tensor

    def __init__(self, box_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.likelihood: Likelihood = config.likelihood
        self.latent_dim = config.latent_dim
        self.encoder: Encoder | ProjectionEncoder
        self.decoder: Decoder | ProjectionDecoder
        self.principal: PrincipalImages | None = None
        self.rings: RingStatistics | None = None
        if config.architecture == "projection":
            self.principal, self.rings = PrincipalImages(box_size, config.principal_images), RingStatistics(box_size)
            hidden = (config.latent_dim, config.hidden_width, config.hidden_layers)
            self.encoder = ProjectionEncoder(self.principal, self.rings, *hidden)
            self.decoder = ProjectionDecoder(self.principal, *hidden)
        else:
            shape = (box_size, config.latent_dim, config.base_width, config.n_blocks)
            self.encoder, self.decoder = Encoder(*shape), Decoder(*shape, scale_head=config.scale_head)
        # Corners leave the box when an image turns, so the Gaussian likelihood looks at the inscribed disc only.
        self.register_buffer("mask", disc_mask(box_size, 0.5 * box_size - 1.0, soft_px=2.0))
        self.register_buffer("noise_variance", torch.ones(()))

    def target(self, images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch 1 h w"]:
        """Standardised images as the network sees them: scaled to [0, 1], or inside the disc."""
        if self.likelihood == "bernoulli":
            return scale_to_unit_range(images).unsqueeze(1)
        return (images * self.mask).unsqueeze(1)

    def forward(
        self,
        images: Float[Tensor, "batch h w"],
        sample: bool = True,
        told_axes: int = 0,
        normal_like: Normal = torch.randn_like,
    ) -> AutoencoderOutput:
        """Encode, sample the posterior (or take its mean) and decode.

        Parameters
        ----------
        images
            Standardised images.
        sample
            Whether to sample.
        told_axes
            Leading latent axes on which the decoder must take an image where it is: what it would rather have there
            does not reach the encoder. A guided training places images on them by what it is told.
        normal_like
            Where random numbers come from.
        """
        target = self.target(images)
        posterior = self.encoder(target)
        latent = posterior.mean
        if sample:
            latent = latent + normal_like(latent) * torch.exp(0.5 * posterior.log_variance)
        placed = torch.cat([latent[:, :told_axes].detach(), latent[:, told_axes:]], dim=1)
        return AutoencoderOutput(target, posterior, latent, self.decoder(placed))

    def encode(self, images: Float[Tensor, "batch h w"]) -> LatentPosterior:
        """Latent posterior of standardised images."""
        posterior: LatentPosterior = self.encoder(self.target(images))
        return posterior

    def sample_prior(self, n_images: int, normal_like: Normal = torch.randn_like) -> Float[Tensor, "batch 1 h w"]:
        """Images as the model would generate them, from latent points of the prior N(0, I)."""
        latent = normal_like(torch.empty(n_images, self.latent_dim, device=self.mask.device))
        return self.simulated_images(self.decoder(latent), normal_like)

    def expected_images(self, drawn: Reconstruction) -> Float[Tensor, "batch 1 h w"]:
        """Noise-free images that the decoder means."""
        return torch.sigmoid(drawn.logits) if self.likelihood == "bernoulli" else drawn.logits * self.mask

    def simulated_images(
        self, drawn: Reconstruction, normal_like: Normal = torch.randn_like
    ) -> Float[Tensor, "batch 1 h w"]:
        """Images as the likelihood would generate them, for the discriminator.

        Under the Gaussian likelihood this adds the fitted noise (equation 5): without it the noise alone
        would tell real from drawn, and the game would be lost from the start.
        """
        images = self.expected_images(drawn)
        if self.likelihood == "bernoulli":
            return images
        return images + self.noise_variance.sqrt() * self.mask * normal_like(images)

    def reconstruction_loss(self, output: AutoencoderOutput) -> Float[Tensor, ""]:
        """Negative log-likelihood of the images, summed over pixels, averaged over images."""
        if self.likelihood == "bernoulli":
            return bernoulli_reconstruction(output.target, output.drawn)
        return gaussian_reconstruction(output.target, output.drawn, self.mask, self.noise_variance)

    @torch.no_grad()
    def residual_variance(self, output: AutoencoderOutput) -> Float[Tensor, ""]:
        """Mean squared residual in a pixel of these images, which the noise is thought to make."""
        residual = (output.target - output.drawn.logits).float() * torch.exp(-output.drawn.log_scale.float())
        return (self.mask * residual.square()).sum() / (self.mask.sum() * len(residual))

    @torch.no_grad()
    def update_noise_variance(self, variance: Float[Tensor, ""]) -> None:
        """Move the fitted noise variance a little towards that of a batch."""
        if self.likelihood == "gaussian":
            self.noise_variance.lerp_(variance.clamp(min=NOISE_VARIANCE_FLOOR), NOISE_VARIANCE_MOMENTUM)


def build_networks(box_size: int, config: ModelConfig) -> tuple[Autoencoder, Discriminator]:
    """Autoencoder and discriminator with the standard start of each layer.

    Returns
    -------
    autoencoder, discriminator
        Weights of convolutions and linear layers Xavier-normal, biases zero (Glorot & Bengio 2010).
    """
    autoencoder = Autoencoder(box_size, config)
    discriminator = Discriminator(box_size, config.discriminator_width, config.discriminator_blocks)
    for module in (*autoencoder.modules(), *discriminator.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(autoencoder.encoder.log_variance.bias, INITIAL_LOG_VARIANCE)
    return autoencoder, discriminator
