"""The class average on rings: sums over particles, regularised by what is known of signal and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorbit.alignment.polar import EXTRA_ORDERS, PolarGrid, box_mask
from cryorbit.preprocessing.normalise import radius_px

# Where the sums hold no signal that could be told from noise, the average is damped to this share of the noise.
LEAST_SIGNAL = 0.05
# Rings and orders over which the power of the signal is averaged.
SMOOTHED_RINGS = 5
SMOOTHED_ORDERS = 9


def order_weight(orders: int) -> Float[Tensor, " orders"]:
    """2 for every order but 0: each stands for its negative as well."""
    weight = torch.full((orders,), 2.0)
    weight[0] = 1.0
    return weight


def order_limit(grid: PolarGrid, radius_px: float) -> Float[Tensor, "rings orders"]:
    """1 for the orders that an object of this radius has on a ring, 0 beyond."""
    highest = 2 * math.pi * radius_px / grid.box_size * grid.radius + 0.6 * EXTRA_ORDERS
    return (torch.arange(grid.orders) <= highest[:, None]).float()


def noise_by_order(grid: PolarGrid) -> Float[Tensor, "rings orders"]:
    """Power of each harmonic for white noise of variance 1 seen through the box's disc.

    The integral of ``mask(r)^2 J_m(2 pi k r / n)^2`` over the disc, by the Jacobi-Anger expansion of a plane wave; the
    Bessel functions are the Fourier coefficients of ``exp(i x sin theta)``.
    """
    n = grid.box_size
    mask, radius = box_mask(n), radius_px(n)
    middle = torch.arange(0.25, n / 2 + 0.5, 0.5)
    slot = (radius.flatten() * 2).long().clamp(max=len(middle) - 1)
    weight = torch.zeros(len(middle)).index_add_(0, slot, mask.flatten() ** 2)
    theta = torch.arange(2 * grid.angles) * (math.pi / grid.angles)
    powers = []
    for k in grid.radius:
        wave = (2 * math.pi / n * k * middle)[:, None] * torch.sin(theta)
        bessel = torch.fft.fft(torch.polar(torch.ones_like(wave), wave), dim=1, norm="forward")[:, : grid.orders]
        powers.append(weight @ bessel.real.square())
    return torch.stack(powers)


@dataclass(frozen=True)
class AverageSums:
    """Sums over particles from which an average is made; sums of parts add up.

    Attributes
    ----------
    numerator
        Turned and centred images times transfer function, shape (rings, orders).
    power
        Squares of the transfer function, shape (rings,).
    particles
        Sum of the weights.
    """

    numerator: Complex[Tensor, "rings orders"]
    power: Float[Tensor, " rings"]
    particles: float

    @classmethod
    def empty(cls, grid: PolarGrid, device: torch.device | str = "cpu") -> AverageSums:
        """Sums over nothing."""
        numerator = torch.zeros(grid.rings, grid.orders, dtype=torch.complex64, device=device)
        return cls(numerator, torch.zeros(grid.rings, device=device), 0.0)

    def to(self, device: torch.device) -> AverageSums:
        """The same on another device."""
        return AverageSums(self.numerator.to(device), self.power.to(device), self.particles)

    def __add__(self, other: AverageSums) -> AverageSums:
        return AverageSums(self.numerator + other.numerator, self.power + other.power, self.particles + other.particles)


@dataclass(frozen=True)
class Template:
    """An average, and what refinement needs of it.

    Attributes
    ----------
    harmonics
        Shape (rings, orders).
    total
        What the numerator was divided by, shape (rings, orders).
    limit
        Orders that belong to the particle, shape (rings, orders).
    box_size
        Width of the box in pixels.
    """

    harmonics: Complex[Tensor, "rings orders"]
    total: Float[Tensor, "rings orders"]
    limit: Float[Tensor, "rings orders"]
    box_size: int

    @property
    def rings(self) -> int:
        """Number of rings."""
        return len(self.total)

    def inner(self, rings: int) -> Template:
        """The innermost rings."""
        orders = int(self.limit[:rings].sum(dim=1).max())
        return Template(
            self.harmonics[:rings, :orders], self.total[:rings, :orders], self.limit[:rings, :orders], self.box_size
        )

    @cached_property
    def energy(self) -> Float[Tensor, " rings"]:
        """Mean power around each ring."""
        weight = order_weight(self.harmonics.shape[1]).to(self.total.device)
        return self.harmonics.abs().square() @ weight

    @cached_property
    def ring_total(self) -> Float[Tensor, " rings"]:
        """Mean of ``total`` on each ring, weighted by the power of the average."""
        weight = order_weight(self.harmonics.shape[1]).to(self.total.device) * self.harmonics.abs().square()
        return (weight * self.total).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-30)

    @cached_property
    def own_weight(self) -> Float[Tensor, "rings orders"]:
        """What turns the power of an image's harmonics into its share of the inner product with the average."""
        return order_weight(self.harmonics.shape[1]).to(self.total.device) * self.limit / self.total

    @cached_property
    def derivatives(self) -> Complex[Tensor, "rings orders 4"]:
        """The average and its derivatives by turn (radians) and shift (pixels, along x and y)."""
        harmonics, device = self.harmonics, self.total.device
        order = torch.arange(harmonics.shape[1], device=device)
        before = torch.cat([-harmonics[:, 1:2].conj(), harmonics[:, :-1]], dim=1)
        after = torch.cat([harmonics[:, 1:], torch.zeros_like(harmonics[:, :1])], dim=1)
        q = (2 * math.pi / self.box_size) * torch.arange(1, self.rings + 1, device=device)[:, None]
        along_x = -0.5j * q * (before + after)
        along_y = -0.5 * q * (before - after)
        return torch.stack([harmonics, 1j * order * harmonics, along_x, along_y], dim=-1)

    @cached_property
    def bank(self) -> Float[Tensor, "rings parts 4"]:
        """Matrix per ring that takes real and imaginary parts of an image's harmonics to inner products."""
        weight = order_weight(self.harmonics.shape[1]).to(self.total.device)
        parts = torch.view_as_real(self.derivatives * weight[:, None])
        return parts.transpose(2, 3).flatten(1, 2).contiguous()

    @cached_property
    def information(self) -> Float[Tensor, "rings 3 3"]:
        """Inner products of the three derivatives on each ring."""
        weight = order_weight(self.harmonics.shape[1]).to(self.total.device)
        by_pose = self.derivatives[..., 1:]
        return torch.einsum("kmi,kmj->kij", by_pose.conj() * weight[:, None], by_pose).real.contiguous()


