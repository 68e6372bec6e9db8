"""What a run left behind, as the report reads it: whatever is missing is absent here, and left out there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.errors import RunFolderError
from cryorbit.io.runs import MANIFEST
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.metrics import read_metrics

AXES_SHOWN = 3
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Preview:
    """Held-out images and what the decoder drew for them after one epoch; arrays of shape (k, h, w)."""

    epoch: int
    images: FloatArray
    drawn: FloatArray


@dataclass(frozen=True)
class RunRecord:
    """Tables, training curves and facts of a run.

    Attributes
    ----------
    folder
        The run folder.
    estimates
        One row for each of the n particles, without the image names.
    principal
        The first principal coordinates of the latent points, shape (n, 2 or 3), in the order of ``estimates``;
        None without ``latent.parquet``.
    metrics
        One mapping for each epoch.
    previews
        By epoch.
    cache
        The standardised images, or None where they were deleted.
    manifest
        Content of ``run.json``.
    """

    folder: Path
    estimates: pd.DataFrame
    principal: FloatArray | None
    metrics: tuple[Mapping[str, Any], ...]
    previews: tuple[Preview, ...]
    cache: ParticleCache | None
    manifest: Mapping[str, Any]

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
    def reading(self) -> str:
        """Column prefix of the reading whose angles were written: aligned, of latent orbits, or of the paper's plane."""
        if "orbit_psi_deg" in self.estimates:
            return "orbit_"
        return "plane_" if self.fact("chart", "read") == "pca" else "latent_"

    @property
    def isotropy_order(self) -> int:
        """N of the isotropy group C_n; 1 where the run did not say."""
        order = self.number("isotropy_order")
        return max(1, int(order)) if order is not None else 1

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


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises
    ------
    RunFolderError
        If it has no readable ``estimates.parquet``, or that has no rows.
    """
    estimates = _read_estimates(folder)
    return RunRecord(
        folder=folder,
        estimates=estimates,
        principal=_read_principal(folder / "latent.parquet", estimates),
        metrics=tuple(read_metrics(folder / "metrics.jsonl")),
        previews=tuple(_read_previews(folder / "checkpoint")),
        cache=_open_cache(folder / "cache", len(estimates)),
        manifest=_read_manifest(folder / MANIFEST),
    )


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


def _read_principal(path: Path, estimates: pd.DataFrame) -> FloatArray | None:
    """Principal coordinates in the order of the estimates."""
    try:
        present = pq.read_schema(path).names
        columns = [name for name in (f"pc{k + 1}" for k in range(AXES_SHOWN)) if name in present]
        latent = pd.read_parquet(path, columns=["id", *columns])
    except (OSError, pa.ArrowException):
        return None
    if len(columns) < 2 or "id" not in estimates or latent["id"].duplicated().any():
        return None
    if not np.array_equal(latent["id"].to_numpy(), estimates["id"].to_numpy()):
        latent = latent.set_index("id").reindex(estimates["id"])
    return latent[columns].to_numpy(dtype=np.float64)


def _read_previews(checkpoint: Path) -> list[Preview]:
    previews = []
    for path in sorted(checkpoint.glob("preview_*.npz")):
        try:
            with np.load(path) as arrays:
                images, drawn = (np.asarray(arrays[name][:, 0], dtype=np.float64) for name in ("images", "drawn"))
            previews.append(Preview(int(path.stem.removeprefix("preview_")), images, drawn))
        except (OSError, ValueError, KeyError, IndexError, BadZipFile):
            continue
    return previews


def _open_cache(folder: Path, n: int) -> ParticleCache | None:
    try:
        cache = ParticleCache(folder)
    except (OSError, ValueError, TypeError):
        return None
    return cache if len(cache) == n else None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
