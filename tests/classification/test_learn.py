"""Law: views that are mixed are found apart, each with its average, from nothing but the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from cryorbit.classification.bank import Bank, ClassSums
from cryorbit.classification.learn import learn_classes, rings_of, split

from ..alignment.blobs import GEOMETRY, RINGS, RADIUS_px, wrapped
from .mixtures import QUICK, mixed


@pytest.mark.parametrize("seed", [1, 2])
def test_views_are_found_apart_with_their_angles(seed):
    images, view, truth = mixed(4, 90, seed, noise=0.2)
    found = learn_classes(images, GEOMETRY, RADIUS_px, 6, seed, QUICK)
    number = found.assigned.number.numpy()
    one_each = np.array([np.bincount(view[number == k], minlength=4).argmax() for k in range(6)])
    assert adjusted_rand_score(view, one_each[number]) > 0.95
    for k in np.unique(number):
        members = (number == k) & (one_each[number] == view)
        if members.sum() > 20:
            turn = wrapped(found.assigned.psi.numpy()[members] - truth.psi[members])
            mean = np.angle(np.exp(1j * turn).mean())
            assert np.degrees(np.median(np.abs(wrapped(turn - mean)))) < 4.0
    assert float(found.sums.particles.sum()) == pytest.approx(len(images), rel=1e-3)


def test_the_same_seed_gives_the_same_classes():
    images, _, _ = mixed(2, 40, 3, noise=0.2)
    one, other = (learn_classes(images, GEOMETRY, RADIUS_px, 3, 5, QUICK[:1]) for _ in range(2))
    torch.testing.assert_close(one.bank.harmonics, other.bank.harmonics, rtol=0, atol=0)


def test_nobody_is_lost_where_classes_outnumber_the_images():
    images, _, _ = mixed(1, 5, 4, noise=0.2)
    found = learn_classes(images, GEOMETRY, RADIUS_px, 7, 1, QUICK[:1])
    assert torch.isfinite(torch.view_as_real(found.bank.harmonics)).all()
    assert len(found.assigned.number) == 5


def test_empty_classes_are_given_to_the_largest_and_no_particle_is_lost():
    sums = ClassSums(
        torch.randn(4, 3, 5, dtype=torch.complex64), torch.ones(4, 3), torch.tensor([60.0, 0.0, 20.0, 20.0])
    )
    bank = Bank(sums.numerator, sums.log_share)
    divided, changed = split(sums, bank, torch.Generator().manual_seed(1))
    assert divided.particles.tolist() == [30.0, 30.0, 20.0, 20.0]
    torch.testing.assert_close(divided.numerator[1], 0.5 * sums.numerator[0])
    torch.testing.assert_close(changed.harmonics[0] + changed.harmonics[1], 2 * bank.harmonics[0])
    assert float((changed.harmonics[0] - changed.harmonics[1]).abs().min()) > 0
    torch.testing.assert_close(changed.harmonics[2:], bank.harmonics[2:])
    again, same = split(divided, changed, torch.Generator())
    assert again is divided
    torch.testing.assert_close(same.harmonics, changed.harmonics, rtol=0, atol=0)


def test_rings_follow_the_particle():
    assert rings_of(6.0, GEOMETRY, RADIUS_px) == round(6.0 * 64 / 36)
    assert rings_of(1e3, GEOMETRY, RADIUS_px) == RINGS
