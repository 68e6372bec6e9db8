"""Laws of the polar Fourier transform, against sums written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.polar import PolarGrid, PolarTransform, box_mask, squared, to_harmonics, to_samples
from cryorbit.alignment.refine import centred, turned
from cryorbit.preprocessing.normalise import radius_px

from .blobs import BOX, GRID, TRANSFORM, make_specimen, ring_images

# Wide enough that neither pixels nor the box cut anything off.
SMOOTH = make_specimen(seed=5, sigma_px=2.0, radius_px=12.0)
angles = st.floats(-math.pi, math.pi)
moves = st.floats(-4.0, 4.0)


def written_out(images: np.ndarray, grid: PolarGrid) -> np.ndarray:
    """The sum over pixels at every point of every ring, complex128."""
    offset = np.arange(grid.box_size) - grid.box_size // 2
    phi = np.arange(grid.angles // 2) * 2 * math.pi / grid.angles
    radius = np.arange(1, grid.rings + 1)[:, None] * (2 * math.pi / grid.box_size)
    along_x, along_y = (np.exp(-1j * (radius * wave)[:, :, None] * offset) for wave in (np.cos(phi), np.sin(phi)))
    return np.einsum("bij,kpi,kpj->bkp", images, along_y, along_x, optimize=True)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


def smooth_samples(psi: float = 0.0, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return SMOOTH.samples(GRID, np.array([psi]), np.array([[x, y]])).to(torch.complex64)


@pytest.mark.parametrize(("box", "rings"), [(31, 10), (48, 16), (49, 16), (64, 30), (65, 22)])
def test_equals_the_written_out_sum_on_white_noise(box, rings):
    grid = PolarGrid(box, rings)
    images = torch.randn(2, box, box, generator=torch.Generator().manual_seed(box))
    exact = written_out(images.double().numpy(), grid)
    error = np.abs(PolarTransform(grid).without_mask(images).numpy() - exact)
    rms = np.sqrt(np.mean(np.abs(exact) ** 2))
    assert np.sqrt(np.mean(error**2)) < 1e-4 * rms
    assert error.max() < 2e-3 * rms


@pytest.mark.parametrize("box", [63, 64])
def test_an_off_centre_gaussian_has_its_known_transform(box):
    grid = PolarGrid(box, 22)
    blob = make_specimen(seed=1, sigma_px=2.0, blobs=1, radius_px=14.0)
    exact = blob.samples(grid, np.zeros(1), np.zeros((1, 2))).numpy()
    found = PolarTransform(grid).without_mask(torch.from_numpy(blob.image(box)).float()[None]).numpy()
    assert np.abs(found - exact).max() < 1e-4 * np.abs(exact).max()


def test_mean_and_what_is_beyond_the_disc_are_left_out():
    images = torch.randn(2, BOX, BOX, generator=torch.Generator().manual_seed(0))
    mask = box_mask(BOX)
    cut = (images - (images * mask).sum(dim=(1, 2), keepdim=True) / mask.sum()) * mask
    exact = written_out(cut.double().numpy(), GRID)
    assert np.abs(TRANSFORM(images).numpy() - exact).max() < 2e-3 * np.abs(exact).std()
    corners = images + 100.0 * (radius_px(BOX) > BOX / 2) + 7.0
    torch.testing.assert_close(TRANSFORM(corners), TRANSFORM(images), atol=5e-3, rtol=0)


def test_the_mask_stops_noise_by_its_mean_square():
    assert TRANSFORM.mask_power == pytest.approx(float(box_mask(BOX).square().mean()))
    assert 0.6 < TRANSFORM.mask_power < math.pi / 4


@given(psi=angles, x=moves, y=moves)
@settings(deadline=None, max_examples=10)
def test_the_sign_of_turn_and_shift_is_that_of_the_conventions(psi, x, y):
    """An image made pixel by pixel as image(x) = reference(R(psi) (x - t)) has the samples that the angle says."""
    found = TRANSFORM.without_mask(torch.from_numpy(SMOOTH.image(BOX, psi, (x, y))).float()[None])
    exact = smooth_samples(psi, x, y)
    assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


@given(psi=angles)
@settings(deadline=None, max_examples=15)
def test_a_turn_is_a_phase_of_the_harmonics(psi):
    still, turn = (to_harmonics(smooth_samples(p), GRID.orders) for p in (0.0, psi))
    phase = torch.polar(torch.ones(GRID.orders), psi * torch.arange(GRID.orders))
    assert (turn - still * phase).abs().max() < 1e-4 * still.abs().max()


@given(psi=angles, x=moves, y=moves)
@settings(deadline=None, max_examples=15)
def test_turning_and_moving_back_gives_the_reference(psi, x, y):
    moved = centred(smooth_samples(psi, x, y)[:, None], torch.tensor([[x, y]]), GRID)
    found = turned(moved, one(psi), GRID.orders)[0, 0]
    reference = to_harmonics(smooth_samples(), GRID.orders)[0]
    assert (found - reference).abs().max() < 1e-4 * reference.abs().max()


@pytest.mark.parametrize("rings", [1, 3, 4, 7, 22])
def test_any_number_of_rings_is_moved_alike(rings):
    samples = smooth_samples(0.0, 1.5, -2.0)[:, None]
    shift = torch.tensor([[1.5, -2.0]])
    part, whole = centred(samples[:, :, :rings], shift, GRID), centred(samples, shift, GRID)
    torch.testing.assert_close(part, whole[:, :, :rings])


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_samples_are_harmonics_and_back(seed):
    """Harmonics of negative order follow from the others only where odd orders change sign across the ring."""
    generator = torch.Generator().manual_seed(seed)
    harmonics = torch.randn(3, 5, GRID.orders, dtype=torch.complex64, generator=generator)
    harmonics[..., 0] = harmonics[..., 0].real
    samples = to_samples(harmonics, GRID.angles)
    assert samples.shape == (3, 5, GRID.angles // 2)
    torch.testing.assert_close(to_harmonics(samples, GRID.orders), harmonics, atol=1e-5, rtol=0)
    torch.testing.assert_close(to_samples(to_harmonics(samples, GRID.orders), GRID.angles), samples, atol=2e-5, rtol=0)


def test_power_of_the_samples_is_that_of_the_harmonics():
    samples = TRANSFORM(torch.randn(3, BOX, BOX, generator=torch.Generator().manual_seed(2)))
    harmonics = to_harmonics(samples, GRID.angles // 2)
    total = squared(harmonics) @ torch.cat([torch.ones(1), torch.full((GRID.angles // 2 - 1,), 2.0)])
    # The order of half the angles is not stored; next to nothing is there.
    torch.testing.assert_close(total, squared(samples).mean(dim=-1), rtol=1e-3, atol=0)


def test_orders_hold_all_that_a_full_box_has():
    """A point at the edge of the box has the highest orders."""
    image = torch.zeros(1, BOX, BOX)
    image[0, BOX // 2, 2] = 1.0
    power = squared(to_harmonics(TRANSFORM.without_mask(image), GRID.angles // 2)[0])
    beyond = power[:, GRID.orders :].sum(dim=1) / power.sum(dim=1)
    assert beyond.max() < 5e-3


@pytest.mark.parametrize("box", [48, 49])
def test_the_adjoint_is_the_adjoint(box):
    """Over the whole ring, of which the samples are one half and their conjugates the other."""
    grid = PolarGrid(box, 16)
    transform = PolarTransform(grid)
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(3, box, box, generator=generator)
    samples = torch.randn(3, grid.rings, grid.angles // 2, dtype=torch.complex64, generator=generator)
    one_way = 2 * (transform.without_mask(images).conj() * samples).real.double().sum(dim=(1, 2))
    other_way = (images * transform.adjoint(samples)).double().sum(dim=(1, 2))
    scale = math.sqrt(float(squared(transform.without_mask(images)).sum() * squared(samples).sum()))
    assert (one_way - other_way).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("box", [63, 64])
def test_samples_of_a_smooth_image_give_it_back(box):
    grid = PolarGrid(box, 25)
    pixels = SMOOTH.image(box)
    transform = PolarTransform(grid)
    found = transform.image(transform.without_mask(torch.from_numpy(pixels).float()[None]))[0].numpy()
    disc = radius_px(box).numpy() < 0.4 * box
    assert np.abs(found - pixels)[disc].max() < 0.01 * pixels.max()
    assert np.corrcoef(found[disc], pixels[disc])[0, 1] > 0.9999


@pytest.mark.parametrize("rings", [0, 31, 40])
def test_rings_that_do_not_fit_are_refused(rings):
    with pytest.raises(ValueError, match="do not fit into a box of 64 pixels"):
        PolarGrid(BOX, rings)


@pytest.mark.parametrize("box", [32, 65])
def test_as_many_rings_as_the_grid_allows_can_be_used(box):
    PolarTransform(PolarGrid(box, box // 2 - 2))


@pytest.mark.parametrize("rings", [1, 5, 16, 29])
def test_angles_suffice_for_the_orders_and_divide_well(rings):
    grid = PolarGrid(BOX, rings)
    assert grid.angles % 12 == 0
    assert grid.angles >= 2 * grid.orders
    assert grid.phi.shape == (grid.angles // 2,)
    assert float(grid.phi[-1]) < math.pi


def test_mean_power_of_rings_is_measured_group_by_group():
    samples = TRANSFORM(torch.randn(6, BOX, BOX, generator=torch.Generator().manual_seed(7)))
    samples[:3] *= 2.0
    images = ring_images(samples)
    both = ring_images(samples, group=torch.tensor([0, 0, 0, 2, 2, 2]), transfers=images.transfers * 3)
    power = both.ring_power()
    torch.testing.assert_close(power[0], squared(samples[:3]).mean(dim=(0, 2)))
    torch.testing.assert_close(power[2], squared(samples[3:]).mean(dim=(0, 2)))
    # A group without images is given the power of all.
    torch.testing.assert_close(power[1], images.ring_power()[0])
