"""From soft classes to each particle's own: refinement within classes, contests between them, streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from cryorbit.classification.assign import assign, charted, settle
from cryorbit.classification.choice import choose_views, held_out_evidence, is_gain
from cryorbit.classification.contest import contested
from cryorbit.classification.learn import learn_classes
from cryorbit.classification.measure import averages_of, class_facts, images_of
from cryorbit.classification.model import classify
from cryorbit.classification.stream import as_plain, from_plain

from ..alignment.blobs import BOX, GEOMETRY, PIXEL_A, TRANSFORM, RADIUS_px, wrapped
from .mixtures import QUICK, mixed

VIEWS = 3


@pytest.fixture(scope="module")
def learnt():
    """Images of three views, and the classes that two thirds of them make."""
    images, view, truth = mixed(VIEWS, 120, seed=6, noise=0.3)
    rows = torch.arange(240)
    classes = learn_classes(images.of_rows(rows), GEOMETRY, RADIUS_px, 4, 2, QUICK)
    return images, view, truth, classes, settle(images.of_rows(rows), classes, GEOMETRY, RADIUS_px)


def by_majority(number, view):
    return np.array([np.bincount(view[number == k], minlength=VIEWS).argmax() for k in range(number.max() + 1)])


def test_angles_within_a_class_are_refined(learnt):
    _, view, truth, _, settled = learnt
    poses = settled.poses
    likely = by_majority(poses.number, view[:240])
    errors, predicted = [], []
    for k in np.unique(poses.number):
        rows = np.flatnonzero((poses.number == k) & (likely[k] == view[:240]))
        if len(rows) > 20:
            turn = wrapped(np.radians(poses.psi_deg[rows]) - truth.psi[rows])
            errors.append(np.degrees(wrapped(turn - np.angle(np.exp(1j * turn).mean()))))
            predicted.append(poses.psi_std_deg[rows])
    errors, predicted = np.concatenate(errors), np.concatenate(predicted)
    good = np.abs(errors) < 10
    assert good.mean() > 0.97
    assert 0.7 < np.std(errors[good] / predicted[good]) < 1.5


def test_further_images_find_the_same_views_and_poses(learnt):
    images, view, _, _, settled = learnt
    rest = torch.arange(240, 360)
    poses, halves = assign(images.of_rows(rest), settled, GEOMETRY, RADIUS_px)
    likely = by_majority(settled.poses.number, view[:240])
    assert adjusted_rand_score(view[240:], likely[poses.number]) > 0.95
    assert sum(a.particles + b.particles for a, b in halves) == pytest.approx(120, rel=0.02)
    again, _ = assign(images.of_rows(rest[:50]), settled, GEOMETRY, RADIUS_px)
    np.testing.assert_array_equal(again.number, poses.number[:50])
    np.testing.assert_allclose(again.psi_deg, poses.psi_deg[:50], atol=1e-2)


def test_contests_settle_doubts_and_leave_the_sure_alone(learnt):
    images, view, _, _, settled = learnt
    few = images.of_rows(torch.arange(240, 360))

    model = settled.model
    search = model.search(few, GEOMETRY, RADIUS_px)
    sure = classify(few, model, search)
    wrong = replace(
        sure, number=(sure.number + 1) % len(model), probability=torch.where(torch.arange(120) < 60, 0.4, 1.0)
    )
    found = contested(few, wrong, model, search, GEOMETRY)
    likely = by_majority(settled.poses.number, view[:240])
    assert np.mean(likely[found.number[:60].numpy()] == view[240:300]) > 0.97
    torch.testing.assert_close(found.number[60:], wrong.number[60:])
    assert (found.probability[:60] > 0.4).float().mean() > 0.9


def test_facts_of_the_classes(learnt):
    settled = learnt[4]
    noise = settled.model.mean_noise
    bank = averages_of(settled.halves, noise, GEOMETRY)[1]
    pictures = images_of(bank, GEOMETRY, TRANSFORM)
    facts = class_facts(settled.halves, settled.poses, bank, pictures, noise, GEOMETRY, PIXEL_A, RADIUS_px)
    assert pictures.shape == (4, BOX, BOX)
    large = facts.particles > 30
    assert facts.particles.sum() == 240
    assert (facts.resolution_A[large] < 25).all()
    assert (facts.nats[large] > 20).all()
    assert (facts.isotropy_order[large] == 1).all()
    assert ((facts.roundness[large] > 0) & (facts.roundness[large] < 1)).all()


def test_classes_survive_a_file(learnt, tmp_path):
    images, _, _, _, settled = learnt
    settled = charted(settled, np.array([True, True, False, True]))
    torch.save(as_plain(settled, np.arange(240)), tmp_path / "classes.pt")
    back, rows = from_plain(torch.load(tmp_path / "classes.pt", weights_only=True), GEOMETRY)
    np.testing.assert_array_equal(rows, np.arange(240))
    few = images.of_rows(torch.arange(300, 340))
    one, other = (assign(few, one, GEOMETRY, RADIUS_px)[0] for one in (settled, back))
    for name, value in vars(one).items():
        if name != "evidence":
            np.testing.assert_allclose(getattr(other, name), value, atol=1e-6)
    np.testing.assert_array_equal(back.poses.number, settled.poses.number)


def test_nobody_is_sent_to_a_class_without_an_average(learnt):
    images, _, _, classes, _ = learnt
    few = images.of_rows(torch.arange(240))
    moved = torch.where(classes.assigned.number == 0, 1, classes.assigned.number)
    settled = settle(few, replace(classes, assigned=replace(classes.assigned, number=moved)), GEOMETRY, RADIUS_px)
    if settled.model.templates[0] is None:
        poses, _ = assign(images.of_rows(torch.arange(240, 360)), settled, GEOMETRY, RADIUS_px)
        assert (poses.number != 0).all()


def test_held_out_images_tell_several_views_from_one():
    images, _, _ = mixed(VIEWS, 120, seed=8, noise=0.3)
    train, test = images.of_rows(torch.arange(300)), images.of_rows(torch.arange(300, 360))
    one, three = (
        held_out_evidence(test, learn_classes(train, GEOMETRY, RADIUS_px, k, 1, QUICK), GEOMETRY, RADIUS_px)
        for k in (1, VIEWS)
    )
    assert is_gain(three - one)
    assert not is_gain(one - one)


def test_the_number_of_views_is_found():
    several, _, _ = mixed(4, 60, seed=9, noise=0.3)
    assert choose_views(several, GEOMETRY, RADIUS_px, seed=1) == 4
    single, _, _ = mixed(1, 110, seed=10, noise=0.3)
    assert choose_views(single, GEOMETRY, RADIUS_px, seed=1) == 1


def test_a_few_images_do_not_decide_alone():
    gain = torch.cat([torch.full((5,), 1e4), torch.full((95,), -0.1) + 0.01 * torch.randn(95)])
    assert not is_gain(gain)
