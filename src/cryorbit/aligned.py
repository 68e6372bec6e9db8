"""Alignment as a step of a run: which settings it takes from the configuration, what it says, what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.alignment.learn import settings_for
from cryorbit.alignment.limits import Limits
from cryorbit.alignment.memory import AverageMemory, from_plain
from cryorbit.alignment.orbit import (
    Alignment,
    ClassAverage,
    Known,
    Others,
    ParticlePoses,
    align,
    extend,
    geometry_of,
)
from cryorbit.alignment.reader import RingReader
from cryorbit.config import RunConfig
from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.errors import ParticleDataError
from cryorbit.estimation.outliers import FEWEST_PARTICLES, SEARCHED_POSES_NATS, ImageEvidence
from cryorbit.io.mrc import write_image
from cryorbit.io.runs import read_table, write_table
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.machine import device_for
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import PreparedImages
from cryorbit.preprocessing.normalise import intensity_statistics
from cryorbit.readings import resolve_prior

# A little beyond 0.3 to 4 um, so that a defocus at the end of that has room for its error.
SEARCHED_DEFOCUS_um = (0.2, 4.2)
SNR_SAMPLE = 500
MANY_PARTICLES = 200
AT_AN_END_um, MANY_AT_THE_ENDS = 0.02, 0.02
POSES = "alignment.parquet"
# Columns of it by which a later run knows a particle again, and whether its pose still holds.
IMAGE_MARK, TOLD_MARK = "image_mark", "told_mark"
AVERAGE = "average.mrc"
AVERAGE_FRC = "average_frc.csv"
LIMITS = "limits.csv"
# Typical deviation of the angle above which it is said not to be known: a tenth of what a guess has.
UNIDENTIFIABLE_DEG = UNKNOWN_ANGLE_STD_DEG / 10
# Where independent starts find different angles, only ones as sharp as this are believed: the images of round particles
# agree on whatever made the first average uneven.
AGREEING, SHARP_DEG = 0.8, 1.0
# Lead in log-likelihood, over the whole sample of the start, that makes one solution for the defoci the only one.
CLEAR_LEAD_NATS = 10.0
# Pixel sizes that differ by less are the same: an average of 100 A would change by a tenth of one.
SAME_PIXEL_SIZE = 1e-3


@dataclass(frozen=True)
class LatentHint:
    """What the latent space says of each particle: its probability to be one, its angle; None where nothing."""

    particle_probability: FloatArray | None
    psi_deg: FloatArray | None


@dataclass(frozen=True)
class AverageTaken:
    """An average that an earlier run has learnt.

    Attributes
    ----------
    state
        Of :meth:`cryorbit.alignment.memory.AverageMemory.as_plain`.
    pixel_size_A
        Of its images.
    known
        Those of the present particles that are in it.
    told
        What those were told when they were found, as :func:`told_marks` says, shape (m,).
    repeated
        Which of the present particles are the image of one before them once more, shape (n,).
    """

    state: dict[str, Any]
    pixel_size_A: float
    known: Known
    told: NDArray[np.uint64]
    repeated: NDArray[np.bool_]


@dataclass(frozen=True)
class AlignmentOutcome:
    """An alignment as a run keeps it.

    Attributes
    ----------
    poses
        Of every particle.
    average
        Of all; None where there were too few particles.
    limits
        What the data allow; None likewise.
    memory
        For particles that come later; None likewise.
    facts, warnings
        For ``run.json`` and the user.
    """

    poses: ParticlePoses
    average: ClassAverage | None
    limits: Limits | None
    memory: AverageMemory | None
    facts: dict[str, Any]
    warnings: tuple[str, ...]


def signal_to_noise(images: PreparedImages, seed: int) -> float:
    """Variance of the signal within the particle's disc over that of the background, from a sample."""
    if images.info.noise_free:
        return float("inf")
    rows = np.random.default_rng(seed).permutation(len(images))[:SNR_SAMPLE]
    statistics = intensity_statistics(images.read(np.sort(rows).astype(np.int64)), images.info.particle_radius_px)
    return float(np.mean(statistics.disc_std**2) / np.mean(statistics.background_std**2) - 1.0)


