"""What particles are classified by: the averages of all classes, and what is known of noise and shifts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.images import RingImages
from cryorbit.alignment.search import CircleSearch, shift_grid
from cryorbit.alignment.templates import Geometry, Template
from cryorbit.classification.bank import Bank
from cryorbit.classification.joint import Assignment, batch_for, compare_with_all, most_likely
from cryorbit.classification.learn import SEARCH_CYCLES, SHIFT_RANGE_OF_BOX, SHIFT_STEP_OF_BOX, rings_of
from cryorbit.classification.mirror import with_reflections


@dataclass(frozen=True)
class ClassModel:
    """What particles are classified by.

    Attributes
    ----------
    bank
        Averages that all images are compared with, on the innermost rings.
    templates
        The average of each class on all rings; None of a class that nobody belongs to.
    noise
        Variance of each optics group on each ring, shape (groups, rings).
    mean_noise
        Over the optics groups by their particles, shape (rings,).
    shift_spread_px
        Standard deviation of the prior of the shift.
    tied
        Whether a view and its reflection are one class.
    """

    bank: Bank
    templates: tuple[Template | None, ...]
    noise: Float[Tensor, "groups rings"]
    mean_noise: Float[Tensor, " rings"]
    shift_spread_px: float
    tied: bool = False

    def __len__(self) -> int:
        return len(self.bank)

    @property
    def search_bank(self) -> Bank:
        """What images are compared with on the grid: all averages, with their reflections where these are tied."""
        return with_reflections(self.bank) if self.tied else self.bank

    def search(self, images: RingImages, geometry: Geometry, particle_radius_px: float) -> CircleSearch:
        """The grid on which images are compared with all classes."""
        box = geometry.grid.box_size
        shifts = shift_grid(SHIFT_RANGE_OF_BOX * box, SHIFT_STEP_OF_BOX * box)
        rings = min(self.bank.rings, rings_of(SEARCH_CYCLES, geometry, particle_radius_px))
        return CircleSearch(images.grid, rings, shifts, 1.0, images.device)


def classify(images: RingImages, model: ClassModel, search: CircleSearch) -> Assignment:
    """The peak of the joint posterior of each image, on the grid, with reflections after all classes if tied."""
    found, order = [], []
    size = batch_for(len(model.search_bank))
    for rows, batch in images.batches(model.noise, model.shift_spread_px, size, search.rings):
        nowhere = torch.zeros(len(batch), 2, device=images.device)
        scores = compare_with_all(search, batch, model.search_bank, nowhere)
        found.append(most_likely(search, scores, model.tied))
        order.append(rows)
    return Assignment.concatenate(found).of_rows(torch.cat(order).argsort())
