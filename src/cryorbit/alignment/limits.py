"""What the data allow: the Cramer-Rao bound of angle, shift and defocus."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.templates import Template
from cryorbit.alignment.transfer import RingTransfer


@dataclass(frozen=True)
class Limits:
    """Smallest standard deviations that any unbiased estimate can have, by defocus; arrays of one shape.

    Attributes
    ----------
    defocus_um
        The defocus for which they hold.
    psi_rad, shift_px, defocus_limit_um
        Of the angle, of the shift along one axis, and of the defocus, each with the others unknown.
    nats
        Expected log-likelihood of the right pose over noise: below about 15, the search itself begins to fail and no
        estimate reaches the bound.
    """

    defocus_um: Float[Tensor, " values"]
    psi_rad: Float[Tensor, " values"]
    shift_px: Float[Tensor, " values"]
    defocus_limit_um: Float[Tensor, " values"]
    nats: Float[Tensor, " values"]


def limits_at(
    defocus_um: Float[Tensor, " values"], template: Template, noise: Float[Tensor, " rings"], transfer: RingTransfer
) -> Limits:
    """The bound for particles that look like an average, of which the average and the noise are known.

    Parameters
    ----------
    defocus_um
        At which to evaluate it.
    template
        The average; where it is itself uncertain, its filter has damped it, and the bound is a little too large.
    noise
        Variance of the noise on each ring, as if in a pixel.
    transfer
        Transfer function of the optics group.

    References
    ----------
    Fisher information of a signal in Gaussian noise: Kay 1993, Fundamentals of Statistical Signal Processing I,
    equation 3.33.
    """
    rings = template.rings
    inner = transfer.rings(rings)
    weight = 2 * math.pi * torch.arange(1, rings + 1, device=noise.device) / (template.box_size**2 * noise[:rings])
    chi = inner.chi(defocus_um)
    power = torch.sin(chi).square() * weight
    pose = torch.einsum("vk,kij->vij", power, template.information)
    covariance = torch.linalg.inv(pose.double() + 1e-9 * torch.eye(3, device=pose.device)).float()
    across = (torch.cos(chi) * inner.slope_per_um).square() * weight
    return Limits(
        defocus_um=defocus_um,
        psi_rad=covariance[:, 0, 0].sqrt(),
        shift_px=(0.5 * (covariance[:, 1, 1] + covariance[:, 2, 2])).sqrt(),
        defocus_limit_um=(across @ template.energy).clamp(min=1e-12).rsqrt(),
        nats=0.5 * power @ template.energy,
    )
