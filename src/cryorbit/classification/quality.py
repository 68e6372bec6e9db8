"""How good a class is, without a reference, and what that says of its images.

Junk that looks alike makes classes of its own, which no likelihood tells from others. What does: the averages of one
object's views share lines, lie in the middle of their boxes and are of similar size. A class is measured against the
bulk of the particles' classes, so that what is usual depends on the set. Within a class an image is measured against
the other images of it: its average is blurred by the views in it, and leaves something of every image.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from cryorbit.classification.poses import ClassPoses
from cryorbit.conventions import FloatArray
from cryorbit.estimation.outliers import SEARCHED_POSES_NATS, OutlierResult, probability_of_log_odds, robust_z

# Share of the highest value of an average above which a pixel belongs to what it shows.
SHOWN = 0.25
# Deviations from the bulk that classes of one object may have, below which none counts: of the inverse hyperbolic
# tangent of a correlation, of parts of the particle's radius, of the logarithm of a size, of a share of the power.
LEAST_SPREAD = {"agreement": 0.15, "offset": 0.05, "extent": 0.15, "outside": 0.03}
# Deviations, all together, at which a class is as likely junk as not.
EVEN_DEVIATION = 5.0
# Images with which the spread within a class counts as much as that within all classes.
FEW_IMAGES = 20.0
MOST_NATS = 200.0


@dataclass(frozen=True)
class ClassFacts:
    """What is known of each class; all arrays of shape (classes,), NaN where a class has no particles.

    Attributes
    ----------
    particles
        How many.
    resolution_A
        Where the Fourier ring correlation of its halves falls below 0.143.
    agreement
        Median correlation of its best common lines with those of the other classes.
    offset, extent
        Distance of what the average shows from the centre of the box, and its radius of gyration, in radii of the
        particle.
    outside
        Share of the average's power outside the particle's radius.
    nats
        Log-likelihood of the average over noise that an image of it has: what there is to align by.
    psi_std_deg
        Median deviation of its particles' angles.
    roundness
        Share of the average's power that no turn changes, the innermost rings apart: 1 for a disc.
    isotropy_order
        n where turns by 360 / n leave the average as it is.
    """

    particles: FloatArray
    resolution_A: FloatArray
    agreement: FloatArray
    offset: FloatArray
    extent: FloatArray
    outside: FloatArray
    nats: FloatArray
    psi_std_deg: FloatArray
    roundness: FloatArray
    isotropy_order: FloatArray

    def table(self) -> pd.DataFrame:
        """One row for each class, numbered from 1."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return pd.DataFrame({"class": np.arange(1, len(self.particles) + 1), **columns})