def align_table(
    particles: ParticleTable,
    images: PreparedImages,
    config: RunConfig,
    latent: LatentHint | None,
    progress: Callable[[int, int, str], None],
    taken: AverageTaken | None = None,
    others: Others | None = None,
) -> AlignmentOutcome:
    """Align the particles of a table as a configuration says.

    Parameters
    ----------
    particles, images
        In one order.
    config
        Of the run.
    latent
        What the latent space says of them, where there is one.
    progress
        Told of particles done, of all, and what is going on.
    taken
        An average to compare with, in place of one that is learnt from these particles.
    others
        Who aligns the particles that no average is learnt from; this process if left out.

    Raises
    ------
    ParticleDataError
        If that average is of other boxes.
    """
    n, prior = len(particles), resolve_prior(particles, config.estimation)
    searched = config.estimation.defocus_range_um or SEARCHED_DEFOCUS_um
    facts: dict[str, Any] = {
        "prior": prior, "searched_um": list(searched), "box_size": images.info.box_size,
        "pixel_size_A": images.info.pixel_size_A,
    }  # fmt: skip
    if n < FEWEST_PARTICLES and taken is None:
        poses = unknown_poses(particles, prior, searched)
        facts |= {"identifiable": False, "isotropy_order": 1, "learnt_from": 0}
        few = (
            f"{n} particle{'s are' if n > 1 else ' is'} too few to learn an average from (expected {FEWEST_PARTICLES} "
            "or more)"
        )
        return AlignmentOutcome(poses, None, None, None, facts, (f"{few}: no angle, shift or defocus was estimated.",))
    device = device_for(config.training.accelerator)
    reader = RingReader.of(particles, images, prior, searched, device)
    snr = signal_to_noise(images, config.seed)
    hint = latent or LatentHint(None, None)
    if taken is not None:
        told = told_marks(particles, prior, searched)
        known = replace(taken.known, outdated=told[taken.known.rows] != taken.told)
        taken = replace(taken, known=known)
        found = _extended(particles.name, reader, taken, hint.particle_probability, progress, others)
    else:
        settings = settings_for(snr, config.seed, config.alignment.starts)
        found = align(
            reader, settings, hint.particle_probability, hint.psi_deg, config.alignment.learn_from, progress, others,
        )  # fmt: skip
    facts |= _facts(found, reader, snr)
    return AlignmentOutcome(
        found.poses, found.average, found.limits, found.memory, facts, tuple(_warnings(found, facts, particles, prior))
    )


def _extended(
    name: str,
    reader: RingReader,
    taken: AverageTaken,
    particle_probability: FloatArray | None,
    progress: Callable[[int, int, str], None],
    others: Others | None,
) -> Alignment:
    """Align with an average that was learnt before."""
    own, before_A = reader.images.info.pixel_size_A, taken.pixel_size_A
    try:
        memory = from_plain(taken.state, geometry_of(reader))
        same = abs(own / before_A - 1) < SAME_PIXEL_SIZE
    except ValueError:
        same = False
    if not same:
        size, before = reader.images.info.box_size, taken.state["box_size"]
        raise ParticleDataError(
            f"{name}: its images ({size} px of {own:g} A when they are aligned) are not like those of "
            f"the earlier run ({before} px of {before_A:g} A): start a run of their own."
        )
    once = np.where(taken.repeated, 0.0, 1.0)
    weight = once if particle_probability is None else once * particle_probability
    return extend(reader, memory.for_groups(reader.groups), taken.known, weight, progress, others)


def told_marks(particles: ParticleTable, prior: str, searched_um: tuple[float, float]) -> NDArray[np.uint64]:
    """A number of 64 bits of all that an alignment is told of each particle, apart from its image, shape (n,).

    Poses hold as long as it is the same. Numbers count to the digits that every format of files keeps.
    """
    imaging, n = particles.imaging, len(particles)
    told = pd.DataFrame({
        "prior": np.full(n, ("blind", "micrograph", "given").index(prior)),
        "low": np.full(n, searched_um[0]).round(3), "high": np.full(n, searched_um[1]).round(3),
        "u": (particles.defocus_u_A if particles.has_defocus else np.zeros(n)).round(1),
        "v": (particles.defocus_v_A if particles.has_defocus else np.zeros(n)).round(1),
        "angle": particles.numbers(conventions.DEFOCUS_ANGLE, 0.0).round(2),
        "phase": particles.numbers("rlnPhaseShift", 0.0).round(2),
        "voltage": imaging.voltage_kV.round(2), "cs": imaging.cs_mm.round(3),
        "contrast": imaging.amplitude_contrast.round(4),
    })  # fmt: skip
    # Nothing may depend on whether a zero has a sign.
    return np.asarray(pd.util.hash_pandas_object(told + 0.0, index=False), dtype=np.uint64)


