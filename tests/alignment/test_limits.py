"""The Cramer-Rao bound: what refinement reaches on simulated images, and how it grows with noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.alignment.limits import limits_at
from cryorbit.alignment.refine import refine
from cryorbit.alignment.templates import Template

from .blobs import GRID, RINGS, TRANSFER, draw_truth, exact_template, make_batch, seen, white_noise, wrapped

TEMPLATE = exact_template()
DEFOCI_um = torch.tensor([0.6, 1.0, 1.7, 2.5, 3.4])
NO_PRIOR_px = 1e3


def noise_of(variance: float) -> torch.Tensor:
    return torch.full((RINGS,), variance)


@pytest.mark.parametrize("defocus_um", [0.8, 1.5, 2.6])
@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_refinement_reaches_the_limits(defocus_um, noise):
    n = 400
    truth = replace(draw_truth(n, 7), defocus_um=np.full(n, defocus_um))
    samples = seen(truth) + math.sqrt(noise) * white_noise(n, 9)
    found = refine(make_batch(samples, noise, NO_PRIOR_px), TEMPLATE, truth.poses(), GRID, steps=3)
    limits = limits_at(torch.tensor([defocus_um]), TEMPLATE, noise_of(noise), TRANSFER)
    assert wrapped(found.psi.numpy() - truth.psi).std() == pytest.approx(float(limits.psi_rad), rel=0.15)
    assert (found.shift.numpy() - truth.shift_px).std() == pytest.approx(float(limits.shift_px), rel=0.15)
    assert (found.defocus_um.numpy() - defocus_um).std() == pytest.approx(float(limits.defocus_limit_um), rel=0.15)
    # Every pose that is fitted adds half a nat and is no more than that above what was promised.
    assert float(found.log_likelihood.mean()) == pytest.approx(float(limits.nats) + 2.0, abs=2.5)


@given(factor=st.floats(0.05, 20.0))
@settings(deadline=None, max_examples=15)
def test_limits_shrink_as_the_root_of_the_signal(factor):
    one = limits_at(DEFOCI_um, TEMPLATE, noise_of(0.2), TRANSFER)
    other = limits_at(DEFOCI_um, TEMPLATE, noise_of(0.2 * factor), TRANSFER)
    louder = Template(TEMPLATE.harmonics / math.sqrt(factor), TEMPLATE.total, TEMPLATE.limit, TEMPLATE.box_size)
    weaker = limits_at(DEFOCI_um, louder, noise_of(0.2), TRANSFER)
    for name in ("psi_rad", "shift_px", "defocus_limit_um"):
        expected = getattr(one, name) * math.sqrt(factor)
        torch.testing.assert_close(getattr(other, name), expected, rtol=2e-3, atol=0)
        torch.testing.assert_close(getattr(weaker, name), expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(other.nats, one.nats / factor, rtol=1e-3, atol=0)


def test_more_rings_know_more():
    all_rings = limits_at(DEFOCI_um, TEMPLATE, noise_of(0.2), TRANSFER)
    for count in (8, 14):
        few = limits_at(DEFOCI_um, TEMPLATE.inner(count), noise_of(0.2), TRANSFER)
        assert (few.psi_rad > all_rings.psi_rad).all()
        assert (few.shift_px > all_rings.shift_px).all()
        assert (few.defocus_limit_um > all_rings.defocus_limit_um).all()
        assert (few.nats < all_rings.nats).all()


def test_limits_are_the_deviations_that_refinement_says():
    truth = draw_truth(40, 3)
    samples = seen(truth) + math.sqrt(0.05) * white_noise(40, 3)
    found = refine(make_batch(samples, 0.05, NO_PRIOR_px), TEMPLATE, truth.poses(), GRID, steps=3)
    limits = limits_at(found.defocus_um, TEMPLATE, noise_of(0.05), TRANSFER)
    torch.testing.assert_close(found.covariance[:, 0, 0].sqrt(), limits.psi_rad, rtol=0.05, atol=0)
    ratio = found.defocus_variance_um2.sqrt() / limits.defocus_limit_um
    assert float((ratio.log()).abs().median()) < 0.15


def test_each_defocus_stands_for_itself():
    together = limits_at(DEFOCI_um, TEMPLATE, noise_of(0.2), TRANSFER)
    for index in range(len(DEFOCI_um)):
        alone = limits_at(DEFOCI_um[index : index + 1], TEMPLATE, noise_of(0.2), TRANSFER)
        torch.testing.assert_close(alone.psi_rad, together.psi_rad[index : index + 1])
        torch.testing.assert_close(alone.nats, together.nats[index : index + 1])
    assert torch.equal(together.defocus_um, DEFOCI_um)
