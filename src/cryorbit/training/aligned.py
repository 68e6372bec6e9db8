"""What an alignment leaves for a training: angle, defocus and shift of every image of a cache, and their average."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np

from cryorbit.conventions import FloatArray
from cryorbit.io.runs import write_arrays
from cryorbit.optics.ctf import Optics

# Beside the images of a cache.
GUIDE_FILE = "guide.npz"


@dataclass(frozen=True)
class KnownPoses:
    """What an alignment found for every image of a cache.

    Attributes
    ----------
    psi_deg, defocus_um
        Shape (n,).
    shift_px
        In pixels of the cache, shape (n, 2).
    weight
        Probability of each to be a particle, shape (n,).
    """

    psi_deg: FloatArray
    defocus_um: FloatArray
    shift_px: FloatArray
    weight: FloatArray


@dataclass(frozen=True)
class AlignedSet:
    """What an alignment leaves for a training.

    Attributes
    ----------
    poses
        Of the images of the cache.
    average
        Class average without the contrast transfer function, shape (m, m), of the same field of view.
    optics, phase_shift_deg
        Of the microscope, and of its phase plate.
    isotropy_order
        n where the average looks the same after a turn of 360 / n degrees.
    """

    poses: KnownPoses
    average: FloatArray
    optics: Optics
    isotropy_order: int
    phase_shift_deg: float = 0.0

    def save(self, path: Path) -> None:
        """Write everything into an ``.npz`` file."""
        numbers = np.array([*astuple(self.optics), self.isotropy_order, self.phase_shift_deg])
        write_arrays(path, **asdict(self.poses), average=self.average, numbers=numbers)

    @classmethod
    def load(cls, path: Path) -> AlignedSet:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            poses = KnownPoses(**{field.name: arrays[field.name] for field in fields(KnownPoses)})
            *optics, order, phase_shift_deg = arrays["numbers"].tolist()
            return cls(poses, arrays["average"], Optics(*optics), int(order), phase_shift_deg)
