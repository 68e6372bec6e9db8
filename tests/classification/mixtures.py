"""Images of several views of blobs in one order of chance, with their view and pose."""

from __future__ import annotations

import math

import numpy as np
import torch

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.images import RingImages
from cryorbit.classification.learn import Phase

from ..alignment.blobs import SEARCHED_um, Truth, draw_truth, make_specimen, ring_images, seen, white_noise

QUICK = (
    Phase(4.0, 12, False, 3, 4 / 128, 2 / 128),
    Phase(7.0, 6, True, 2, 2 / 128, 2 / 128),
)


def mixed(views: int, each: int, seed: int, noise: float) -> tuple[RingImages, np.ndarray, Truth]:
    """Images on rings, their views, and their poses."""
    truths = [draw_truth(each, 100 * seed + view, shift_px=0.7) for view in range(views)]
    samples = torch.cat([seen(truth, make_specimen(10 + view)) for view, truth in enumerate(truths)])
    order = np.random.default_rng(seed).permutation(views * each)
    names = ("psi", "shift_px", "defocus_um")
    joined = Truth(*(np.concatenate([getattr(truth, name) for truth in truths])[order] for name in names))
    samples = samples[torch.from_numpy(order)] + math.sqrt(noise) * white_noise(views * each, seed)
    fixed = torch.from_numpy(joined.defocus_um).float()
    return (
        ring_images(samples, DefocusRange(SEARCHED_um, fixed_um=fixed)),
        np.repeat(np.arange(views), each)[order],
        joined,
    )
