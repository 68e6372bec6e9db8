"""What a run left behind, as the report reads it: whatever is missing is absent here, and left out there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.mrc import read_image
from cryorbit.io.runs import FILE_COLUMNS, MANIFEST
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.report.pictures import Pictures, cached_pictures
from cryorbit.training.metrics import read_metrics

AXES_SHOWN = 3
DEFAULT_THRESHOLD = 0.5
NO_ALIGNMENT = "This run did not align its particles: it was made by the latent method alone."
NO_LATENT_SPACE = "This run has no latent space: it was made by the alignment alone, which needs none."


@dataclass(frozen=True)
class Preview:
    """Held-out images and what the decoder drew for them after one epoch; arrays of shape (k, h, w).

    ``rows`` says which particles they are, shape (k,); empty where the file does not tell.
    """

    epoch: int
    images: FloatArray
    drawn: FloatArray
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class ClassAverage:
    """What the particles were aligned to.

    Attributes
    ----------
    image
        Shape (h, w); None where ``average.mrc`` is missing or damaged.
    spatial_frequency_per_A, correlation
        Fourier ring correlation of two halves, by ring; empty where it is missing or damaged.
    """

    image: FloatArray | None
    spatial_frequency_per_A: FloatArray
    correlation: FloatArray


@dataclass(frozen=True)
class RunRecord:
    """Tables, training curves and facts of a run.

    Attributes
    ----------
    folder
        The run folder.
    estimates
        One row for each of the n particles, without the image names.
    latent
        Columns of ``latent.parquet`` in the order of ``estimates``; None where it is missing or damaged.
    file_columns
        Columns of the particle file in that order, without those of which the estimates have a version; None likewise.
    principal
        The first principal coordinates of the latent points, shape (n, 2 or 3), in the order of ``estimates``;
        None without ``latent.parquet``.
    metrics
        One mapping for each epoch.
    previews
        By epoch.
    cache
        The standardised images, or None where there are none.
    average
        The class average.
    limits
        What the data allow, by defocus: the columns of ``limits.csv``, None where it is missing or damaged.
    manifest
        Content of ``run.json``.
    pictures
        Images of particles to look at; from the cache where nobody said otherwise.
    """

    folder: Path
    estimates: pd.DataFrame
    latent: pd.DataFrame | None
    file_columns: pd.DataFrame | None
    principal: FloatArray | None
    metrics: tuple[Mapping[str, Any], ...]
    previews: tuple[Preview, ...]
    cache: ParticleCache | None
    average: ClassAverage
    limits: pd.DataFrame | None
    manifest: Mapping[str, Any]
    pictures: Pictures = field(default_factory=Pictures)

    def __len__(self) -> int:
        return len(self.estimates)

    def column(self, name: str) -> FloatArray:
        """A column of the estimates, shape (n,); NaN where it is absent."""
        if name not in self.estimates:
            return np.full(len(self), np.nan)
        return np.asarray(pd.to_numeric(self.estimates[name], errors="coerce"), dtype=np.float64)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which particles are kept, shape (n,); by the outlier probability where the run did not say."""
        if "kept" in self.estimates:
            return np.asarray(self.estimates["kept"].fillna(True), dtype=bool)
        threshold = self.number("configuration", "estimation", "outlier_threshold")
        return ~(self.column("outlier_probability") > (DEFAULT_THRESHOLD if threshold is None else threshold))

    @property
    def has_alignment(self) -> bool:
        """Whether the particles were aligned to their own average."""
        return "orbit_psi_deg" in self.estimates

    @property
    def has_latent(self) -> bool:
        """Whether the latent space was read."""
        return "latent_psi_deg" in self.estimates

    @property
    def reading(self) -> str:
        """Column prefix of the reading whose angles were written: aligned, latent orbits, or the paper's plane."""
        if self.has_alignment:
            return "orbit_"
        return "plane_" if self.fact("chart", "read") == "pca" else "latent_"

    @property
    def angle_known(self) -> bool:
        """Whether an angle can be read at all, as far as the run says."""
        facts = "alignment" if self.has_alignment else "chart"
        return self.fact(facts, "identifiable") is not False

    @property
    def keeps_file_psi(self) -> bool:
        """Whether the angle in the output is the input file's own, since none could be read and it had some."""
        folded = self.reading == "plane_" and self.number("chart", "winding") not in (None, 1.0, -1.0)
        return (folded or not self.angle_known) and bool(np.isfinite(self.column("file_psi_deg")).any())

    @property
    def isotropy_order(self) -> int:
        """N of the isotropy group C_n; 1 where the run did not say."""
        order = self.number("isotropy_order")
        return max(1, int(order)) if order is not None else 1

    @property
    def latent_isotropy_order(self) -> int:
        """N of the latent orbits' own isotropy group, which the network's resolution may make larger."""
        harmonics = self.fact("chart", "harmonics")
        whole = [h for h in harmonics if isinstance(h, int)] if isinstance(harmonics, list) else []
        return max(1, math.gcd(*whole))

    @property
    def defocus_prior(self) -> str | None:
        """What was known of the defocus: given, micrograph or blind; None where the run did not say."""
        facts = "alignment" if self.has_alignment else "defocus"
        prior = self.fact(facts, "prior") or self.fact("configuration", "estimation", "defocus_prior")
        return prior if isinstance(prior, str) else None

    @property
    def keeps_file_defocus(self) -> bool:
        """Whether the defocus in the output is the input file's own."""
        if not self.has_alignment:
            return self.defocus_prior in ("given", "micrograph")
        nothing_learnt = self.number("alignment", "learnt_from") == 0
        in_file = bool(np.isfinite(self.column("file_defocus_um")).any())
        return self.defocus_prior == "given" or (nothing_learnt and in_file)

    @property
    def has_scores(self) -> bool:
        """Whether the outlier scores mean anything."""
        return self.fact("outliers", "meaningful") is not False and bool(
            np.isfinite(self.column("outlier_score")).any()
        )

    def fact(self, *keys: str) -> Any:
        """What ``run.json`` says under nested keys; None where it says nothing."""
        value: Any = self.manifest
        for key in keys:
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value

    def number(self, *keys: str) -> float | None:
        """A finite number of ``run.json``; None where it has none."""
        value = self.fact(*keys)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            return None
        return float(value)


