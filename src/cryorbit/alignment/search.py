"""The posterior over the whole circle, a grid of shifts and the range of the defocus, on the innermost rings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorbit.alignment.polar import PolarGrid, to_harmonics
from cryorbit.alignment.refine import Batch
from cryorbit.alignment.templates import AverageSums, order_weight
from cryorbit.alignment.transfer import RingTransfer

# Orders that the coarse angles carry beyond pi k; the harmonics decay quickly there.
SPARE_ORDERS = 3
LARGEST_PHASE_STEP = 0.5


def shift_grid(radius_px: float, step_px: float) -> Float[Tensor, "shifts 2"]:
    """Shifts on a square grid within a disc, the origin among them."""
    axis = torch.arange(-math.floor(radius_px / step_px), math.floor(radius_px / step_px) + 1) * step_px
    shifts = torch.cartesian_prod(axis, axis).float()
    return shifts[shifts.square().sum(dim=1) <= radius_px**2 + 1e-3]


def defocus_step_um(transfers: tuple[RingTransfer, ...], rings: int) -> float:
    """Spacing of defoci at which the phase of the transfer function on the last ring moves by half a radian."""
    steepest = max(float(transfer.slope_per_um[rings - 1]) for transfer in transfers)
    return min(max(LARGEST_PHASE_STEP / steepest, 0.1), 0.6)


@dataclass(frozen=True)
class Scores:
    """Log-posterior of a batch on the grid, up to a constant, shape (batch, defoci, shifts, angles).

    ``harmonics`` are those of the shifted images, shape (batch, channels, rings, shifts, orders).
    """

    log_p: Float[Tensor, "batch defoci shifts angles"]
    harmonics: Complex[Tensor, "batch channels rings shifts orders"]


@dataclass(frozen=True)
class Modes:
    """Separate maxima over the angle, one row per mode, by image and best first.

    Attributes
    ----------
    image
        Which image of the batch, shape (modes,).
    psi, shift, defocus_um
        Pose on the grid, shapes (modes,), (modes, 2), (modes,).
    log_p
        Log-posterior there, shape (modes,).
    elsewhere
        Share of the posterior that is near none of an image's modes, shape (images,).
    """

    image: Int[Tensor, " modes"]
    psi: Float[Tensor, " modes"]
    shift: Float[Tensor, "modes 2"]
    defocus_um: Float[Tensor, " modes"]
    log_p: Float[Tensor, " modes"]
    elsewhere: Float[Tensor, " images"]


class CircleSearch:
    """Exhaustive comparison of images with an average, on a coarse grid.

    Parameters
    ----------
    grid
        Where the rings are.
    rings
        How many of the innermost to use.
    shifts
        Shifts to try, in pixels, shape (shifts, 2).
    defocus_step_um
        Spacing of the defoci to try.
    device
        Where the images are.
    """

    def __init__(
        self, grid: PolarGrid, rings: int, shifts: Tensor, defocus_step_um: float, device: torch.device | str = "cpu"
    ) -> None:
        self.grid, self.rings, self.defocus_step_um = grid, rings, defocus_step_um
        self.shifts = shifts.to(device)
        needed = 2 * (math.ceil(math.pi * rings) + SPARE_ORDERS)
        self.every = max(every for every in (1, 2, 3, 4, 6) if grid.angles % (2 * every) == 0
                         and (grid.angles // every >= needed or every == 1))  # fmt: skip
        self.angles = grid.angles // self.every
        self.orders = self.angles // 2
        phi = grid.phi[:: self.every].to(device)
        q = (2 * math.pi / grid.box_size) * torch.arange(1, rings + 1, device=device)
        along = self.shifts[:, :1] * torch.cos(phi) + self.shifts[:, 1:] * torch.sin(phi)
        phase = q[:, None, None] * along
        self._ramp = torch.polar(torch.ones_like(phase), phase)

    @property
    def psi(self) -> Float[Tensor, " angles"]:
        """Angles of the grid in radians."""
        return torch.arange(self.angles, device=self.shifts.device) * (2 * math.pi / self.angles)

    @property
    def size(self) -> int:
        """Complex numbers that one image takes."""
        return len(self.shifts) * max(self.rings * self.angles, 14 * self.angles)

    def shifted(
        self, samples: Complex[Tensor, "batch channels rings half"]
    ) -> Complex[Tensor, "batch channels rings shifts orders"]:
        """Harmonics of images moved back by every shift of the grid."""
        inner = samples[:, :, : self.rings, :: self.every]
        return to_harmonics(inner[:, :, :, None] * self._ramp, self.orders)

    def scores(
        self, batch: Batch, template: Complex[Tensor, "rings orders"], energy: Float[Tensor, " rings"]
    ) -> Scores:
        """Log-posterior at every point of the grid.

        Parameters
        ----------
        batch
            The images.
        template
            Harmonics of the average on at least these rings.
        energy
            Its mean power around each ring.
        """
        harmonics = self.shifted(batch.samples)
        inner = batch.inner(self.rings)
        weight = inner.ring_weight()
        model = (template[: self.rings] * weight[:, None])[:, None]
        missing = self.orders - model.shape[-1]
        model = torch.nn.functional.pad(model, (0, max(missing, 0)))[..., : self.orders]
        products = torch.view_as_real(model * harmonics.conj()).flatten(3)
        fixed = batch.defocus.fixed_um
        n = len(products)
        if fixed is not None:
            amplitude = inner.transfer.amplitude(fixed).flatten(1)[:, None]
            norm = 0.5 * (inner.transfer.power(fixed) * energy[: self.rings] * weight).sum(dim=1)[:, None]
            prior = torch.zeros_like(norm)
        else:
            coarse = batch.defocus.coarser(self.defocus_step_um)
            amplitude = inner.transfer.amplitude(coarse.values_um).flatten(1).expand(n, -1, -1)
            oscillation = (inner.transfer.ring_coherence() * energy[: self.rings] * weight) @ torch.cos(
                2 * inner.transfer.chi(coarse.values_um)
            ).T
            norm = 0.25 * ((energy[: self.rings] * weight).sum() - oscillation)
            prior = coarse.log_prior()
        by_order = torch.view_as_complex(
            torch.bmm(amplitude, products.flatten(1, 2)).reshape(n, amplitude.shape[1], len(self.shifts), -1, 2)
        )
        log_p = torch.fft.irfft(by_order, n=self.angles, dim=-1, norm="forward")
        shift_prior = -0.5 * (self.shifts / batch.shift_spread_px).square().sum(dim=1)
        return Scores(log_p + (prior - norm)[:, :, None, None] + shift_prior[:, None], harmonics)

    def defoci_um(self, batch: Batch) -> Tensor:
        """Defoci of the grid, shape (batch, defoci) or (1, defoci)."""
        if batch.defocus.fixed_um is not None:
            return batch.defocus.fixed_um[:, None]
        return batch.defocus.coarser(self.defocus_step_um).values_um[None]

    def modes(self, batch: Batch, scores: Scores, most: int, margin: float) -> Modes:
        """The best angles that are not neighbours, within ``margin`` of the best, at their best shift and defocus."""
        n, _, shifts, angles = scores.log_p.shape
        by_angle = scores.log_p.amax(dim=(1, 2))
        rows = torch.arange(n, device=by_angle.device)
        apart = torch.arange(angles, device=by_angle.device)
        neighbourhood = max(2, angles // 40)
        values, found = self.defoci_um(batch), []
        best = by_angle.amax(dim=1)
        # The best defocus stands for all: what matters is how many angles and shifts do nearly as well.
        mass = (scores.log_p.amax(dim=1) - best[:, None, None]).exp_().sum(dim=1)
        mass = mass / mass.sum(dim=1, keepdim=True)
        for _ in range(most):
            log_p, at = by_angle.max(dim=1)
            chosen = log_p >= best - margin
            if not bool(chosen.any()):
                break
            column = scores.log_p[rows, :, :, at].flatten(1).argmax(dim=1)
            defocus = values.expand(n, -1)[rows, column // shifts]
            found.append((rows[chosen], self.psi[at][chosen], self.shifts[column % shifts][chosen], defocus[chosen],
                          log_p[chosen]))  # fmt: skip
            distance = (apart - at[:, None]).abs()
            near = torch.minimum(distance, angles - distance) <= neighbourhood
            by_angle = by_angle.masked_fill(near, -torch.inf)
            mass = torch.where(near & chosen[:, None], 0.0, mass)
        image, psi, shift, defocus, log_p = (torch.cat(part) for part in zip(*found, strict=True))
        order = image.argsort(stable=True)
        return Modes(image[order], psi[order], shift[order], defocus[order], log_p[order], mass.sum(dim=1))

    def soft_sums(self, batch: Batch, scores: Scores) -> tuple[AverageSums, Tensor, Tensor]:
        """Sums for the average, weighted by the whole posterior; also its evidence and each image's mean defocus."""
        flat = scores.log_p.flatten(1)
        top = flat.amax(dim=1, keepdim=True)
        posterior = (flat - top).exp_()
        total = posterior.sum(dim=1, keepdim=True)
        evidence = (top + total.log())[:, 0]
        posterior = posterior.div_(total).reshape(scores.log_p.shape)
        turns = torch.fft.rfft(posterior, dim=-1)[..., : self.orders]
        values = self.defoci_um(batch)
        transfer = batch.transfer.rings(self.rings)
        amplitude = transfer.amplitude(values).flatten(2)
        n = len(posterior)
        by_ring = torch.bmm(amplitude.expand(n, -1, -1).transpose(1, 2), torch.view_as_real(turns).flatten(2)).reshape(
            n, transfer.channels, self.rings, len(self.shifts), self.orders, 2
        )
        numerator = torch.einsum("bqksm,bqksm->km", scores.harmonics, torch.view_as_complex(by_ring))
        by_defocus = posterior.sum(dim=(2, 3))
        square = 0.5 * (1 - transfer.ring_coherence()[:, None] * torch.cos(2 * transfer.chi(values)))
        power = (by_defocus[..., None] * square).sum(dim=(0, 1))
        sums = AverageSums(numerator, power, float(n))
        return sums, evidence, (by_defocus * values).sum(dim=1)


def template_energy(template: Complex[Tensor, "rings orders"]) -> Float[Tensor, " rings"]:
    """Mean power around each ring."""
    return template.abs().square() @ order_weight(template.shape[1]).to(template.device)
