"""From a pose on a grid to the maximum of the likelihood: Newton steps in angle and shift, all defoci at each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.polar import PolarGrid, squared, to_harmonics
from cryorbit.alignment.templates import AverageSums, Template
from cryorbit.alignment.transfer import RingTransfer

LARGEST_TURN_rad = 0.06
LARGEST_MOVE_px = 1.5


@dataclass(frozen=True)
class Poses:
    """Poses of a batch, in radians, pixels and micrometres.

    Attributes
    ----------
    psi, shift, defocus_um
        Shapes (batch,), (batch, 2) and (batch,): ``image(x) = average(R(psi) (x - shift))``.
    covariance
        Of (psi, shift along the average's x and y), shape (batch, 3, 3).
    defocus_variance_um2, log_likelihood
        Shape (batch,).
    """

    psi: Float[Tensor, " batch"]
    shift: Float[Tensor, "batch 2"]
    defocus_um: Float[Tensor, " batch"]
    covariance: Float[Tensor, "batch 3 3"]
    defocus_variance_um2: Float[Tensor, " batch"]
    log_likelihood: Float[Tensor, " batch"]

    @classmethod
    def at(cls, psi: Tensor, shift: Tensor, defocus_um: Tensor) -> Poses:
        """Poses of which nothing else is known."""
        zero = torch.zeros_like(psi)
        return cls(psi, shift, defocus_um, zero[:, None, None].expand(-1, 3, 3), zero, zero)

    def __len__(self) -> int:
        return len(self.psi)

    def fields(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the attributes."""
        return (
            self.psi, self.shift, self.defocus_um, self.covariance, self.defocus_variance_um2, self.log_likelihood,
        )  # fmt: skip

    def of_rows(self, rows: Tensor | slice) -> Poses:
        """Some of the poses."""
        return Poses(*(field[rows] for field in self.fields()))

    @classmethod
    def concatenate(cls, parts: list[Poses]) -> Poses:
        """Poses of several batches."""
        return cls(*(torch.cat(fields) for fields in zip(*(part.fields() for part in parts), strict=True)))


@dataclass(frozen=True)
class Batch:
    """Images of one optics group, and what is known of them.

    Attributes
    ----------
    samples
        Shape (batch, channels, rings, half).
    transfer, defocus
        Their transfer functions and the prior of their defocus.
    noise
        Variance that white noise of the same power would have in a pixel, for each ring, shape (rings,).
    shift_spread_px
        Standard deviation of the normal prior of the shift along each axis.
    box_size
        Width of the box in pixels.
    """

    samples: Complex[Tensor, "batch channels rings half"]
    transfer: RingTransfer
    defocus: DefocusRange
    noise: Float[Tensor, " rings"]
    shift_spread_px: float
    box_size: int

    def __len__(self) -> int:
        return len(self.samples)

    def of_rows(self, rows: Tensor) -> Batch:
        """Some of the images, repeated if need be."""
        transfer = self.transfer
        if transfer.astigmatism_um is not None and transfer.astigmatism_rad is not None:
            transfer = RingTransfer(
                transfer.slope_per_um, transfer.offset, transfer.astigmatism_um[rows], transfer.astigmatism_rad[rows]
            )
        return Batch(
            self.samples[rows], transfer, self.defocus.of_rows(rows), self.noise, self.shift_spread_px, self.box_size
        )

    def inner(self, rings: int) -> Batch:
        """The innermost rings."""
        return Batch(
            self.samples[:, :, :rings], self.transfer.rings(rings), self.defocus, self.noise[:rings],
            self.shift_spread_px, self.box_size,
        )  # fmt: skip

    def ring_weight(self) -> Float[Tensor, " rings"]:
        """Factor of a squared difference, averaged around a ring, in minus twice the log-likelihood.

        Ring ``k`` holds ``2 pi k`` independent Fourier coefficients in the whole plane, half of which are free.
        """
        rings = torch.arange(1, len(self.noise) + 1, device=self.noise.device)
        return 2 * math.pi * rings / (self.box_size**2 * self.noise)


def centred(
    samples: Complex[Tensor, "batch channels rings half"], shift: Float[Tensor, "batch 2"], grid: PolarGrid
) -> Complex[Tensor, "batch channels rings half"]:
    """Samples of the images moved back by their shifts."""
    rings = samples.shape[2]
    phi = grid.phi.to(samples.device)
    along = (2 * math.pi / grid.box_size) * (shift[:, :1] * torch.cos(phi) + shift[:, 1:] * torch.sin(phi))
    one = torch.polar(torch.ones_like(along), along)
    two = one * one
    # exp(i k a) for all k from two short tables of powers: complex products are cheaper than sines.
    low = torch.stack([torch.ones_like(one), one, two, two * one], dim=1)
    step = two * two
    high = [torch.ones_like(one)]
    while 4 * len(high) <= rings:
        high.append(high[-1] * step)
    table = (torch.stack(high, dim=1)[:, :, None] * low[:, None]).flatten(1, 2)
    return samples * table[:, None, 1 : rings + 1]


def turned(
    samples: Complex[Tensor, "batch channels rings half"], psi: Float[Tensor, " batch"], orders: int
) -> Complex[Tensor, "batch channels rings orders"]:
    """Harmonics of the images turned back by their angles, into the frame of the average."""
    harmonics = to_harmonics(samples, orders)
    angle = -psi[:, None] * torch.arange(harmonics.shape[-1], device=psi.device)
    return harmonics * torch.polar(torch.ones_like(angle), angle)[:, None, None]


def in_average_frame(batch: Batch, poses: Poses, grid: PolarGrid, orders: int) -> Tensor:
    """Harmonics of the images, centred and turned back, shape (batch, channels, rings, orders)."""
    return turned(centred(batch.samples, poses.shift, grid), poses.psi, orders)


def recentred(poses: Poses, psi: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
    """Angle and shift after a turn and a move given in the frame of the average."""
    return poses.psi + psi, poses.shift + in_frame(-poses.psi, move)


@dataclass(frozen=True)
class OwnPart:
    """What each image contributed to the average that it is compared with.

    Attributes
    ----------
    poses
        With which it entered.
    weight
        Its weight there, shape (batch,).
    """

    poses: Poses
    weight: Float[Tensor, " batch"]

    def of_rows(self, rows: Tensor | slice) -> OwnPart:
        """Of some of the images."""
        return OwnPart(self.poses.of_rows(rows), self.weight[rows])


def blur(poses: Poses, grid: PolarGrid, rings: int, orders: int) -> tuple[Tensor, Tensor]:
    """Damping of an image by the uncertainty of its pose: of rings and of orders, shape (batch, rings or orders)."""
    k = torch.arange(1, rings + 1, device=poses.psi.device)
    m = torch.arange(orders, device=poses.psi.device)
    variance = 0.5 * (poses.covariance[:, 1, 1] + poses.covariance[:, 2, 2]).clamp(max=1.0)
    turn = poses.covariance[:, 0, 0].clamp(max=3e-3)
    by_ring = torch.exp(-0.5 * (2 * math.pi / grid.box_size * k) ** 2 * variance[:, None])
    return by_ring, torch.exp(-0.5 * m**2 * turn[:, None])


def accumulate(batch: Batch, poses: Poses, weight: Float[Tensor, " batch"], grid: PolarGrid) -> AverageSums:
    """Sums over a batch for the average: the M-step, blurred by the posterior of each pose.

    Without the blur, every average would be a little sharper than its particles' poses allow, and every next pose more
    certain than it is.
    """
    rings = batch.samples.shape[2]
    harmonics = in_average_frame(batch, poses, grid, grid.orders)
    by_ring, by_order = blur(poses, grid, rings, harmonics.shape[-1])
    variance = poses.defocus_variance_um2.clamp(max=0.09)
    amplitude = batch.transfer.amplitude(poses.defocus_um, variance) * (by_ring * weight[:, None])[:, None]
    numerator = torch.einsum("bqk,bqkm,bm->km", amplitude.to(harmonics.dtype), harmonics, by_order.to(harmonics.dtype))
    power = (batch.transfer.power(poses.defocus_um, variance) * weight[:, None]).sum(dim=0)
    full = AverageSums.empty(grid, batch.samples.device)
    full.numerator[:rings, : numerator.shape[1]] = numerator
    full.power[:rings] = power
    return AverageSums(full.numerator, full.power, float(weight.sum()))


@dataclass(frozen=True)
class Comparison:
    """Inner products of images with an average, ring by ring, free of each image's own part."""

    correlation: Float[Tensor, "batch channels rings"]
    gradient: Float[Tensor, "batch channels rings 3"]
    energy: Float[Tensor, "batch rings"]
    gain: Float[Tensor, "batch rings"]


def compare(
    harmonics: Tensor, template: Template, batch: Batch, own: OwnPart | None, poses: Poses, grid: PolarGrid
) -> Comparison:
    """Inner products, corrected for what the image itself put into the average.

    At the pose with which it entered, an image's own part is an autocorrelation: it adds to the correlation but has no
    gradient; away from it, it pulls back with its own curvature.
    """
    n, channels, rings, orders = harmonics.shape
    flat = torch.view_as_real(harmonics).flatten(3).permute(2, 0, 1, 3).flatten(1, 2)
    products = torch.bmm(flat, template.bank).reshape(rings, n, channels, 4).permute(1, 2, 0, 3)
    correlation, gradient = products[..., 0], products[..., 1:]
    energy, gain = template.energy[None], torch.ones_like(template.energy)[None]
    if own is None:
        return Comparison(correlation, gradient, energy, gain)
    entered = own.poses
    variance = entered.defocus_variance_um2.clamp(max=0.09)
    by_ring, by_order = blur(entered, grid, rings, orders)
    share = own.weight[:, None] * by_ring
    amplitude = batch.transfer.amplitude(entered.defocus_um, variance) * share[:, None]
    put_in = (amplitude[..., None] * harmonics).sum(dim=1) * by_order[:, None]
    weight = template.own_weight
    squared_order = torch.arange(orders, device=weight.device).to(weight) ** 2
    overlap = (harmonics * put_in.conj()[:, None]).real * weight
    own_correlation, own_turning = overlap.sum(dim=-1), overlap @ squared_order
    own_energy = torch.einsum("bkm,km->bk", squared(put_in), weight / template.total)
    shared = torch.einsum("bkm,km->bk", put_in, weight * template.harmonics.conj()).real
    entered_power = own.weight[:, None] * batch.transfer.power(entered.defocus_um, variance)
    gain = 1 / (1 - entered_power / template.ring_total).clamp(min=0.05)
    energy = (gain**2 * (energy - 2 * shared + own_energy)).clamp(min=0)
    turn, moved = _displacement(entered, poses)
    half_q2 = 0.5 * (2 * math.pi / grid.box_size * torch.arange(1, rings + 1, device=turn.device)) ** 2
    pull = torch.stack(
        [own_turning * turn[:, None, None]]
        + [own_correlation * half_q2 * moved[:, axis, None, None] for axis in (0, 1)], dim=-1,
    )  # fmt: skip
    return Comparison(
        (correlation - own_correlation) * gain[:, None], (gradient + pull) * gain[:, None, :, None], energy, gain
    )


def _displacement(before: Poses, after: Poses) -> tuple[Tensor, Tensor]:
    """Turn, wrapped, and move in the frame of the average, from one pose to another."""
    turn = after.psi - before.psi
    moved = in_frame(after.psi, after.shift - before.shift)
    return torch.atan2(torch.sin(turn), torch.cos(turn)), moved


def in_frame(psi: Tensor, vector: Tensor) -> Tensor:
    """A vector of the image in the frame of the average, ``R(psi) vector``."""
    cosine, sine, x, y = torch.cos(psi), torch.sin(psi), vector[:, 0], vector[:, 1]
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=1)


def refine(
    batch: Batch,
    template: Template,
    poses: Poses,
    grid: PolarGrid,
    steps: int,
    own: OwnPart | None = None,
) -> Poses:
    """Poses of :func:`refine_and_compare` alone."""
    return refine_and_compare(batch, template, poses, grid, steps, own)[0]


def refine_and_compare(
    batch: Batch,
    template: Template,
    poses: Poses,
    grid: PolarGrid,
    steps: int,
    own: OwnPart | None = None,
) -> tuple[Poses, Comparison]:
    """Maximise the posterior of angle and shift by Newton steps, with the whole posterior of the defocus at each.

    Angle and shift do not couple with the defocus: the derivative of the average by turn or shift is orthogonal, ring
    by ring, to the average itself.

    Parameters
    ----------
    batch
        Images; as many of their rings are used as the template has.
    template
        Average to compare with.
    poses
        Where to start.
    grid
        Where the rings are.
    steps
        Newton steps; the defocus and the likelihood are those of the last pose.
    own
        What the images contributed to the template, to be taken out.
    """
    batch = batch.inner(template.rings)
    orders = template.harmonics.shape[1]
    ring_weight = batch.ring_weight()
    prior = batch.shift_spread_px**-2
    device = batch.samples.device
    for step in range(steps + 1):
        harmonics = in_average_frame(batch, poses, grid, orders)
        found = compare(harmonics, template, batch, own, poses, grid)
        defocus = batch.defocus.posterior(found.correlation * ring_weight, found.energy * ring_weight, batch.transfer)
        information = batch.transfer.power(defocus.mean_um, defocus.variance_um2) * ring_weight * found.gain
        hessian = torch.einsum("bk,kij->bij", information, template.information)
        hessian = hessian + prior * torch.diag(torch.tensor([0.0, 1.0, 1.0], device=device))
        hessian = hessian + torch.diag(torch.tensor([1e-6, 0.0, 0.0], device=device))
        log_likelihood = defocus.log_likelihood - 0.5 * prior * poses.shift.square().sum(dim=1)
        if step == steps:
            covariance = torch.linalg.inv(hessian.double()).float()
            found_poses = Poses(
                poses.psi, poses.shift, defocus.mean_um, covariance, defocus.variance_um2, log_likelihood
            )
            return found_poses, found
        amplitude = batch.transfer.amplitude(defocus.mean_um, defocus.variance_um2) * ring_weight
        gradient = (amplitude[..., None] * found.gradient).sum(dim=(1, 2))
        gradient[:, 1:] -= prior * in_frame(poses.psi, poses.shift)
        move = torch.linalg.solve(hessian.double(), gradient.double()).float()
        psi, shift = recentred(
            poses, move[:, 0].clamp(-LARGEST_TURN_rad, LARGEST_TURN_rad),
            move[:, 1:].clamp(-LARGEST_MOVE_px, LARGEST_MOVE_px),
        )  # fmt: skip
        poses = Poses(psi, shift, defocus.mean_um, poses.covariance, defocus.variance_um2, log_likelihood)
    raise AssertionError("unreachable")
