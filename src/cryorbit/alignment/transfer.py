"""The contrast transfer function on rings, as a function of the defocus of each particle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorbit.alignment.polar import PolarGrid
from cryorbit.optics.ctf import Optics, ctf_phase_line

# Below this phase difference between the two axes on the last ring, in radians, astigmatism is left out: it changes the
# transfer function by less than 2e-4 in the mean square.
NEGLIGIBLE_ASTIGMATISM = 0.04


@dataclass(frozen=True)
class RingTransfer:
    """Transfer functions of a batch of particles from one optics group.

    With astigmatism the defocus along direction ``phi`` is ``defocus + a cos 2 (phi - angle)``, so that
    ``CTF = sin(chi) cos(b c) + cos(chi) sin(b c)`` with ``b = slope * a`` and ``c`` that cosine. The factors with ``b``
    multiply the image once for all defoci, which leaves two *channels* with amplitudes ``sin(chi)`` and ``cos(chi)``.
    That is exact for correlations. The squares that norms need are averaged around the ring:
    ``(1 - J0(2 b) cos(2 chi)) / 2``.

    Attributes
    ----------
    slope_per_um, offset
        ``chi = slope * defocus + offset`` in radians, shape (rings,).
    astigmatism_um
        ``a``, half the difference between the two axes, shape (batch,); None where there is none.
    astigmatism_rad
        Direction of the larger defocus, shape (batch,); None likewise.
    """

    slope_per_um: Float[Tensor, " rings"]
    offset: Float[Tensor, " rings"]
    astigmatism_um: Float[Tensor, " batch"] | None = None
    astigmatism_rad: Float[Tensor, " batch"] | None = None

    @classmethod
    def of_optics(
        cls, grid: PolarGrid, pixel_size_A: float, optics: Optics, phase_shift_deg: float = 0.0
    ) -> RingTransfer:
        """Transfer function of an optics group without astigmatism."""
        frequency = grid.radius / (grid.box_size * pixel_size_A)
        return cls(*ctf_phase_line(frequency, optics, phase_shift_deg))

    def is_astigmatic(self, half_difference_um: Tensor) -> bool:
        """Whether any of these differences matters."""
        if not len(half_difference_um):
            return False
        return float(half_difference_um.abs().max() * self.slope_per_um.max()) >= NEGLIGIBLE_ASTIGMATISM

    def with_astigmatism(self, half_difference_um: Tensor, angle_rad: Tensor) -> RingTransfer:
        """The same with the astigmatism of a batch."""
        return RingTransfer(self.slope_per_um, self.offset, half_difference_um, angle_rad)

    def rings(self, count: int) -> RingTransfer:
        """The same on the innermost rings."""
        return RingTransfer(self.slope_per_um[:count], self.offset[:count], self.astigmatism_um, self.astigmatism_rad)

    def to(self, device: torch.device | str) -> RingTransfer:
        """The same on another device."""
        moved = (
            None if v is None else v.to(device)
            for v in (self.slope_per_um, self.offset, self.astigmatism_um, self.astigmatism_rad)
        )  # fmt: skip
        return RingTransfer(*moved)  # type: ignore[arg-type]

    @property
    def channels(self) -> int:
        """1, or 2 with astigmatism."""
        return 1 if self.astigmatism_um is None else 2

    def split(
        self, samples: Complex[Tensor, "batch rings half"], grid: PolarGrid
    ) -> Complex[Tensor, "batch channels rings half"]:
        """Channels of images."""
        if self.astigmatism_um is None or self.astigmatism_rad is None:
            return samples[:, None]
        phi = grid.phi.to(samples.device)
        cosine = torch.cos(2 * (phi - self.astigmatism_rad[:, None]))
        phase = (self.astigmatism_um[:, None] * self.slope_per_um)[:, :, None] * cosine[:, None, :]
        return torch.stack([samples * torch.cos(phase), samples * torch.sin(phase)], dim=1)

    def chi(self, defocus_um: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape rings"]:
        """Phase of the transfer function without astigmatism."""
        return defocus_um[..., None] * self.slope_per_um + self.offset

    def amplitude(
        self, defocus_um: Float[Tensor, "*shape"], variance_um2: Float[Tensor, "*shape"] | None = None
    ) -> Float[Tensor, "*shape channels rings"]:
        """Factor of each channel; its mean over a normal distribution of the defocus where a variance is given."""
        chi = self.chi(defocus_um)
        waves = [torch.sin(chi), torch.cos(chi)][: self.channels]
        amplitude: Tensor = torch.stack(waves, dim=-2)
        if variance_um2 is None:
            return amplitude
        damping = torch.exp(-0.5 * variance_um2[..., None] * self.slope_per_um**2)
        damped: Tensor = amplitude * damping[..., None, :]
        return damped

    def slope(self, defocus_um: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape channels rings"]:
        """Derivative of :meth:`amplitude` by the phase ``chi``."""
        chi = self.chi(defocus_um)
        slope: Tensor = torch.stack([torch.cos(chi), -torch.sin(chi)][: self.channels], dim=-2)
        return slope

    def ring_coherence(self) -> Float[Tensor, "batch rings"] | Float[Tensor, "1 rings"]:
        """``J0(2 b)``: what astigmatism leaves of the oscillation of the squared transfer function."""
        if self.astigmatism_um is None:
            return torch.ones_like(self.slope_per_um)[None]
        coherence: Tensor = torch.special.bessel_j0(2 * self.astigmatism_um[:, None] * self.slope_per_um)
        return coherence

    def power(
        self, defocus_um: Float[Tensor, " batch"], variance_um2: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch rings"]:
        """Square of the transfer function, averaged around the ring, for one defocus per particle."""
        oscillation = self.ring_coherence() * torch.cos(2 * self.chi(defocus_um))
        if variance_um2 is not None:
            oscillation = oscillation * torch.exp(-2 * variance_um2[:, None] * self.slope_per_um**2)
        return 0.5 * (1 - oscillation)
