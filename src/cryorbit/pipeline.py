"""The main job: its stages in the order in which particles travel, each resumable from the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import cryorbit
from cryorbit import results
from cryorbit.config import RunConfig, make_config
from cryorbit.errors import CryorbitError, ParticleDataError, RunFolderError
from cryorbit.estimation.outliers import DETECTORS, OutlierResult, find_outliers
from cryorbit.estimation.truth import Truth, read_truth
from cryorbit.io import ImageStack, read_particles
from cryorbit.io.runs import RunFolder, file_sha256, identity, stacks_fingerprint, write_table
from cryorbit.io.star import IMAGE_NAME, read_star
from cryorbit.latent.embed import Embedding, embed, load_embedding, save_embedding
from cryorbit.latent.orbits import orbit_invariants
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import ParticleCache, build_cache, cache_is_complete
from cryorbit.progress import Observer, Silent
from cryorbit.training.checkpoint import BEST, load_autoencoder
from cryorbit.training.loop import train

STAGES = ("prepare", "train", "embed", "outliers", "estimate", "report")
TITLES = {
    "prepare": "Reading particles",
    "train": "Training",
    "embed": "Embedding",
    "outliers": "Finding outliers",
    "estimate": "Estimating",
    "report": "Writing the report",
}


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    folder
        The run folder.
    particles
        Every input row with cryorbit's columns; None if the run stopped before the estimates.
    estimates
        The same numbers as a table, and both ways of reading the latent space; None likewise.
    report
        Path of the page, if it was written.
    """

    folder: Path
    particles: ParticleTable | None
    estimates: pd.DataFrame | None
    report: Path | None

    @property
    def kept(self) -> ParticleTable:
        """Particles below the outlier threshold.

        Raises
        ------
        RunFolderError
            If the run stopped before the estimates.
        """
        if self.particles is None or self.estimates is None:
            raise RunFolderError(f"{self.folder}: the run stopped before the outliers were found.")
        return self.particles.where(self.estimates["kept"].to_numpy())


