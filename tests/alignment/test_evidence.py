"""Evidence on whether an image shows the particle: calibrated for particles, telling for junk."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cryorbit.alignment.evidence import Evidence, examine, particle_probability
from cryorbit.alignment.locate import Model, locate
from cryorbit.alignment.refine import Poses
from cryorbit.estimation.outliers import (
    FEWEST_PARTICLES,
    PRIOR_PROBABILITY,
    evidence_log_odds,
    evidence_outliers,
    probability_of_log_odds,
)  # fmt: skip

from .blobs import GEOMETRY, RINGS, draw_truth, exact_template, make_batch, ring_images, seen, white_noise

TEMPLATE = exact_template()
GOOD, JUNK = 80, 20


@dataclass(frozen=True)
class Judged:
    """Evidence of particles, of images of noise, and of particles with a second one beside them."""

    evidence: Evidence
    kind: np.ndarray


def judge_all(noise: float, seed: int) -> Judged:
    """At the poses that a search finds."""
    n = GOOD + 2 * JUNK
    kind = np.array(["good"] * GOOD + ["noise"] * JUNK + ["two"] * JUNK)
    truth = draw_truth(n, seed)
    direction = np.random.default_rng(seed).uniform(0, 2 * math.pi, JUNK)
    beside = replace(
        draw_truth(JUNK, seed + 50), shift_px=14.0 * np.stack([np.cos(direction), np.sin(direction)], axis=1),
        defocus_um=truth.defocus_um[kind == "two"],
    )  # fmt: skip
    samples = seen(truth)
    samples[kind == "noise"] = 0
    samples[kind == "two"] += seen(beside)
    samples = samples + math.sqrt(noise) * white_noise(n, seed)
    model = Model(GEOMETRY, TEMPLATE, torch.full((1, RINGS), noise), 1.0)
    found = locate(ring_images(samples), model)
    return Judged(examine(make_batch(samples, noise, 1.0), TEMPLATE, found.poses, GEOMETRY), kind)


@pytest.fixture(scope="module")
def judged() -> Judged:
    return judge_all(0.15, 0)


@pytest.mark.parametrize("seed", range(2))
def test_measures_of_particles_are_calibrated_at_their_true_poses(seed):
    n, noise = 200, 0.3
    truth = draw_truth(n, seed)
    batch = make_batch(seen(truth) + math.sqrt(noise) * white_noise(n, seed), noise)
    found = examine(batch, TEMPLATE, truth.poses(), GEOMETRY)
    for z in (
        (found.likelihood_ratio - found.promise) / (2 * found.promise).sqrt(),
        (found.amplitude - 1) / found.amplitude_std,
        (found.second_particle - found.second_mean) / found.second_std,
        ((found.band_amplitude - 1) / found.band_amplitude_std)[:, -1],
    ):
        assert abs(float(z.mean())) < 0.35
        assert 0.75 < float(z.std()) < 1.25
    torch.testing.assert_close(found.residual.mean(dim=0), torch.ones(found.residual.shape[1]), atol=0.12, rtol=0)


def test_noise_free_particles_keep_every_promise():
    truth = draw_truth(20, 1)
    found = examine(make_batch(seen(truth), 0.3), TEMPLATE, truth.poses(), GEOMETRY)
    torch.testing.assert_close(found.likelihood_ratio, found.promise, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.amplitude, torch.ones(20), rtol=1e-3, atol=0)
    assert float(found.residual.abs().max()) < 0.02


@given(strength=st.floats(0.3, 3.0))
@settings(deadline=None, max_examples=10)
def test_amplitude_is_the_strength_of_the_particle(strength):
    truth = draw_truth(5, 2)
    found = examine(make_batch(strength * seen(truth), 0.3), TEMPLATE, truth.poses(), GEOMETRY)
    torch.testing.assert_close(found.amplitude, torch.full((5,), strength), rtol=1e-3, atol=0)


def test_more_noise_promises_less():
    truth = draw_truth(5, 3)
    quiet, loud = (examine(make_batch(seen(truth), noise), TEMPLATE, truth.poses(), GEOMETRY) for noise in (0.1, 0.4))
    torch.testing.assert_close(quiet.promise, 4 * loud.promise, rtol=1e-4, atol=0)
    torch.testing.assert_close(2 * quiet.amplitude_std, loud.amplitude_std, rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(1, 3))
@pytest.mark.parametrize(("noise", "least"), [(0.15, 0.98), (0.33, 0.9)])
def test_noise_and_two_particles_have_higher_log_odds_than_one(noise, least, seed):
    found = judge_all(noise, seed)
    odds = evidence_log_odds(found.evidence.judged())
    good = found.kind == "good"
    for junk in ("noise", "two"):
        mine = found.kind == junk
        assert roc_auc_score(mine[good | mine], odds[good | mine]) > least
        assert np.median(odds[mine]) > np.median(odds[good]) + 2


def test_each_kind_of_junk_shows_where_it_should(judged):
    evidence, kind = judged.evidence, judged.kind
    ratio = (evidence.likelihood_ratio / evidence.promise).numpy()
    second = ((evidence.second_particle - evidence.second_mean) / evidence.second_std).numpy()
    assert np.median(evidence.likelihood_ratio.numpy()[kind == "noise"]) < 20
    assert np.median(ratio[kind == "two"]) > 0.7
    assert np.median(second[kind == "two"]) > 4
    assert abs(np.median(second[kind == "good"])) < 0.8
    assert np.median(evidence.residual.numpy()[kind == "two"].max(axis=1)) > 1.3


def test_weights_follow_the_evidence(judged):
    weight = particle_probability(judged.evidence).numpy()
    assert np.mean(weight[judged.kind == "good"] > 0.5) > 0.95
    assert np.mean(weight[judged.kind != "good"] > 0.5) < 0.15


def test_evidence_of_parts_is_that_of_all(judged):
    evidence = judged.evidence
    order = torch.randperm(len(evidence.promise), generator=torch.Generator().manual_seed(0))
    parts = Evidence.concatenate([evidence.of_rows(part) for part in order.split(7)])
    for part, whole in zip(parts.tensors(), evidence.of_rows(order).tensors(), strict=True):
        assert torch.equal(part, whole)


def test_odds_and_probabilities_do_not_depend_on_the_order(judged):
    evidence = judged.evidence
    order = torch.randperm(len(evidence.promise), generator=torch.Generator().manual_seed(1))
    one, other = (evidence_outliers(e.judged()) for e in (evidence, evidence.of_rows(order)))
    np.testing.assert_allclose(other.probability, one.probability[order], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(other.score, one.score[order], rtol=1e-6)


def test_outliers_by_evidence_are_those_above_the_threshold(judged):
    found = evidence_outliers(judged.evidence.judged())
    assert found.meaningful
    assert ((found.score >= found.threshold) == (found.probability > 0.5)).all()
    few = evidence_outliers(judged.evidence.of_rows(torch.arange(FEWEST_PARTICLES - 1)).judged())
    assert not few.meaningful
    assert (few.probability == PRIOR_PROBABILITY).all()


@given(seed=st.integers(0, 10_000), share=st.floats(0.0, 0.8))
@settings(deadline=None, max_examples=20)
def test_probability_rises_with_the_odds(seed, share):
    random = np.random.default_rng(seed)
    odds = np.where(random.uniform(size=200) < share, 6.0, -6.0) + 4 * random.normal(size=200)
    probability = probability_of_log_odds(odds)
    assert (np.diff(probability[np.argsort(odds)]) >= 0).all()
    assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("distance", [2.0, 4.0])
def test_probabilities_are_frequencies(share, distance):
    """Likelihood ratios of two normal densities: of a hundred images with probability p, a share p is junk."""
    random = np.random.default_rng(1)
    n = 40_000
    junk = random.uniform(size=n) < share
    value = random.normal(size=n) + distance * junk
    probability = probability_of_log_odds(distance * value - 0.5 * distance**2)
    assert probability.mean() == pytest.approx(share, rel=0.15)
    order = np.argsort(probability)
    for part in np.array_split(order, 10):
        expected = probability[part].mean()
        error = math.sqrt(expected * (1 - expected) / len(part)) + 0.004
        assert abs(junk[part].mean() - expected) < 4 * error


def test_without_junk_next_to_nothing_is_lost():
    truth = draw_truth(200, 5)
    batch = make_batch(seen(truth) + math.sqrt(0.15) * white_noise(200, 5), 0.15)
    probability = particle_probability(examine(batch, TEMPLATE, truth.poses(), GEOMETRY))
    assert float((probability < 0.5).float().mean()) < 0.01


def test_shift_and_angle_are_all_that_a_pose_needs():
    """Evidence does not look at how sure a pose is."""
    truth = draw_truth(5, 6)
    batch, poses = make_batch(seen(truth), 0.3), truth.poses()
    unsure = replace(poses, covariance=torch.eye(3).expand(5, 3, 3), defocus_variance_um2=torch.ones(5))
    assert isinstance(unsure, Poses)
    one, other = (examine(batch, TEMPLATE, p, GEOMETRY).likelihood_ratio for p in (poses, unsure))
    assert torch.equal(one, other)
