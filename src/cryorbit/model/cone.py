"""The cone of the latent space: angle around it, defocus along it.

The paper's regulariser draws latent points to the cone ``z1^2 + z2^2 = z3^2`` (section 3.1.3). Here the cone gets
coordinates, so that a training can be told where on it an image belongs, and a latent point can be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.conventions import FloatArray

# The cone's tip is where the angle means nothing, and the prior thins out beyond 2: defoci lie between.
NEAREST, FARTHEST = 0.5, 1.5


@dataclass(frozen=True)
class Cone:
    """Coordinates on the cone, ``z = (r cos n psi, r sin n psi, r)`` with r growing with the defocus.

    Attributes
    ----------
    low_um, high_um
        Defoci at radius 0.5 and 1.5; the map is linear and goes on beyond them.
    order
        n of the isotropy group C_n: angles that look alike share a point (paper, Proposition 1).
    """

    low_um: float
    high_um: float
    order: int = 1

    def radius(self, defocus_um: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Distance from the axis, and height along it, of a defocus in micrometres."""
        share = (defocus_um - self.low_um) / (self.high_um - self.low_um)
        return NEAREST + (FARTHEST - NEAREST) * share

    def points(self, psi_rad: Float[Tensor, " batch"], defocus_um: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3"]:
        """Where images of an angle and a defocus belong."""
        radius, angle = self.radius(defocus_um), self.order * psi_rad
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), radius], dim=1)

    def defocus_um(self, height: NDArray[np.floating]) -> FloatArray:
        """Defocus at heights z3 of latent points."""
        share = (height.astype(np.float64) - NEAREST) / (FARTHEST - NEAREST)
        return np.asarray(self.low_um + (self.high_um - self.low_um) * share)

    @property
    def um_per_height(self) -> float:
        """Micrometres of defocus in one unit of height."""
        return (self.high_um - self.low_um) / (FARTHEST - NEAREST)
