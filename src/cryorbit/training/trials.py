"""The record of a search: a folder for every trial, with its configuration, its curve and how it ended.

The record is all that a search needs to go on after a kill: the searcher is told the recorded trials anew.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cryorbit.config import RunConfig, make_config
from cryorbit.io.runs import make_folder, write_table, write_text
from cryorbit.model.losses import LossWeights
from cryorbit.training.metrics import read_metrics
from cryorbit.training.objective import CHECKPOINT, METRICS, EpochValue, epoch_values
from cryorbit.training.space import Parameters, SearchSpace

TRIAL = "trial.json"
RUNNING, FINISHED, STOPPED, DIVERGED, FAILED = "running", "finished", "stopped", "diverged", "failed"
# A trial that failed, for want of memory perhaps, is tried again when the search goes on.
ENDED = (FINISHED, STOPPED, DIVERGED)


@dataclass(frozen=True)
class Trial:
    """One configuration and what came of it.

    Attributes
    ----------
    number
        In the order in which trials were begun; 0 is the configuration that the search began with.
    parameters
        Those that are searched.
    configuration
        All of it.
    weights
        Of the objective.
    state
        running, finished (trained to the end), stopped (by the scheduler), diverged or failed.
    epochs, kept_epoch, value
        Epochs trained; the one whose network training keeps, and its objective.
    message
        Why it failed.
    """

    number: int
    parameters: Parameters
    configuration: dict[str, Any]
    weights: dict[str, float]
    state: str = RUNNING
    epochs: int = 0
    kept_epoch: int = 0
    value: float | None = None
    message: str = ""

    @property
    def config(self) -> RunConfig:
        """The trial's configuration."""
        return make_config(self.configuration["preset"], self.configuration)

    @property
    def loss_weights(self) -> LossWeights:
        """Weights of the objective."""
        return LossWeights(**self.weights)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state in ENDED


def read_trial(folder: Path) -> Trial:
    """The trial of a folder."""
    return Trial(**json.loads((folder / TRIAL).read_text(encoding="utf-8")))


def trial_values(folder: Path, trial: Trial) -> list[EpochValue]:
    """Values of the epochs that a trial has trained."""
    return list(epoch_values(read_metrics(folder / METRICS), trial.loss_weights))


class TrialRecords:
    """All trials of a search; only the process that leads the search writes here.

    Parameters
    ----------
    folder
        Of the search.
    base
        Configuration that the search began with.
    space
        What is searched.
    weights
        Of the objective.
    """

    def __init__(self, folder: Path, base: RunConfig, space: SearchSpace, weights: LossWeights) -> None:
        self.folder = folder.resolve()
        self.base, self.space, self.weights = base, space, weights
        paths = sorted((self.folder / "trials").glob(f"*/{TRIAL}"))
        found = [read_trial(path.parent) for path in paths]
        self.trials = [trial if trial.ended else replace(trial, state=RUNNING, message="") for trial in found]

    def path(self, number: int) -> Path:
        """Folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def begin(self, parameters: Parameters) -> Trial:
        """Record a new trial."""
        trial = Trial(
            len(self.trials), parameters, self.space.applied(self.base, parameters).model_dump(mode="json"),
            asdict(self.weights),
        )  # fmt: skip
        make_folder(self.path(trial.number))
        self.trials.append(trial)
        self._save(trial)
        return trial

    def end(self, number: int, state: str, message: str = "") -> Trial:
        """Record how a trial ended; what ended before stays as it was."""
        trial, folder = self.trials[number], self.path(number)
        if trial.ended:
            return trial
        values = trial_values(folder, trial)
        if values:
            trial = replace(trial, epochs=values[-1].epoch, kept_epoch=values[-1].kept_epoch, value=values[-1].value)
        trial = self.trials[number] = replace(trial, state=state, message=message)
        self._save(trial)
        if trial.ended:
            # The best configuration is trained again by `cryorbit run`; 24 networks would fill a disk.
            shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        self.write_tables()
        return trial

    def best(self) -> Trial | None:
        """The trial with the lowest value of those trained to the end; the earliest of equals."""
        finished = [trial for trial in self.trials if trial.state == FINISHED and trial.value is not None]
        return min(finished, key=lambda trial: (trial.value, trial.number), default=None)

    def table(self) -> pd.DataFrame:
        """One row per trial."""
        columns = ("number", "state", "value", "epochs", "kept_epoch", "message")
        return pd.DataFrame(
            [{**{name: getattr(trial, name) for name in columns}, **trial.parameters} for trial in self.trials]
        ).rename(columns={"number": "trial"})

    def write_tables(self) -> None:
        """Write ``trials.csv``, and ``curves.csv`` with every epoch of every trial."""
        write_table(self.folder / "trials.csv", self.table())
        rows = [
            {"trial": trial.number, **asdict(value)}
            for trial in self.trials
            for value in trial_values(self.path(trial.number), trial)
        ]
        write_table(self.folder / "curves.csv", pd.DataFrame(rows))

    def _save(self, trial: Trial) -> None:
        write_text(self.path(trial.number) / TRIAL, json.dumps(asdict(trial), indent=2) + "\n")
