"""What the processes of a team do beside the lead: they wait for a training, and take part in it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from cryorbit.config import RunConfig
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.aligned import AlignedSet
from cryorbit.training.guidance import Guide
from cryorbit.training.loop import train_by_epochs
from cryorbit.training.team import Team

# The lead keeps it, and nobody else writes one.
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Assignment:
    """A training, as all processes are told of it.

    Attributes
    ----------
    cache, folder
        Folders of the images and of the checkpoints, on a disk that all see.
    config
        Of the run.
    aligned
        What guides the training, if anything.
    """

    cache: Path
    folder: Path
    config: RunConfig
    aligned: AlignedSet | None


def call(cache: ParticleCache, folder: Path, config: RunConfig, aligned: AlignedSet | None) -> Team:
    """Call all processes that ``torchrun`` has started to a training; by the lead, right before it begins."""
    team = Team.of_environment()
    if team.size > 1:
        team.connect()
        team.told(Assignment(cache.folder.resolve(), folder.resolve(), config, aligned))
    return team


def dismiss() -> None:
    """Let the other processes go home; by the lead, when all is done."""
    team = Team.of_environment()
    if team.size > 1:
        team.connect()
        team.told(None)


def follow() -> None:
    """Take part in every training that the lead calls for, until it lets this process go."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # nothing is lost: the lead keeps the record
    team = Team.of_environment()
    team.connect()
    while (assignment := team.told()) is not None:
        cache = ParticleCache(assignment.cache)
        aligned, config = assignment.aligned, assignment.config
        guide = Guide.of(cache, aligned, config.seed) if aligned is not None else None
        for _ in train_by_epochs(cache, config, assignment.folder, assignment.folder / METRICS, guide, team):
            pass
