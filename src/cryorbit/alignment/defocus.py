"""The posterior of the defocus when the pose is known: one dimension, searched as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.transfer import RingTransfer

# Grid steps below which a posterior is narrower than its grid can show; then its peak is taken to be normal.
NARROW = 1.5
NEWTON_STEPS = 3


@dataclass(frozen=True)
class DefocusPosterior:
    """Of a batch, in micrometres.

    Attributes
    ----------
    mean_um, variance_um2
        Moments, shape (batch,).
    log_likelihood
        At the peak, shape (batch,), relative to an image without a particle.
    """

    mean_um: Float[Tensor, " batch"]
    variance_um2: Float[Tensor, " batch"]
    log_likelihood: Float[Tensor, " batch"]


@dataclass(frozen=True)
class DefocusRange:
    """What is known of the defocus before the image is seen.

    Attributes
    ----------
    values_um
        Grid of equal steps, shape (steps,); a single value stands for nothing to be found.
    centre_um, spread_um
        Normal prior of each particle, shapes (batch,) and (); None for a flat one.
    fixed_um
        The defocus itself where it is trusted, shape (batch,).
    """

    values_um: Float[Tensor, " steps"]
    centre_um: Float[Tensor, " batch"] | None = None
    spread_um: float = 0.0
    fixed_um: Float[Tensor, " batch"] | None = None

    def coarser(self, step_um: float) -> DefocusRange:
        """The same range in steps of about this size."""
        low, high = float(self.values_um[0]), float(self.values_um[-1])
        count = max(1, round((high - low) / step_um)) + 1
        values = torch.linspace(low, high, count, device=self.values_um.device)
        return DefocusRange(values, self.centre_um, self.spread_um, self.fixed_um)

    def of_rows(self, rows: Tensor) -> DefocusRange:
        """The prior of some of the particles."""
        centre, fixed = (None if v is None else v[rows] for v in (self.centre_um, self.fixed_um))
        return DefocusRange(self.values_um, centre, self.spread_um, fixed)

    def log_prior(self) -> Float[Tensor, "batch steps"] | Float[Tensor, "1 steps"]:
        """Logarithm of the prior on the grid."""
        if self.centre_um is None:
            return torch.zeros_like(self.values_um)[None]
        return -0.5 * ((self.values_um - self.centre_um[:, None]) / self.spread_um) ** 2

    def posterior(
        self,
        correlation: Float[Tensor, "batch channels rings"],
        energy: Float[Tensor, "batch rings"] | Float[Tensor, "1 rings"],
        transfer: RingTransfer,
    ) -> DefocusPosterior:
        """Posterior of the defocus.

        Parameters
        ----------
        correlation
            Of image and average on each ring over the noise, for each channel of the transfer function.
        energy
            Power of the average over the noise on each ring, before the transfer function.
        transfer
            Of these particles.
        """
        if self.fixed_um is not None:
            value = _log_likelihood(self.fixed_um, correlation, energy, transfer)
            return DefocusPosterior(self.fixed_um, torch.zeros_like(self.fixed_um), value)
        values = self.values_um
        chi2 = 2 * transfer.chi(values)
        amplitude = transfer.amplitude(values).flatten(1)
        log_p = correlation.flatten(1) @ amplitude.T - 0.25 * energy.sum(dim=1, keepdim=True)
        log_p = log_p + 0.25 * (energy * transfer.ring_coherence()) @ torch.cos(chi2).T
        log_p = log_p + self.log_prior()
        step = float(values[1] - values[0]) if len(values) > 1 else 1.0
        p = torch.softmax(log_p, dim=1)
        mean = p @ values
        variance = (p * (values - mean[:, None]) ** 2).sum(dim=1)
        peak, peak_variance = self._peak(values[log_p.argmax(dim=1)], step, correlation, energy, transfer)
        narrow = torch.maximum(variance, peak_variance) < (NARROW * step) ** 2
        mean = torch.where(narrow, peak, mean)
        variance = torch.where(narrow, peak_variance, variance)
        return DefocusPosterior(mean, variance, log_p.amax(dim=1))

    def _peak(
        self, start_um: Tensor, step_um: float, correlation: Tensor, energy: Tensor, transfer: RingTransfer
    ) -> tuple[Tensor, Tensor]:
        """Peak near a start by Newton's method, and the variance of the normal distribution that fits it."""
        low, high = float(self.values_um[0]), float(self.values_um[-1])
        ring_slope, coherence = transfer.slope_per_um, transfer.ring_coherence()
        precision = 0.0 if self.centre_um is None else self.spread_um**-2
        at = start_um
        curvature = torch.ones_like(start_um)
        for _ in range(NEWTON_STEPS):
            chi2 = 2 * transfer.chi(at)
            first = (ring_slope * ((correlation * transfer.slope(at)).sum(dim=1)
                     - 0.5 * energy * coherence * torch.sin(chi2))).sum(dim=1)  # fmt: skip
            second = (ring_slope**2 * (-(correlation * transfer.amplitude(at)).sum(dim=1)
                      - energy * coherence * torch.cos(chi2))).sum(dim=1)  # fmt: skip
            if self.centre_um is not None:
                first, second = first - precision * (at - self.centre_um), second - precision
            curvature = (-second).clamp(min=1e-6)
            at = (at + (first / curvature).clamp(-step_um, step_um)).clamp(low, high)
        return at, 1.0 / curvature


def _log_likelihood(defocus_um: Tensor, correlation: Tensor, energy: Tensor, transfer: RingTransfer) -> Tensor:
    gain = (correlation * transfer.amplitude(defocus_um)).sum(dim=(1, 2))
    return gain - 0.5 * (energy * transfer.power(defocus_um)).sum(dim=1)
