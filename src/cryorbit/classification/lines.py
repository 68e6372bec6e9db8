"""Whether averages are views of one object: the transforms of any two projections of it share a line.

References
----------
Central section theorem and common lines: Crowther 1971, Philos. Trans. R. Soc. B 261, 221; van Heel 1987,
Ultramicroscopy 21, 111.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.polar import to_samples
from cryorbit.classification.bank import Bank

# Rings within so many cycles across the particle are much the same for all compact objects.
FIRST_CYCLES = 1.5
# The centres of averages differ by as much, in parts of the box.
OFFSET_OF_BOX, OFFSET_STEP_OF_BOX = 3 / 128, 1 / 128


def common_lines(bank: Bank, box_size: int, particle_radius_px: float) -> Float[Tensor, "classes classes"]:
    """Correlation of the two most similar lines of every two averages; NaN on the diagonal.

    Lines are compared at all pairs of angles and at some offsets of their centres along them. Rings count by
    the number of Fourier coefficients they hold.

    Parameters
    ----------
    bank
        The averages.
    box_size
        Width of the box in pixels.
    particle_radius_px
        Of the particle.
    """
    rings, orders = bank.rings, bank.harmonics.shape[2]
    first = min(rings - 2, int(FIRST_CYCLES * box_size / (2 * particle_radius_px)))
    half = to_samples(bank.harmonics, 2 * orders)
    ring = torch.arange(1, rings + 1, device=half.device)[first:]
    lines = torch.cat([half, half.conj()], dim=2)[:, first:] * ring.sqrt()[:, None]
    lines = lines / torch.linalg.vector_norm(lines, dim=1, keepdim=True).clamp(min=1e-12)
    best = half.real.new_full((len(bank), len(bank)), -1.0)
    others = half.shape[2]
    steps = round(OFFSET_OF_BOX / OFFSET_STEP_OF_BOX)
    for step in range(-steps, steps + 1):
        angle = 2 * math.pi * OFFSET_STEP_OF_BOX * step * ring
        moved = lines * torch.polar(torch.ones_like(angle), angle)[:, None]
        for number, line in enumerate(moved[:-1]):
            # A line and its reverse are conjugate: half a turn of the other one is enough. And so is half of the pairs.
            later = slice(number + 1, None)
            alike = torch.einsum("ka,ckb->cab", line, lines[later, :, :others].conj()).real
            best[number, later] = torch.maximum(best[number, later], alike.amax(dim=(1, 2)))
    return torch.maximum(best, best.T).fill_diagonal_(torch.nan)


def agreement(
    lines: Float[Tensor, "classes classes"], particles: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """Median of each class's correlations with the others, weighted by their particles; NaN where there is no other."""
    found = []
    for number, row in enumerate(lines):
        others = torch.arange(len(row), device=row.device) != number
        values, order = row[others].sort()
        weight = particles[others][order].cumsum(dim=0)
        if not len(values) or float(weight[-1]) == 0:
            found.append(row.new_tensor(torch.nan))
            continue
        found.append(values[int(torch.searchsorted(weight, 0.5 * weight[-1]).clamp(max=len(values) - 1))])
    return torch.stack(found)
