"""The sets of a reproduction: each a run, its truth, and the names by which figures and tables call it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.errors import RunFolderError
from cryorbit.estimation.truth import PAPER_ZSCORE, Truth
from cryorbit.io.runs import read_table
from cryorbit.report.record import RunRecord

SIMULATED = "simulated"
EXPERIMENTAL_LIKE = "simulated with real ingredients, not experimental"
TEACHER = "teacher_"


@dataclass(frozen=True)
class LatentPlane:
    """Latent points in a plane, shape (n, 2), and what its axes are."""

    points: FloatArray
    axis: str


@dataclass(frozen=True)
class ReproducedSet:
    """One of the paper's data sets, or what takes its place; arrays in the row order of its estimates.

    Attributes
    ----------
    name
        ``simulated``, ``view_39``, ``view_93`` or ``view_30``: its folder.
    run
        What the run found; its columns ``teacher_*`` are what the alignment found, where one guided the training.
    truth
        How the particles were made.
    z_score
        The score by which RELION's sorting would mark junk, shape (n,); None where there is no junk.
    held_out
        Particles that the training did not see, shape (n,).
    symmetry_order
        n of the C_n that the view was made to have nearly.
    """

    name: str
    run: RunRecord
    truth: Truth
    z_score: FloatArray | None
    held_out: NDArray[np.bool_]
    symmetry_order: int = 1

    @property
    def is_simulated(self) -> bool:
        """Whether it is the paper's simulated set, and does not stand for an experiment."""
        return self.name == SIMULATED

    @property
    def title(self) -> str:
        """What it is called, with the label that it must never be without."""
        return "Simulated set" if self.is_simulated else f"{self.short.capitalize()} ({EXPERIMENTAL_LIKE})"

    @property
    def short(self) -> str:
        """A name for where the label stands beside it."""
        return self.name.replace("_", " ")

    @property
    def panel(self) -> str:
        """A name for the panel of a figure, the label in a line of its own."""
        return "simulated set" if self.is_simulated else f"{self.short}\n({EXPERIMENTAL_LIKE})"

    @property
    def is_junk(self) -> NDArray[np.bool_]:
        """Which images are junk in truth, shape (n,)."""
        return np.zeros(len(self.run), dtype=bool) if self.truth.is_outlier is None else self.truth.is_outlier

    @property
    def beyond_z(self) -> NDArray[np.bool_] | None:
        """Which images the paper would call outliers, shape (n,); None without scores."""
        return None if self.z_score is None else np.abs(self.z_score) > PAPER_ZSCORE

    def up_to_symmetry(self) -> RunRecord:
        """The run, its angles to be compared up to the symmetry of the view, whether it was found or not."""
        return replace(self.run, manifest={**self.run.manifest, "isotropy_order": self.symmetry_order})

    def latent(self, prefix: str) -> FloatArray:
        """Latent coordinates, shape (n, latent): ``pc`` along the principal axes, ``z`` as the encoder gives them.

        Raises
        ------
        RunFolderError
            If ``latent.parquet`` is missing, or is not that of the estimates.
        """
        path: Path = self.run.folder / "latent.parquet"
        table = read_table(path)
        if not np.array_equal(table["id"].to_numpy(), self.run.estimates["id"].to_numpy()):
            raise RunFolderError(f"{path}: does not fit the estimates; run `cryorbit estimate {path.parent}` again.")
        names = [f"{prefix}{axis + 1}" for axis in range(len(table.columns)) if f"{prefix}{axis + 1}" in table]
        return table[names].to_numpy(dtype=np.float64)

    def plane(self) -> LatentPlane:
        """The plane in which orbits are seen best: that of the angle in a guided run, else the paper's."""
        if self.run.fact("chart", "guided"):
            return LatentPlane(self.latent("z")[:, :2], "latent axis")
        return LatentPlane(self.latent("pc")[:, :2], "principal coordinate")

    def rows(self, chosen: NDArray[np.bool_]) -> ReproducedSet:
        """The same set with some of its particles only; its latent coordinates can no longer be read."""

        def of(values: FloatArray | None) -> FloatArray | None:
            return None if values is None else values[chosen]

        truth = self.truth
        return replace(
            self,
            run=replace(self.run, estimates=self.run.estimates[chosen].reset_index(drop=True), principal=None),
            truth=Truth(
                of(truth.psi_deg), of(truth.defocus_um),
                None if truth.is_outlier is None else truth.is_outlier[chosen],
                None if truth.kind is None else truth.kind[chosen], truth.source, of(truth.origin_A),
            ),
            z_score=of(self.z_score),
            held_out=self.held_out[chosen],
        )  # fmt: skip


def with_teacher(run: RunRecord, psi_deg: FloatArray, defocus_um: FloatArray) -> RunRecord:
    """A run with what its alignment found beside what the latent space says."""
    columns = pd.DataFrame({f"{TEACHER}psi_deg": psi_deg, f"{TEACHER}defocus_um": defocus_um}, run.estimates.index)
    return replace(run, estimates=pd.concat([run.estimates, columns], axis=1))
