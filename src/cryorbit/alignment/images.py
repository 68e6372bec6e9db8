"""Images of a data set on rings, in memory, handed out in batches of one optics group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.polar import PolarGrid, squared
from cryorbit.alignment.refine import Batch
from cryorbit.alignment.transfer import RingTransfer

# A GPU has work for its thousands of cores, and memory, for so many times what suits a core and its cache.
TIMES_ON_GPU = 16


def batch_size(on_a_core: int, device: torch.device) -> int:
    """Images to work on at once; what comes out does not depend on it."""
    return on_a_core * (TIMES_ON_GPU if device.type == "cuda" else 1)


@dataclass(frozen=True)
class RingImages:
    """Particles on rings and what their files say of them.

    Attributes
    ----------
    samples
        Shape (n, rings, half).
    group
        Optics group of each, counted from 0, shape (n,).
    transfers
        Of each group, without astigmatism.
    astigmatism_um, astigmatism_rad
        Half the difference between the defoci along the two axes, and the direction of the larger one, shape (n,).
    defocus
        What is known of the defocus.
    grid
        Where the rings are.
    """

    samples: Complex[Tensor, "n rings half"]
    group: Int[Tensor, " n"]
    transfers: tuple[RingTransfer, ...]
    astigmatism_um: Float[Tensor, " n"]
    astigmatism_rad: Float[Tensor, " n"]
    defocus: DefocusRange
    grid: PolarGrid

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.samples.device

    def of_rows(self, rows: Int[Tensor, " rows"]) -> RingImages:
        """Some of the images."""
        return RingImages(
            self.samples[rows], self.group[rows], self.transfers, self.astigmatism_um[rows], self.astigmatism_rad[rows],
            self.defocus.of_rows(rows), self.grid,
        )  # fmt: skip

    def batches(
        self, noise: Float[Tensor, "groups rings"], shift_spread_px: float, size: int, rings: int | None = None
    ) -> Iterator[tuple[Tensor, Batch]]:
        """Batches of images from one optics group, with their rows.

        Parameters
        ----------
        noise
            Variance of the noise of each group on each ring, as if in a pixel.
        shift_spread_px
            Standard deviation of the prior of the shift.
        size
            Most images in a batch on a CPU; a GPU gets more at once.
        rings
            How many of the innermost rings to hand out. Default: all.
        """
        count = rings or self.grid.rings
        for number, transfer in enumerate(self.transfers):
            members = torch.nonzero(self.group == number).flatten()
            # An empty tensor would still be split into one part.
            for rows in torch.split(members, batch_size(size, self.device)) if len(members) else ():
                own = self._transfer(transfer, rows).rings(count)
                samples = own.split(self.samples[rows, :count], self.grid)
                yield rows, Batch(
                    samples, own, self.defocus.of_rows(rows), noise[number, :count], shift_spread_px,
                    self.grid.box_size,
                )  # fmt: skip

    @cached_property
    def is_astigmatic(self) -> bool:
        """Whether astigmatism matters for any of the images: then all of them have two channels."""
        return any(transfer.is_astigmatic(self.astigmatism_um) for transfer in self.transfers)

    def _transfer(self, transfer: RingTransfer, rows: Tensor) -> RingTransfer:
        if not self.is_astigmatic:
            return transfer
        return transfer.with_astigmatism(self.astigmatism_um[rows], self.astigmatism_rad[rows])

    def mean_coherence(self) -> Float[Tensor, "groups rings"]:
        """What astigmatism leaves of the oscillation of the squared transfer function, the mean of each group."""
        rows = []
        for number, transfer in enumerate(self.transfers):
            members = self.group == number
            coherence = self._transfer(transfer, members).ring_coherence()
            rows.append(coherence.mean(dim=0) if len(coherence) else torch.ones_like(transfer.slope_per_um))
        return torch.stack(rows)

    def ring_power(self) -> Float[Tensor, "groups rings"]:
        """Mean power around each ring by optics group; that of all where a group is empty."""
        every = torch.stack([squared(part).mean(dim=1) for part in self.samples])
        groups = [every[self.group == number] for number in range(len(self.transfers))]
        return torch.stack([(part if len(part) else every).mean(dim=0) for part in groups])
