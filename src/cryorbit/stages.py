"""The stages of the main job, each a method that leaves its result in the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import readings, results
from cryorbit.aligned import AVERAGE, LatentHint, align_table, load_poses, save_outcome, told_marks
from cryorbit.alignment.orbit import Others
from cryorbit.alignment.reader import OpticsGroups
from cryorbit.config import EstimationConfig, RunConfig
from cryorbit.errors import CryorbitError, ParticleDataError
from cryorbit.estimation.lesson import TOLD, Lesson, read_lesson, save_told
from cryorbit.estimation.orientation import orbit_angle
from cryorbit.estimation.outliers import DETECTORS, ImageEvidence, OutlierResult, evidence_outliers, find_outliers
from cryorbit.estimation.truth import Truth
from cryorbit.io import ImageStack
from cryorbit.io.fingerprints import image_marks, stacks_fingerprint
from cryorbit.io.mrc import check_stacks, read_image
from cryorbit.io.runs import FILE_COLUMNS, RunFolder, has_report, read_table, write_bytes, write_table
from cryorbit.latent.embed import ORBITS, Embedding, KnownPoints, embed, load_embedding, save_points
from cryorbit.latent.harmonics import fit_harmonics
from cryorbit.latent.orbits import orbit_invariants
from cryorbit.machine import Workers, device_for, freed_memory_kept, give_back_memory
from cryorbit.model.cone import Cone
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import (
    CacheInfo,
    KnownImages,
    ParticleCache,
    build_cache,
    contrast_remarks,
    network_box_size,
    open_cache,
    prepare_images,
)
from cryorbit.progress import Observer
from cryorbit.remembered import AVERAGE_STATE, CHECKPOINT, METRICS, Remembered
from cryorbit.thumbnails import pictures_of
from cryorbit.training.checkpoint import BEST, load_autoencoder, save_checkpoint

if TYPE_CHECKING:
    from cryorbit.training.aligned import AlignedSet

STAGES = ("prepare", "train", "embed", "align", "outliers", "estimate", "report")
# A guided training learns from the alignment; else the alignment starts from the latent space.
GUIDED_STAGES = ("prepare", "align", "train", "embed", "outliers", "estimate", "report")
# What only the latent space needs.
LATENT_STAGES = ("prepare", "train", "embed")
CACHE = "cache"
TITLES = {
    "prepare": "Reading particles",
    "train": "Training",
    "embed": "Embedding",
    "align": "Aligning",
    "outliers": "Finding outliers",
    "estimate": "Estimating",
    "report": "Writing the report",
}


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """The stages of a run in their order."""
    return GUIDED_STAGES if is_guided(config) else STAGES


def is_guided(config: RunConfig) -> bool:
    """Whether the training is told what the alignment finds."""
    return config.training.guide == "alignment" and config.model.lambda_pose > 0


class Job:
    """A run in progress: its folder, its particles, and what the stages hand on."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        particles: ParticleTable,
        observer: Observer,
        workers: Workers | None = None,
    ) -> None:
        self.folder, self.config, self.particles, self.observer = folder, config, particles, observer
        self.workers = workers
        self._cache: ParticleCache | None = None
        self._embedding: Embedding | None = None
        self._stage = STAGES[0]
        self.truth: Truth | None = None

    @cached_property
    def remembered(self) -> Remembered | None:
        """What the run took from an earlier one; None where it began by itself."""
        return Remembered.of(self.folder)

    @cached_property
    def _known_images(self) -> KnownImages | None:
        """Those of the images that an earlier run has standardised."""
        if self.remembered is None:
            return None
        cache, rows = open_cache(self.remembered.source / CACHE), self.remembered.cached_rows(self.particles)
        return None if cache is None or rows is None else KnownImages(cache, rows)

    @property
    def cache(self) -> ParticleCache:
        """The images; made again where they were deleted."""
        path = self.folder.path / CACHE
        if self._cache is None:
            self._cache = open_cache(path)
        if self._cache is None:
            self.prepare()
            self._cache = ParticleCache(path)
        return self._cache

    @property
    def embedding(self) -> Embedding:
        """Latent points of all particles; made again where they were deleted."""
        if self._embedding is None:
            self._embedding = load_embedding(self.folder.path / CACHE)
        if self._embedding is None:
            self.embed()
        return cast("Embedding", self._embedding)

    @property
    def has_latent(self) -> bool:
        """Whether the latent space is part of this run."""
        asked = self.config.estimation.method == "latent" or bool(self.folder.manifest.get("latent", True))
        return asked or self.folder.stage_done("embed")

    def wanted(self, stage: str) -> bool:
        """Whether a stage is part of this run."""
        if stage == "align":
            return self.config.estimation.method == "orbit" or (self.has_latent and is_guided(self.config))
        return self.has_latent or stage not in LATENT_STAGES

    def prepare(self) -> dict[str, Any]:
        """Read, crop and standardise every image once."""
        pixel_size = one_pixel_size(self.particles)
        check_unchanged(self.particles, self.folder.manifest["input"])
        with ImageStack(self.particles.locations) as stack:
            cache = build_cache(
                stack,
                pixel_size,
                self.folder.path / CACHE,
                self.config.preprocessing,
                self.particles.image_names,
                2 ** max(self.config.model.n_blocks, self.config.model.discriminator_blocks),
                self.observer.advance,
                self._known_images,
            )
        self.folder.manifest["images"] = asdict(cache.info)
        self._say_contrast(cache.info)
        return {}

    def _say_contrast(self, info: CacheInfo) -> None:
        if self.config.preprocessing.invert is None:
            asked = None
        else:
            asked = "as asked" if self.remembered is None else "as in the earlier run"
        remark, warning = contrast_remarks(info, asked)
        if remark:
            self.observer.say(remark)
        if warning:
            self.warn(warning)

    def train(self) -> dict[str, Any]:
        """Train the VAE-GAN."""
        from cryorbit.training.guidance import Guide  # slow to import, and alignment does without
        from cryorbit.training.loop import train
        from cryorbit.training.together import call

        def report(epoch: int, epochs: int, terms: Mapping[str, float]) -> None:
            named = ("reconstruction", "kl", "adversarial", "cone", "pose")
            parts = ", ".join(f"{name} {terms[f'train_{name}']:.1f}" for name in named if terms.get(f"train_{name}"))
            self.observer.advance(
                epoch, epochs,
                f"loss {terms['train_total']:.1f} ({parts}), validation {terms['validation_total']:.1f}, "
                f"{terms['images_per_second']:.0f} images/s",
            )  # fmt: skip

        if self.remembered is not None:
            return self._train_as_before(self.remembered)
        cache, config, checkpoints = self.cache, self.config, self.folder.file(CHECKPOINT, BEST).parent
        aligned = self.aligned_set() if is_guided(config) else None
        guide = Guide.of(cache, aligned, config.seed) if aligned is not None else None
        team = call(cache, checkpoints, config, aligned)
        result = train(cache, config, checkpoints, self.folder.path / METRICS, report, guide, team)
        for warning in result.warnings:
            self.warn(warning)
        self.folder.manifest["guide"] = asdict(guide.cone) if guide is not None else None
        if guide is not None:
            seen = np.zeros(len(self.particles), dtype=bool)
            seen[_learnt_rows(len(self.particles), config)] = True
            save_told(self.folder.file(CHECKPOINT, TOLD), guide.poses.psi_deg, guide.poses.defocus_um, seen)
        return {"epochs": result.epochs, "best_epoch": result.best_epoch}

    def _train_as_before(self, before: Remembered) -> dict[str, Any]:
        """Take over the network of an earlier run, which the alignment's average, the same one, speaks to as well."""
        info, known = self.cache.info, before.manifest["images"]
        if info.box_size != known["box_size"] or not np.isclose(info.pixel_size_A, known["pixel_size_A"], rtol=1e-3):
            now, then = (f"{size} px of {pixel:g} A" for size, pixel in (
                (info.box_size, info.pixel_size_A), (known["box_size"], known["pixel_size_A"]),
            ))  # fmt: skip
            raise ParticleDataError(
                f"{self.particles.name}: its images, {now} for the network, are not like those of the earlier run "
                f"({then}): start a run of their own."
            )
        write_bytes(self.folder.file(CHECKPOINT, BEST), (before.folder / BEST).read_bytes())
        write_bytes(self.folder.path / METRICS, (before.folder / METRICS).read_bytes())
        self.folder.manifest["guide"] = before.manifest.get("guide")
        if before.manifest.get("guide"):
            poses = load_poses(self.folder.path)
            seen = before.seen(self.particles)
            save_told(self.folder.file(CHECKPOINT, TOLD), poses.psi_deg, poses.defocus_um, seen)
        stage = before.manifest["stages"]["train"]
        return {name: stage[name] for name in ("epochs", "best_epoch")}

    def aligned_set(self) -> AlignedSet | None:
        """What the alignment leaves for a training; None where it knows no angle."""
        from cryorbit.training.aligned import AlignedSet, KnownPoses

        facts = self.folder.manifest["alignment"]
        if not facts["identifiable"]:
            self.observer.say("The alignment knows no angle: the network is trained without its guidance.")
            return None
        poses = load_poses(self.folder.path)
        known = KnownPoses(
            poses.psi_deg,
            poses.defocus_um,
            poses.shift_px * (facts["pixel_size_A"] / self.cache.info.pixel_size_A),
            _weights(poses.evidence, facts["snr"]),
        )
        average, groups = read_image(self.folder.path / AVERAGE), OpticsGroups.of(self.particles)
        optics, phase_shift_deg = groups.optics[groups.largest], groups.phase_shift_deg[groups.largest]
        return AlignedSet(known, average, optics, facts["isotropy_order"], phase_shift_deg)

    def embed(self) -> dict[str, Any]:
        """Latent points of every particle and of its turned copies."""
        checkpoint, accelerator = self.folder.path / CHECKPOINT / BEST, self.config.training.accelerator
        autoencoder = load_autoencoder(checkpoint, self.config.model)
        autoencoder.to(device_for(accelerator))
        orbits, cache, parts = self.folder.file(CACHE, ORBITS), self.cache, None
        known = self._known_points()
        with freed_memory_kept(), self._cluster() as workers:
            if workers is not None:
                from cryorbit.latent.spread import over_cluster

                parts = over_cluster(cache.folder, checkpoint, self.config.model, accelerator, workers.count, known)
            self._embedding = embed(
                autoencoder, cache, progress=self.observer.advance, store=orbits, parts=parts, known=known
            )
        save_points(orbits.parent, self._embedding)
        return {}

    def _known_points(self) -> KnownPoints | None:
        """Points that an earlier run has found with the same network for images that are the same."""
        images = self._known_images
        if self.remembered is None or images is None or not images.fit(self.cache.info):
            return None
        weights = [folder / CHECKPOINT / BEST for folder in (self.remembered.source, self.folder.path)]
        if not all(path.is_file() for path in weights) or len({path.read_bytes() for path in weights}) > 1:
            return None  # it was trained again since
        before = load_embedding(self.remembered.source / CACHE)
        return None if before is None else KnownPoints(before, images.rows)

    def align(self) -> dict[str, Any]:
        """Angle, shift and defocus of every particle against the set's own average."""
        pixel_size = one_pixel_size(self.particles)
        check_unchanged(self.particles, self.folder.manifest["input"])
        names = self.particles.image_names
        latent = self._latent_hint() if self.has_latent and not is_guided(self.config) else None
        with freed_memory_kept(), self._spread() as others, ImageStack(self.particles.locations) as stack:
            box_size = network_box_size(stack.box_size, self.config.alignment.box_size, 2)
            images = prepare_images(stack, pixel_size, box_size, self.config.preprocessing, names)
            if not self.has_latent:
                self.folder.manifest["images"] = asdict(images.info)
                self._say_contrast(images.info)
            outcome = align_table(
                self.particles, images, self.config, latent,
                lambda done, n, note: self.observer.advance(done, n, note),
                self.remembered.average(self.particles) if self.remembered is not None else None,
                others,
            )  # fmt: skip
        told = told_marks(self.particles, outcome.facts["prior"], tuple(outcome.facts["searched_um"]))
        save_outcome(self.folder.path, outcome, image_marks(self.particles), told)
        if outcome.memory is not None:
            save_checkpoint(self.folder.file(CHECKPOINT, AVERAGE_STATE), outcome.memory.as_plain())
        self.folder.manifest["alignment"] = outcome.facts
        for warning in outcome.warnings:
            self.warn(warning)
        return {}

    @contextmanager
    def _cluster(self) -> Iterator[Workers | None]:
        """Other processes to share the work, if any were asked for."""
        if self.workers is None:
            yield None
            return
        from cryorbit.cluster import connected

        with connected(self.workers.ray_address, self.folder.path / "ray", self.workers.count):
            yield self.workers

    @contextmanager
    def _spread(self) -> Iterator[Others | None]:
        """Who aligns what streams past the average."""
        from cryorbit.alignment.spread import over_cluster

        with self._cluster() as workers:
            yield None if workers is None else over_cluster(workers.count)

    def _latent_hint(self) -> LatentHint:
        """What the latent space says, to start from and to weigh by."""
        found = find_outliers(orbit_invariants(self.embedding), "robust_covariance", self.config.seed)
        kept = self._kept(found.probability)
        chart = fit_harmonics(self.embedding, kept)
        psi = orbit_angle(self.embedding, chart).psi_deg if chart.identifiable else None
        return LatentHint(1.0 - found.probability if found.meaningful else None, psi)

    def outliers(self) -> dict[str, Any]:
        """Scores of all that can tell outliers; the configured one decides."""
        settings = self.config.estimation
        scored = {}
        if self.has_latent:
            scored = self._latent_outliers()
        method = settings.outlier_method
        if method == "auto":
            method = "evidence" if settings.method == "orbit" else "robust_covariance"
        if settings.method == "orbit":
            poses = load_poses(self.folder.path)
            scored["evidence"] = evidence_outliers(poses.evidence, scored.get("robust_covariance"))
        return self._judge(scored[method], scored)

    def _latent_outliers(self) -> dict[str, OutlierResult]:
        settings = self.config.estimation
        features = orbit_invariants(self.embedding)
        if settings.outlier_features == "latent":
            features = self.embedding.mean.astype(np.float64)
        found = {}
        for number, name in enumerate(DETECTORS, start=1):
            found[name] = find_outliers(features, name, self.config.seed)
            self.observer.advance(number, len(DETECTORS))
        return found

    def _judge(self, chosen: OutlierResult, scored: Mapping[str, OutlierResult]) -> dict[str, Any]:
        """Write all scores, and decide by one."""
        settings, n = self.config.estimation, len(self.particles)
        if not chosen.meaningful:
            self.warn(
                f"{n} particle{'s are' if n > 1 else ' is'} too few to tell outliers from others: every outlier "
                "probability is the prior."
            )
        frame = pd.DataFrame({"id": self.particles.ids, **{name: result.score for name, result in scored.items()}})
        frame["outlier_score"] = chosen.score
        frame["outlier_z"] = chosen.z_score
        frame["outlier_probability"] = chosen.probability
        write_table(self.folder.path / "outliers.parquet", frame)
        kept = self._kept(chosen.probability)
        self.folder.manifest["outliers"] = _outlier_facts(chosen, settings, kept)
        return {}

    def _kept(self, probability: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(probability <= self.config.estimation.outlier_threshold)

    def estimate(self) -> dict[str, Any]:
        """Angle and defocus, then the tables for the user."""
        scores = read_table(self.folder.path / "outliers.parquet")
        kept = self._kept(scores["outlier_probability"].to_numpy())
        settings = self.config.estimation
        latent = self._estimate_from_latent(kept) if self.has_latent else None
        aligned = None
        if settings.method == "orbit":
            facts = self.folder.manifest["alignment"]
            aligned = results.Aligned(load_poses(self.folder.path), facts["pixel_size_A"], facts["identifiable"])
            self.folder.manifest["isotropy_order"] = facts["isotropy_order"] if facts["identifiable"] else None
        written = results.choose_written(self.particles, latent, aligned, settings)
        look = self.folder.manifest.get("look", {})
        doubts = (look["said"],) if look.get("doubtful") else ()
        for warning in (*doubts, *results.orientation_warnings(self.particles, written.angle_known)):
            self.warn(warning)
        estimates = results.estimates_table(self.particles, written, latent, aligned, scores, kept)
        write_table(self.folder.path / "estimates.parquet", estimates)
        write_table(self.folder.path / FILE_COLUMNS, results.file_columns(self.particles))
        meaningful = bool(self.folder.manifest["outliers"]["meaningful"])
        table = results.annotated(self.particles, written, scores, meaningful)
        results.write_particle_files(self.folder.path, table, kept)
        return {}

    def _estimate_from_latent(self, kept: NDArray[np.bool_]) -> readings.Outcome:
        autoencoder = load_autoencoder(self.folder.path / CHECKPOINT / BEST, self.config.model)
        sample = readings.Sample.draw(autoencoder, self.cache, self.embedding, kept, self.config.seed)
        outcome = readings.estimate_from_latent(
            self.particles, self.embedding, kept, self.config.estimation, sample, self.lesson(kept)
        )
        for warning in outcome.warnings:
            self.warn(warning)
        self.folder.manifest.update(outcome.facts)
        write_table(self.folder.path / "latent.parquet", readings.latent_table(self.particles, self.embedding, outcome))
        return outcome

    def lesson(self, kept: NDArray[np.bool_]) -> Lesson | None:
        """What a guided training was told, with the kept particles it did not see; None of an unguided one."""
        cone = self.folder.manifest.get("guide")
        return read_lesson(self.folder.path / CHECKPOINT / TOLD, Cone(**cone), kept) if cone else None

    def write_report(self) -> dict[str, Any]:
        """Figures and the page."""
        from cryorbit.report import write_report

        write_report(self.folder.path, self.truth, pictures_of(self.folder.path, self.config, self.particles))
        return {}

    def warn(self, text: str) -> None:
        """Tell the user now, and again in the report."""
        warnings = self.folder.manifest.setdefault("warnings_by_stage", {}).setdefault(self._stage, [])
        if text not in warnings:
            warnings.append(text)
            self.observer.say(f"Warning: {text}")

    def run(self, until: str) -> None:
        """Run the stages that are not done yet, up to one."""
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "prepare": self.prepare,
            "train": self.train,
            "embed": self.embed,
            "align": self.align,
            "outliers": self.outliers,
            "estimate": self.estimate,
            "report": self.write_report,
        }
        order = stages_of(self.config)
        for stage in order[: order.index(until) + 1]:
            if not self.wanted(stage) or self.folder.stage_done(stage):
                continue
            self._do(stage, actions[stage])
        if not self.folder.stage_done("report"):
            self._say_how_far(None)

    def _do(self, stage: str, action: Callable[[], dict[str, Any]]) -> None:
        """One stage, with what the user sees of it."""
        self._stage = stage
        self.folder.manifest.setdefault("warnings_by_stage", {}).pop(stage, None)
        self._say_how_far(stage)
        give_back_memory()
        try:
            self.observer.stage(TITLES[stage])
            started = time.perf_counter()
            facts = action()
        except Exception as error:
            self._say_how_far(stage, str(error) or type(error).__name__)
            raise
        except BaseException:
            from cryorbit.report.unfinished import INTERRUPTED

            self._say_how_far(stage, INTERRUPTED)
            raise
        by_stage = self.folder.manifest["warnings_by_stage"]
        self.folder.manifest["warnings"] = [text for name in stages_of(self.config) for text in by_stage.get(name, [])]
        if stage == "report":
            self.folder.manifest["finished"] = True
        self.folder.record_stage(stage, time.perf_counter() - started, **facts)
        if stage in ("estimate", "report"):
            self.observer.advance(1, 1)

    def _say_how_far(self, stage: str | None, stopped: str | None = None) -> None:
        """Write the page of a run that is not finished; one that cannot be written must not stop the run."""
        from cryorbit.report.unfinished import Progress, write_unfinished

        if self.folder.stage_done("estimate") and has_report(self.folder.path):
            return  # only the page itself is made again
        stages = [(name, TITLES[name]) for name in stages_of(self.config) if self.wanted(name)]
        with suppress(CryorbitError, OSError):
            write_unfinished(self.folder.path, self.folder.manifest, Progress(stages, stage, stopped))


