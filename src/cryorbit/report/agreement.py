"""How far the alignment and the latent space, which see the same images in different ways, say the same of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cryorbit.conventions import FloatArray
from cryorbit.estimation.evaluation import align_angles, root_mean_square
from cryorbit.report.record import RunRecord


@dataclass(frozen=True)
class Difference:
    """What the latent orbits say less what the alignment says, of the kept particles for which both say something.

    Attributes
    ----------
    aligned, latent
        The two opinions, shape (m,).
    difference
        Shape (m,).
    expected_std
        Deviation of the difference that the two methods predict together, shape (m,).
    """

    aligned: FloatArray
    latent: FloatArray
    difference: FloatArray
    expected_std: FloatArray

    @property
    def rms(self) -> float:
        """Root mean square difference."""
        return root_mean_square(self.difference)

    @property
    def median(self) -> float:
        """Median absolute difference."""
        return float(np.median(np.abs(self.difference)))

    @property
    def expected_rms(self) -> float:
        """What the root mean square would be if both predictions were right and independent."""
        return root_mean_square(self.expected_std)


def agreement_period_deg(run: RunRecord) -> float:
    """Turn after which neither method, or only one, can tell a particle from itself: angles are compared modulo it."""
    return 360.0 / math.lcm(run.isotropy_order, run.latent_isotropy_order)


def angle_agreement(run: RunRecord) -> Difference | None:
    """Difference in the angle, after one turn and one sign for the whole set; None where there are not two angles."""
    if not run.angle_known or run.fact("chart", "identifiable") is False:
        return None
    found = _both(run, "psi_deg", "psi_std_deg")
    if found is None:
        return None
    aligned, latent, std = found
    order = round(360.0 / agreement_period_deg(run))
    return Difference(aligned, latent, align_angles(latent, aligned, None, order).residual_deg, std)


def defocus_agreement(run: RunRecord) -> Difference | None:
    """Difference in the defocus; None where there are not two defoci."""
    found = _both(run, "defocus_um", "defocus_std_um")
    if found is None:
        return None
    aligned, latent, std = found
    return Difference(aligned, latent, latent - aligned, std)


def _both(run: RunRecord, value: str, deviation: str) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Values of the two methods and their deviations put together, where both are known."""
    aligned, latent = run.column(f"orbit_{value}"), run.column(f"latent_{value}")
    std = np.hypot(run.column(f"orbit_{deviation}"), run.column(f"latent_{deviation}"))
    rows = run.kept & np.isfinite(aligned) & np.isfinite(latent) & np.isfinite(std)
    return (aligned[rows], latent[rows], std[rows]) if rows.any() else None
