"""Inspection: what a particle file holds, and everything that is wrong with it, in sentences."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryorbit.conventions import ANGSTROM_PER_UM, IMAGE_NAME, FloatArray
from cryorbit.errors import ParticleDataError
from cryorbit.io import examine_particles
from cryorbit.io.mrc import ImageStack
from cryorbit.io.star import remarks
from cryorbit.particles import ParticleTable

SAMPLED_IMAGES = 1000


@dataclass(frozen=True)
class Inspection:
    """Findings, each one sentence or line.

    Attributes
    ----------
    facts
        What the file holds.
    remarks
        Unusual, but workable.
    problems
        Wrong, with the remedy.
    """

    facts: tuple[str, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]


def inspect_particles(path: Path, stack_root: Path | None = None, seed: int = 0) -> Inspection:
    """Read a particle file, every stack's header and a random sample of the images.

    Raises
    ------
    ParticleDataError
        If there is no table of particles in the file at all.
    """
    table, problems = examine_particles(path, stack_root)
    facts = [f"{path}: {len(table):,} particles in {_stacks(table)} ({table.source.file_format})"]
    facts.append(f"columns: {', '.join(map(str, table.frame.columns))}")
    facts.extend(_imaging_facts(table, sound=not problems))
    if not problems:
        try:
            with ImageStack(table.locations) as stack:
                facts.append(f"box: {stack.box_size} x {stack.box_size} pixels")
                problems.extend(_image_problems(table, stack, seed))
        except ParticleDataError as error:
            problems.extend(error.problems)
    return Inspection(tuple(facts), tuple(remarks(table)), tuple(problems))


def _stacks(table: ParticleTable) -> str:
    count = len(table.locations.stacks)
    return f"{count:,} stack" + ("" if count == 1 else "s")


def _imaging_facts(table: ParticleTable, sound: bool) -> list[str]:
    imaging = table.imaging
    facts = [
        f"pixel size: {_values(imaging.pixel_size_A)} A",
        f"voltage: {_values(imaging.voltage_kV)} kV, spherical aberration: {_values(imaging.cs_mm)} mm, amplitude "
        f"contrast: {_values(imaging.amplitude_contrast)}",
    ]
    if table.has_defocus and sound:
        defocus_um = table.defocus_A / ANGSTROM_PER_UM
        facts.append(f"defocus: {np.nanmin(defocus_um):.2f} to {np.nanmax(defocus_um):.2f} um")
    if "rlnMicrographName" in table:
        facts.append(f"micrographs: {table.frame['rlnMicrographName'].nunique():,}")
    if "rlnClassNumber" in table:
        classes = Counter(table.frame["rlnClassNumber"])
        shown = ", ".join(f"{name} ({count:,})" for name, count in classes.most_common(5))
        facts.append(f"classes: {len(classes)}, largest {shown}")
    return facts


def _values(values: FloatArray) -> str:
    known = np.unique(values[np.isfinite(values)])
    if len(known) == 0:
        return "not given"
    return ", ".join(f"{value:g}" for value in known[:5]) + (", ..." if len(known) > 5 else "")


def _image_problems(table: ParticleTable, stack: ImageStack, seed: int) -> list[str]:
    """NaN, infinite and constant images in a random sample."""
    size = min(len(table), SAMPLED_IMAGES)
    rows = np.sort(np.random.default_rng(seed).choice(len(table), size, replace=False))
    not_finite: list[int] = []
    constant: list[int] = []
    for start in range(0, size, 100):
        part = rows[start : start + 100]
        pixels = stack.read(part).reshape(len(part), -1)
        finite = np.isfinite(pixels).all(axis=1)
        not_finite.extend(part[~finite])
        constant.extend(part[finite & (pixels.min(axis=1) == pixels.max(axis=1))])
    problems = []
    for wrong, what in ((not_finite, "have NaN or infinite pixels"), (constant, "are constant")):
        if wrong:
            name = table.frame[IMAGE_NAME].iloc[wrong[0]]
            problems.append(
                f"{table.name}: {len(wrong)} of {size} images looked at {what}, the first {name} (particle "
                f"{wrong[0] + 1}): extract them again or remove these rows."
            )
    return problems
