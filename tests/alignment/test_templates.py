"""The class average: what it is made of, what noise does to it, and what it knows of turns and moves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.polar import squared, to_harmonics
from cryorbit.alignment.refine import accumulate
from cryorbit.alignment.templates import AverageSums, Geometry, make_template, order_limit, order_weight

from .blobs import (
    BOX,
    GEOMETRY,
    GRID,
    RINGS,
    SPECIMEN,
    TRANSFORM,
    RADIUS_px,
    draw_truth,
    exact_template,
    make_batch,
    make_specimen,
    seen,
    white_noise,
)  # fmt: skip

N = 40
TRUTH = draw_truth(N, seed=0)
TEMPLATE = exact_template()
WEIGHT = order_weight(GRID.orders)


def exact_harmonics(psi: float = 0.0, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return to_harmonics(SPECIMEN.samples(GRID, np.array([psi]), np.array([[x, y]])), GRID.angles // 2)[0]


def sums_over(samples: torch.Tensor, rows: torch.Tensor | slice, noise: float = 1.0) -> AverageSums:
    batch = make_batch(samples[rows], noise)
    return accumulate(batch, TRUTH.poses().of_rows(rows), torch.linspace(0.2, 1.0, N)[rows], GRID)


@given(cuts=st.lists(st.integers(1, N - 1), min_size=1, max_size=5), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_sums_of_parts_add_up_in_any_order(cuts, seed):
    samples = seen(TRUTH)
    order = np.random.default_rng(seed).permutation(N)
    parts = [torch.from_numpy(part) for part in np.split(order, sorted(cuts)) if len(part)]
    total = AverageSums.empty(GRID)
    for part in parts:
        total = total + sums_over(samples, part)
    whole = sums_over(samples, slice(None))
    scale = float(whole.numerator.abs().max())
    torch.testing.assert_close(total.numerator, whole.numerator, atol=1e-5 * scale, rtol=0)
    torch.testing.assert_close(total.power, whole.power, atol=1e-4, rtol=0)
    assert total.particles == pytest.approx(whole.particles, rel=1e-6)


def test_without_noise_the_average_is_the_specimen():
    batch = make_batch(seen(TRUTH), 1e-8)
    sums = accumulate(batch, TRUTH.poses(), torch.ones(N), GRID)
    plain = sums.numerator / sums.power[:, None]
    template = GEOMETRY.template(sums, batch.noise, RINGS)
    orders = template.harmonics.shape[1]
    scale = float(TEMPLATE.harmonics.abs().max())
    torch.testing.assert_close(template.harmonics, (plain * GEOMETRY.limit)[:, :orders], atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(template.harmonics, TEMPLATE.harmonics, atol=1e-3 * scale, rtol=0)


def test_noise_damps_and_never_amplifies():
    samples = seen(TRUTH) + white_noise(N, 0)
    sums = sums_over(samples, slice(None))
    plain = (sums.numerator / sums.power[:, None]).abs()
    sharp = None
    for noise in (1e-6, 0.1, 1.0, 10.0):
        template = make_template(sums, torch.full((RINGS,), noise), GEOMETRY.noise_orders, GEOMETRY.limit, BOX)
        damped = template.harmonics.abs()
        assert (damped <= plain * (1 + 1e-5)).all()
        assert sharp is None or (damped <= sharp * (1 + 1e-4)).all()
        sharp = damped


@pytest.mark.parametrize("seed", range(3))
def test_an_average_of_noise_is_damped_to_next_to_nothing(seed):
    sums = accumulate(make_batch(white_noise(N, seed), 1.0), TRUTH.poses(), torch.ones(N), GRID)
    template = GEOMETRY.template(sums, torch.ones(RINGS), RINGS)
    orders = template.harmonics.shape[1]
    plain = (sums.numerator / sums.power[:, None] * GEOMETRY.limit)[:, :orders]
    kept = (squared(template.harmonics) @ WEIGHT[:orders]).sum() / (squared(plain) @ WEIGHT[:orders]).sum()
    assert float(kept) < 0.1


@pytest.mark.parametrize("seed", range(2))
def test_the_average_of_noisy_images_is_nearer_to_the_specimen_than_the_plain_one(seed):
    samples = seen(TRUTH) + 1.4 * white_noise(N, seed)
    sums = accumulate(make_batch(samples, 2.0), TRUTH.poses(), torch.ones(N), GRID)
    template = GEOMETRY.template(sums, torch.full((RINGS,), 2.0), RINGS)
    orders = template.harmonics.shape[1]
    plain = (sums.numerator / sums.power[:, None] * GEOMETRY.limit)[:, :orders]

    def error(harmonics: torch.Tensor) -> float:
        ring = squared(harmonics - TEMPLATE.harmonics) @ WEIGHT[:orders]
        return float((ring * GRID.radius).sum())

    assert error(template.harmonics) < 0.9 * error(plain)


def test_noise_by_order_is_the_power_of_white_noise():
    n = 400
    harmonics = to_harmonics(white_noise(n, 5), GRID.orders)
    measured, expected = squared(harmonics).mean(dim=0), GEOMETRY.noise_orders
    # The mean of the image, which is taken off, was in the order 0 of the innermost rings.
    measured[:2, 0] = expected[:2, 0]
    assert float((measured @ WEIGHT).sum() / (expected @ WEIGHT).sum()) == pytest.approx(1, abs=0.02)
    loud = expected > 1e-3 * expected.max()
    ratio = measured[loud] / expected[loud]
    assert float((ratio - 1).square().mean().sqrt()) == pytest.approx(1 / math.sqrt(n), rel=0.4)
    assert float((ratio - 1).abs().max()) < 0.5
    assert float(measured[~loud].max()) < 2e-3 * float(expected.max())


def test_noise_of_all_orders_is_what_passes_the_mask():
    assert GEOMETRY.noise_power == pytest.approx(TRANSFORM.mask_power * BOX**2, rel=0.005)
    for ring in (0, RINGS - 1):
        assert float(GEOMETRY.noise_orders[ring] @ WEIGHT) == pytest.approx(GEOMETRY.noise_power, rel=0.01)


@given(place=st.floats(0.0, RADIUS_px), psi=st.floats(-3.2, 3.2))
@settings(deadline=None, max_examples=20)
def test_order_limit_keeps_what_lies_within_the_radius(place, psi):
    specimen = replace(make_specimen(blobs=1), place_px=np.array([[place, 0.0]]), height=np.ones(1))
    harmonics = to_harmonics(specimen.samples(GRID, np.array([psi]), np.zeros((1, 2)))[0], GRID.orders)
    inside = order_limit(GRID, RADIUS_px)
    weight = GRID.radius[:, None] * WEIGHT * squared(harmonics)
    assert float((weight * inside).sum() / weight.sum()) > 0.995


def test_order_limit_leaves_out_noise_beyond_the_particle():
    small, large = (Geometry.of(GRID, radius) for radius in (8.0, 24.0))
    assert (small.limit <= large.limit).all()
    assert (small.limit.diff(dim=1) <= 0).all()
    kept = [float((g.noise_orders * g.limit * WEIGHT).sum() / (g.noise_orders * WEIGHT).sum()) for g in (small, large)]
    assert kept[0] < 0.6 < 0.9 < kept[1]


@pytest.mark.parametrize(("column", "step"), [(1, (1e-4, 0.0, 0.0)), (2, (0.0, 1e-3, 0.0)), (3, (0.0, 0.0, 1e-3))])
def test_derivatives_are_those_of_turned_and_moved_images(column, step):
    ahead, behind = exact_harmonics(*step), exact_harmonics(*(-v for v in step))
    orders = TEMPLATE.harmonics.shape[1]
    difference = ((ahead - behind) / (2 * sum(step)))[:, :orders]
    found = TEMPLATE.derivatives[..., column].to(torch.complex128)
    # An order at the limit of its ring lacks the neighbour beyond.
    inside = torch.nn.functional.pad(TEMPLATE.limit, (0, 1))[:, 1:] > 0
    scale = float(difference.abs().max())
    assert float(((found - difference).abs() * inside).max()) < 1e-4 * scale
    assert float((found - difference).abs().max()) < 1e-2 * scale
    torch.testing.assert_close(TEMPLATE.derivatives[..., 0], TEMPLATE.harmonics)


def test_energy_and_information_are_means_around_the_rings():
    phi = torch.arange(GRID.angles // 2).double() * (2 * math.pi / GRID.angles)
    q = (2 * math.pi / BOX) * torch.arange(1, RINGS + 1).double()[:, None]
    samples = SPECIMEN.samples(GRID, np.zeros(1), np.zeros((1, 2)))[0]
    step = 1e-4
    by_turn = SPECIMEN.samples(GRID, np.array([step, -step]), np.zeros((2, 2)))
    by_turn = (by_turn[0] - by_turn[1]) / (2 * step)
    derivatives = [by_turn, -1j * q * torch.cos(phi) * samples, -1j * q * torch.sin(phi) * samples]
    information = torch.stack([torch.stack([(a.conj() * b).real.mean(dim=1) for b in derivatives], dim=1)
                               for a in derivatives], dim=1)  # fmt: skip
    energy = squared(samples).mean(dim=1)
    torch.testing.assert_close(TEMPLATE.energy.double(), energy, rtol=1e-3, atol=1e-6 * float(energy.max()))
    scale = information.diagonal(dim1=1, dim2=2).sqrt()
    relative = (TEMPLATE.information.double() - information) / (scale[:, :, None] * scale[:, None, :])
    assert float(relative.abs().max()) < 5e-3


def test_the_bank_gives_inner_products():
    image = to_harmonics(seen(TRUTH)[:3], GRID.orders)[..., : TEMPLATE.harmonics.shape[1]]
    flat = torch.view_as_real(image).flatten(2)
    products = torch.einsum("bkp,kpd->bkd", flat, TEMPLATE.bank)
    weight = WEIGHT[: image.shape[-1]]
    expected = torch.einsum("bkm,kmd,m->bkd", image.conj(), TEMPLATE.derivatives, weight.to(image.dtype)).real
    torch.testing.assert_close(products, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("count", [5, 16])
def test_inner_rings_are_an_average_of_their_own(count):
    inner = TEMPLATE.inner(count)
    assert inner.rings == count
    torch.testing.assert_close(inner.energy, TEMPLATE.energy[:count])
    # The last order that any of these rings has is the last one kept.
    assert inner.harmonics.shape[1] == int(GEOMETRY.limit[count - 1].sum())