class _Job:
    """A run in progress: its folder, its particles, and what the stages hand on."""

    def __init__(self, folder: RunFolder, config: RunConfig, particles: ParticleTable, observer: Observer) -> None:
        self.folder, self.config, self.particles, self.observer = folder, config, particles, observer
        self._embedding: Embedding | None = None
        self._stage = STAGES[0]
        self.truth: Truth | None = None
        self.report: Path | None = None

    @property
    def cache(self) -> ParticleCache:
        """The images; made again where they were deleted."""
        path = self.folder.path / "cache"
        if not cache_is_complete(path):
            self.prepare()
        return ParticleCache(path)

    @property
    def embedding(self) -> Embedding:
        """Latent points of all particles."""
        if self._embedding is None:
            path = self.folder.path / "cache" / "latent_orbits.npz"
            if not path.is_file():
                self.embed()
            else:
                self._embedding = load_embedding(path)
        if self._embedding is None:
            raise RunFolderError(f"{self.folder.path}: holds no embedding; run `cryorbit embed` first.")
        return self._embedding

    def prepare(self) -> dict[str, Any]:
        """Read, crop and standardise every image once."""
        pixel_size = _one_pixel_size(self.particles)
        with ImageStack(self.particles.locations) as stack:
            cache = build_cache(
                stack,
                pixel_size,
                self.folder.path / "cache",
                self.config.preprocessing,
                self.particles.frame[IMAGE_NAME].to_numpy(),
                2 ** max(self.config.model.n_blocks, self.config.model.discriminator_blocks),
                self.observer.advance,
            )
        info = asdict(cache.info)
        self.folder.manifest["images"] = info
        self._say_contrast(cache)
        return {}

    def _say_contrast(self, cache: ParticleCache) -> None:
        info = cache.info
        how = "as asked" if self.config.preprocessing.invert is not None else (
            "detected" if info.contrast_significance >= 3 else "a guess: the contrast is too weak to tell"
        )  # fmt: skip
        if info.inverted:
            self.observer.say(f"Particles are darker than their background ({how}): the images were inverted.")
        if how.startswith("a guess"):
            self.warn(
                "Whether the particles are bright or dark could not be told from the images; "
                "give --invert or --no-invert."
            )

    def train(self) -> dict[str, Any]:
        """Train the VAE-GAN."""

        def report(epoch: int, epochs: int, terms: Mapping[str, float]) -> None:
            self.observer.advance(
                epoch, epochs,
                f"loss {terms['train_total']:.1f}, validation {terms['validation_total']:.1f}, "
                f"{terms['images_per_second']:.0f} images/s",
            )  # fmt: skip

        result = train(
            self.cache, self.config, self.folder.file("checkpoint", BEST).parent,
            self.folder.path / "metrics.jsonl", report,
        )  # fmt: skip
        for warning in result.warnings:
            self.warn(warning)
        return {"epochs": result.epochs, "best_epoch": result.best_epoch}

    def embed(self) -> dict[str, Any]:
        """Latent points of every particle and of its turned copies."""
        autoencoder = load_autoencoder(self.folder.path / "checkpoint" / BEST, self.config.model)
        self._embedding = embed(autoencoder, self.cache, progress=self.observer.advance)
        save_embedding(self.folder.file("cache", "latent_orbits.npz"), self._embedding)
        return {}

    def outliers(self) -> dict[str, Any]:
        """Scores of all three detectors; the configured one decides."""
        settings = self.config.estimation
        features = orbit_invariants(self.embedding)
        if settings.outlier_features == "latent":
            features = self.embedding.mean.astype(np.float64)
        found = {}
        for number, name in enumerate(DETECTORS, start=1):
            found[name] = find_outliers(features, name, self.config.seed)
            self.observer.advance(number, len(DETECTORS))
        chosen = found[settings.outlier_method]
        if not chosen.meaningful:
            self.warn(
                f"{len(features)} particles are too few to tell outliers from others: every outlier probability is "
                "the prior."
            )
        frame = pd.DataFrame({"id": self.particles.ids, **{name: result.score for name, result in found.items()}})
        frame["outlier_score"] = chosen.score
        frame["outlier_z"] = chosen.z_score
        frame["outlier_probability"] = chosen.probability
        write_table(self.folder.path / "outliers.parquet", frame)
        kept = self._kept(chosen.probability)
        self.folder.manifest["outliers"] = _outlier_facts(chosen, settings.outlier_features, kept)
        return {}

    def _kept(self, probability: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(probability <= self.config.estimation.outlier_threshold)

    def estimate(self) -> dict[str, Any]:
        """Angle and defocus, then the tables for the user."""
        scores = _read_outliers(self.folder)
        kept = self._kept(scores["outlier_probability"].to_numpy())
        autoencoder = load_autoencoder(self.folder.path / "checkpoint" / BEST, self.config.model)
        sample = results.Sample.draw(autoencoder, self.cache, self.embedding, kept, self.config.seed)
        outcome = results.estimate_from_latent(self.particles, self.embedding, kept, self.config.estimation, sample)
        for warning in outcome.warnings:
            self.warn(warning)
        self.folder.manifest.update(outcome.facts)
        estimates = results.estimates_table(self.particles, outcome, scores, kept)
        write_table(self.folder.path / "latent.parquet", results.latent_table(self.particles, self.embedding, outcome))
        write_table(self.folder.path / "estimates.parquet", estimates)
        results.write_particle_files(self.folder.path, results.annotated(self.particles, outcome, scores), kept)
        return {}

    def write_report(self) -> dict[str, Any]:
        """Figures and the page."""
        from cryorbit.report import write_report

        self.report = write_report(self.folder.path, self.truth)
        return {}

    def warn(self, text: str) -> None:
        """Tell the user now, and again in the report."""
        warnings = self.folder.manifest.setdefault("warnings_by_stage", {}).setdefault(self._stage, [])
        if text not in warnings:
            warnings.append(text)
            self.observer.say(f"Warning: {text}")

    def run(self, until: str, redo_from: str | None = None) -> None:
        """Run the stages that are not done yet, up to one."""
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "prepare": self.prepare,
            "train": self.train,
            "embed": self.embed,
            "outliers": self.outliers,
            "estimate": self.estimate,
            "report": self.write_report,
        }
        first_again = STAGES.index(redo_from) if redo_from is not None else len(STAGES)
        for number, stage in enumerate(STAGES[: STAGES.index(until) + 1]):
            if number < first_again and self.folder.stage_done(stage):
                continue
            self._stage = stage
            self.folder.manifest.setdefault("warnings_by_stage", {}).pop(stage, None)
            self.observer.stage(TITLES[stage])
            started = time.perf_counter()
            facts = actions[stage]()
            by_stage = self.folder.manifest["warnings_by_stage"]
            self.folder.manifest["warnings"] = [text for name in STAGES for text in by_stage.get(name, [])]
            if stage == "report":
                self.folder.manifest["finished"] = True
            self.folder.record_stage(stage, time.perf_counter() - started, **facts)
            self.observer.advance(1, 1) if stage in ("estimate", "report") else None

    def result(self) -> RunResult:
        """What is there now."""
        path = self.folder.path
        particles = estimates = None
        if (path / "estimates.parquet").is_file():
            estimates = pd.read_parquet(path / "estimates.parquet")
            particles = read_star(path / "particles.star", check_images=False)
        page = path / "report.html"
        return RunResult(path, particles, estimates, page if page.is_file() else None)