def make_template(
    sums: AverageSums,
    noise: Float[Tensor, " rings"],
    noise_orders: Float[Tensor, "rings orders"],
    limit: Float[Tensor, "rings orders"],
    box_size: int,
) -> Template:
    """Wiener-filtered average: ``numerator / (power + noise / signal)`` for every harmonic.

    The signal's power is that of the sums less that of their noise, averaged over neighbouring rings and orders: one
    value for a whole ring would let the noise of its high orders through, where a particle has little, and they are
    what turns are judged by.

    Parameters
    ----------
    sums
        Sums over the particles.
    noise
        Variance that white noise of the same power would have in a pixel, for each ring, shape (rings,).
    noise_orders
        Of :func:`noise_by_order`.
    limit
        Orders to keep.
    box_size
        Width of the box in pixels.
    """
    numerator = sums.numerator * limit
    one_image = noise[:, None] * noise_orders
    power = sums.power.clamp(min=1e-6)[:, None]
    expected = one_image / power
    excess = numerator.abs().square() / power**2 - expected * limit
    # Relative to the noise, so that steep spectra do not leak into their neighbours.
    relative = _smoothed(excess / one_image.clamp(min=1e-30), limit) * power
    relative = relative.clamp(min=LEAST_SIGNAL)
    total = power * (1 + 1 / relative)
    return Template(numerator / total, total, limit, box_size)


def _smoothed(values: Tensor, inside: Tensor) -> Tensor:
    """Mean over neighbouring rings and orders, among those inside; orders continue to their mirror image."""
    rings, orders = SMOOTHED_RINGS // 2, SMOOTHED_ORDERS // 2

    def total(array: Tensor) -> Tensor:
        mirrored = torch.cat([array[:, 1 : orders + 1].flip(1), array], dim=1)
        wide = torch.nn.functional.pad(mirrored, (0, orders, rings, rings))[None, None]
        return torch.nn.functional.avg_pool2d(wide, (SMOOTHED_RINGS, SMOOTHED_ORDERS), stride=1)[0, 0]

    return total(values * inside) / total(inside).clamp(min=1e-6)


@dataclass(frozen=True)
class Geometry:
    """What stays the same throughout an alignment.

    Attributes
    ----------
    grid
        Where the rings are.
    noise_orders
        Power of each harmonic for white noise of variance 1 in a pixel, shape (rings, orders).
    limit
        1 for the orders that a particle has, shape (rings, orders).
    """

    grid: PolarGrid
    noise_orders: Float[Tensor, "rings orders"]
    limit: Float[Tensor, "rings orders"]

    @classmethod
    def of(cls, grid: PolarGrid, particle_radius_px: float, device: torch.device | str = "cpu") -> Geometry:
        """Geometry for particles of a radius."""
        return cls(grid, noise_by_order(grid).to(device), order_limit(grid, particle_radius_px).to(device))

    @property
    def noise_power(self) -> float:
        """Mean power around a ring for white noise of variance 1 in a pixel."""
        return float(self.noise_orders[0] @ order_weight(self.grid.orders).to(self.noise_orders.device))

    def template(self, sums: AverageSums, noise: Float[Tensor, " rings"], rings: int) -> Template:
        """Wiener-filtered average on the innermost rings."""
        return make_template(sums, noise, self.noise_orders, self.limit, self.grid.box_size).inner(rings)