def _learnt_rows(n: int, config: RunConfig) -> NDArray[np.int64]:
    """Rows that a training learns from."""
    from cryorbit.training.trainer import split_rows

    return split_rows(n, config.training.validation_fraction, config.seed, config.training.learn_from)[0]


def _weights(evidence: ImageEvidence, snr: float) -> NDArray[np.float64]:
    """Probability of each image to be a particle, as far as its alignment tells, shape (n,)."""
    if not np.isfinite(snr):
        # Without noise any misfit of the average counts infinitely, and whole levels of defocus look like junk.
        return np.ones(len(evidence.promise))
    return np.asarray(1.0 - evidence_outliers(evidence, None).probability)


def one_pixel_size(particles: ParticleTable) -> float:
    """The pixel size of all particles.

    Raises
    ------
    ParticleDataError
        If they have several.
    """
    sizes = np.unique(particles.imaging.pixel_size_A)
    if len(sizes) != 1 or not np.isfinite(sizes[0]):
        raise ParticleDataError(
            f"{particles.name}: pixel sizes differ ({', '.join(f'{size:g}' for size in sizes)} A); expected one: run "
            "cryorbit on each optics group by itself, with --select rlnOpticsGroup=1 and so on."
        )
    return float(sizes[0])


def check_unchanged(particles: ParticleTable, recorded: Mapping[str, Any]) -> None:
    """Refuse images that are not those with which a run began.

    Raises
    ------
    ParticleDataError
        If stacks are missing or have changed.
    """
    problems = check_stacks(particles.locations, particles.image_names, particles.name)
    if problems:
        raise ParticleDataError(problems)
    if stacks_fingerprint(particles.locations.used) != recorded["stacks_fingerprint"]:
        raise ParticleDataError(
            f"{particles.name}: its image stacks have changed or moved since the run began (the first is looked for at "
            f"{particles.locations.stacks[0]}); put them back, or start a new run."
        )


def _share(weight: NDArray[np.float64], rows: NDArray[np.bool_]) -> float | None:
    """Expected share of good particles (or junk) that falls into some rows, by their probabilities."""
    total = float(weight.sum())
    return float(weight[rows].sum()) / total if total > 0 else None


def _outlier_facts(chosen: OutlierResult, settings: EstimationConfig, kept: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "method": chosen.method, "features": settings.outlier_features, "kept": int(kept.sum()),
        "dropped": int((~kept).sum()), "meaningful": chosen.meaningful,
        "threshold": None if kept.all() else float(chosen.score[~kept].min()),
        "false_rejection": _share(1.0 - chosen.probability, ~kept), "missed": _share(chosen.probability, kept),
    }  # fmt: skip
