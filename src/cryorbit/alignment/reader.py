"""From rows of a particle table to images on rings, with what the file says of their optics and defocus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.images import RingImages, batch_size
from cryorbit.alignment.polar import PolarGrid, PolarTransform
from cryorbit.alignment.transfer import RingTransfer
from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.machine import to_device
from cryorbit.optics.ctf import Optics
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import PreparedImages

# Rings beyond this part of Nyquist hold little that tells a turn or a defocus.
RINGS_OF_NYQUIST = 0.69
READ_BATCH = 64
DEFOCUS_STEP_um = 0.02
# Particles of a micrograph differ from its defocus by the thickness of the ice and the tilt of the grid.
MICROGRAPH_SPREAD_um = 0.15
OPTICS_GROUP = "rlnOpticsGroup"
PHASE_SHIFT = "rlnPhaseShift"


@dataclass(frozen=True)
class OpticsGroups:
    """Which particles share a microscope's settings.

    Attributes
    ----------
    group
        Number of each particle's group, shape (n,).
    optics, phase_shift_deg
        Of each group.
    """

    group: NDArray[np.int64]
    optics: tuple[Optics, ...]
    phase_shift_deg: tuple[float, ...]

    @property
    def largest(self) -> int:
        """Number of the group with the most particles."""
        return int(np.bincount(self.group).argmax())

    @classmethod
    def of(cls, particles: ParticleTable) -> OpticsGroups:
        """Groups by the file's own number, voltage, spherical aberration, amplitude contrast and phase shift.

        Values that the file does not give are the usual ones of :class:`cryorbit.optics.ctf.Optics`. Phase shifts are
        taken to the nearest ten degrees.
        """
        usual, imaging = Optics(), particles.imaging

        def filled(values: FloatArray, default: float) -> FloatArray:
            return np.where(np.isfinite(values), values, default)

        phase = np.round(particles.numbers(PHASE_SHIFT, default=0.0) / 10.0) * 10.0
        names = particles.frame[OPTICS_GROUP].to_numpy(dtype=object) if OPTICS_GROUP in particles else None
        label = np.zeros(len(particles)) if names is None else np.unique(names.astype(str), return_inverse=True)[1]
        rows = np.column_stack([
            label, filled(imaging.voltage_kV, usual.voltage_kV), filled(imaging.cs_mm, usual.cs_mm),
            filled(imaging.amplitude_contrast, usual.amplitude_contrast), phase,
        ])  # fmt: skip
        distinct, group = np.unique(rows, axis=0, return_inverse=True)
        return cls(
            group.ravel().astype(np.int64),
            tuple(Optics(float(row[1]), float(row[2]), float(row[3])) for row in distinct),
            tuple(float(row[4]) for row in distinct),
        )


@dataclass(frozen=True)
class FileDefocus:
    """What a particle file says of the defocus; arrays of shape (n,), of zeros where it says nothing.

    Attributes
    ----------
    mean_um, half_um
        Mean over directions, and half the difference between the two axes of astigmatism.
    angle_rad
        Direction of the larger one.
    """

    mean_um: FloatArray
    half_um: FloatArray
    angle_rad: FloatArray

    @classmethod
    def of(cls, particles: ParticleTable) -> FileDefocus:
        """Of the particles of a table."""
        if not particles.has_defocus:
            nothing = np.zeros(len(particles))
            return cls(nothing, nothing, nothing)
        half = 0.5 * (particles.defocus_u_A - particles.defocus_v_A) / ANGSTROM_PER_UM
        angle = np.radians(particles.numbers(conventions.DEFOCUS_ANGLE, default=0.0))
        return cls(particles.defocus_A / ANGSTROM_PER_UM, half, angle)


@dataclass(frozen=True)
class RingReader:
    """Reads particles onto rings. It goes to other processes as it is.

    Attributes
    ----------
    images
        Of the particles, prepared.
    groups, file_defocus
        What their file says of each, in the same order.
    prior
        ``given``, ``micrograph`` or ``blind``.
    defocus_range_um
        Where the defocus is sought.
    device
        Where the images go.
    """

    images: PreparedImages
    groups: OpticsGroups
    file_defocus: FileDefocus
    prior: str
    defocus_range_um: tuple[float, float]
    device: torch.device

    @classmethod
    def of(
        cls,
        particles: ParticleTable,
        images: PreparedImages,
        prior: str,
        defocus_range_um: tuple[float, float],
        device: torch.device,
    ) -> RingReader:
        """A reader of the particles of a table, whose images are in the same order."""
        return cls(images, OpticsGroups.of(particles), FileDefocus.of(particles), prior, defocus_range_um, device)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def grid(self) -> PolarGrid:
        """Where the rings are."""
        box_size = self.images.info.box_size
        return PolarGrid(box_size, max(4, int(RINGS_OF_NYQUIST * box_size / 2)))

    @cached_property
    def transfers(self) -> tuple[RingTransfer, ...]:
        """Transfer function of each group."""
        pixel_size = self.images.info.pixel_size_A
        return tuple(
            RingTransfer.of_optics(self.grid, pixel_size, optics, phase).to(self.device)
            for optics, phase in zip(self.groups.optics, self.groups.phase_shift_deg, strict=True)
        )

    @cached_property
    def transform(self) -> PolarTransform:
        """The transform onto rings."""
        return PolarTransform(self.grid, self.device)

    def read(self, rows: NDArray[np.int64]) -> RingImages:
        """Images of these rows on rings."""
        shape = (len(rows), self.grid.rings, self.grid.angles // 2)
        samples = torch.empty(shape, dtype=torch.complex64, device=self.device)
        size = batch_size(READ_BATCH, self.device)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            samples[part] = self.transform(to_device(self.images.read(rows[part]), self.device))
        said = self.file_defocus
        mean, half, angle = (self._float(values[rows]) for values in (said.mean_um, said.half_um, said.angle_rad))
        low, high = self.defocus_range_um
        values = torch.arange(low, high + 0.5 * DEFOCUS_STEP_um, DEFOCUS_STEP_um, device=self.device)
        defocus = DefocusRange(
            values,
            centre_um=mean if self.prior == "micrograph" else None,
            spread_um=MICROGRAPH_SPREAD_um,
            fixed_um=mean if self.prior == "given" else None,
        )
        group = torch.from_numpy(self.groups.group[rows]).to(self.device)
        return RingImages(samples, group, self.transfers, half, angle, defocus, self.grid)

    def _float(self, values: FloatArray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)
