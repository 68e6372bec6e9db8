"""Orbit alignment of a whole data set: learn from a sample, then stream all other particles past the average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryorbit import threads
from cryorbit.alignment.average import State, mean_noise, refined, sums_of
from cryorbit.alignment.evidence import Evidence, particle_probability
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.learn import LearnSettings, learn
from cryorbit.alignment.limits import Limits, limits_at
from cryorbit.alignment.locate import Located, Model, locate
from cryorbit.alignment.memory import AverageMemory, signatures
from cryorbit.alignment.polar import to_samples
from cryorbit.alignment.reader import RingReader
from cryorbit.alignment.templates import AverageSums, Geometry, order_weight
from cryorbit.conventions import FloatArray, wrap_deg
from cryorbit.estimation.outliers import ImageEvidence
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.machine import give_back_memory

# Particles that the average is learnt from: all of a small set; more would hardly sharpen what turns are judged by.
SAMPLE = 5000
CHUNK = 1000
LIMITS_STEP_um = 0.1
# Correlation of halves at which the average of both correlates by one half with the truth (Rosenthal & Henderson 2003).
FRC_THRESHOLD = 0.143
# Above this probability of the best angle, the deviation is that around it; below, that over all that are possible.
SURE = 0.99
# The average may reach a little beyond the particle's nominal radius.
RADIUS_MARGIN = 1.08

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ParticlePoses:
    """What an alignment says of every particle; arrays of shape (n,) but for the last.

    Attributes
    ----------
    psi_deg, psi_std_deg
        Angle, and its standard deviation: around the best mode where that is all but certain, else the circular one
        over all modes; modulo 360 / n for an isotropy order of n.
    shift_px, shift_std_px
        Position in the box, in pixels of the aligned images, shape (n, 2), and its deviation along one axis.
    defocus_um, defocus_std_um
        Mean over directions.
    mode_probability
        Share of the best angle among all that are possible.
    amplitude, amplitude_std
        Strength of the average in the image.
    residual
        Power of what is left over that of the noise, from the centre of Fourier space outwards, shape (n, bands).
    evidence
        What outliers are judged by.
    psi_limit_deg, shift_limit_px, defocus_limit_um
        Cramer-Rao bounds at each particle's defocus.
    """

    psi_deg: FloatArray
    psi_std_deg: FloatArray
    shift_px: FloatArray
    shift_std_px: FloatArray
    defocus_um: FloatArray
    defocus_std_um: FloatArray
    mode_probability: FloatArray
    amplitude: FloatArray
    amplitude_std: FloatArray
    residual: FloatArray
    evidence: ImageEvidence
    psi_limit_deg: FloatArray
    shift_limit_px: FloatArray
    defocus_limit_um: FloatArray

    def __len__(self) -> int:
        return len(self.psi_deg)

    def of_rows(self, rows: NDArray[np.int64]) -> ParticlePoses:
        """Some of the particles, in this order."""
        evidence = ImageEvidence(
            **{part.name: getattr(self.evidence, part.name)[rows] for part in fields(ImageEvidence)}
        )
        names = [field.name for field in fields(self) if field.name != "evidence"]
        return ParticlePoses(**{name: getattr(self, name)[rows] for name in names}, evidence=evidence)

    @classmethod
    def room_for(cls, n: int, like: ParticlePoses) -> ParticlePoses:
        """Arrays for ``n`` particles, to be filled by :meth:`put`; ``like`` has the right shapes for some."""

        def room(values: FloatArray) -> FloatArray:
            return np.full((n, *values.shape[1:]), np.nan)

        evidence = ImageEvidence(
            **{part.name: room(getattr(like.evidence, part.name)) for part in fields(ImageEvidence)}
        )
        names = [field.name for field in fields(cls) if field.name != "evidence"]
        return cls(**{name: room(getattr(like, name)) for name in names}, evidence=evidence)

    def put(self, rows: NDArray[np.int64], found: ParticlePoses) -> None:
        """Fill in what was found for some rows."""
        for field in fields(self):
            if field.name != "evidence":
                getattr(self, field.name)[rows] = getattr(found, field.name)
        for part in fields(ImageEvidence):
            getattr(self.evidence, part.name)[rows] = getattr(found.evidence, part.name)


@dataclass(frozen=True)
class ClassAverage:
    """The average of all particles.

    Attributes
    ----------
    image
        Filtered by its own signal-to-noise ratio, shape (box, box).
    pixel_size_A
        Of the image.
    spatial_frequency_per_A, frc
        Fourier ring correlation of two halves that were aligned apart, by ring.
    resolution_A
        Where it falls below 0.143; that of the last ring where it does not.
    particles
        Sum of the weights.
    """

    image: FloatArray
    pixel_size_A: float
    spatial_frequency_per_A: FloatArray
    frc: FloatArray
    resolution_A: float
    particles: float


@dataclass(frozen=True)
class Alignment:
    """Result of aligning a data set.

    Attributes
    ----------
    poses
        Of every particle, in row order.
    average
        What they were compared with.
    memory
        The average as it was learnt, and the sums of all particles.
    limits
        What the data allow, over the range of defoci, for the largest optics group.
    """

    poses: ParticlePoses
    average: ClassAverage
    memory: AverageMemory
    limits: Limits


def align(
    reader: RingReader,
    settings: LearnSettings,
    prior_weight: FloatArray | None = None,
    hint_psi_deg: FloatArray | None = None,
    sample: int = SAMPLE,
    progress: Progress = lambda _done, _total, _note: None,
    others: Others | None = None,
) -> Alignment:
    """Align all particles of a table.

    Parameters
    ----------
    reader
        The particles.
    settings
        Of the first average.
    prior_weight
        Probability of each to be a particle, from elsewhere, shape (n,).
    hint_psi_deg
        Angles from elsewhere, for one start, shape (n,).
    sample
        Particles to learn from.
    progress
        Told of particles done, of all, and what is going on.
    others
        Who aligns those that the average is not learnt from, as for :func:`extend`.
    """
    n = len(reader)
    chosen = np.sort(np.random.default_rng(settings.seed).choice(n, min(n, sample), replace=False))
    geometry = geometry_of(reader)
    give_back_memory()
    progress(0, n, "reading the sample")
    images = reader.read(chosen)
    learnt = learn(
        images, geometry, settings,
        None if prior_weight is None else torch.from_numpy(prior_weight[chosen]).float(),
        None if hint_psi_deg is None else torch.from_numpy(np.radians(hint_psi_deg[chosen])).float(),
        lambda note, part: progress(int(part * len(chosen)), n, note),
    )  # fmt: skip
    poses = _poses(images, learnt.model, learnt.located, learnt.evidence)
    memory = AverageMemory(
        model=learnt.model,
        halves=learnt.halves,
        optics=signatures(reader.groups),
        isotropy=learnt.isotropy,
        rival_nats=learnt.start.rival_nats,
        agreement=learnt.start.agreement,
        learnt_from=len(chosen),
    )
    del images, learnt
    give_back_memory()
    return extend(reader, memory, Known(chosen, poses), prior_weight, progress, others)


# Rows to align with the weights with which they enter the sums; what is found of them, and their sums for two halves.
Task = tuple[NDArray[np.int64], FloatArray]
Found = tuple[ParticlePoses, list[AverageSums]]
Others = Callable[["RingReader", AverageMemory, Iterable[Task]], Iterator[Found]]


@dataclass(frozen=True)
class Known:
    """Particles of a table that are in the sums of an average already.

    Attributes
    ----------
    rows
        Which, shape (m,).
    poses
        Theirs, each against the average of the others.
    outdated
        Those whose poses do not hold any more and are to be found again, shape (m,); none if left out.
    """

    rows: NDArray[np.int64]
    poses: ParticlePoses
    outdated: NDArray[np.bool_] | None = None

    @property
    def valid(self) -> tuple[NDArray[np.int64], ParticlePoses]:
        """Rows and poses of those that need not be found again."""
        if self.outdated is None:
            return self.rows, self.poses
        keep = np.flatnonzero(~self.outdated)
        return self.rows[keep], self.poses.of_rows(keep)


def geometry_of(reader: RingReader) -> Geometry:
    """Rings and orders of the particles of a table."""
    radius = RADIUS_MARGIN * reader.images.info.particle_radius_px
    return Geometry.of(reader.grid, min(radius, 0.5 * reader.grid.box_size), reader.device)


def extend(
    reader: RingReader,
    memory: AverageMemory,
    known: Known | None = None,
    prior_weight: FloatArray | None = None,
    progress: Progress = lambda _done, _total, _note: None,
    others: Others | None = None,
) -> Alignment:
    """Align the particles of a table with an average that was learnt before, and add them to it.

    Parameters
    ----------
    reader
        The particles.
    memory
        The average, for the optics groups of the table.
    known
        Those of the particles that it was learnt from.
    prior_weight
        Probability of each to be a particle, from elsewhere, shape (n,).
    progress
        Told of particles done, of all, and what is going on.
    others
        Who does the work, in tasks that do not depend on each other; this process if left out. Sums are added in the
        order of the tasks, so that the result does not depend on who did which.
    """
    others = others or by_threads
    n = len(reader)
    poses, new, left = None, np.ones(n), np.ones(n, dtype=bool)
    if known is not None:
        valid, found = known.valid
        poses = ParticlePoses.room_for(n, found)
        poses.put(valid, found)
        new[known.rows] = 0.0  # they are in the sums, wherever they are found now
        left[valid] = False
    if prior_weight is not None:
        new *= prior_weight
    halves, rest = list(memory.halves), np.flatnonzero(left)
    chunks = [rest[start : start + CHUNK] for start in range(0, len(rest), CHUNK)]
    done = n - len(rest)
    progress(done, n, "")
    for now, (found, sums) in zip(chunks, others(reader, memory, ((rows, new[rows]) for rows in chunks)), strict=True):
        poses = poses or ParticlePoses.room_for(n, found)
        poses.put(now, found)
        halves = [old + new for old, new in zip(halves, sums, strict=True)]
        done += len(now)
        progress(done, n, "")
    if poses is None:
        raise ValueError("there are no particles")
    memory = replace(memory, halves=(halves[0], halves[1]))
    return Alignment(
        poses=poses,
        average=class_average(reader, memory.model.geometry, memory.model, halves),
        memory=memory,
        limits=_limits(reader, memory.model),
    )


def by_threads(reader: RingReader, memory: AverageMemory, tasks: Iterable[Task]) -> Iterator[Found]:
    """Poses and sums of some particles after others, by threads of this process."""
    _ = reader.transform, reader.transfers  # made once, rather than by every thread
    return threads.mapped(lambda task: align_others(reader.read(task[0]), memory, task[1]), tasks)


def _limits(reader: RingReader, model: Model) -> Limits:
    """What the data allow by defocus, for the largest optics group."""
    largest = reader.groups.largest
    low, high = reader.defocus_range_um
    values = torch.arange(low, high + 1e-6, LIMITS_STEP_um, device=reader.device)
    return limits_at(values, model.template, model.noise[largest], reader.transfers[largest])


def align_others(images: RingImages, memory: AverageMemory, prior_weight: FloatArray) -> Found:
    """Poses of particles that the average was not learnt from, and their weighted sums for the two halves."""
    model, geometry = memory.model, memory.model.geometry
    located = locate(images, model)
    state = State(located.poses, located.mode_probability, model.noise, model.shift_spread_px)
    poses, judged = refined(images, state, model.template, geometry, steps=2, own=False)
    located = replace(located, poses=poses)
    weight = located.mode_probability * particle_probability(judged)
    weight = weight * torch.from_numpy(prior_weight).to(weight)
    noise = mean_noise(images, model.noise)
    sums = []
    for parity, half in enumerate(memory.halves):
        rows = torch.arange(parity, len(images), 2, device=images.device)
        if not len(rows):  # a single image is in one half only
            sums.append(AverageSums.empty(images.grid, images.device))
            continue
        part = images.of_rows(rows)
        own = State(poses.of_rows(rows), weight[rows], model.noise, model.shift_spread_px)
        template = geometry.template(half, noise, images.grid.rings)
        apart = replace(own, poses=refined(part, own, template, geometry, steps=1, own=False)[0])
        sums.append(sums_of(part, apart, images.grid.rings))
    return _poses(images, model, located, judged), sums


def _poses(images: RingImages, model: Model, located: Located, evidence: Evidence) -> ParticlePoses:
    poses, order = located.poses, model.isotropy_order
    covariance = poses.covariance.double()
    resultant = located.resultant.double() * torch.exp(-0.5 * order**2 * covariance[:, 0, 0])
    over_modes = torch.sqrt(-2 * torch.log(resultant.clamp(1e-12, 1))) / order
    std = torch.where(located.mode_probability > SURE, covariance[:, 0, 0].sqrt(), over_modes)
    limit = {name: torch.zeros(len(images)) for name in ("psi_rad", "shift_px", "defocus_limit_um")}
    for number, transfer in enumerate(images.transfers):
        rows = torch.nonzero(images.group == number).flatten()
        if len(rows):
            bound = limits_at(poses.defocus_um[rows], model.template, model.noise[number], transfer)
            for name, values in limit.items():
                values[rows.cpu()] = getattr(bound, name).cpu()
    return ParticlePoses(
        psi_deg=wrap_deg(np.degrees(_array(poses.psi)), 360.0 / order),
        psi_std_deg=np.minimum(np.degrees(_array(std)), UNKNOWN_ANGLE_STD_DEG / order),
        shift_px=_array(poses.shift),
        shift_std_px=np.sqrt(_array(0.5 * (covariance[:, 1, 1] + covariance[:, 2, 2]))),
        defocus_um=_array(poses.defocus_um),
        defocus_std_um=np.sqrt(_array(poses.defocus_variance_um2)),
        mode_probability=_array(located.mode_probability),
        amplitude=_array(evidence.amplitude),
        amplitude_std=_array(evidence.amplitude_std),
        residual=_array(evidence.residual),
        evidence=evidence.judged(),
        psi_limit_deg=np.degrees(_array(limit["psi_rad"])),
        shift_limit_px=_array(limit["shift_px"]),
        defocus_limit_um=_array(limit["defocus_limit_um"]),
    )


def _array(values: Tensor) -> FloatArray:
    return values.detach().cpu().double().numpy()


def ring_correlation(halves: list[AverageSums], geometry: Geometry) -> FloatArray:
    """Fourier ring correlation of two sums within the particle's radius, shape (rings,)."""
    weight = order_weight(geometry.grid.orders).to(halves[0].power.device)
    first, second = (half.numerator * geometry.limit / half.power.clamp(min=1e-6)[:, None] for half in halves)
    cross = (first * second.conj()).real @ weight
    norm = (first.abs().square() @ weight) * (second.abs().square() @ weight)
    return _array(cross / norm.sqrt().clamp(min=1e-30))


def class_average(reader: RingReader, geometry: Geometry, model: Model, halves: list[AverageSums]) -> ClassAverage:
    """Average of two halves together, filtered, as an image."""
    grid = geometry.grid
    counts = torch.from_numpy(np.bincount(reader.groups.group, minlength=len(model.noise))).to(model.noise)
    noise = (counts @ model.noise) / counts.sum()
    template = geometry.template(halves[0] + halves[1], noise, grid.rings)
    image = reader.transform.image(to_samples(template.harmonics, grid.angles)[None])[0]
    frequency = _array(grid.radius) / (grid.box_size * reader.images.info.pixel_size_A)
    frc = ring_correlation(halves, geometry)
    below = np.flatnonzero(frc < FRC_THRESHOLD)
    last = frequency[below[0]] if len(below) else frequency[-1]
    particles = halves[0].particles + halves[1].particles
    return ClassAverage(_array(image), reader.images.info.pixel_size_A, frequency, frc, float(1 / last), particles)