def shown(images: FloatArray, particle_radius_px: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Offset, extent and power outside of what averages show, as in :class:`ClassFacts`.

    Parameters
    ----------
    images
        Averages with white protein, shape (classes, h, w).
    particle_radius_px
        Of the particle.
    """
    y, x = (axis - size // 2 for axis, size in zip(np.indices(images.shape[1:]), images.shape[1:], strict=True))
    top = images.max(axis=(1, 2), keepdims=True)
    density = np.clip(images - SHOWN * top, 0, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        density = density / density.sum(axis=(1, 2), keepdims=True)
        centre = np.stack([(density * axis).sum(axis=(1, 2)) for axis in (x, y)], axis=1)
        distance2 = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
        extent = np.sqrt((density * distance2).sum(axis=(1, 2))) / particle_radius_px
        power = images**2
        far = np.hypot(x, y) > particle_radius_px
        outside = power[:, far].sum(axis=1) / power.sum(axis=(1, 2))
    return np.hypot(*centre.T) / particle_radius_px, extent, outside


def weighted_median(values: FloatArray, weight: FloatArray) -> float:
    """The value at which half of the weight is reached; NaN where there is none."""
    known = np.isfinite(values) & (weight > 0)
    if not known.any():
        return float("nan")
    order = np.argsort(values[known])
    reached = np.cumsum(weight[known][order])
    return float(values[known][order][np.searchsorted(reached, 0.5 * reached[-1])])


def class_deviations(facts: ClassFacts) -> pd.DataFrame:
    """By how many deviations each class is unlike the bulk of the particles' classes, 0 where it is like them.

    Too few common lines, too far off the centre, too large or too small, too much power outside the particle: columns
    ``agreement``, ``offset``, ``extent`` and ``outside``; and ``empty``, where hardly anything could be aligned to it.
    """
    sign = {"agreement": -1.0, "offset": 1.0, "extent": 0.0, "outside": 1.0}
    columns = {}
    for name, direction in sign.items():
        values = getattr(facts, name)
        if name == "agreement":
            values = np.arctanh(np.clip(values, -0.999, 0.999))
        if name == "extent":
            values = np.log(np.maximum(values, 1e-6))
        middle = weighted_median(values, facts.particles)
        spread = 1.4826 * weighted_median(np.abs(values - middle), facts.particles)
        z = (values - middle) / max(spread, LEAST_SPREAD[name])
        z = np.abs(z) if direction == 0.0 else np.maximum(direction * z, 0.0)
        # An average that shows nothing has no place and no size.
        nothing = (facts.particles > 0) & np.isnan(getattr(facts, name)) & (name != "agreement")
        columns[name] = np.where(nothing, 2 * EVEN_DEVIATION, np.nan_to_num(z))
    missing = np.maximum(SEARCHED_POSES_NATS - np.nan_to_num(facts.nats), 0.0)
    columns["empty"] = np.sqrt(2.0 * missing) * EVEN_DEVIATION / np.sqrt(2.0 * SEARCHED_POSES_NATS) * 2.0
    return pd.DataFrame(columns)


def class_log_odds(facts: ClassFacts) -> FloatArray:
    """Log-odds of each class to be of junk: normal deviations from the bulk against one that may be anywhere."""
    deviations = class_deviations(facts).to_numpy()
    return np.asarray(0.5 * (np.square(deviations).sum(axis=1) - EVEN_DEVIATION**2))


def image_log_odds(poses: ClassPoses) -> FloatArray:
    """Log-odds of each image to be none of its class, by three kinds of junk, shape (n,).

    The kinds are those of :func:`cryorbit.estimation.outliers.evidence_log_odds`: noise, something more beside the
    particle, and another object. Where the images of a class differ from its average by more than noise would make
    them, a measure is moved and scaled to what is usual in the class.
    """
    evidence = poses.evidence
    expected = np.sqrt(2.0 * np.maximum(evidence.promise, 1e-9))
    match = _usual((evidence.likelihood_ratio - evidence.promise) / expected, poses.number)
    ratio = evidence.promise + expected * match
    second_std = np.maximum(evidence.second_std, 1e-9)
    excess = _usual((evidence.second_particle - evidence.second_mean) / second_std, poses.number)
    kinds = np.stack([
        SEARCHED_POSES_NATS - ratio,
        evidence.second_mean + second_std * excess,
        evidence.other_object - ratio + SEARCHED_POSES_NATS,
    ])  # fmt: skip
    return np.asarray(logsumexp(kinds, axis=0))


def _usual(z: FloatArray, number: NDArray[np.int64]) -> FloatArray:
    """A standardised measure relative to the bulk of its class, where that is not what noise alone would make it."""
    moved, spreads = z.copy(), np.ones(len(z))
    for one in np.unique(number):
        rows = number == one
        middle = float(np.median(z[rows])) * rows.sum() / (rows.sum() + FEW_IMAGES)
        moved[rows] = z[rows] - middle
        spreads[rows] = 1.4826 * np.median(np.abs(z[rows] - np.median(z[rows])))
    counts = np.bincount(number)[number]
    overall = float(np.median(spreads))
    spread = (counts * spreads + FEW_IMAGES * overall) / (counts + FEW_IMAGES)
    return np.asarray(moved / np.maximum(spread, 1.0))


def judge(poses: ClassPoses, facts: ClassFacts) -> OutlierResult:
    """Outlier score and probability of every image: of its own, and of its class.

    Parameters
    ----------
    poses
        Of every image.
    facts
        Of the classes.
    """
    of_image, of_class = image_log_odds(poses), class_log_odds(facts)[poses.number]
    odds = np.clip(np.logaddexp(of_image, of_class), -MOST_NATS, MOST_NATS)
    # The best images of good classes all have the odds of their class: what tells them apart is their own.
    apart = np.clip(np.logaddexp(of_image, np.where(of_class < 0, -np.inf, of_class)), -MOST_NATS, MOST_NATS)
    probability = probability_of_log_odds(odds)
    above = odds[probability > 0.5]
    threshold = float(above.min()) if len(above) else np.inf
    return OutlierResult("evidence", odds, robust_z(apart), probability, threshold, True)
