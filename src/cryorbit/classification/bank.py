"""The averages of all classes on rings: sums over particles, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorbit.alignment.templates import AverageSums, Geometry, order_weight


@dataclass(frozen=True)
class ClassSums:
    """Sums over particles, of each class, from which averages are made; sums of parts add up.

    Attributes
    ----------
    numerator
        Turned and centred images times transfer function, shape (classes, rings, orders).
    power
        Squares of the transfer function, shape (classes, rings).
    particles
        Sums of the probabilities to belong to each class, shape (classes,).
    """

    numerator: Complex[Tensor, "classes rings orders"]
    power: Float[Tensor, "classes rings"]
    particles: Float[Tensor, " classes"]

    @classmethod
    def empty(cls, classes: int, rings: int, orders: int, device: torch.device) -> ClassSums:
        """Sums over nothing."""
        numerator = torch.zeros(classes, rings, orders, dtype=torch.complex64, device=device)
        return cls(numerator, torch.zeros(classes, rings, device=device), torch.zeros(classes, device=device))

    @property
    def log_share(self) -> Float[Tensor, " classes"]:
        """Logarithm of each class's share, as if each had one particle more."""
        return ((self.particles + 1.0) / (self.particles.sum() + len(self.particles))).log()

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(self.numerator + other.numerator, self.power + other.power, self.particles + other.particles)

    def times(self, factor: float) -> ClassSums:
        """As if each particle counted so much."""
        return ClassSums(self.numerator * factor, self.power * factor, self.particles * factor)

    def replaced(self, number: int, by: int, share: float) -> ClassSums:
        """The sums of one class in the place of another's, at a share of what they are."""
        numerator, power, particles = self.numerator.clone(), self.power.clone(), self.particles.clone()
        numerator[number], power[number] = share * numerator[by], share * power[by]
        particles[number] = share * particles[by]
        return ClassSums(numerator, power, particles)


@dataclass(frozen=True)
class Bank:
    """What images are compared with.

    Attributes
    ----------
    harmonics
        Averages on the innermost rings, shape (classes, rings, orders).
    log_share
        Logarithm of the share of the particles that each class has, shape (classes,).
    """

    harmonics: Complex[Tensor, "classes rings orders"]
    log_share: Float[Tensor, " classes"]

    def __len__(self) -> int:
        return len(self.harmonics)

    @property
    def rings(self) -> int:
        """Number of rings."""
        return self.harmonics.shape[1]

    @cached_property
    def energy(self) -> Float[Tensor, "classes rings"]:
        """Mean power around each ring."""
        weight = order_weight(self.harmonics.shape[2]).to(self.log_share.device)
        return self.harmonics.abs().square() @ weight

    def of_shape(self, rings: int, orders: int) -> Complex[Tensor, "classes rings orders"]:
        """The averages on so many rings and orders, zero where they have none."""
        wide = self.harmonics.new_zeros(len(self), rings, orders)
        part = self.harmonics[:, :rings, :orders]
        wide[:, : part.shape[1], : part.shape[2]] = part
        return wide


def bank_of(sums: ClassSums, noise: Float[Tensor, " rings"], geometry: Geometry) -> Bank:
    """Wiener-filtered averages of all classes, and their shares.

    Parameters
    ----------
    sums
        Of all classes, on the innermost rings.
    noise
        Variance that white noise of the same power would have in a pixel, for each ring of the grid, shape (rings,).
    geometry
        Of the alignment.
    """
    grid, rings = geometry.grid, sums.numerator.shape[1]
    orders = min(sums.numerator.shape[2], grid.orders)
    found = []
    for numerator, power, particles in zip(sums.numerator, sums.power, sums.particles, strict=True):
        whole = AverageSums.empty(grid, numerator.device)
        whole.numerator[:rings, :orders] = numerator[:, :orders]
        whole.power[:rings] = power
        found.append(geometry.template(AverageSums(whole.numerator, whole.power, float(particles)), noise, rings))
    return Bank(torch.stack([template.harmonics for template in found]), sums.log_share)
