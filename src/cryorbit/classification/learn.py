"""Learning the averages of many classes from a sample of images, from nothing else: soft assignment, coarse to fine.

Every image belongs to every class, angle and shift by its posterior. It begins with parts of the sample, of which a
round costs little, and with few rings, on which there are few wrong solutions; classes that nobody belongs to are given
to the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.average import BATCH, mean_noise
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses, in_average_frame
from cryorbit.alignment.search import CircleSearch, shift_grid
from cryorbit.alignment.templates import Geometry
from cryorbit.classification.bank import Bank, ClassSums, bank_of
from cryorbit.classification.joint import (
    Assignment,
    batch_for,
    compare_with_all,
    known_defocus,
    most_likely,
    sums_of_all,
)
from cryorbit.classification.mirror import folded_sums, with_reflections

# Images that a first average is made of, each at a turn of chance.
FIRST_IMAGES = 30
# Images of a part of the sample, for each class, and at least.
PART_PER_CLASS, SMALLEST_PART = 25, 1000
# How much of the sums the last part makes, the rest being those of before.
FRESH_SHARE = 0.5
# A class is given up below this share of the mean number of particles, and another split above that one.
FEW, MANY = 0.25, 1.3
# How different the two classes of a split begin, in units of the average's own strength.
SPLIT_CHANGE = 0.3
LEAST_NOISE = 0.02
SHIFT_SPREAD_OF_BOX = 2.5 / 128
# What images are compared with once the classes are there.
SEARCH_CYCLES, SHIFT_RANGE_OF_BOX, SHIFT_STEP_OF_BOX = 12.0, 4 / 128, 2 / 128

Notify = Callable[[str, float], None]


@dataclass(frozen=True)
class Phase:
    """A part of the schedule.

    Attributes
    ----------
    cycles
        Cycles across the particle's diameter on the last ring.
    rounds
        How many.
    whole
        Whether each round sees the whole sample, or a part of it.
    split_every
        Rounds between splits of classes.
    shift_range_of_box, shift_step_of_box
        Which shifts are tried around those of before.
    """

    cycles: float
    rounds: int
    whole: bool
    split_every: int
    shift_range_of_box: float
    shift_step_of_box: float


PHASES = (
    Phase(6.0, 20, False, 4, SHIFT_RANGE_OF_BOX, SHIFT_STEP_OF_BOX),
    Phase(9.0, 20, False, 5, 2 / 128, 2 / 128),
    Phase(9.0, 4, True, 2, 2 / 128, 2 / 128),
    Phase(12.0, 6, True, 3, 2 / 128, 2 / 128),
)


@dataclass(frozen=True)
class Classes:
    """What was learnt.

    Attributes
    ----------
    bank, sums
        The averages, and the sums that they are made of.
    noise
        Variance of each optics group on each ring, shape (groups, rings).
    shift_spread_px
        Standard deviation of the prior of the shift.
    assigned
        Of the sample's images: among the classes, and their reflections after them where these are tied.
    tied
        Whether a view and its reflection are one class.
    """

    bank: Bank
    sums: ClassSums
    noise: Float[Tensor, "groups rings"]
    shift_spread_px: float
    assigned: Assignment
    tied: bool = False

    def __len__(self) -> int:
        return len(self.sums.particles)


@dataclass
class _Progress:
    """Where the learning has got to; what is known of each image stays from round to round."""

    bank: Bank
    noise: Float[Tensor, "groups rings"]
    centre: Float[Tensor, "n 2"]
    spread_px: float


def rings_of(cycles: float, geometry: Geometry, particle_radius_px: float) -> int:
    """Ring on which so many cycles cross a particle."""
    grid = geometry.grid
    return min(grid.rings, max(3, round(cycles * grid.box_size / (2 * particle_radius_px))))


def learn_classes(
    images: RingImages,
    geometry: Geometry,
    particle_radius_px: float,
    classes: int,
    seed: int,
    phases: tuple[Phase, ...] = PHASES,
    tied: bool = False,
    notify: Notify = lambda _note, _part: None,
) -> Classes:
    """Learn the averages of so many classes.

    Parameters
    ----------
    images
        A sample of the data set, with known defoci.
    geometry
        Rings and orders.
    particle_radius_px
        Of the particle, by which the schedule counts.
    classes
        How many; fewer where there are too few particles for so many.
    seed
        Of all that is random.
    phases
        The schedule.
    tied
        Whether a view and its reflection are one class.
    notify
        Told what is going on and what part is done.
    """
    generator = torch.Generator().manual_seed(seed)
    n, box, device = len(images), images.grid.box_size, images.device
    total = images.ring_power() / geometry.noise_power
    rings = rings_of(phases[0].cycles, geometry, particle_radius_px)
    first = _first_averages(images, rings, classes, generator)
    bank = bank_of(first, mean_noise(images, total), geometry)
    state = _Progress(bank, total, torch.zeros(n, 2, device=device), SHIFT_SPREAD_OF_BOX * box)
    rounds, done = sum(phase.rounds for phase in phases), 0
    for phase in phases:
        rings = rings_of(phase.cycles, geometry, particle_radius_px)
        shifts = shift_grid(phase.shift_range_of_box * box, phase.shift_step_of_box * box)
        search = CircleSearch(images.grid, rings, shifts, 1.0, device)
        part = n if phase.whole else min(n, max(SMALLEST_PART, PART_PER_CLASS * classes))
        sums = ClassSums.empty(classes, search.rings, search.orders, device)
        for number in range(phase.rounds):
            rows = torch.randperm(n, generator=generator)[:part].sort().values.to(device)
            fresh, assigned, signal = _one_round(images, rows, state, search, tied)
            sums = fresh if number == 0 or part == n else sums.times(1 - FRESH_SHARE) + fresh.times(FRESH_SHARE)
            state.noise = _noise_left(images, rows, total, state.noise, signal / geometry.noise_power)
            state.bank = bank_of(sums, mean_noise(images, state.noise), geometry)
            if number % phase.split_every == phase.split_every - 1 and number < phase.rounds - 1:
                sums, state.bank = split(sums, state.bank, generator)
            done += 1
            notify("classes", done / rounds)
    return Classes(state.bank, sums, state.noise, state.spread_px, assigned, tied)


def _one_round(
    images: RingImages, rows: Tensor, state: _Progress, search: CircleSearch, tied: bool
) -> tuple[ClassSums, Assignment, Float[Tensor, "groups rings"]]:
    """Compare some of the images with all classes: sums for the averages, who belongs where, and the signal's power."""
    few = images.of_rows(rows)
    bank = with_reflections(state.bank) if tied else state.bank
    sums = ClassSums.empty(len(bank), search.rings, search.orders, images.device)
    signal = torch.zeros_like(state.noise[:, : search.rings])
    energy = torch.nn.functional.pad(bank.energy, (0, max(0, search.rings - bank.rings)))
    found, order = [], []
    for of_few, batch in few.batches(state.noise, state.spread_px, batch_for(len(bank)), search.rings):
        scores = compare_with_all(search, batch, bank, state.centre[rows[of_few]])
        sums = sums + sums_of_all(scores)
        assigned = most_likely(search, scores, tied)
        state.centre[rows[of_few]] = assigned.shift
        group = int(few.group[of_few[0]])
        signal[group] += (scores.power * (scores.by_class @ energy[:, : search.rings])).sum(dim=0)
        found.append(assigned)
        order.append(of_few)
    assigned = Assignment.concatenate(found).of_rows(torch.cat(order).argsort())
    return folded_sums(sums) if tied else sums, assigned, signal


