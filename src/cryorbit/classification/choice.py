"""How many views a data set has: as many classes as images that were held out are better explained by."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.images import RingImages
from cryorbit.alignment.search import CircleSearch, shift_grid
from cryorbit.alignment.templates import Geometry
from cryorbit.classification.joint import batch_for, compare_with_all
from cryorbit.classification.learn import (
    SHIFT_RANGE_OF_BOX,
    SHIFT_STEP_OF_BOX,
    Classes,
    Notify,
    Phase,
    learn_classes,
    rings_of,
)
from cryorbit.classification.mirror import with_reflections

# The most that is tried, and the fewest particles for a class of it.
MOST_VIEWS, PARTICLES_PER_VIEW = 128, 50
# Particles that the choice is made with, and the share of them that is held out.
SAMPLE, HELD_OUT = 5000, 0.2
# Share of the held-out images, at either end of what they gain, that does not count: a few pieces of junk that are all
# the same could decide alone.
TRIMMED = 0.1
# A learning may end in a poor solution: doublings without a gain after which no further one is tried.
PATIENCE = 2
PHASES = (
    Phase(6.0, 12, False, 4, SHIFT_RANGE_OF_BOX, SHIFT_STEP_OF_BOX),
    Phase(9.0, 10, False, 5, 2 / 128, 2 / 128),
)
# More classes are taken if held-out images gain so many nats each, in the mean and beyond so many standard errors.
LEAST_GAIN_NATS, STANDARD_ERRORS = 0.2, 2.0


def choose_views(
    images: RingImages,
    geometry: Geometry,
    particle_radius_px: float,
    seed: int,
    tied: bool = False,
    notify: Notify = lambda _note, _part: None,
    particles_per_view: int = PARTICLES_PER_VIEW,
) -> int:
    """Enough classes for all views: doubled as long as the images that were held out gain by it, and once more.

    Views of a particle from all sides are no finite number, and more of them always explain more: then the number of
    particles is what limits the classes.

    Parameters
    ----------
    images
        A sample of the data set, with known defoci.
    geometry, particle_radius_px
        As for :func:`cryorbit.classification.learn.learn_classes`.
    seed
        Of all that is random.
    tied
        Whether a view and its reflection are one class.
    notify
        Told what is going on and what part is done.
    particles_per_view
        No more classes than leave so many images of the sample for each.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[:SAMPLE]
    held = max(1, round(HELD_OUT * len(rows)))
    few, others = images.of_rows(rows[held:].to(images.device)), images.of_rows(rows[:held].to(images.device))
    doublings = max(0, int(math.log2(max(1, min(MOST_VIEWS, len(images) // particles_per_view)))))
    views, best, in_vain = 1, None, 0
    for tried in (2**k for k in range(doublings + 1)):
        notify(f"trying {tried} view{'s' if tried > 1 else ''}", tried / 2 ** (doublings + 1))
        classes = learn_classes(few, geometry, particle_radius_px, tried, seed, PHASES, tied)
        found = held_out_evidence(others, classes, geometry, particle_radius_px)
        if best is None or is_gain(found - best):
            views, best, in_vain = tried, found, 0
        else:
            in_vain += 1
            if in_vain == PATIENCE:
                break
    # There may be more views than this doubling has and fewer than the next; copies are merged in the end.
    return 2 * views if 1 < views < 2**doublings else views


def is_gain(nats: Float[Tensor, " images"]) -> bool:
    """Whether images gain in the trimmed mean, by more than chance would have it."""
    cut = round(TRIMMED * len(nats))
    middle = nats.sort().values[cut : len(nats) - cut]
    error = float(middle.std()) / len(middle) ** 0.5 if len(middle) > 1 else math.inf
    return float(middle.mean()) > max(LEAST_GAIN_NATS, STANDARD_ERRORS * error)


def held_out_evidence(
    images: RingImages, classes: Classes, geometry: Geometry, particle_radius_px: float
) -> Float[Tensor, " images"]:
    """Log-likelihood of images that classes were not learnt from, over that of noise, all poses averaged over."""
    box = geometry.grid.box_size
    rings = rings_of(PHASES[-1].cycles, geometry, particle_radius_px)
    shifts = shift_grid(SHIFT_RANGE_OF_BOX * box, SHIFT_STEP_OF_BOX * box)
    search = CircleSearch(images.grid, rings, shifts, 1.0, images.device)
    bank = with_reflections(classes.bank) if classes.tied else classes.bank
    found = torch.zeros(len(images), device=images.device)
    for rows, batch in images.batches(classes.noise, classes.shift_spread_px, batch_for(len(bank)), rings):
        nowhere = torch.zeros(len(batch), 2, device=images.device)
        found[rows] = compare_with_all(search, batch, bank, nowhere).log_evidence
    return found
