"""A look at some particles before a run: whether all are of one view, or of several, to be classified first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryorbit.classification.survey import SAMPLE, Survey, survey_of
from cryorbit.classified import class_reader
from cryorbit.conditions import Condition
from cryorbit.config import RunConfig, make_config
from cryorbit.conventions import CLASS_NUMBER
from cryorbit.errors import CryorbitError
from cryorbit.io import ImageStack
from cryorbit.machine import freed_memory_kept
from cryorbit.particles import ParticleTable
from cryorbit.progress import Observer, Silent
from cryorbit.readings import resolve_prior
from cryorbit.rows import Rows

# Below so many there are no two views of 200 among a fifth of junk.
FEWEST_PARTICLES = 500


@dataclass(frozen=True)
class Look:
    """What was found, or why nobody looked.

    Attributes
    ----------
    survey
        Of a sample; None where nobody looked.
    why_not
        Why not; empty where somebody did.
    has_classes
        Whether the file itself says that there are several, and nobody looked.
    """

    survey: Survey | None
    why_not: str = ""
    has_classes: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether a run of one view is to warn of it."""
        return self.has_classes or self.several or (self.survey is not None and self.survey.doubtful)

    @property
    def several(self) -> bool:
        """Whether there are several views, as far as is known."""
        return self.survey is not None and self.survey.several

    @property
    def said(self) -> str:
        """All of it in a sentence."""
        if self.survey is None:
            return f"Taken for particles of one view without a look, for {self.why_not}."
        if not self.survey.images:
            return "Taken for particles of one view: in those looked at nothing was found that is not junk or noise."
        share = f"{100 * self.survey.elsewhere:.0f} % of {self.survey.images:,} particles"
        if self.several:
            return f"Several views: of those looked at, {share} are of another than the most common one."
        if self.doubtful:
            return f"One view, perhaps: of those looked at, {share} differ from the most common one."
        return f"One view: of those looked at, no more than {share} differ from the most common one."

    def described(self) -> dict[str, Any]:
        """As plain values, for ``run.json``."""
        found = self.survey
        numbers = {} if found is None else {"images": found.images, "views": found.views, "elsewhere": found.elsewhere}
        return {"said": self.said, "several": self.several, "doubtful": self.doubtful, **numbers}


def look(
    particles: ParticleTable, config: RunConfig | None = None, rows: Rows | None = None,
    observer: Observer | None = None, compared: bool = False,
) -> Look:  # fmt: skip
    """Look at some particles, to tell whether all are of one view: some twenty seconds of a CPU.

    Nobody looks at few particles, or without defoci, or where they were chosen by a class or are of several already.
    A mistake of the user's is what such a look says; the run that follows raises it.

    Parameters
    ----------
    particles
        To be looked at.
    config
        Of the run that they are for.
    rows
        How they were chosen from their file; the particles are those that were.
    observer
        Told of the progress.
    compared
        Whether the run is compared with a truth, which is that of one view.
    """
    config, observer = config or make_config(), observer or Silent()
    if CLASS_NUMBER in particles and particles.frame[CLASS_NUMBER].nunique() > 1:
        why = f"the file has classes ({CLASS_NUMBER}: --select takes one of them; --views auto classifies anew)"
        return Look(None, why, has_classes=True)
    try:
        reason = _why_not(particles, config, rows or Rows(), compared)
        if reason:
            return Look(None, reason)
        observer.stage("Looking whether these are particles of one view")
        return Look(_survey(particles, config, observer))
    except CryorbitError as error:
        # The run says it again if it matters to the run.
        return Look(None, f"that failed: {str(error).rstrip('.')}")


def _why_not(particles: ParticleTable, config: RunConfig, rows: Rows, compared: bool) -> str:
    """Why nobody looks; empty if somebody does."""
    chosen_by = [Condition.parse(text, "--select").column for text in rows.select]
    if any(column == CLASS_NUMBER or column.endswith("/class") for column in chosen_by):
        return "they were selected by their class"
    if compared:
        return "they are to be compared with the truth of one view"
    if len(particles) < FEWEST_PARTICLES:
        return f"they are fewer than {FEWEST_PARTICLES}"
    if resolve_prior(particles, config.estimation) == "blind":
        return "their defoci are not known"
    return "" if config.estimation.method == "orbit" else "there is to be no alignment"


def _survey(particles: ParticleTable, config: RunConfig, observer: Observer) -> Survey:
    """Of a sample of them."""
    n = len(particles)
    rows = np.sort(np.random.default_rng(config.seed).choice(n, min(n, SAMPLE), replace=False)).astype(np.int64)
    with freed_memory_kept(), ImageStack(particles.locations) as stack:
        reader = class_reader(particles, config, stack)
        images = reader.read(rows)
        return survey_of(
            images, reader, config.seed,
            lambda note, part: observer.advance(int(part * len(rows)), len(rows), note),
        )  # fmt: skip