def _facts(found: Alignment, reader: RingReader, snr: float) -> dict[str, Any]:
    poses, memory = found.poses, found.memory
    pixel_size = reader.images.info.pixel_size_A
    promise = poses.evidence.promise
    supported = (poses.evidence.likelihood_ratio > 0.5 * promise) & (promise > SEARCHED_POSES_NATS)
    middle = supported if supported.any() else np.ones(len(poses), dtype=bool)
    typical = float(np.median(poses.psi_std_deg[middle])) * memory.model.isotropy_order
    frequency = found.average.spatial_frequency_per_A
    limit_deg = UNIDENTIFIABLE_DEG if memory.agreement > AGREEING else SHARP_DEG
    return {
        "identifiable": bool(typical < limit_deg and supported.mean() > 0.02),
        "isotropy_order": memory.model.isotropy_order,
        "isotropy_nats": {str(n): nats for n, nats in memory.isotropy.items()},
        "learnt_from": memory.learnt_from, "snr": snr,
        "rings": len(frequency), "finest_A": float(1 / frequency[-1]), "resolution_A": found.average.resolution_A,
        "shift_spread_A": memory.model.shift_spread_px * pixel_size, "supported": float(supported.mean()),
        "agreement": memory.agreement, "rival_nats": memory.rival_nats if np.isfinite(memory.rival_nats) else None,
        "noise": memory.model.noise.cpu().double().tolist(), "optics_groups": len(reader.groups.optics),
        "limits": {
            "psi_deg": _rms(poses.psi_limit_deg[middle]), "defocus_um": _rms(poses.defocus_limit_um[middle]),
            "origin_A": _rms(poses.shift_limit_px[middle]) * pixel_size,
        },
    }  # fmt: skip


def _share_at_the_ends(poses: ParticlePoses, searched_um: list[float]) -> float:
    """Share of the particles (by their likelihood ratio) whose defocus ended where the search did."""
    particle = poses.evidence.likelihood_ratio > 0.5 * poses.evidence.promise
    margin = np.maximum(AT_AN_END_um, 0.5 * poses.defocus_std_um)
    ends = (poses.defocus_um < searched_um[0] + margin) | (poses.defocus_um > searched_um[1] - margin)
    return float(ends[particle].mean()) if particle.any() else 0.0


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _warnings(found: Alignment, facts: dict[str, Any], particles: ParticleTable, prior: str) -> list[str]:
    said, order, rival_nats = [], found.memory.model.isotropy_order, found.memory.rival_nats
    if len(particles) < MANY_PARTICLES:
        said.append(
            f"{len(particles)} particles are few for an average: the deviations of all estimates may be too small by a "
            "fifth or more."
        )
    if not facts["identifiable"]:
        said.append(
            "No in-plane angle can be known: no angle of the average fits the images much better than another, as "
            "with a round particle, or with images that show no common particle. The deviations say so."
        )
    elif order > 1:
        said.append(
            f"The average looks the same after a turn of 360/{order} degrees: angles are known modulo "
            f"{360 / order:g} degrees."
        )
    if facts["supported"] < 0.5:
        said.append(
            f"Only {100 * facts['supported']:.0f} % of the images look like the average of the set: most are junk, or "
            "several views are mixed. Classify the particles first: cryorbit classify, or run with --views."
        )
    if not np.isfinite(particles.imaging.voltage_kV).all():
        said.append(
            f"{particles.name}: gives no voltage (_rlnVoltage) for some or all particles: 300 kV, Cs 2.7 mm and "
            "amplitude contrast 0.1 were assumed, on which the defoci depend."
        )
    beyond = _share_at_the_ends(found.poses, facts["searched_um"]) if prior != "given" else 0.0
    if beyond > MANY_AT_THE_ENDS:
        low, high = facts["searched_um"]
        said.append(
            f"{100 * beyond:.0f} % of the particles have a defocus at an end of the range that was searched, {low:g} "
            f"to {high:g} um: theirs may lie outside, and their deviations mean nothing. Give a wider --defocus-range."
        )
    if prior == "blind" and rival_nats < CLEAR_LEAD_NATS:
        said.append(
            "The defoci are ambiguous: another solution, with all of them moved together, fits as well to within "
            f"{rival_nats:.1f} nats. Defoci that hardly differ do not tell: give --defocus-prior micrograph."
        )
    return said


