"""Networks of the paper's shapes; losses against independent formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from cryorbit import make_config
from cryorbit.model import losses
from cryorbit.model.decoder import Reconstruction
from cryorbit.model.encoder import LatentPosterior
from cryorbit.model.vaegan import build_networks


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return build_networks(128, make_config("paper").model)


def convolutions(module):
    return [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_the_paper_preset_has_the_papers_widths(paper):
    autoencoder, discriminator = paper
    assert convolutions(autoencoder.encoder) == [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    assert convolutions(autoencoder.decoder) == [
        (1024, 512), (512, 256), (256, 128), (128, 64), (64, 1), (64, 1),
    ]  # fmt: skip
    assert convolutions(discriminator) == [(1, 64), (64, 128), (128, 256), (256, 512)]
    assert autoencoder.decoder.seed[0].out_features == 1024 * 4 * 4
    assert autoencoder.encoder.mean.out_features == 3


def test_shapes_through_both_presets(paper):
    for (autoencoder, discriminator), box in ((paper, 128), (build_networks(64, make_config().model), 64)):
        output = autoencoder(torch.randn(2, box, box))
        assert output.drawn.logits.shape == output.target.shape == (2, 1, box, box)
        assert discriminator(output.target).shape == (2,)
        assert autoencoder.sample_prior(3).shape == (3, 1, box, box)


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_every_parameter_learns(preset):
    small = {"base_width": 4, "n_blocks": 3, "discriminator_width": 4, "discriminator_blocks": 3, "lambda_cone": 1.0}
    config = make_config(preset, {"model": small, "preprocessing": {"box_size": 32}}).model
    autoencoder, discriminator = build_networks(32, config)
    if autoencoder.principal is not None:
        autoencoder.principal.fit(torch.randn(300, 1, 32, 32), 0.0)
    output = autoencoder(torch.randn(4, 32, 32))
    adversarial = losses.generator_adversarial(discriminator(autoencoder.simulated_images(output.drawn)))
    loss = losses.total_loss(
        autoencoder.reconstruction_loss(output), losses.kl_to_standard_normal(output.posterior), adversarial,
        losses.cone(output.latent), torch.zeros(()), losses.LossWeights(1.0, 1.0, 1.0),
    )  # fmt: skip
    loss.total.backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name.endswith("conv.bias"), name


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_no_posterior_is_much_wider_than_the_prior(preset, value):
    """Whatever the image: what is drawn from far outside the prior is wrong beyond measure."""
    config = make_config(preset)
    autoencoder, _ = build_networks(config.preprocessing.box_size, config.model)
    with torch.no_grad():
        autoencoder.eval().encoder.log_variance.bias.fill_(value)
        images = torch.randn(3, config.preprocessing.box_size, config.preprocessing.box_size)
        log_variance = autoencoder.encode(images).log_variance
    assert log_variance.min() >= -12
    assert log_variance.max() <= 1


def test_bernoulli_loss_is_the_cross_entropy_over_the_scale():
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(3, 1, 4, 4, generator=rng, dtype=torch.float64)
    logits, scale = (torch.randn(3, 1, 4, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    ours = losses.bernoulli_reconstruction
    p = torch.sigmoid(logits)
    entropy = -(images * p.log() + (1 - images) * (1 - p).log())
    expected = (entropy / scale.exp() + 2 * scale).sum() / 3
    torch.testing.assert_close(ours(images, Reconstruction(logits, scale)), expected)
    hard = images.round()
    plain = -Bernoulli(logits=logits).log_prob(hard).sum() / 3
    torch.testing.assert_close(ours(hard, Reconstruction(logits, torch.zeros_like(scale))), plain)


def test_gaussian_loss_is_the_log_likelihood_without_its_constant():
    rng = torch.Generator().manual_seed(2)
    images, drawn, scale = (torch.randn(3, 1, 4, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    variance = torch.tensor(0.7, dtype=torch.float64)
    mask = torch.ones(4, 4, dtype=torch.float64)
    normal = Normal(drawn, variance.sqrt() * scale.exp())
    expected = -(normal.log_prob(images) + 0.5 * math.log(2 * math.pi)).sum() / 3
    ours = losses.gaussian_reconstruction(images, Reconstruction(drawn, scale), mask, variance)
    torch.testing.assert_close(ours, expected)


def test_kl_is_that_of_torch():
    rng = torch.Generator().manual_seed(3)
    mean, log_variance = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    normal = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(normal, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
    torch.testing.assert_close(losses.kl_to_standard_normal(LatentPosterior(mean, log_variance)), expected)


def test_cone_term_vanishes_on_the_cone_only():
    angle = torch.linspace(0, 6, 20)
    radius = torch.linspace(0.5, 3, 20)
    on = torch.stack([radius * angle.cos(), radius * angle.sin(), radius, torch.randn(20)], 1)
    assert losses.cone(on) < 1e-9
    assert losses.cone(on + torch.tensor([0.0, 0.0, 1.0, 0.0])) > 0.1


def test_a_guessing_discriminator_has_the_balanced_loss():
    guess = torch.zeros(7)
    assert np.isclose(float(losses.discriminator_adversarial(guess, guess)), losses.BALANCED_DISCRIMINATOR_LOSS)
    assert losses.generator_adversarial(torch.full((7,), 9.0)) < losses.generator_adversarial(guess)


def test_fitted_noise_variance_finds_the_noise():
    config = make_config("fast", {"model": {"base_width": 2}}).model
    autoencoder, _ = build_networks(64, config)
    output = autoencoder(torch.randn(16, 64, 64))
    exact = output._replace(drawn=Reconstruction(output.target * 0, torch.zeros_like(output.target)))
    for _ in range(400):
        autoencoder.update_noise_variance(autoencoder.residual_variance(exact))
    assert np.isclose(float(autoencoder.noise_variance), 1.0, atol=0.06)
