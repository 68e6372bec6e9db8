"""The transfer function on rings against the one-dimensional, the two-dimensional, and sums written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.polar import PolarGrid
from cryorbit.alignment.transfer import RingTransfer
from cryorbit.optics import Optics, ctf_1d, ctf_2d

from .blobs import BOX, GRID, PIXEL_A, RINGS, TRANSFER

PHI = torch.arange(GRID.angles // 2).double() * (2 * math.pi / GRID.angles)
WHOLE_CIRCLE = torch.arange(720).double() * (2 * math.pi / 720)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


def exact(defocus_um: float, half_um: float, angle: float, phi: torch.Tensor, optics: Optics | None = None):
    """The transfer function at every ring and direction, float64, from the one-dimensional one at the defocus there."""
    k = GRID.radius.double() / (BOX * PIXEL_A)
    defocus_A = 1e4 * (defocus_um + half_um * torch.cos(2 * (phi - angle)))
    return ctf_1d(k, defocus_A, optics or Optics()).T


defoci = st.floats(0.3, 4.0)
halves = st.floats(-0.4, 0.4)
directions = st.floats(-math.pi, math.pi)


@given(defocus_um=defoci, voltage_kV=st.sampled_from([120.0, 200.0, 300.0]), contrast=st.floats(0.0, 0.3))
@settings(deadline=None, max_examples=20)
def test_amplitude_is_the_one_dimensional_function(defocus_um, voltage_kV, contrast):
    optics = Optics(voltage_kV, 2.7, contrast)
    found = RingTransfer.of_optics(GRID, PIXEL_A, optics).amplitude(one(defocus_um))
    expected = ctf_1d(GRID.radius.double() / (BOX * PIXEL_A), one(defocus_um).double() * 1e4, optics)
    assert found.shape == (1, 1, RINGS)
    torch.testing.assert_close(found[:, 0].double(), expected, atol=2e-5, rtol=0)


def test_a_phase_plate_shifts_the_phase():
    plain, shifted = (RingTransfer.of_optics(GRID, PIXEL_A, Optics(), degrees) for degrees in (0.0, 90.0))
    torch.testing.assert_close(shifted.slope_per_um, plain.slope_per_um)
    torch.testing.assert_close(shifted.offset - plain.offset, torch.full((RINGS,), math.pi / 2), atol=1e-5, rtol=0)


@given(defocus_um=defoci, half_um=halves, angle=directions)
@settings(deadline=None, max_examples=25)
def test_channels_together_are_the_astigmatic_image(defocus_um, half_um, angle):
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(1, RINGS, len(PHI), dtype=torch.complex64, generator=generator)
    transfer = TRANSFER.with_astigmatism(one(half_um), one(angle))
    split = transfer.split(samples, GRID)
    assert split.shape[1] == transfer.channels
    together = (transfer.amplitude(one(defocus_um))[..., None] * split).sum(dim=1)[0]
    expected = samples[0] * exact(defocus_um, half_um, angle, PHI)
    assert (together - expected).abs().max() < 1e-4 * samples.abs().max()


def test_directions_are_those_of_the_two_dimensional_function():
    """Along x, y and the direction of the larger defocus between them."""
    u_A, v_A, angle_deg = 21000.0, 15000.0, 45.0
    half, mean = one((u_A - v_A) / 2e4), one((u_A + v_A) / 2e4)
    transfer = TRANSFER.with_astigmatism(half, one(math.radians(angle_deg)))
    ones = torch.ones(1, RINGS, len(PHI), dtype=torch.complex64)
    rings = (transfer.amplitude(mean)[..., None] * transfer.split(ones, GRID)).sum(dim=1)[0].real.double()
    # A box eight times as wide has points on the diagonal that are on a ring: 8 k / sqrt 2 is near a whole number.
    size = 8 * BOX
    plane = ctf_2d(size, PIXEL_A, *(torch.tensor([v]).double() for v in (u_A, v_A, angle_deg)), Optics())[0]
    k = np.arange(1, RINGS + 1)
    torch.testing.assert_close(rings[:, 0], plane[0, 8 * k], atol=1e-4, rtol=0)
    torch.testing.assert_close(rings[:, GRID.angles // 4], plane[8 * k, 0], atol=1e-4, rtol=0)
    on_ring = np.array([k for k in range(1, RINGS + 1) if abs(8 * k / math.sqrt(2) % 1 - 0.5) > 0.47])
    at = np.round(8 * on_ring / math.sqrt(2)).astype(int)
    eighth, three_eighths = (
        (rings[on_ring - 1, low] + rings[on_ring - 1, low + 1]) / 2 for low in (GRID.angles // 8, 3 * GRID.angles // 8)
    )
    assert len(at) >= 1
    torch.testing.assert_close(eighth, plane[at, at], atol=0.03, rtol=0)
    torch.testing.assert_close(three_eighths, plane[size - at, at], atol=0.03, rtol=0)


@given(defocus_um=defoci, half_um=halves, angle=directions)
@settings(deadline=None, max_examples=25)
def test_power_is_the_mean_square_around_the_ring(defocus_um, half_um, angle):
    transfer = TRANSFER.with_astigmatism(one(half_um), one(angle))
    mean = exact(defocus_um, half_um, angle, WHOLE_CIRCLE).square().mean(dim=1)
    torch.testing.assert_close(transfer.power(one(defocus_um))[0].double(), mean, atol=2e-5, rtol=0)


@given(defocus_um=defoci, half_um=st.sampled_from([0.0, 0.3]), spread_um=st.floats(0.01, 0.3))
@settings(deadline=None, max_examples=15)
def test_an_uncertain_defocus_damps_as_the_mean_over_its_distribution(defocus_um, half_um, spread_um):
    transfer = TRANSFER.with_astigmatism(one(half_um), one(0.4))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    values = torch.from_numpy(defocus_um + spread_um * nodes).float()
    weights = torch.from_numpy(weights / weights.sum())
    amplitude = torch.einsum("v,vqk->qk", weights, transfer.amplitude(values).double())
    same = RingTransfer(
        transfer.slope_per_um, transfer.offset,
        *(None if v is None else v.expand(len(values)) for v in (transfer.astigmatism_um, transfer.astigmatism_rad)),
    )  # fmt: skip
    power = weights @ same.power(values).double()
    found = transfer.amplitude(one(defocus_um), one(spread_um**2))[0].double()
    torch.testing.assert_close(found, amplitude, atol=1e-4, rtol=0)
    torch.testing.assert_close(transfer.power(one(defocus_um), one(spread_um**2))[0].double(), power, atol=1e-4, rtol=0)


@given(defocus_um=defoci, half_um=st.sampled_from([0.0, 0.3]))
@settings(deadline=None, max_examples=15)
def test_slope_is_the_derivative_by_the_phase(defocus_um, half_um):
    transfer = TRANSFER.with_astigmatism(one(half_um), one(0.4))
    wide = RingTransfer(transfer.slope_per_um.double(), transfer.offset.double(), transfer.astigmatism_um,
                        transfer.astigmatism_rad)  # fmt: skip
    at, step = torch.tensor([defocus_um]).double(), 1e-5
    difference = (wide.amplitude(at + step) - wide.amplitude(at - step)) / (2 * step * wide.slope_per_um)
    torch.testing.assert_close(wide.slope(at), difference, atol=1e-6, rtol=0)
    torch.testing.assert_close(transfer.slope(at.float()).double(), difference, atol=1e-4, rtol=0)


def test_astigmatism_is_negligible_where_it_changes_next_to_nothing():
    assert not TRANSFER.is_astigmatic(torch.zeros(3))
    assert not TRANSFER.is_astigmatic(torch.zeros(0))
    assert TRANSFER.is_astigmatic(torch.tensor([0.0, -0.3]))
    largest = torch.tensor([0.039 / float(TRANSFER.slope_per_um.max())])
    assert not TRANSFER.is_astigmatic(largest)
    exact_square = exact(1.5, float(largest), 0.3, PHI).square().mean()
    assert (
        float((exact(1.5, float(largest), 0.3, PHI) - exact(1.5, 0.0, 0.3, PHI)).square().mean()) < 1e-3 * exact_square
    )


def test_no_difference_is_no_astigmatism():
    samples = torch.randn(3, RINGS, len(PHI), dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    transfer, defocus = TRANSFER.with_astigmatism(torch.zeros(3), torch.rand(3)), torch.tensor([0.5, 1.5, 3.0])
    together = (transfer.amplitude(defocus)[..., None] * transfer.split(samples, GRID)).sum(dim=1)
    torch.testing.assert_close(together, samples * TRANSFER.amplitude(defocus)[:, 0, :, None])
    torch.testing.assert_close(transfer.power(defocus), TRANSFER.power(defocus))


@pytest.mark.parametrize("count", [1, 9, RINGS])
def test_inner_rings_are_the_same_rings(count):
    transfer = TRANSFER.with_astigmatism(torch.tensor([0.2, 0.3]), torch.tensor([0.0, 1.0]))
    defocus = torch.tensor([1.2, 2.4])
    few = transfer.rings(count)
    torch.testing.assert_close(few.amplitude(defocus), transfer.amplitude(defocus)[..., :count])
    torch.testing.assert_close(few.power(defocus), transfer.power(defocus)[..., :count])
    alone = RingTransfer.of_optics(PolarGrid(BOX, count), PIXEL_A, Optics())
    torch.testing.assert_close(alone.chi(defocus), few.chi(defocus))


def test_moving_to_a_device_keeps_the_values():
    transfer = TRANSFER.with_astigmatism(torch.tensor([0.2]), torch.tensor([0.5])).to("cpu")
    torch.testing.assert_close(transfer.astigmatism_rad, torch.tensor([0.5]))
    assert TRANSFER.to("cpu").astigmatism_um is None