def unknown_poses(particles: ParticleTable, prior: str, searched_um: tuple[float, float]) -> ParticlePoses:
    """Poses that say that nothing is known."""
    n = len(particles)
    low, high = searched_um
    defocus, std = np.full(n, 0.5 * (low + high)), np.full(n, (high - low) / np.sqrt(12.0))
    if prior == "given":
        defocus, std = particles.defocus_A / ANGSTROM_PER_UM, np.zeros(n)
    nan, zero = np.full(n, np.nan), np.zeros(n)
    return ParticlePoses(
        psi_deg=zero, psi_std_deg=np.full(n, UNKNOWN_ANGLE_STD_DEG), shift_px=np.zeros((n, 2)), shift_std_px=nan,
        defocus_um=defocus, defocus_std_um=std, mode_probability=zero, amplitude=nan, amplitude_std=nan,
        residual=np.full((n, 1), np.nan), evidence=ImageEvidence(nan, nan, nan, nan, nan, nan), psi_limit_deg=nan,
        shift_limit_px=nan, defocus_limit_um=nan,
    )  # fmt: skip


def save_outcome(folder: Path, outcome: AlignmentOutcome, images: NDArray[np.uint64], told: NDArray[np.uint64]) -> None:
    """Write ``alignment.parquet``, ``average.mrc``, ``average_frc.csv`` and ``limits.csv`` into a run folder.

    Parameters
    ----------
    folder
        Of the run.
    outcome
        Of its alignment.
    images
        Which image each particle is, as :func:`cryorbit.io.fingerprints.image_marks` says.
    told
        What was told of each, as :func:`told_marks` says.
    """
    write_table(folder / POSES, _table(outcome.poses).assign(**{IMAGE_MARK: images, TOLD_MARK: told}))
    if outcome.average is not None:
        average = outcome.average
        write_image(folder / AVERAGE, average.image, average.pixel_size_A)
        frequency = average.spatial_frequency_per_A
        frame = pd.DataFrame({
            "ring": np.arange(1, len(frequency) + 1), "spatial_frequency_per_A": frequency,
            "resolution_A": 1 / frequency, "frc": average.frc,
        })  # fmt: skip
        write_table(folder / AVERAGE_FRC, frame)
    if outcome.limits is not None:
        write_table(folder / LIMITS, _limits_table(outcome.limits, float(outcome.facts["pixel_size_A"])))


def _limits_table(limits: Limits, pixel_size_A: float) -> pd.DataFrame:
    def values(tensor: torch.Tensor) -> FloatArray:
        return tensor.double().cpu().numpy()

    return pd.DataFrame({
        "defocus_um": values(limits.defocus_um).round(6), "psi_limit_deg": np.degrees(values(limits.psi_rad)),
        "origin_limit_A": values(limits.shift_px) * pixel_size_A,
        "defocus_limit_um": values(limits.defocus_limit_um), "expected_nats": values(limits.nats),
    })  # fmt: skip


def _table(poses: ParticlePoses) -> pd.DataFrame:
    columns: dict[str, FloatArray] = {}
    for field in fields(ParticlePoses):
        values = getattr(poses, field.name)
        if field.name == "evidence":
            columns |= {f"evidence_{part.name}": getattr(values, part.name) for part in fields(ImageEvidence)}
        elif values.ndim == 2:
            columns |= {f"{field.name}_{number}": values[:, number] for number in range(values.shape[1])}
        else:
            columns[field.name] = values
    return pd.DataFrame(columns)


def load_poses(folder: Path) -> ParticlePoses:
    """Read what :func:`save_outcome` wrote.

    Raises
    ------
    RunFolderError
        If it is missing or damaged.
    """
    frame = read_table(folder / POSES)

    def column(name: str) -> FloatArray:
        if name in frame:
            return frame[name].to_numpy(dtype=np.float64)
        wide = [other for other in frame.columns if other.rpartition("_")[0] == name and other[-1].isdigit()]
        return frame[wide].to_numpy(dtype=np.float64)

    evidence = ImageEvidence(**{part.name: column(f"evidence_{part.name}") for part in fields(ImageEvidence)})
    names = [field.name for field in fields(ParticlePoses) if field.name != "evidence"]
    return ParticlePoses(**{name: column(name) for name in names}, evidence=evidence)
