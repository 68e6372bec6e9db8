"""Outliers in the latent space: the paper's three detectors, a probability, and the Z-score that RELION selects on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp
from sklearn.covariance import MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import RobustScaler

from cryorbit.conventions import FloatArray

# Below this, no detector has anything to compare a particle with.
FEWEST_PARTICLES = 20
PRIOR_PROBABILITY = 0.1
COVARIANCE_SAMPLE = 50_000
NEIGHBOUR_SAMPLE = 5_000
# Junk clusters too: a neighbourhood smaller than the junk would find it well accompanied.
NEIGHBOUR_SHARE = 0.2
# Particles scored at a time: each asks for a thousand neighbours.
SCORED_AT_ONCE = 4096
TREES = 200
# In units of the squared interquartile range of each feature; a third to three times as much makes no difference.
THICKNESS = 0.03
# In robust standard deviations of the logarithm of the score: clean sets, simulated and real, gave two components up
# to 2.4 apart, sets with junk 3.1 and more.
SEPARATION = 2.75
FAR_TAIL = 5.0
# A search finds a pose that fits noise by about the logarithm of the number of poses that differ.
SEARCHED_POSES_NATS = 10.0
SHARE_ROUNDS = 30
MOST_JUNK = 0.9
MOST_LATENT_NATS = 2.0


@dataclass(frozen=True)
class OutlierResult:
    """Scores of one detector.

    Attributes
    ----------
    method
        Name of the detector.
    score
        Its measure, high = outlier, shape (n,).
    z_score
        Deviation of the score from its median in robust standard deviations, shape (n,).
    probability
        Probability to be an outlier, 0 to 1, shape (n,).
    threshold
        Score at which the probability passes one half; infinite where it never does.
    meaningful
        False where there were too few particles to compare, and every probability is the prior.
    """

    method: str
    score: FloatArray
    z_score: FloatArray
    probability: FloatArray
    threshold: float
    meaningful: bool


def isolation_forest(features: FloatArray, seed: int) -> FloatArray:
    """Mean path length in random trees, turned so that short paths score high (Liu, Ting & Zhou 2008)."""
    forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(features)
    return -np.asarray(forest.score_samples(features), dtype=np.float64)


def robust_covariance(features: FloatArray, seed: int) -> FloatArray:
    """Mahalanobis distance under the minimum covariance determinant (Rousseeuw & Van Driessen 1999).

    The covariance is thickened a little: where there is hardly any noise the good particles lie on a thin curved sheet,
    and being off its tangent plane is no sign of junk.
    """
    sample = _sample(features, COVARIANCE_SAMPLE, seed)
    # Axes that do not vary would make the covariance singular.
    varying = sample.std(axis=0) > 1e-9
    robust = MinCovDet(random_state=seed).fit(sample[:, varying])
    precision = np.linalg.inv(robust.covariance_ + THICKNESS * np.eye(int(varying.sum())))
    deviation = features[:, varying] - robust.location_
    return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", deviation, precision, deviation)))


def local_outlier_factor(features: FloatArray, seed: int) -> FloatArray:
    """Local density against that of the neighbours (Breunig et al. 2000), fitted on a sample."""
    sample = _sample(features, NEIGHBOUR_SAMPLE, seed)
    neighbours = min(len(sample) - 1, max(20, int(NEIGHBOUR_SHARE * len(sample))))
    factor = LocalOutlierFactor(n_neighbors=neighbours, novelty=True).fit(sample)
    parts = [features[start : start + SCORED_AT_ONCE] for start in range(0, len(features), SCORED_AT_ONCE)]
    return -np.concatenate([np.asarray(factor.score_samples(part), dtype=np.float64) for part in parts])


DETECTORS: dict[str, Callable[[FloatArray, int], FloatArray]] = {
    "isolation_forest": isolation_forest,
    "robust_covariance": robust_covariance,
    "local_outlier_factor": local_outlier_factor,
}
# And what a run with an alignment judges by.
ALL_DETECTORS = (*DETECTORS, "evidence")


def find_outliers(features: FloatArray, method: str, seed: int) -> OutlierResult:
    """Score every particle with one of the paper's detectors (section 3.2.1).

    Parameters
    ----------
    features
        Coordinates in which good particles lie together, shape (n, features): the latent means, or the
        invariants of the latent orbits.
    method
        A name in :data:`DETECTORS`.
    seed
        For the detectors that draw samples.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    if method not in DETECTORS:
        raise ValueError(f"Unknown detector {method!r}: expected one of {', '.join(DETECTORS)}.")
    n = len(features)
    if n < max(FEWEST_PARTICLES, features.shape[1] + 2):
        nothing = np.zeros(n)
        return OutlierResult(method, nothing, nothing, np.full(n, PRIOR_PROBABILITY), float("inf"), False)
    score = DETECTORS[method](RobustScaler().fit_transform(features), seed)
    probability = outlier_probability(score, seed)
    above = score[probability > 0.5]
    threshold = float(above.min()) if len(above) else float("inf")
    return OutlierResult(method, score, robust_z(score), probability, threshold, True)


def robust_z(score: FloatArray) -> FloatArray:
    """Deviation from the median over 1.4826 times the median absolute deviation."""
    deviation = score - np.median(score)
    scale = 1.4826 * np.median(np.abs(deviation))
    return np.asarray(deviation / scale if scale > 0 else deviation)


