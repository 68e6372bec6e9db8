"""Law: copies of a view become one class with all of its images in one frame; different views stay apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.classification.assign import assign, settle
from cryorbit.classification.learn import learn_classes

from ..alignment.blobs import (
    GEOMETRY,
    RADIUS_px,
    SEARCHED_um,
    Specimen,
    draw_truth,
    make_specimen,
    ring_images,
    seen,
    white_noise,
    wrapped,
)
from .mixtures import QUICK, mixed


def turns_apart_deg(psi_deg: np.ndarray, true_rad: np.ndarray) -> np.ndarray:
    """Errors of angles after the one turn that a class and the truth may differ by."""
    turn = np.radians(psi_deg) - true_rad
    return np.degrees(np.abs(wrapped(turn - np.angle(np.exp(1j * turn).mean()))))


@pytest.mark.parametrize("seed", [11, 12])
def test_copies_are_merged_and_their_images_share_one_frame(seed):
    images, view, truth = mixed(2, 120, seed, noise=0.3)
    classes = learn_classes(images, GEOMETRY, RADIUS_px, 5, 3, QUICK)
    assert len(torch.unique(classes.assigned.number)) > 2, "the learning is to leave copies for this test"
    settled = settle(images, classes, GEOMETRY, RADIUS_px)
    number = settled.poses.number
    assert len(np.unique(number)) == 2
    assert adjusted_rand_score(view, number) > 0.95
    assert sum(a.particles + b.particles for a, b in settled.halves) == pytest.approx(240, rel=0.02)
    for one in np.unique(number):
        own = (number == one) & (view == view[number == one][0])
        errors = turns_apart_deg(settled.poses.psi_deg[own], truth.psi[own])
        assert np.median(errors) < 3
        assert np.mean(errors < 10) > 0.95


@pytest.mark.parametrize("seed", [1, 2])
def test_different_views_stay_apart(seed):
    images, view, _ = mixed(4, 90, seed, noise=0.2)
    classes = learn_classes(images, GEOMETRY, RADIUS_px, 6, seed, QUICK)
    number = settle(images, classes, GEOMETRY, RADIUS_px).poses.number
    assert len(np.unique(number)) == 4
    assert adjusted_rand_score(view, number) > 0.95


def test_a_rare_view_is_not_taken_in_by_its_neighbour():
    """Eleven times as many images of one view, classes as they should be: the rare images decide for themselves."""
    images, view, _ = mixed(2, 330, seed=5, noise=0.5)
    classes = learn_classes(images, GEOMETRY, RADIUS_px, 2, 3, QUICK)
    number = classes.assigned.number.numpy()
    right = np.array([np.bincount(view[number == one], minlength=2).argmax() for one in range(2)])[number] == view
    few = np.concatenate([np.flatnonzero((view == 0) & right), np.flatnonzero((view == 1) & right)[:30]])
    rows = torch.from_numpy(np.sort(few))
    chosen = replace(classes, assigned=classes.assigned.of_rows(rows))
    found = settle(images.of_rows(rows), chosen, GEOMETRY, RADIUS_px).poses.number
    assert adjusted_rand_score(view[rows.numpy()], found) > 0.95


def test_images_that_were_learnt_from_lie_where_others_of_their_view_do():
    images, view, _ = mixed(3, 160, seed=15, noise=0.3)
    classes = learn_classes(images.of_rows(torch.arange(240)), GEOMETRY, RADIUS_px, 7, 1, QUICK)
    settled = settle(images.of_rows(torch.arange(240)), classes, GEOMETRY, RADIUS_px)
    others = assign(images.of_rows(torch.arange(240, 480)), settled, GEOMETRY, RADIUS_px)[0]
    for one in range(3):
        here, there = settled.poses.place[view[:240] == one], others.place[view[240:] == one]
        np.testing.assert_allclose(np.median(here, axis=0), np.median(there, axis=0), atol=0.15)


def test_copies_of_tied_classes_are_merged_with_their_reflections():
    front = make_specimen(3)
    back = Specimen(front.place_px * np.array([1.0, -1.0]), front.height, front.sigma_px)
    truths = [draw_truth(100, seed, shift_px=0.5) for seed in (1, 2)]
    samples = torch.cat([seen(truths[0], front), seen(truths[1], back)]) + math.sqrt(0.2) * white_noise(200, seed=3)
    fixed = torch.from_numpy(np.concatenate([truth.defocus_um for truth in truths])).float()
    images = ring_images(samples, DefocusRange(SEARCHED_um, fixed_um=fixed))
    classes = learn_classes(images, GEOMETRY, RADIUS_px, 3, 5, QUICK, tied=True)
    assert len(torch.unique(classes.assigned.number % 3)) > 1
    poses = settle(images, classes, GEOMETRY, RADIUS_px).poses
    assert len(np.unique(poses.number)) == 1
    assert abs(poses.mirrored[:100].mean() - poses.mirrored[100:].mean()) > 0.9
    for part, truth in zip((slice(0, 100), slice(100, 200)), truths, strict=True):
        assert np.median(turns_apart_deg(poses.psi_deg[part], truth.psi)) < 3


def test_noise_is_one_class():
    """Where there is nothing, two averages of nothing explain nothing that one would not."""
    samples = white_noise(160, seed=5)
    truth = draw_truth(160, 5, shift_px=0.5)
    images = ring_images(samples, DefocusRange(SEARCHED_um, fixed_um=torch.from_numpy(truth.defocus_um).float()))
    classes = learn_classes(images, GEOMETRY, RADIUS_px, 3, 2, QUICK[:1])
    assert len(np.unique(settle(images, classes, GEOMETRY, RADIUS_px).poses.number)) == 1
