"""From raw picks to classes: views learnt from a sample, every particle in its class, clean classes kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions, results
from cryorbit.alignment.orbit import geometry_of
from cryorbit.alignment.reader import RingReader
from cryorbit.classification.assign import charted, settle
from cryorbit.classification.choice import choose_views
from cryorbit.classification.learn import learn_classes
from cryorbit.classification.measure import facts_and_images
from cryorbit.classification.quality import ClassFacts, class_deviations, class_log_odds, judge
from cryorbit.classification.stream import Classified, as_plain, classify_all, from_plain
from cryorbit.config import RunConfig, make_config
from cryorbit.conventions import ANGSTROM_PER_UM, CLASS_NUMBER, CLASS_PROBABILITY, MIRRORED, wrap_deg
from cryorbit.errors import ConfigurationError, ParticleDataError, RunFolderError
from cryorbit.estimation.outliers import FEWEST_PARTICLES, OutlierResult
from cryorbit.io import ImageStack, read_written
from cryorbit.io.fingerprints import identity
from cryorbit.io.mrc import write_image
from cryorbit.io.runs import (
    CLASSIFICATION,
    FILE_COLUMNS,
    RunFolder,
    has_report,
    manifest_of,
    read_table,
    report_path,
    write_table,
)
from cryorbit.io.star import write_star
from cryorbit.machine import device_for, freed_memory_kept
from cryorbit.manifest import new_manifest
from cryorbit.particles import ParticleTable, input_column
from cryorbit.preprocessing.dataset import PreparedImages, contrast_remarks, network_box_size, prepare_images
from cryorbit.progress import Observer, Silent
from cryorbit.readings import resolve_prior
from cryorbit.rows import Rows
from cryorbit.stages import check_unchanged, one_pixel_size
from cryorbit.training.checkpoint import load_checkpoint, save_checkpoint

STAGES = ("learn", "estimate", "report")
TITLES = {"learn": "Learning the classes", "estimate": "Classifying", "report": "Writing the report"}
LEARNT = "classes.pt"
AVERAGES, CLASS_STAR, CLASS_TABLE = "classes.mrcs", "classes.star", "classes.csv"
# What RELION writes where an accuracy cannot be known.
NO_ACCURACY = 999.0
# Search range for a defocus near that of the file, in micrometres.
SEARCHED_um = (0.2, 6.0)
GIVEN = "given"


@dataclass(frozen=True)
class ClassifyResult:
    """What a classification left behind.

    Attributes
    ----------
    folder
        Where.
    particles
        Every input row with cryorbit's columns.
    estimates
        The same numbers as a table.
    classes
        One row for each class, the kept ones first, each kind by size.
    report
        Path of the page.
    """

    folder: Path
    particles: ParticleTable
    estimates: pd.DataFrame
    classes: pd.DataFrame
    report: Path | None


def classify(
    particles: ParticleTable | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    rows: Rows | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> ClassifyResult:
    """Sort particles into views and junk, or go on with a classification that was interrupted.

    Parameters
    ----------
    particles
        Table from :func:`cryorbit.read_particles`, or the path of a particle file.
    out
        Folder, new or empty, or holding an unfinished classification of the same particles and configuration.
    config
        From :func:`cryorbit.make_config`; its part ``classification`` is what matters here.
    rows
        Which of the particles; all if left out.
    overwrite
        Move another folder of that name aside.
    observer
        Told of the progress.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend.
    """
    config, rows = config or make_config(), rows or Rows()
    table = rows.of(particles) if isinstance(particles, ParticleTable) else rows.read(Path(particles))
    check_can_be_classified(table, config)
    manifest = new_manifest(table, config, False, rows)
    manifest |= {"kind": CLASSIFICATION, "identity": identity({"kind": CLASSIFICATION, "of": manifest["identity"]})}
    folder = RunFolder.create_or_continue(
        Path(out), manifest, overwrite, [*table.source.all_files, *table.locations.used]
    )
    try:
        ClassJob(folder, config, table, observer or Silent()).run()
    finally:
        folder.close()
    return result_of(folder.path)


def check_can_be_classified(table: ParticleTable, config: RunConfig) -> None:
    """Refuse, before a folder is made, what cannot be classified.

    Raises
    ------
    ParticleDataError, ConfigurationError
        For too few particles, defoci that are not known, and settings that do not go with it.
    """
    if resolve_prior(table, config.estimation) == "blind":
        why = "has no defocus (_rlnDefocusU)" if not table.has_defocus else "is to be classified blind"
        raise ConfigurationError(
            f"{table.name}: {why}, and classes are compared at defoci that are known at least roughly: estimate them "
            "for the micrographs first (CTFFIND, Gctf, cryoSPARC), or use cryorbit run, which finds the defoci of a "
            "single view."
        )
    fewest = max(FEWEST_PARTICLES, config.classification.views or 1)
    if len(table) < fewest:
        raise ParticleDataError(
            f"{table.name}: has {len(table)} particles, too few for {config.classification.views or 'any'} classes "
            f"(expected {fewest} or more)."
        )
    learnt_from = config.classification.learn_from
    if learnt_from < (config.classification.views or 1):
        raise ConfigurationError(
            f"classification.learn_from is {learnt_from}, fewer than the {config.classification.views} classes to be "
            "learnt; make it larger."
        )
    if config.estimation.outlier_method not in ("auto", "evidence"):
        raise ConfigurationError(
            f"outlier_method is {config.estimation.outlier_method}, which looks at a latent space, and a "
            "classification has none: leave it out."
        )
    one_pixel_size(table)


def result_of(folder: Path) -> ClassifyResult:
    """What is in the folder of a finished classification."""
    return ClassifyResult(
        folder, read_written(folder), read_table(folder / "estimates.parquet"), read_table(folder / CLASS_TABLE),
        report_path(folder) if has_report(folder) else None,
    )  # fmt: skip


def class_reader(particles: ParticleTable, config: RunConfig, stack: ImageStack) -> RingReader:
    """Particles at the size at which they are classified."""
    size = network_box_size(stack.box_size, config.classification.box_size, 2)
    images = prepare_images(stack, one_pixel_size(particles), size, config.preprocessing, particles.image_names)
    prior = resolve_prior(particles, config.estimation)
    searched = config.estimation.defocus_range_um or SEARCHED_um
    return RingReader.of(particles, images, prior, searched, device_for(config.training.accelerator))


class ClassJob:
    """A classification in progress."""

    def __init__(self, folder: RunFolder, config: RunConfig, particles: ParticleTable, observer: Observer) -> None:
        self.folder, self.config, self.particles, self.observer = folder, config, particles, observer

    def run(self) -> None:
        """Run the stages that are not done yet."""
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "learn": self.learn, "estimate": self.estimate, "report": self.report,
        }  # fmt: skip
        for stage in STAGES:
            if self.folder.stage_done(stage) and not (stage == "learn" and self._learnt_is_lost()):
                continue
            self.observer.stage(TITLES[stage])
            started = time.perf_counter()
            facts = actions[stage]()
            self.folder.manifest["finished"] = stage == STAGES[-1]
            self.folder.record_stage(stage, time.perf_counter() - started, **facts)

    def _learnt_is_lost(self) -> bool:
        """Whether what was learnt is needed still, and cannot be read."""
        if self.folder.stage_done("estimate"):
            return False
        try:
            load_checkpoint(self.folder.path / "checkpoint" / LEARNT)
        except RunFolderError:
            self.observer.say("What was learnt before cannot be read any more: it is learnt again.")
            return True
        return False

    @property
    def _pixel_size_A(self) -> float:
        """Of the images as they are classified."""
        return float(self.folder.manifest["images"]["pixel_size_A"])

    def learn(self) -> dict[str, Any]:
        """Averages of all classes, from a sample."""
        settings, n = self.config.classification, len(self.particles)
        chosen = np.random.default_rng(self.config.seed).choice(n, min(n, settings.learn_from), replace=False)
        rows = np.sort(chosen).astype(np.int64)
        with freed_memory_kept(), ImageStack(self.particles.locations) as stack:
            check_unchanged(self.particles, self.folder.manifest["input"])
            reader = class_reader(self.particles, self.config, stack)
            self.folder.manifest["images"] = vars(reader.images.info)
            self._say_contrast(reader.images)
            self.observer.advance(0, len(rows), "reading the sample")
            images = reader.read(rows)
            geometry, radius = geometry_of(reader), reader.images.info.particle_radius_px

            def notify(note: str, part: float) -> None:
                self.observer.advance(int(part * len(rows)), len(rows), note)

            seed, tied = self.config.seed, settings.mirror == "tied"
            views = settings.views or choose_views(
                images, geometry, radius, seed, tied, notify, settings.particles_per_view
            )
            classes = learn_classes(images, geometry, radius, views, seed, tied=tied, notify=notify)
            settled = settle(images, classes, geometry, radius)
            facts = facts_and_images(settled.halves, settled.poses, settled.model.mean_noise, reader)[0]
            good = (class_log_odds(facts) < 0) & (facts.particles > 0)
            settled = charted(settled, good if good.any() else facts.particles > 0)
        save_checkpoint(self.folder.file("checkpoint", LEARNT), as_plain(settled, rows))
        return {"views": views, "learnt_from": len(rows)}

    def _say_contrast(self, images: PreparedImages) -> None:
        remark, warning = contrast_remarks(
            images.info, None if self.config.preprocessing.invert is None else "as asked"
        )
        if remark:
            self.observer.say(remark)
        if warning:
            self.warn(warning)

    def warn(self, text: str) -> None:
        """Tell the user now, and again in the report."""
        if text not in self.folder.manifest["warnings"]:
            self.folder.manifest["warnings"].append(text)
            self.observer.say(f"Warning: {text}")

    def estimate(self) -> dict[str, Any]:
        """Class and pose of every particle, and the files."""
        with freed_memory_kept(), ImageStack(self.particles.locations) as stack:
            check_unchanged(self.particles, self.folder.manifest["input"])
            reader = class_reader(self.particles, self.config, stack)
            info = reader.images.info
            settled, rows = from_plain(load_checkpoint(self.folder.path / "checkpoint" / LEARNT), geometry_of(reader))
            found = classify_all(reader, rows, settled, self.observer.advance)
            facts, pictures = facts_and_images(found.halves, found.poses, settled.model.mean_noise, reader)
        judged = judge(found.poses, facts)
        order, table = self._ranked(found, facts, judged)
        grid = geometry_of(reader).grid
        table["limit_A"] = grid.box_size * info.pixel_size_A / grid.rings
        write_image(self.folder.path / AVERAGES, pictures[order], info.pixel_size_A)
        self._write_classes(table, info.pixel_size_A)
        if not table["kept"].any():
            self.warn(
                "No class was kept: the images show nothing that could be aligned, or nothing that most of them share. "
                "Look at the averages; select classes on the page if some are good all the same."
            )
        self._write_particles(found, order, judged, info.pixel_size_A)
        return {"classes": len(table), "kept_classes": int(table["kept"].sum()), "limit_A": table["limit_A"].iloc[0]}

    def _ranked(
        self, found: Classified, facts: ClassFacts, judged: OutlierResult
    ) -> tuple[NDArray[np.int64], pd.DataFrame]:
        """Classes that have particles, the kept and large ones first, and what is known of them."""
        number, classes = found.poses.number, len(facts.particles)
        table = pd.concat([facts.table(), class_deviations(facts).add_prefix("deviation_")], axis=1)
        counts = np.maximum(facts.particles, 1.0)
        table["junk_log_odds"] = class_log_odds(facts)
        table["outlier_probability"] = np.bincount(number, judged.probability, minlength=classes) / counts
        kept = judged.probability <= self.config.estimation.outlier_threshold
        table["kept_particles"] = np.bincount(number, kept, minlength=classes).astype(np.int64)
        table["kept"] = table["outlier_probability"] <= self.config.estimation.outlier_threshold
        table["share"] = facts.particles / facts.particles.sum()
        table["particles"] = facts.particles.astype(np.int64)
        medians = pd.DataFrame({
            "origin_std_A": found.poses.shift_std_px * self._pixel_size_A, "defocus_std_um": found.poses.defocus_std_um,
        }).groupby(number).median()  # fmt: skip
        table = table.join(medians)
        there = table[table["particles"] > 0].sort_values(
            ["kept", "kept_particles", "particles"], ascending=False, kind="stable"
        )
        order = there.index.to_numpy(dtype=np.int64)
        return order, there.assign(**{"class": np.arange(1, len(there) + 1)}).reset_index(drop=True)

    def _write_classes(self, table: pd.DataFrame, pixel_size_A: float) -> None:
        """``classes.csv``, and ``classes.star`` for RELION."""
        write_table(self.folder.path / CLASS_TABLE, table)
        signal = table["deviation_empty"].to_numpy() == 0
        stack = _as_given(self.folder.path / AVERAGES)
        star = pd.DataFrame({
            "rlnReferenceImage": [f"{number:06d}@{stack}" for number in table["class"]],
            "rlnClassDistribution": table["share"].to_numpy(),
            "rlnAccuracyRotations": np.where(signal, table["psi_std_deg"], NO_ACCURACY),
            "rlnAccuracyTranslationsAngst": np.where(signal, table["origin_std_A"], NO_ACCURACY),
            "rlnEstimatedResolution": table["resolution_A"].to_numpy(),
            "cryorbitClassParticles": table["particles"].to_numpy(),
            conventions.OUTLIER_PROBABILITY: table["outlier_probability"].to_numpy(),
        })  # fmt: skip
        general = pd.DataFrame({
            "rlnReferenceDimensionality": [2], "rlnDataDimensionality": [2], "rlnNrClasses": [len(table)],
            "rlnPixelSize": [pixel_size_A], "rlnCurrentResolution": [float(table["resolution_A"].min())],
        })  # fmt: skip
        write_star(self.folder.path / CLASS_STAR, {"model_general": general, "model_classes": star})

    def _write_particles(
        self, found: Classified, order: NDArray[np.int64], judged: OutlierResult, pixel_size_A: float
    ) -> None:
        """``estimates.parquet`` and the particle files."""
        poses, particles = found.poses, self.particles
        rank = np.zeros(int(order.max()) + 1, dtype=np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        number = rank[poses.number]
        trusted = resolve_prior(particles, self.config.estimation) == GIVEN
        written = results.Written(
            psi_deg=wrap_deg(poses.psi_deg),
            psi_std_deg=poses.psi_std_deg,
            angle_known=True,
            defocus_um=particles.defocus_A / ANGSTROM_PER_UM if trusted else poses.defocus_um,
            defocus_std_um=None if trusted else poses.defocus_std_um,
            origin_A=conventions.origin_from_shift_A(poses.shift_px, pixel_size_A),
            origin_std_A=poses.shift_std_px * pixel_size_A,
            probability=poses.pose_probability,
        )
        scores = pd.DataFrame({
            "id": particles.ids, "outlier_score": judged.score, "outlier_z": judged.z_score,
            "outlier_probability": judged.probability,
        })  # fmt: skip
        kept = np.asarray(judged.probability <= self.config.estimation.outlier_threshold)
        estimates = results.estimates_table(particles, written, None, None, scores, kept)
        estimates["class"], estimates["class_probability"] = number, poses.class_probability
        estimates["pose_probability"], estimates["amplitude"] = poses.pose_probability, poses.amplitude
        estimates["log_evidence"] = poses.log_evidence
        for axis, values in enumerate(poses.place.T, start=1):
            estimates[f"view{axis}"] = values
        write_table(self.folder.path / FILE_COLUMNS, results.file_columns(particles))
        table = results.annotated(particles, written, scores, judged.meaningful)
        columns: dict[str, Any] = {CLASS_NUMBER: number, CLASS_PROBABILITY: poses.class_probability}
        # A column of an earlier classification would speak of other angles.
        if self.config.classification.mirror == "tied" or MIRRORED in particles:
            columns[MIRRORED] = poses.mirrored.astype(np.int64)
            estimates["mirrored"] = poses.mirrored
        if CLASS_NUMBER in particles and input_column(CLASS_NUMBER) not in particles:
            columns[input_column(CLASS_NUMBER)] = particles.frame[CLASS_NUMBER].to_numpy(dtype=object)
        write_table(self.folder.path / "estimates.parquet", estimates)
        results.write_particle_files(self.folder.path, table.with_columns(columns), kept)

    def report(self) -> dict[str, Any]:
        """The page."""
        from cryorbit.report.classes_page import write_class_report
        from cryorbit.thumbnails import pictures_of

        write_class_report(self.folder.path, pictures_of(self.folder.path, self.config, self.particles))
        return {}


def _as_given(path: Path) -> str:
    """A path from the working folder, as RELION has them from its project's, where it lies within; else the whole."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path.resolve())


def redraw(folder: Path) -> Path | None:
    """Write the page of a finished classification again; None where the folder holds something else.

    Raises
    ------
    RunFolderError
        If the classification is not finished, or its files are gone.
    """
    manifest = manifest_of(folder)
    if manifest is None or manifest.get("kind") != CLASSIFICATION:
        return None
    if "estimate" not in manifest["stages"]:
        raise RunFolderError(f"{folder}: its classification is not finished; give its command again, which goes on.")
    from cryorbit.report.classes_page import write_class_report
    from cryorbit.thumbnails import pictures_of

    saved = manifest["configuration"]
    return write_class_report(folder, pictures_of(folder, make_config(saved["preset"], saved), read_written(folder)))
