"""Estimates against the truth: equation 8 of the paper and company."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from cryorbit.conventions import FloatArray, particle_weight, wrap_deg


@dataclass(frozen=True)
class AngleAlignment:
    """Global offset and sign that bring estimated angles closest to the true ones.

    Attributes
    ----------
    sign
        +1 or -1.
    offset_deg
        Added after the sign.
    residual_deg
        ``wrap(sign * estimate + offset - truth)``, shape (n,).
    """

    sign: int
    offset_deg: float
    residual_deg: FloatArray


@dataclass(frozen=True)
class Evaluation:
    """Metrics by the names that the command prints; None where the truth does not give them.

    ``angle_calibration`` is the standard deviation of error over predicted deviation: 1 for honest uncertainties.
    """

    particles: int
    inliers: int
    angle_rmse_deg: float | None
    angle_rmse_weighted_deg: float | None
    angle_median_deg: float | None
    angle_calibration: float | None
    angle_sign: int | None
    angle_offset_deg: float | None
    defocus_rmse_um: float | None
    defocus_rmse_weighted_um: float | None
    defocus_calibration: float | None
    outlier_auc: float | None
    origin_rmse_A: float | None = None
    origin_calibration: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """The metrics by name."""
        return asdict(self)


def best_offset_deg(difference_deg: FloatArray, weight: FloatArray, period_deg: float = 360.0) -> float:
    """Offset that minimises ``sum w wrap(difference + offset)^2``, exactly.

    On the circle the weighted sum of squares is one parabola between the offsets at which a difference wraps, so
    the best of the n parabolas' minima is the minimum: a plain circular mean is not.
    """
    order = np.argsort(np.mod(difference_deg, period_deg))
    angle, w = np.mod(difference_deg, period_deg)[order], weight[order]
    total = w.sum()
    if total <= 0:
        w, total = np.ones_like(w), float(len(w))
    # Candidate k: the k smallest differences count as one period larger.
    below = np.concatenate([[0.0], np.cumsum(w)[:-1]])
    below_angle = np.concatenate([[0.0], np.cumsum(w * angle)[:-1]])
    mean = ((w * angle).sum() + period_deg * below) / total
    square = (w * angle**2).sum() + 2 * period_deg * below_angle + period_deg**2 * below
    best = int(np.argmin(square - total * mean**2))
    return float(wrap_deg(-mean[best], period_deg))


def align_angles(
    estimate_deg: FloatArray, truth_deg: FloatArray, weight: FloatArray | None = None, symmetry_order: int = 1
) -> AngleAlignment:
    """Align estimates with the truth by one global offset and sign (equation 8), errors wrapped before squaring.

    Parameters
    ----------
    estimate_deg, truth_deg
        Shape (n,).
    weight
        Weight of each squared error; equal by default.
    symmetry_order
        n where the view has C_n symmetry and angles are known modulo 360 / n.
    """
    period = 360.0 / symmetry_order
    w = np.ones(len(estimate_deg)) if weight is None else weight
    candidates = []
    for sign in (1, -1):
        offset = best_offset_deg(sign * estimate_deg - truth_deg, w, period)
        residual = wrap_deg(sign * estimate_deg + offset - truth_deg, period)
        candidates.append((float((w * residual**2).sum()), AngleAlignment(sign, offset, residual)))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def root_mean_square(error: FloatArray, weight: FloatArray | None = None) -> float:
    """Square root of the (weighted) mean square."""
    if weight is None or weight.sum() <= 0:
        return float(np.sqrt(np.mean(error**2)))
    return float(np.sqrt((weight * error**2).sum() / weight.sum()))


def origin_errors_A(origin_A: FloatArray, true_origin_A: FloatArray, psi_deg: FloatArray) -> FloatArray:
    """Errors of RELION's origins in the frame of the average, shape (n, 2).

    Where the average's centre lies is a matter of choice, as its orientation is: the median error is taken off.

    Parameters
    ----------
    origin_A, true_origin_A
        Shape (n, 2).
    psi_deg
        Estimated angles, shape (n,).
    """
    dx, dy = (true_origin_A - origin_A).T
    cosine, sine = np.cos(np.radians(psi_deg)), np.sin(np.radians(psi_deg))
    error = np.stack([cosine * dx - sine * dy, sine * dx + cosine * dy], axis=1)
    return np.asarray(error - np.median(error, axis=0))


@dataclass(frozen=True)
class RocCurve:
    """Receiver operating characteristic of an outlier score; arrays of one length."""

    false_positive_rate: FloatArray
    true_positive_rate: FloatArray
    threshold: FloatArray
    auc: float


def roc(score: FloatArray, is_outlier: NDArray[np.bool_]) -> RocCurve:
    """Rates of false and true rejections as the threshold is varied (section 3.2.1).

    Raises
    ------
    ValueError
        If all particles are of one kind.
    """
    if is_outlier.all() or not is_outlier.any():
        raise ValueError("A ROC curve needs both outliers and others.")
    false_positive, true_positive, threshold = roc_curve(is_outlier, score)
    return RocCurve(false_positive, true_positive, threshold, float(roc_auc_score(is_outlier, score)))


def evaluate(
    psi_deg: FloatArray | None,
    true_psi_deg: FloatArray | None,
    defocus_um: FloatArray | None,
    true_defocus_um: FloatArray | None,
    psi_std_deg: FloatArray | None = None,
    defocus_std_um: FloatArray | None = None,
    outlier_score: FloatArray | None = None,
    is_outlier: NDArray[np.bool_] | None = None,
    symmetry_order: int = 1,
    origin_A: FloatArray | None = None,
    true_origin_A: FloatArray | None = None,
    origin_std_A: FloatArray | None = None,
) -> Evaluation:
    """Compare estimates with the truth; angles and defocus over the true inliers only.

    All arrays have shape (n,), origins (n, 2); whatever is None is left out. Weights are ``exp(defocus in um) - 1``
    of the estimated defocus, as in the paper, or of the true one where there is no estimate.
    """
    given = [a for a in (psi_deg, true_psi_deg, defocus_um, true_defocus_um, outlier_score) if a is not None]
    n = len(given[0]) if given else 0
    inlier = np.ones(n, dtype=bool) if is_outlier is None else ~is_outlier
    by_defocus = defocus_um if defocus_um is not None else true_defocus_um
    weight = np.ones(n) if by_defocus is None else np.maximum(particle_weight(by_defocus), 0.0)
    angle: dict[str, float | int | None] = dict.fromkeys(
        ("rmse", "weighted", "median", "calibration", "sign", "offset")
    )
    if psi_deg is not None and true_psi_deg is not None and inlier.any():
        plain = align_angles(psi_deg[inlier], true_psi_deg[inlier], None, symmetry_order)
        weighted = align_angles(psi_deg[inlier], true_psi_deg[inlier], weight[inlier], symmetry_order)
        angle = {
            "rmse": root_mean_square(plain.residual_deg),
            "weighted": root_mean_square(weighted.residual_deg, weight[inlier]),
            "median": float(np.median(np.abs(plain.residual_deg))),
            "calibration": _calibration(plain.residual_deg, psi_std_deg, inlier),
            "sign": plain.sign,
            "offset": plain.offset_deg,
        }
    defocus: dict[str, float | None] = dict.fromkeys(("rmse", "weighted", "calibration"))
    if defocus_um is not None and true_defocus_um is not None and inlier.any():
        error = (defocus_um - true_defocus_um)[inlier]
        defocus = {
            "rmse": root_mean_square(error),
            "weighted": root_mean_square(error, weight[inlier]),
            "calibration": _calibration(error, defocus_std_um, inlier),
        }
    origin: dict[str, float | None] = dict.fromkeys(("rmse", "calibration"))
    if origin_A is not None and true_origin_A is not None and psi_deg is not None and inlier.any():
        shift = origin_errors_A(origin_A[inlier], true_origin_A[inlier], psi_deg[inlier])
        origin["rmse"] = root_mean_square(shift)
        if origin_std_A is not None and (origin_std_A[inlier] > 0).all():
            origin["calibration"] = float(np.std(shift / origin_std_A[inlier, None]))
    mixed = is_outlier is not None and is_outlier.any() and not is_outlier.all()
    auc = roc(outlier_score, is_outlier).auc if mixed and outlier_score is not None else None  # type: ignore[arg-type]
    return Evaluation(
        particles=n, inliers=int(inlier.sum()),
        angle_rmse_deg=angle["rmse"], angle_rmse_weighted_deg=angle["weighted"],
        angle_median_deg=angle["median"], angle_calibration=angle["calibration"],
        angle_sign=angle["sign"], angle_offset_deg=angle["offset"],  # type: ignore[arg-type]
        defocus_rmse_um=defocus["rmse"], defocus_rmse_weighted_um=defocus["weighted"],
        defocus_calibration=defocus["calibration"], outlier_auc=auc,
        origin_rmse_A=origin["rmse"], origin_calibration=origin["calibration"],
    )  # fmt: skip


def _calibration(error: FloatArray, std: FloatArray | None, inlier: NDArray[np.bool_]) -> float | None:
    if std is None or not (std[inlier] > 0).all():
        return None
    return float(np.std(error / std[inlier]))
