"""Class and pose of every particle, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.alignment.evidence import Evidence
from cryorbit.alignment.refine import Poses
from cryorbit.classification.joint import Assignment
from cryorbit.classification.mirror import reflected_shift
from cryorbit.classification.view_map import ViewMap
from cryorbit.conventions import FloatArray
from cryorbit.estimation.outliers import ImageEvidence


@dataclass(frozen=True)
class ClassPoses:
    """Class and pose of particles; all arrays of shape (n,) unless said.

    Attributes
    ----------
    number, class_probability
        The most likely class, counted from 0, and its probability.
    pose_probability
        Of that class and an angle near the best one, at any shift.
    psi_deg, psi_std_deg
        In-plane angle against the class average.
    shift_px, shift_std_px
        Position in the box, in pixels of the images that were read, shape (n, 2), and its deviation along one axis.
    defocus_um, defocus_std_um
        Mean over directions; the deviation is 0 where the file is trusted.
    log_evidence
        Log-likelihood of all classes together over noise alone, in nats.
    amplitude
        Strength of the average in the image.
    residual
        Power of what is left over that of the noise, from the centre of Fourier space outwards, shape (n, bands).
    evidence
        What junk is judged by.
    place
        On the map of all views, shape (n, axes).
    mirrored
        Whether it is the reflected average that angle and shift are against.
    """

    number: NDArray[np.int64]
    class_probability: FloatArray
    pose_probability: FloatArray
    psi_deg: FloatArray
    psi_std_deg: FloatArray
    shift_px: FloatArray
    shift_std_px: FloatArray
    defocus_um: FloatArray
    defocus_std_um: FloatArray
    log_evidence: FloatArray
    amplitude: FloatArray
    residual: FloatArray
    evidence: ImageEvidence
    place: FloatArray
    mirrored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.number)

    @classmethod
    def of(
        cls, assigned: Assignment, mirrored: Tensor, poses: Poses, judged: Evidence, view_map: ViewMap
    ) -> ClassPoses:
        """Of images that were compared with all classes and then refined, reflected if need be, within theirs."""
        covariance = poses.covariance.double()
        psi = torch.where(mirrored, -poses.psi, poses.psi)
        return cls(
            number=assigned.number.cpu().numpy().astype(np.int64),
            class_probability=as_array(assigned.probability),
            pose_probability=as_array(assigned.pose_probability),
            psi_deg=np.degrees(as_array(torch.remainder(psi, 2 * torch.pi))),
            psi_std_deg=np.degrees(as_array(covariance[:, 0, 0].sqrt())),
            shift_px=as_array(reflected_shift(poses.shift, mirrored)),
            shift_std_px=as_array((0.5 * (covariance[:, 1, 1] + covariance[:, 2, 2])).sqrt()),
            defocus_um=as_array(poses.defocus_um),
            defocus_std_um=as_array(poses.defocus_variance_um2.clamp(min=0).sqrt()),
            log_evidence=as_array(assigned.log_evidence),
            amplitude=as_array(judged.amplitude),
            residual=as_array(judged.residual),
            evidence=judged.judged(),
            place=as_array(view_map.coordinates(assigned.likeness)),
            mirrored=mirrored.cpu().numpy(),
        )

    @classmethod
    def concatenate(cls, parts: list[ClassPoses]) -> ClassPoses:
        """Of several groups of particles, one after the other."""
        evidence = ImageEvidence(
            **{part.name: np.concatenate([getattr(p.evidence, part.name) for p in parts])
               for part in fields(ImageEvidence)}
        )  # fmt: skip
        names = [field.name for field in fields(cls) if field.name != "evidence"]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}, evidence=evidence)

    def of_rows(self, rows: NDArray[np.int64]) -> ClassPoses:
        """Of some of the particles, in this order."""
        evidence = ImageEvidence(**{f.name: getattr(self.evidence, f.name)[rows] for f in fields(ImageEvidence)})
        names = [field.name for field in fields(self) if field.name != "evidence"]
        return ClassPoses(**{name: getattr(self, name)[rows] for name in names}, evidence=evidence)


def as_array(values: Tensor) -> FloatArray:
    """Values in float64, on the CPU."""
    return values.detach().cpu().double().numpy()