def _first_averages(images: RingImages, rings: int, classes: int, generator: torch.Generator) -> ClassSums:
    """Averages of a few images of chance under turns of chance."""
    each = min(FIRST_IMAGES, max(1, len(images) // classes))
    rows = torch.randperm(len(images), generator=generator)[: each * classes].to(images.device)
    few, ones = images.of_rows(rows), torch.ones(len(images.transfers), images.grid.rings, device=images.device)
    orders = images.grid.orders
    sums = ClassSums.empty(classes, rings, orders, images.device)
    psi = (2 * torch.pi * torch.rand(len(rows), generator=generator)).to(images.device)
    for of_few, batch in few.batches(ones, 1.0, BATCH, rings):
        defocus = known_defocus(batch.defocus)
        poses = Poses.at(psi[of_few], torch.zeros(len(batch), 2, device=images.device), defocus)
        harmonics = in_average_frame(batch, poses, images.grid, orders)
        image = (harmonics * batch.transfer.amplitude(defocus)[..., None]).sum(dim=1)
        number = of_few % classes
        sums.numerator.index_add_(0, number, image)
        sums.power.index_add_(0, number, batch.transfer.power(defocus))
        sums.particles.index_add_(0, number, torch.ones(len(batch), device=images.device))
    return sums


def _noise_left(images: RingImages, rows: Tensor, total: Tensor, before: Tensor, signal: Tensor) -> Tensor:
    """Variance of the noise: the power of the images less that of the signal; outer rings keep all of it."""
    counts = torch.bincount(images.group[rows], minlength=len(total)).clamp(min=1)[:, None]
    noise, rings = total.clone(), signal.shape[1]
    noise[:, :rings] = torch.maximum(total[:, :rings] - signal / counts, LEAST_NOISE * total[:, :rings])
    seen = torch.bincount(images.group[rows], minlength=len(total)) > 0
    return torch.where(seen[:, None], noise, before)


def split(sums: ClassSums, bank: Bank, generator: torch.Generator) -> tuple[ClassSums, Bank]:
    """Give classes that hardly anyone belongs to to the largest ones, a little different from them."""
    mean = float(sums.particles.sum()) / len(bank)
    largest = sums.particles.argsort(descending=True).tolist()
    harmonics = bank.harmonics.clone()
    for empty in sums.particles.argsort().tolist():
        source = largest.pop(0)
        if sums.particles[empty] >= FEW * mean or sums.particles[source] < MANY * mean:
            break
        strength = harmonics[source].abs().square().mean(dim=1, keepdim=True).sqrt()
        change = torch.randn(harmonics[source].shape, dtype=harmonics.dtype, generator=generator)
        change[:, 0] = change[:, 0].real.to(change.dtype)  # order 0 of a real image is real
        change = SPLIT_CHANGE * strength * change.to(harmonics.device)
        harmonics[empty], harmonics[source] = harmonics[source] + change, harmonics[source] - change
        sums = sums.replaced(empty, source, 0.5).replaced(source, source, 0.5)
    return sums, Bank(harmonics, sums.log_share)