def read_run(folder: Path, pictures: Pictures | None = None) -> RunRecord:
    """Read a run folder.

    Parameters
    ----------
    folder
        The run folder.
    pictures
        Images of its particles; from its cache, where there is one, if left out.

    Raises
    ------
    RunFolderError
        If it has no readable ``estimates.parquet``, or that has no rows.
    """
    estimates = _read_estimates(folder)
    latent = _read_beside(folder / "latent.parquet", estimates)
    cache = _open_cache(folder / "cache", len(estimates))
    return RunRecord(
        folder=folder,
        estimates=estimates,
        latent=latent,
        file_columns=_read_beside(folder / FILE_COLUMNS, estimates),
        principal=_principal(latent),
        metrics=tuple(read_metrics(folder / "metrics.jsonl")),
        previews=tuple(_read_previews(folder / "checkpoint")),
        cache=cache,
        average=_read_average(folder),
        limits=_read_csv(folder / "limits.csv", ("defocus_um", "psi_limit_deg", "origin_limit_A", "defocus_limit_um")),
        manifest=_read_manifest(folder / MANIFEST),
        pictures=pictures or (Pictures() if cache is None else cached_pictures(cache)),
    )


def unfinished_run(folder: Path, manifest: Mapping[str, Any]) -> RunRecord:
    """What there is of a run that has no estimates yet: training curves, average and facts, and no particles.

    Parameters
    ----------
    folder
        The run folder.
    manifest
        What ``run.json`` will say.
    """
    return RunRecord(
        folder=folder, estimates=pd.DataFrame(), latent=None, file_columns=None, principal=None,
        metrics=tuple(read_metrics(folder / "metrics.jsonl")), previews=(), cache=None,
        average=_read_average(folder), limits=None, manifest=manifest,
    )  # fmt: skip


def _read_estimates(folder: Path) -> pd.DataFrame:
    path = folder / "estimates.parquet"
    if not path.is_file():
        raise RunFolderError(
            f"{folder}: has no {path.name}, so there is nothing to report; give the --out folder of a run that "
            "has reached its estimates."
        )
    try:
        names = [name for name in pq.read_schema(path).names if name != "image"]
        estimates = pd.read_parquet(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(f"{path}: cannot be read as a table ({error}); run the estimates again.") from error
    if estimates.empty:
        raise RunFolderError(f"{path}: has no rows; run the estimates again.")
    return estimates


def _read_beside(path: Path, estimates: pd.DataFrame) -> pd.DataFrame | None:
    """A further table of the same particles, in the order of the estimates, without its ids."""
    try:
        table = pd.read_parquet(path)
    except (OSError, pa.ArrowException):
        return None
    if "id" not in table or "id" not in estimates or table["id"].duplicated().any():
        return None
    if not np.array_equal(table["id"].to_numpy(), estimates["id"].to_numpy()):
        table = table.set_index("id").reindex(estimates["id"]).reset_index()
    return table.drop(columns="id")


def _principal(latent: pd.DataFrame | None) -> FloatArray | None:
    """The first principal coordinates of the latent points."""
    if latent is None:
        return None
    columns = [name for name in (f"pc{k + 1}" for k in range(AXES_SHOWN)) if name in latent]
    return latent[columns].to_numpy(dtype=np.float64) if len(columns) >= 2 else None


def _read_previews(checkpoint: Path) -> list[Preview]:
    previews = []
    for path in sorted(checkpoint.glob("preview_*.npz")):
        try:
            with np.load(path) as arrays:
                images, drawn = (np.asarray(arrays[name][:, 0], dtype=np.float64) for name in ("images", "drawn"))
                rows = np.asarray(arrays.get("rows", []), dtype=np.int64)
            previews.append(Preview(int(path.stem.removeprefix("preview_")), images, drawn, rows))
        except (OSError, ValueError, KeyError, IndexError, BadZipFile):
            continue
    return previews


def _open_cache(folder: Path, n: int) -> ParticleCache | None:
    try:
        cache = ParticleCache(folder)
    except (OSError, ValueError, TypeError):
        return None
    return cache if len(cache) == n else None


def _read_average(folder: Path) -> ClassAverage:
    try:
        image = read_image(folder / "average.mrc")
    except ParticleDataError:
        image = None
    frame = _read_csv(folder / "average_frc.csv", ("spatial_frequency_per_A", "frc"))
    if frame is None:
        return ClassAverage(image, np.empty(0), np.empty(0))
    return ClassAverage(image, frame["spatial_frequency_per_A"].to_numpy(), frame["frc"].to_numpy())


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """Numeric columns of a table; None where it is missing, damaged or empty."""
    try:
        frame = pd.read_csv(path, usecols=list(columns), dtype=np.float64)
    except (OSError, ValueError):
        return None
    return None if frame.empty else frame


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
