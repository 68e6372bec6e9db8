"""Which classes, and which images, are junk: laws of the measures, on averages and numbers that are known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cryorbit.classification.poses import ClassPoses
from cryorbit.classification.quality import (
    ClassFacts,
    class_deviations,
    class_log_odds,
    image_log_odds,
    judge,
    shown,
    weighted_median,
)
from cryorbit.estimation.outliers import ImageEvidence

BOX, RADIUS = 96, 30.0


def disc(centre=(0.0, 0.0), sigma=6.0):
    y, x = np.indices((BOX, BOX)) - BOX // 2
    return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))


def usual_facts(classes=12, seed=1):
    """Classes of one object: alike but for a little."""
    random = np.random.default_rng(seed)

    def about(value, spread):
        return value + spread * random.standard_normal(classes)

    return ClassFacts(
        particles=random.integers(50, 150, classes).astype(float), resolution_A=about(14.0, 1.0),
        agreement=about(0.95, 0.01), offset=np.abs(about(0.05, 0.02)), extent=about(0.4, 0.03),
        outside=about(0.06, 0.01), nats=about(70.0, 5.0), psi_std_deg=about(0.7, 0.1), roundness=about(0.2, 0.05),
        isotropy_order=np.ones(classes),
    )  # fmt: skip


def usual_poses(n=600, classes=12, seed=2, promise=60.0):
    """Images of a particle as noise makes them."""
    random = np.random.default_rng(seed)
    expected = np.full(n, promise)
    evidence = ImageEvidence(
        likelihood_ratio=expected + np.sqrt(2 * expected) * random.standard_normal(n), promise=expected,
        second_particle=-20.0 + 4.0 * random.standard_normal(n), second_mean=np.full(n, -20.0),
        second_std=np.full(n, 4.0), other_object=0.3 * expected,
    )  # fmt: skip
    zero = np.zeros(n)
    return ClassPoses(
        number=random.integers(0, classes, n), class_probability=np.ones(n), pose_probability=np.ones(n), psi_deg=zero,
        psi_std_deg=zero, shift_px=np.zeros((n, 2)), shift_std_px=zero, defocus_um=zero, defocus_std_um=zero,
        log_evidence=zero, amplitude=np.ones(n), residual=np.ones((n, 1)), evidence=evidence, place=np.zeros((n, 3)),
        mirrored=np.zeros(n, dtype=bool),
    )  # fmt: skip


@pytest.mark.parametrize("centre", [(0.0, 0.0), (12.0, 0.0), (-6.0, 8.0)])
def test_what_a_gaussian_shows(centre):
    offset, extent, _ = shown(disc(centre)[None], RADIUS)
    assert offset[0] == pytest.approx(np.hypot(*centre) / RADIUS, abs=0.01)
    # Of the part of a two-dimensional Gaussian above a quarter of its top, less that quarter.
    r = np.linspace(0, 6.0 * np.sqrt(2 * np.log(4)), 5000)
    above = np.exp(-(r**2) / 72.0) - 0.25
    assert extent[0] == pytest.approx(np.sqrt((above * r**3).sum() / (above * r).sum()) / RADIUS, rel=0.02)


def test_power_outside_is_a_share():
    inside, out = shown(np.stack([disc(), disc((40.0, 0.0), 3.0)]), RADIUS)[2]
    assert inside < 0.01
    assert out > 0.99


def test_weighted_median():
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 10.0])) == 2.0
    assert weighted_median(np.array([1.0, np.nan]), np.array([1.0, 5.0])) == 1.0
    assert np.isnan(weighted_median(np.array([np.nan]), np.ones(1)))


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_one_object_are_no_junk(seed):
    assert (class_log_odds(usual_facts(seed=seed)) < 0).all()


@pytest.mark.parametrize(
    ("name", "value"), [("agreement", 0.6), ("offset", 0.5), ("extent", 0.12), ("extent", 1.3), ("outside", 0.4),
                        ("nats", 0.5)],
)  # fmt: skip
def test_one_unlike_the_bulk_is(name, value):
    facts = usual_facts()
    values = getattr(facts, name).copy()
    values[3] = value
    odds = class_log_odds(replace(facts, **{name: values}))
    assert odds[3] > 0
    assert (np.delete(odds, 3) < 0).all()


def test_the_bulk_is_that_of_the_particles_and_not_of_the_classes():
    """Many small classes of junk cannot outvote the large ones."""
    facts = usual_facts(12)
    offset, particles = facts.offset.copy(), facts.particles.copy()
    offset[:7], particles[:7] = 0.8, 10.0
    odds = class_log_odds(replace(facts, offset=offset, particles=particles))
    assert (odds[:7] > 0).all()
    assert (odds[7:] < 0).all()


def test_a_class_without_particles_is_junk_and_says_nothing_else():
    facts = usual_facts()
    values = {name: value.copy() for name, value in vars(facts).items()}
    for name, value in values.items():
        value[0] = 0.0 if name == "particles" else np.nan
    found = class_deviations(ClassFacts(**values))
    assert np.isfinite(found.to_numpy()).all()
    assert class_log_odds(ClassFacts(**values))[0] > 0


def test_images_that_noise_explains_are_no_junk_and_others_are():
    poses = usual_poses()
    clean = image_log_odds(poses)
    assert (clean > 0).mean() < 0.01
    evidence = vars(poses.evidence)
    second = evidence["second_particle"].copy()
    second[:20] += 80.0
    ratio = evidence["likelihood_ratio"].copy()
    ratio[20:40] = 0.0
    odd = image_log_odds(replace(poses, evidence=ImageEvidence(
        **{**evidence, "second_particle": second, "likelihood_ratio": ratio}
    )))  # fmt: skip
    assert (odd[:40] > 0).mean() > 0.95
    assert (odd[40:] > 0).mean() < 0.01


def test_what_is_usual_in_a_class_is_no_sign_of_junk():
    """An average that is blurred leaves something of every image of its class."""
    poses = usual_poses()
    evidence = vars(poses.evidence)
    more = evidence["second_particle"] + np.where(poses.number == 4, 40.0, 0.0)
    odds = image_log_odds(replace(poses, evidence=ImageEvidence(**{**evidence, "second_particle": more})))
    assert (odds > 0).mean() < 0.02


def test_images_of_a_junk_class_are_junk_whatever_they_look_like():
    facts, poses = usual_facts(), usual_poses()
    offset = facts.offset.copy()
    offset[5] = 0.9
    found = judge(poses, replace(facts, offset=offset))
    assert (found.probability[poses.number == 5] > 0.5).all()
    assert (found.probability[poses.number != 5] > 0.5).mean() < 0.02
    assert np.isfinite(found.score).all()
    # No two clean images are tied, and the bulk has the spread of one deviation.
    clean = found.z_score[poses.number != 5]
    assert len(np.unique(clean.round(9))) > 0.99 * len(clean)
    assert 0.5 < np.quantile(np.abs(clean), 0.68) < 1.5
