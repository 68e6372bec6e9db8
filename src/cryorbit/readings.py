"""What the latent space says of every particle: angle and defocus, read in two ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit import conventions
from cryorbit.config import EstimationConfig
from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.errors import ConfigurationError
from cryorbit.estimation.defocus import (
    WEAK_EVIDENCE,
    DefocusEstimate,
    KnownDefocus,
    RadialDirection,
    Radii,
    cone_defocus,
    known_radial_direction,
    match_quantiles,
    match_quartiles,
    orbit_radii,
    plane_radii,
    radial_direction,
)
from cryorbit.estimation.lesson import Lesson
from cryorbit.estimation.orientation import AngleEstimate, cone_angle, orbit_angle, plane_angle
from cryorbit.latent.embed import Embedding, embed_repeats
from cryorbit.latent.harmonics import FEWEST_PARTICLES, HarmonicChart, fit_harmonics
from cryorbit.latent.orbits import PlaneChart, fit_plane, orbit_radius, plane_polar
from cryorbit.model.vaegan import Autoencoder
from cryorbit.optics.ctf import Optics
from cryorbit.particles import ParticleTable
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.spectrum import RingSpectra, sample_spectra

# The range of the paper's experiments, for files that say nothing of the defocus.
USUAL_DEFOCUS_UM = (0.5, 2.5)
SAMPLE_SIZE = 1000

MatchRadii = Callable[[Radii, KnownDefocus, RadialDirection, NDArray[np.bool_]], DefocusEstimate]


def usual_optics(particles: ParticleTable) -> Optics:
    """Median optics of a table, the usual values where the file gives none."""
    usual, imaging = Optics(), particles.imaging

    def known(values: FloatArray, default: float) -> float:
        return float(np.nanmedian(values)) if np.isfinite(values).any() else default

    return Optics(
        known(imaging.voltage_kV, usual.voltage_kV),
        known(imaging.cs_mm, usual.cs_mm),
        known(imaging.amplitude_contrast, usual.amplitude_contrast),
    )


@dataclass(frozen=True)
class Sample:
    """Some good particles, looked at more closely.

    Attributes
    ----------
    rows
        Which, shape (m,).
    spectra
        Their Fourier ring powers.
    repeats
        The embedding of repeated exposures of them.
    """

    rows: NDArray[np.int64]
    spectra: RingSpectra
    repeats: Embedding

    @classmethod
    def draw(
        cls,
        autoencoder: Autoencoder,
        cache: ParticleCache,
        embedding: Embedding,
        kept: NDArray[np.bool_],
        seed: int,
    ) -> Sample:
        """Draw particles at random from those kept, and look at them."""
        candidates = np.flatnonzero(kept) if kept.any() else np.arange(len(kept))
        size = min(len(candidates), SAMPLE_SIZE)
        rows = np.sort(np.random.default_rng(seed).choice(candidates, size, replace=False)).astype(np.int64)
        repeats = embed_repeats(autoencoder, cache, embedding, rows, seed)
        return cls(rows, sample_spectra(cache, rows), repeats)


@dataclass(frozen=True)
class Reading:
    """Angle and defocus by one way of reading the latent space."""

    angle: AngleEstimate
    defocus: DefocusEstimate


@dataclass(frozen=True)
class Outcome:
    """Estimates of a run.

    Attributes
    ----------
    orbit, plane
        Read from the latent orbits, and by the paper's formulas in the plane of two principal components.
    chosen
        The one that is written.
    angle_known
        Whether an angle can be read at all.
    keeps_file_defocus
        Whether the file's own defocus stays in its columns.
    harmonics, axes
        The two charts.
    facts
        For ``run.json``.
    warnings
        What the user must know.
    """

    orbit: Reading
    plane: Reading
    chosen: Reading
    angle_known: bool
    keeps_file_defocus: bool
    harmonics: HarmonicChart
    axes: PlaneChart
    facts: dict[str, Any]
    warnings: tuple[str, ...]


def resolve_prior(particles: ParticleTable, settings: EstimationConfig) -> str:
    """The defocus prior in force: the one asked for, else ``given`` where the file has defocus, else ``blind``.

    Raises
    ------
    ConfigurationError
        If the file's defocus is to be trusted and there is none.
    """
    if settings.defocus_prior in ("given", "micrograph") and not particles.has_defocus:
        raise ConfigurationError(
            f"{particles.name}: has no defocus (_rlnDefocusU), which --defocus-prior {settings.defocus_prior} needs; "
            "use --defocus-prior blind."
        )
    return settings.defocus_prior or ("given" if particles.has_defocus else "blind")


def check_outlier_method(settings: EstimationConfig, has_latent: bool) -> None:
    """Refuse a decision by what will not be there.

    Raises
    ------
    ConfigurationError
        If the evidence of an alignment is asked for without one, or a detector on the latent space without that.
    """
    method = settings.outlier_method
    if method == "evidence" and settings.method != "orbit":
        raise ConfigurationError("outlier_method is evidence, which is the alignment's: use --method orbit.")
    if method not in ("auto", "evidence") and not has_latent:
        raise ConfigurationError(
            f"outlier_method is {method}, which looks at the latent space, and this run has none: use cryorbit run "
            f"with the particle file and --set estimation.outlier_method={method}, or --detector evidence."
        )


def _known_defocus(particles: ParticleTable, settings: EstimationConfig, prior: str) -> tuple[KnownDefocus, str]:
    if settings.defocus_range_um is not None:
        return KnownDefocus.of_range(*settings.defocus_range_um), "the range asked for"
    if prior != "blind":
        return KnownDefocus.of_values(particles.defocus_A / ANGSTROM_PER_UM), "the file's own values"
    return KnownDefocus.of_range(*USUAL_DEFOCUS_UM), "the usual range of 0.5 to 2.5 um, an assumption"


def estimate_from_latent(
    particles: ParticleTable,
    embedding: Embedding,
    kept: NDArray[np.bool_],
    settings: EstimationConfig,
    sample: Sample,
    lesson: Lesson | None = None,
) -> Outcome:
    """Read angle and defocus of every particle from the latent space, in both ways.

    Parameters
    ----------
    particles, embedding
        The data set and its latent points, in one order.
    kept
        Particles to fit charts with, shape (n,).
    settings
        Which way is written, and what is known of the defocus.
    sample
        Spectra and repeated exposures of some particles: they tell the radial direction, and how well radii repeat.
    lesson
        Of a guided training, by whose cone angle and defocus are read; None where phases must be brought together and
        radii matched with what is known of the defoci.
    """
    prior = resolve_prior(particles, settings)
    known, known_from = _known_defocus(particles, settings, prior)
    axes, harmonics = fit_plane(embedding, kept), fit_harmonics(embedding, kept)

    def find_direction(radii: Radii) -> RadialDirection:
        if prior == "blind":
            return radial_direction(radii, known, kept, sample.spectra, usual_optics(particles))
        rows = sample.rows
        return known_radial_direction(radii.radius[rows], particles.defocus_A[rows] / ANGSTROM_PER_UM)

    def matched(radii: Radii, match: MatchRadii) -> tuple[DefocusEstimate, float]:
        direction = find_direction(radii)
        return match(radii, known, direction, kept), direction.evidence

    evidence = None
    if lesson is not None:
        known_from = "what the training was told"
        orbit = Reading(cone_angle(embedding, lesson), cone_defocus(embedding, lesson))
    else:
        defocus, evidence = matched(orbit_radii(embedding, sample.rows, sample.repeats), match_quantiles)
        orbit = Reading(orbit_angle(embedding, harmonics), defocus)
    plane_defocus, _ = matched(plane_radii(embedding, axes, sample.rows, sample.repeats), match_quartiles)
    plane = Reading(plane_angle(embedding, axes), plane_defocus)
    identifiable = harmonics.identifiable or lesson is not None
    order = orbit.angle.isotropy_order if identifiable else None
    facts = {
        "isotropy_order": order,
        "chart": {
            "read": settings.chart, "winding": axes.winding, "winding_share": axes.winding_share,
            "closure_deg": axes.closure_deg, "harmonics": harmonics.harmonics.tolist(),
            "locks": harmonics.locks.tolist(), "variation": harmonics.variation,
            "identifiable": identifiable, "guided": lesson is not None, "radial_evidence": evidence,
        },
        "defocus": {
            "prior": prior, "quartiles_um": known.quantile([0.25, 0.75]).tolist(), "known_from": known_from,
        },
    }  # fmt: skip
    chosen = orbit if settings.chart == "orbit" else plane
    angle_known = identifiable and (settings.chart == "orbit" or axes.is_simple)
    warnings = _warnings(particles, settings, prior, harmonics, axes, order, evidence)
    return Outcome(orbit, plane, chosen, angle_known, prior != "blind", harmonics, axes, facts, warnings)


def _warnings(
    particles: ParticleTable,
    settings: EstimationConfig,
    prior: str,
    harmonics: HarmonicChart,
    axes: PlaneChart,
    order: int | None,
    evidence: float | None,
) -> tuple[str, ...]:
    """What the user must know.

    ``order`` is None where no angle can be read, ``evidence`` for the radial direction where no direction is needed.
    """
    if settings.method == "orbit":  # what follows concerns numbers that nobody is going to use
        return ()
    found = []
    if settings.chart == "pca" and not axes.is_simple:
        found.append(
            f"The polar angle of the latent plane runs around {axes.winding} times while a particle turns once: the "
            "paper's formula cannot tell the angle here. Read the orbits instead (chart = orbit)."
        )
    if order is None:
        why = (
            f"{harmonics.particles} particles are too few to know"
            if harmonics.particles < FEWEST_PARTICLES
            else "the latent orbits are no rings, as with a round particle"
        )
        kept = " The file's own _rlnAnglePsi was kept." if conventions.PSI in particles else ""
        found.append(f"No in-plane angle can be read: {why}.{kept}")
    elif settings.chart == "orbit" and order > 1:
        found.append(
            f"The view looks the same after a turn of 360/{order} degrees, as far as the network sees: angles are "
            f"known modulo {360 / order:g} degrees."
        )
    if evidence is None:
        return tuple(found)
    if prior == "blind" and evidence < WEAK_EVIDENCE:
        found.append(
            "Whether the latent radius grows or falls with the defocus could hardly be told from the images: the "
            "defocus may run the wrong way."
        )
    if prior != "blind" and not same_everywhere(particles) and evidence < WEAK_EVIDENCE:
        found.append(
            "The latent radius hardly follows the file's defocus: _cryorbitLatentDefocus says little about these "
            "particles."
        )
    if "rlnPhaseShift" in particles and prior == "blind" and (particles.numbers("rlnPhaseShift") != 0).any():
        found.append("The file has phase shifts, which the blind direction of the defocus does not take into account.")
    return tuple(found)


def same_everywhere(particles: ParticleTable) -> bool:
    """Whether the file gives every particle the same defocus."""
    return bool(np.ptp(particles.defocus_A) == 0)


def latent_table(particles: ParticleTable, embedding: Embedding, outcome: Outcome) -> pd.DataFrame:
    """Latent coordinates, one row per particle: the content of ``latent.parquet``."""
    latent = embedding.mean.shape[1]
    coordinates = outcome.axes.axes.project(embedding.mean)
    polar = plane_polar(embedding, outcome.axes)
    columns: dict[str, Any] = {"id": particles.ids}
    columns |= {f"z{axis + 1}": embedding.mean[:, axis] for axis in range(latent)}
    columns |= {f"log_variance{axis + 1}": embedding.log_variance[:, axis] for axis in range(latent)}
    columns |= {f"pc{axis + 1}": coordinates[:, axis] for axis in range(latent)}
    columns |= {"plane_radius": polar.radius, "plane_angle_deg": polar.angle_deg}
    columns["orbit_radius"] = orbit_radius(embedding)
    return pd.DataFrame(columns)
