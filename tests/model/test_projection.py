"""Principal images against an exact decomposition in float64; what the told axes keep from the encoder."""

from __future__ import annotations

import pytest
import torch

from cryorbit import make_config
from cryorbit.model.decoder import Decoder
from cryorbit.model.projection import PrincipalImages, ProjectionDecoder, ProjectionEncoder, RingStatistics
from cryorbit.model.vaegan import build_networks

BOX = 16


def of_rank(rank, n=120, seed=0, box=BOX):
    """Images in the span of ``rank`` random ones, the strength of each falling like a power."""
    rng = torch.Generator().manual_seed(seed)
    strength = 2.0 ** -torch.arange(rank, dtype=torch.float64)
    weights = torch.randn(n, rank, generator=rng, dtype=torch.float64) * strength
    images = weights @ torch.randn(rank, box**2, generator=rng, dtype=torch.float64)
    return images.view(n, 1, box, box).float()


def fitted(images, n_images, noise_variance=0.0):
    principal = PrincipalImages(images.shape[-1], n_images)
    principal.fit(images, noise_variance)
    return principal


@pytest.mark.parametrize("seed", range(3))
def test_principal_images_are_orthonormal(seed):
    principal = fitted(torch.randn(200, 1, BOX, BOX, generator=torch.Generator().manual_seed(seed)), 40)
    torch.testing.assert_close(principal.images @ principal.images.T, torch.eye(40), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_what_lies_in_their_span_is_kept(seed):
    images = of_rank(6, seed=seed)
    principal = fitted(images, 12)
    torch.testing.assert_close(principal.draw(principal.coordinates(images)), images, atol=2e-4, rtol=0)
    unseen = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)) @ principal.images
    unseen = unseen.view(5, 1, BOX, BOX)
    torch.testing.assert_close(principal.draw(principal.coordinates(unseen)), unseen, atol=2e-4, rtol=0)


def test_what_lies_outside_is_left_out():
    images = of_rank(6)
    principal = fitted(images, 4)
    drawn = principal.draw(principal.coordinates(images))
    residual = (images - drawn).flatten(1)
    assert residual.norm() > 1e-2 * images.norm()
    assert (residual @ principal.images.T).abs().max() < 1e-3 * images.flatten(1).norm(dim=1).max()


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_an_exact_decomposition(seed):
    images, noise_variance = of_rank(20, seed=seed), 0.3
    principal = fitted(images, 8, noise_variance)
    exact = torch.linalg.svd(images.flatten(1).double(), full_matrices=False)
    expected = (exact.S[:8].square() / len(images) + noise_variance).sqrt()
    torch.testing.assert_close(principal.scale.double(), expected, rtol=1e-4, atol=0)
    ours, theirs = principal.images.double(), exact.Vh[:8]
    torch.testing.assert_close(ours.T @ ours, theirs.T @ theirs, atol=1e-4, rtol=0)


def test_coordinates_have_their_typical_size():
    images = of_rank(8, n=400)
    spread = fitted(images, 8).coordinates(images).square().mean(dim=0)
    torch.testing.assert_close(spread, torch.ones(8), rtol=1e-2, atol=0)


@pytest.mark.parametrize("n", [1, 5])
def test_fewer_images_than_components_leave_the_rest_silent(n):
    images = torch.randn(n, 1, BOX, BOX, generator=torch.Generator().manual_seed(n))
    principal = fitted(images, 64)
    torch.testing.assert_close(principal.draw(principal.coordinates(images)), images, atol=1e-4, rtol=0)
    assert (principal.coordinates(torch.randn(3, 1, BOX, BOX))[:, n:] == 0).all()


def test_there_are_no_more_than_pixels():
    assert PrincipalImages(4, 256).images.shape == (16, 16)


def test_a_saved_state_draws_the_same():
    images = of_rank(6)
    principal, loaded = fitted(images, 12), PrincipalImages(BOX, 12)
    loaded.load_state_dict(principal.state_dict())
    assert torch.equal(loaded.draw(loaded.coordinates(images)), principal.draw(principal.coordinates(images)))
    assert loaded.coordinates(images).abs().max() > 0


def rings_of(images):
    rings = RingStatistics(images.shape[-1])
    rings.fit(images)
    return rings


def noise(n, box, seed=0):
    return torch.randn(n, 1, box, box, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("box", [15, 16, 64, 70])
def test_rings_have_brightness_and_power_in_units_of_their_spread(box):
    images = 1.0 + 2.0 * noise(500, box)
    numbers = rings_of(images)(images)
    assert numbers.shape == (500, RingStatistics(box).n_numbers)
    torch.testing.assert_close(numbers.mean(dim=0), torch.zeros(numbers.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(numbers.std(dim=0), torch.ones(numbers.shape[1]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("box", [32, 64])
def test_a_turn_hardly_changes_the_rings_but_a_neighbour_does(box):
    images = noise(300, box)
    rings = rings_of(images)
    turned = images.rot90(1, (2, 3))
    torch.testing.assert_close(rings(turned), rings(images), atol=1e-2, rtol=0)
    crowded = images.clone()
    crowded[:, :, : box // 6, box // 3 : 2 * box // 3] += 2.0
    change = (rings(crowded) - rings(images)).mean(dim=0).view(4, -1)
    assert (change[:, 0].abs() < 1e-3).all()  # the middle is untouched
    assert (change[:, -1] > 1).all()  # and at the rim no single number is like before


def test_rings_of_one_image_are_finite():
    images = noise(1, BOX)
    assert rings_of(images)(images).isfinite().all()
    assert rings_of(torch.zeros(3, 1, BOX, BOX))(images).isfinite().all()


def test_half_precision_around_them_changes_nothing():
    torch.manual_seed(0)
    images = of_rank(6)
    encoder = ProjectionEncoder(fitted(images, 12), rings_of(images), 4, 32, 2)
    decoder = ProjectionDecoder(fitted(images, 12), 4, 32, 2)
    full = encoder(images)
    drawn = decoder(full.mean)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        half = encoder(images)
        drawn_in_half = decoder(full.mean)
    for one, other in (
        (full.mean, half.mean),
        (full.log_variance, half.log_variance),
        (drawn.logits, drawn_in_half.logits),
    ):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("architecture", ["projection", "convolutional"])
@pytest.mark.parametrize("told", [0, 3])
def test_the_decoder_does_not_move_what_the_encoder_is_told(architecture, told):
    torch.manual_seed(0)
    model = {"architecture": architecture, "base_width": 4, "n_blocks": 2, "hidden_width": 16, "principal_images": 12}
    config = make_config("fast", {"model": model, "preprocessing": {"box_size": BOX}}).model
    autoencoder, _ = build_networks(BOX, config)
    images = of_rank(6, n=8)
    if autoencoder.principal is not None:
        autoencoder.principal.fit(images, 1.0)
    autoencoder.reconstruction_loss(autoencoder(images[:, 0], told_axes=told)).backward()
    for head in (autoencoder.encoder.mean, autoencoder.encoder.log_variance):
        by_axis = head.weight.grad.abs().sum(dim=1)
        assert (by_axis[:told] == 0).all()
        assert (by_axis[told:] > 0).all()
    entry = autoencoder.decoder.seed if isinstance(autoencoder.decoder, Decoder) else autoencoder.decoder.features
    assert (entry[0].weight.grad.abs().sum(dim=0) > 0).all()  # the decoder learns from every axis, told or not
