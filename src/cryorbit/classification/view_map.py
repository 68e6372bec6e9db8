"""A map of all views: particles that are alike to the same classes lie together, however they are turned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

AXES = 3


@dataclass(frozen=True)
class ViewMap:
    """Principal axes of how alike particles are to the classes, which no turn of a particle changes.

    Attributes
    ----------
    counted
        Classes that count, shape (counted,).
    mean
        Shape (counted,).
    axes
        Orthonormal, shape (axes, counted).
    """

    counted: Int[Tensor, " counted"]
    mean: Float[Tensor, " counted"]
    axes: Float[Tensor, "axes counted"]

    @classmethod
    def of(cls, likeness: Float[Tensor, "images classes"], counted: Int[Tensor, " counted"]) -> ViewMap:
        """Axes along which a sample of particles varies most.

        Parameters
        ----------
        likeness
            Log-posterior of each class at its best pose, up to a constant for each image.
        counted
            Classes of particles; how unlike a piece of junk is to each of them tells no view apart.
        """
        direction = _direction(likeness[:, counted])
        mean = direction.mean(dim=0)
        # The sign of an axis means nothing: its largest part is positive, so that two runs agree.
        axes = torch.linalg.svd(direction - mean, full_matrices=False).Vh[:AXES]
        largest = axes.abs().argmax(dim=1, keepdim=True)
        return cls(counted, mean, axes * axes.gather(1, largest).sign())

    def coordinates(self, likeness: Float[Tensor, "images classes"]) -> Float[Tensor, "images axes"]:
        """Place of each particle, shape (images, axes)."""
        place: Tensor = (_direction(likeness[:, self.counted]) - self.mean) @ self.axes.T
        return place


def _direction(likeness: Tensor) -> Tensor:
    """Which classes an image is alike to more than to others: how clearly depends on its defocus, and is left out."""
    relative = likeness - likeness.mean(dim=1, keepdim=True)
    direction: Tensor = relative / torch.linalg.vector_norm(relative, dim=1, keepdim=True).clamp(min=1e-9)
    return direction