def outlier_probability(score: FloatArray, seed: int) -> FloatArray:
    """Posterior of the upper component of two Gaussians fitted to the logarithm of the score.

    The probability never falls as the score grows. Where the upper component is no better separated from the lower one
    than the skew of a clean set would make it, there is no group of outliers, and a particle is one only in the far
    tail.
    """
    values = np.log(np.maximum(score, np.finfo(np.float64).tiny))
    centre, spread = np.median(values), 1.4826 * np.median(np.abs(values - np.median(values)))
    z = (values - centre) / (spread or 1.0)
    start = np.array([[-0.2], [max(3.0, float(np.percentile(z, 97.5)))]])
    two = GaussianMixture(
        2,
        means_init=start,
        weights_init=[0.9, 0.1],
        precisions_init=np.ones((2, 1, 1)),
        random_state=seed,
        reg_covar=1e-3,
    )
    column = z[:, None]
    two.fit(column)
    upper = int(two.means_.ravel().argmax())
    separation = float(np.ptp(two.means_))
    if separation > SEPARATION and two.weights_[upper] < 0.5:
        probability = two.predict_proba(column)[:, upper]
    else:
        probability = 1.0 / (1.0 + np.exp(-4.0 * (z - FAR_TAIL)))
    # A wide upper component would also claim the lowest scores, which are the best particles.
    order = np.argsort(z)
    probability = np.where(z < two.means_.ravel()[1 - upper], 0.0, probability)
    rising = np.maximum.accumulate(probability[order])
    result = np.empty_like(rising)
    result[order] = rising
    return result


@dataclass(frozen=True)
class ImageEvidence:
    """What an alignment says of each image, in nats, all of shape (n,).

    Attributes
    ----------
    likelihood_ratio, promise
        Log-likelihood of the particle at its best pose over noise, and what it would be for a perfect particle.
    second_particle, second_mean, second_std
        Log-likelihood of something more in the image, of the particle's spectrum, over the particle alone; its mean and
        standard deviation where there is nothing more.
    other_object
        Log-likelihood of an unknown object of the particle's spectrum over noise.
    """

    likelihood_ratio: FloatArray
    promise: FloatArray
    second_particle: FloatArray
    second_mean: FloatArray
    second_std: FloatArray
    other_object: FloatArray


def evidence_log_odds(evidence: ImageEvidence) -> FloatArray:
    """Log-likelihood of the best of three kinds of junk over that of a good particle, shape (n,).

    The kinds are an image of noise, a particle with something else beside it, and an object of another kind. Real
    images are less like their model than simulated ones: where the bulk of a measure spreads more than noise alone can
    make it, the measure is scaled down by that factor (Efron's empirical null).

    References
    ----------
    Efron 2004, J. Am. Stat. Assoc. 99, 96.
    """
    expected_std = np.sqrt(2.0 * np.maximum(evidence.promise, 1e-9))
    match = (evidence.likelihood_ratio - evidence.promise) / expected_std
    ratio = evidence.promise + expected_std * match / _excess_spread(match)
    excess = (evidence.second_particle - evidence.second_mean) / np.maximum(evidence.second_std, 1e-9)
    second = evidence.second_mean + evidence.second_std * excess / _excess_spread(excess)
    kinds = np.stack([SEARCHED_POSES_NATS - ratio, second, evidence.other_object - ratio + SEARCHED_POSES_NATS])
    return np.asarray(logsumexp(kinds, axis=0))


def _excess_spread(z: FloatArray) -> float:
    """By how much the bulk of a standardised measure is wider than it should be; at least 1."""
    return max(1.0, 1.4826 * float(np.median(np.abs(z - np.median(z)))))


def probability_of_log_odds(log_odds: FloatArray) -> FloatArray:
    """Posterior probability of junk, with the share of junk that agrees with it.

    The share is found by expectation-maximisation on the mixture of the two hypotheses, whose likelihood ratio is known
    for every image.
    """
    share = PRIOR_PROBABILITY
    for _ in range(SHARE_ROUNDS):
        probability = expit(log_odds + logit(share))
        share = float(np.clip(probability.mean(), 1.0 / (len(log_odds) + 2), MOST_JUNK))
    return np.asarray(expit(log_odds + logit(share)))


def latent_log_odds(probability: FloatArray) -> FloatArray:
    """What the latent's outlier probability adds to other evidence, shape (n,), bounded.

    Its mixture is only descriptive, so that it may tip a balance but not overrule images that speak clearly.
    """
    share = float(np.clip(probability.mean(), 1e-3, 0.5))
    tiny = np.finfo(np.float64).eps
    odds = logit(np.clip(probability, tiny, 1 - tiny)) - logit(share)
    return np.asarray(np.clip(odds, -MOST_LATENT_NATS, MOST_LATENT_NATS))


def evidence_outliers(evidence: ImageEvidence, latent: OutlierResult | None = None) -> OutlierResult:
    """Fuse the evidence of an alignment with a detector on the latent space into one probability.

    Parameters
    ----------
    evidence
        Of every image.
    latent
        Result of a detector on the latent space; its probability adds to the odds within bounds.
    """
    n = len(evidence.promise)
    if n < FEWEST_PARTICLES or not np.isfinite(evidence.promise).all():
        nothing = np.zeros(n)
        return OutlierResult("evidence", nothing, nothing, np.full(n, PRIOR_PROBABILITY), float("inf"), False)
    odds = evidence_log_odds(evidence)
    if latent is not None and latent.meaningful:
        odds = odds + latent_log_odds(latent.probability)
    probability = probability_of_log_odds(odds)
    above = odds[probability > 0.5]
    return OutlierResult(
        "evidence", odds, robust_z(odds), probability, float(above.min()) if len(above) else np.inf, True
    )


def _sample(features: FloatArray, most: int, seed: int) -> FloatArray:
    if len(features) <= most:
        return features
    rows: NDArray[np.int64] = np.random.default_rng(seed).choice(len(features), most, replace=False)
    return features[np.sort(rows)]