def _one_pixel_size(particles: ParticleTable) -> float:
    sizes = np.unique(particles.imaging.pixel_size_A)
    if len(sizes) != 1 or not np.isfinite(sizes[0]):
        raise ParticleDataError(
            f"{particles.name}: pixel sizes differ ({', '.join(f'{size:g}' for size in sizes)} A); expected one: run "
            "cryorbit on each optics group by itself."
        )
    return float(sizes[0])


def _outlier_facts(chosen: OutlierResult, features: str, kept: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "method": chosen.method, "features": features, "kept": int(kept.sum()), "dropped": int((~kept).sum()),
        "meaningful": chosen.meaningful, "threshold": chosen.threshold if np.isfinite(chosen.threshold) else None,
    }  # fmt: skip


def _read_outliers(folder: RunFolder) -> pd.DataFrame:
    path = folder.path / "outliers.parquet"
    if not path.is_file():
        raise RunFolderError(f"{folder.path}: holds no outlier scores; run `cryorbit outliers` first.")
    return pd.read_parquet(path)


def _manifest(particles: ParticleTable, config: RunConfig) -> dict[str, Any]:
    path = particles.source.path
    described = {
        "path": str(path.resolve()) if path is not None else None,
        "sha256": file_sha256(path) if path is not None else None,
        "particles": len(particles),
        "ids": identity({"ids": particles.ids.tolist()}) if len(particles) else None,
        "stacks": len(particles.locations.stacks),
        "stacks_fingerprint": stacks_fingerprint(particles.locations.stacks),
        "stack_root": particles.source.stack_root,
    }
    return {
        "program": "cryorbit",
        "version": cryorbit.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": identity({"configuration": config.model_dump(mode="json"), "input": described}),
        "input": described,
        "configuration": config.model_dump(mode="json"),
        "seeds": {"all": config.seed},
        "isotropy_order": None,
        "finished": False,
        "stages": {},
        "warnings": [],
        "warnings_by_stage": {},
    }


def run(
    particles: ParticleTable | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    until: str = "report",
    overwrite: bool = False,
    truth: str | Path | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Run the main job on particles, or go on with one that was interrupted.

    Parameters
    ----------
    particles
        Table from :func:`cryorbit.read_particles`, or the path of a particle file.
    out
        Run folder, new or empty, or holding an unfinished run of the same particles and configuration.
    config
        From :func:`cryorbit.make_config`; the preset ``fast`` by default.
    until
        Last stage to run, one of :data:`STAGES`.
    overwrite
        Move another folder of that name aside.
    truth
        STAR file with the truth, for the report.
    observer
        Told of the progress.

    Raises
    ------
    ParticleDataError, RunFolderError
        For mistakes that the user can mend.
    """
    config = config or make_config()
    table = particles if isinstance(particles, ParticleTable) else read_particles(particles)
    folder = RunFolder.create_or_continue(Path(out), _manifest(table, config), overwrite)
    try:
        return _run_job(folder, config, table, until, None, truth, observer)
    finally:
        folder.close()


def rerun(
    folder: str | Path,
    stage: str,
    *,
    estimation: Mapping[str, Any] | None = None,
    until: str | None = None,
    truth: str | Path | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Do one stage of an earlier run again, and whatever must follow it.

    Parameters
    ----------
    folder
        Run folder.
    stage
        Stage to do again; stages before it that are missing are done first.
    estimation
        Changes to the configuration of outliers and estimates.
    until
        Last stage; ``stage`` itself by default.
    truth, observer
        As for :func:`run`.

    Raises
    ------
    RunFolderError
        If there is no run in the folder.
    ParticleDataError
        If its particles are gone or changed.
    """
    opened = RunFolder.reopen(Path(folder))
    try:
        manifest = opened.manifest
        changed = {name: value for name, value in (estimation or {}).items() if value is not None}
        saved = manifest["configuration"]
        merged = {**saved, "estimation": {**saved["estimation"], **changed}}
        config = make_config(saved["preset"], merged)
        manifest["configuration"] = config.model_dump(mode="json")
        table = read_particles(manifest["input"]["path"], manifest["input"].get("stack_root"))
        if file_sha256(Path(manifest["input"]["path"])) != manifest["input"]["sha256"]:
            raise ParticleDataError(
                f"{manifest['input']['path']}: has changed since the run in {folder}; start a new run with it."
            )
        return _run_job(opened, config, table, until or stage, stage, truth, observer)
    finally:
        opened.close()


def _run_job(
    folder: RunFolder,
    config: RunConfig,
    table: ParticleTable,
    until: str,
    redo_from: str | None,
    truth: str | Path | None,
    observer: Observer | None,
) -> RunResult:
    if until not in STAGES:
        raise CryorbitError(f"Unknown stage {until!r}: expected one of {', '.join(STAGES)}.")
    job = _Job(folder, config, table, observer or Silent())
    if truth is not None:
        job.truth = read_truth(Path(truth), table)
    job.run(until, redo_from)
    return job.result()
