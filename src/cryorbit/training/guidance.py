"""Guided training: what the encoder is told of angle and defocus, and images drawn from the average to learn on.

The alignment finds angle and defocus of the training particles, and their average. The encoder learns from both: from
the particles as they are, under new turns, and from images drawn from the average at any angle, shift and defocus,
of which the truth is known exactly and no two are alike (the sleep phase of the wake-sleep algorithm: Hinton,
Dayan, Frey & Neal 1995). No label of the user's enters. A particle is judged by the encoder alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.model.cone import Cone
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.aligned import AlignedSet, KnownPoses
from cryorbit.training.drawing import ImageSampler

# Of drawn images, this many show junk.
JUNK_SHARE = 0.15


class DrawnLesson(NamedTuple):
    """Drawn images, where they belong, and whether they belong anywhere: 1 for particles, 0 for junk."""

    images: Float[Tensor, "batch h w"]
    points: Float[Tensor, "batch 3"]
    is_particle: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Guide:
    """All that a guided training is told.

    Attributes
    ----------
    poses
        Of the images of the cache.
    sampler
        Draws further ones.
    cone
        Where on the cone an image belongs.
    """

    poses: KnownPoses
    sampler: ImageSampler
    cone: Cone

    @classmethod
    def of(cls, cache: ParticleCache, aligned: AlignedSet, seed: int) -> Guide:
        """Measure what is drawn, and lay the cone over its range of defoci."""
        sampler = ImageSampler(cache, aligned, seed)
        return cls(aligned.poses, sampler, Cone(sampler.low_um, sampler.high_um, aligned.isotropy_order))

    def points(
        self, rows: NDArray[np.int64], turned_deg: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Where images of the cache belong after further turns, and their weights."""
        psi_deg = torch.from_numpy(self.poses.psi_deg[rows]).float() + turned_deg.cpu()
        defocus = torch.from_numpy(self.poses.defocus_um[rows]).float()
        return self.cone.points(torch.deg2rad(psi_deg), defocus), self.weight_of(rows)

    def weight_of(self, rows: NDArray[np.int64]) -> Float[Tensor, " batch"]:
        """Weights of images of the cache."""
        return torch.from_numpy(self.poses.weight[rows]).float()

    def draw(self, n_images: int) -> DrawnLesson:
        """Particles from the average, and where they belong, and junk, which belongs nowhere.

        So the encoder learns to say of junk that nothing is known: its latent points lie far from the cone and its
        variances are large, by which outliers are found.
        """
        n_junk = round(JUNK_SHARE * n_images)
        drawn = self.sampler.draw(n_images - n_junk)
        images = torch.cat([drawn.images, self.sampler.draw_junk(n_junk)])
        points = torch.cat([self.cone.points(drawn.psi_rad, drawn.defocus_um), torch.zeros(n_junk, 3)])
        return DrawnLesson(images, points, (torch.arange(n_images) < n_images - n_junk).float())
