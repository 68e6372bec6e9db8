"""The terms of the VAE-GAN's loss, each named, each summed over pixels and averaged over images.

The total is ``L = L_rec + lambda_reg L_reg + lambda_GAN L_GAN + lambda_cone L_cone`` (Miolane et al. 2020,
section 3.1.3), and ``lambda_pose L_pose`` where the training is guided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from cryorbit.model.decoder import Reconstruction
from cryorbit.model.encoder import LatentPosterior

# Latent axes of the cone, and of the pose term.
POSE_AXES = 3


@dataclass(frozen=True)
class LossWeights:
    """Hyper-parameters of the loss: ``lambda_reg``, ``lambda_GAN``, ``lambda_cone`` and ``lambda_pose``."""

    regularisation: float
    adversarial: float
    cone: float
    pose: float = 0.0


@dataclass(frozen=True)
class LossTerms:
    """Terms of the encoder's and decoder's loss, unweighted, and their weighted sum; all scalars."""

    reconstruction: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    adversarial: Float[Tensor, ""]
    cone: Float[Tensor, ""]
    pose: Float[Tensor, ""]
    total: Float[Tensor, ""]

    def as_floats(self) -> dict[str, float]:
        """The terms as plain numbers, by name."""
        return {field.name: float(getattr(self, field.name).detach()) for field in fields(self)}


def total_loss(
    reconstruction: Tensor, kl: Tensor, adversarial: Tensor, cone: Tensor, pose: Tensor, weights: LossWeights
) -> LossTerms:
    """Weigh and add the terms."""
    total = reconstruction + weights.regularisation * kl + weights.adversarial * adversarial
    total = total + weights.cone * cone + weights.pose * pose
    return LossTerms(reconstruction, kl, adversarial, cone, pose, total)


def bernoulli_reconstruction(images: Float[Tensor, "batch 1 h w"], drawn: Reconstruction) -> Float[Tensor, ""]:
    """Binary cross-entropy over the learnt scale, ``sum BCE / exp(scale) + 2 scale``.

    Parameters
    ----------
    images
        Intensities in [0, 1].

    References
    ----------
    The form with the scale head is that of the authors' public code (ninamiolane/vaetree).
    """
    entropy = F.binary_cross_entropy_with_logits(drawn.logits, images, reduction="none")
    return (entropy * torch.exp(-drawn.log_scale) + 2.0 * drawn.log_scale).sum(dim=(1, 2, 3)).mean()


def gaussian_reconstruction(
    images: Float[Tensor, "batch 1 h w"],
    drawn: Reconstruction,
    mask: Float[Tensor, "h w"],
    noise_variance: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Negative log-likelihood under white noise, without its constant.

    Parameters
    ----------
    images
        Standardised intensities.
    mask
        Weight of each pixel, 0 to 1.
    noise_variance
        Variance of the noise in one pixel; the scale head, if any, multiplies its square root.

    References
    ----------
    Equation 5 of the paper; the noise variance is fitted along, as in Rybkin, Daniilidis & Levine 2021,
    "Simple and effective VAE training with calibrated decoders".
    """
    chi_square = (images - drawn.logits).square() * torch.exp(-2.0 * drawn.log_scale) / noise_variance
    log_variance = torch.log(noise_variance) + 2.0 * drawn.log_scale
    return (0.5 * mask * (chi_square + log_variance)).sum(dim=(1, 2, 3)).mean()


def kl_to_standard_normal(posterior: LatentPosterior) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of each posterior from N(0, I), summed over the latent axes."""
    return _kl_by_axis(posterior).sum(dim=1).mean()


def _kl_by_axis(posterior: LatentPosterior) -> Float[Tensor, "batch latent"]:
    mean, log_variance = posterior
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def cone(latent: Float[Tensor, "batch latent"]) -> Float[Tensor, ""]:
    """Distance from the cone, ``(z1^2 + z2^2 - z3^2)^2``: angle around it, defocus along it (section 3.1.3)."""
    return (latent[:, 0].square() + latent[:, 1].square() - latent[:, 2].square()).square().mean()


def pose_surprise(
    posterior: LatentPosterior,
    target: Float[Tensor, "batch 3"],
    weight: Float[Tensor, " batch"],
    whole: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """How unlikely the posterior finds the place on the cone where an image belongs, ``-log q(z | x)``.

    Without its constant, and averaged over the images by their weight. It teaches the mean where the image lies and
    the variance how well that can be seen, as in the sleep phase of the wake-sleep algorithm.

    Parameters
    ----------
    posterior
        Of the images; its first three axes count.
    target
        Of :meth:`cryorbit.model.cone.Cone.points`.
    weight
        Of each image, 0 to 1.
    whole
        Sum of the weights that the average is over, where these images are a share of a batch.

    References
    ----------
    Hinton, Dayan, Frey & Neal 1995, Science 268, 1158.
    """
    mean, log_variance = (values[:, :POSE_AXES].float() for values in posterior)
    surprise = 0.5 * ((mean - target).square() * torch.exp(-log_variance) + log_variance)
    return _weighted_mean(surprise.sum(dim=1), weight, whole)


def _weighted_mean(values: Tensor, weight: Tensor, whole: Tensor | None) -> Float[Tensor, ""]:
    return (weight * values).sum() / (weight.sum() if whole is None else whole).clamp(min=1.0)


def pose_ignorance(
    posterior: LatentPosterior, weight: Float[Tensor, " batch"], whole: Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """What the posterior pretends to know of an image that has no place on the cone: its divergence from N(0, I).

    Averaged over the images by their weight. Where such an image cannot be told from a particle, this hardly widens
    the posterior; the surprise at a place drawn from the prior would, as one far miss among a thousand does.

    Parameters
    ----------
    posterior
        Of the images; its first three axes count.
    weight, whole
        As for :func:`pose_surprise`.
    """
    divergence = _kl_by_axis(LatentPosterior(*(values[:, :POSE_AXES].float() for values in posterior)))
    return _weighted_mean(divergence.sum(dim=1), weight, whole)


def generator_adversarial(log_odds_fake: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """How badly the generator fooled the discriminator, ``-log D(fake)`` (the non-saturating form)."""
    return F.softplus(-log_odds_fake).mean()


def discriminator_adversarial(
    log_odds_real: Float[Tensor, " batch"], log_odds_fake: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the discriminator, ``-log D(real) - log(1 - D(fake))``; ``2 log 2`` when it guesses."""
    return F.softplus(-log_odds_real).mean() + F.softplus(log_odds_fake).mean()


BALANCED_DISCRIMINATOR_LOSS = 2.0 * math.log(2.0)
