"""Outliers in the latent space: the paper's three detectors, a probability, and the Z-score that RELION selects on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
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
TREES = 200
# In units of the squared interquartile range of each feature; a third to three times as much makes no difference.
THICKNESS = 0.03
# In robust standard deviations of the logarithm of the score: clean sets, simulated and real, gave two components up
# to 2.4 apart, sets with junk 3.1 and more.
SEPARATION = 2.75
FAR_TAIL = 5.0


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
    return -np.asarray(factor.score_samples(features), dtype=np.float64)


DETECTORS: dict[str, Callable[[FloatArray, int], FloatArray]] = {
    "isolation_forest": isolation_forest,
    "robust_covariance": robust_covariance,
    "local_outlier_factor": local_outlier_factor,
}


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


def _sample(features: FloatArray, most: int, seed: int) -> FloatArray:
    if len(features) <= most:
        return features
    rows: NDArray[np.int64] = np.random.default_rng(seed).choice(len(features), most, replace=False)
    return features[np.sort(rows)]
