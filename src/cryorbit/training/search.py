"""Ray Tune: HyperOpt proposes trials, ASHA stops the hopeless ones.

Ray keeps nothing that is needed. A search that goes on proposes the recorded trials first, whose epochs are told from
their record at once, so that HyperOpt and ASHA know again what they knew.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import hyperopt  # noqa: F401  (Ray's searcher would miss it only when it is used)
import numpy as np
import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.hyperopt import HyperOptSearch

from cryorbit.cluster import connected
from cryorbit.errors import TrainingDivergedError
from cryorbit.machine import limit_threads
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.objective import EpochValue, trial_curve
from cryorbit.training.trials import DIVERGED, FAILED, FINISHED, RUNNING, STOPPED, Trial, TrialRecords, read_trial

# Small networks gain nothing from more.
MOST_THREADS = 8
# A third of the trials passes each rung; the first rung lies at a ninth of the epochs.
REDUCTION = 3
# HyperOpt draws its first trials at random, 20 by default: of a short search that would be all.
MOST_RANDOM, LEAST_RANDOM = 20, 5
# Worse than any loss, yet a number that can be averaged.
DIVERGED_VALUE = 1e12
RETRIES = 1

VALUE, EPOCH, STATE = "value", "epoch", "state"


@dataclass(frozen=True)
class Told:
    """Whom to tell: of each epoch, and of each trial that has ended."""

    epoch: Callable[[int, int, float], None]
    trial: Callable[[Trial], None]


class _Trainable(tune.Trainable):
    """One trial on a worker, an epoch at a time."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a trial, or go on with it."""
        limit_threads(config["threads"])
        folder = Path(config["folder"])
        self._lock = _wait_for(folder)
        trial = read_trial(folder)
        cache = ParticleCache(Path(config["cache"]))
        self._curve = trial_curve(cache, trial.config, trial.loss_weights, folder, trial.ended)
        self._last = EpochValue(0, DIVERGED_VALUE, 0, DIVERGED_VALUE, DIVERGED_VALUE)

    def step(self) -> dict[str, Any]:
        """One epoch; where there is none left, the last one again."""
        try:
            value = next(self._curve, None)
        except TrainingDivergedError:
            return self._result(DIVERGED, DIVERGED_VALUE)
        if value is None:
            return self._result(FINISHED, self._last.value)
        self._last = value
        return self._result(RUNNING, value.value)

    def _result(self, state: str, value: float) -> dict[str, Any]:
        return {VALUE: value, EPOCH: self._last.epoch, STATE: state, "done": state != RUNNING}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process, which spares its start."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Let the trial go."""
        self._curve.close()
        self._lock.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trial's folder has its own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def _wait_for(folder: Path) -> IO[str]:
    """The lock of a trial's folder: a worker of a search that was killed lives on for a second."""
    lock = (folder / ".lock").open("a")
    with suppress(OSError):  # some network file systems know no locks
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


class _Search(HyperOptSearch):
    """HyperOpt, proposing what is recorded first, with random numbers that (seed, number of the trial) decide."""

    def __init__(self, records: TrialRecords, trials: int, extra: dict[str, Any]) -> None:
        space: dict[str, Any] = {name: tune.loguniform(*limits) for name, limits in records.space.ranges.items()}
        space |= {name: tune.choice(list(values)) for name, values in records.space.choices.items()}
        recorded = [trial.parameters for trial in records.trials]
        super().__init__(
            self.convert_search_space(space),
            VALUE,
            "min",
            recorded or [records.space.parameters(records.base)],
            n_initial_points=min(MOST_RANDOM, max(LEAST_RANDOM, trials // 3)),
        )
        self._records, self._extra, self._number = records, extra, 0

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial, recorded before it begins."""
        number = self._number
        self.rstate = np.random.RandomState(np.random.SeedSequence((self._records.base.seed, number)).generate_state(4))
        parameters = super().suggest(trial_id)
        if parameters is None:
            return None
        if number == len(self._records.trials):
            names = self._records.space.parameters(self._records.base)
            self._records.begin({name: np.asarray(parameters[name]).item() for name in names})
        self._number += 1
        return {"trial": number, "folder": str(self._records.path(number)), **self._extra}


class _Scheduler(ASHAScheduler):
    """ASHA, except that the first trial, with which all others are compared, is never stopped."""

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Whether a trial goes on."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["trial"] == 0 else action


class _Watch(tune.Callback):
    """Records how trials end, and tells of it."""

    def __init__(self, records: TrialRecords, epochs: int, told: Told) -> None:
        self._records, self._epochs, self._told = records, epochs, told

    def __reduce__(self) -> Any:
        # Ray keeps a copy of its arguments on the disk, and a progress bar cannot be copied.
        return tune.Callback, ()

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch has ended."""
        self._told.epoch(trial.config["trial"], result[EPOCH], result[VALUE])

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A trial has ended by itself or by ASHA's decision."""
        if self._records.trials[0].state == FAILED:
            return  # the whole search ends, this trial is not to blame
        result = trial.last_result
        state = result.get(STATE, FAILED)
        if state == RUNNING:
            state = FINISHED if result[EPOCH] >= self._epochs else STOPPED
        self._told.trial(self._records.end(trial.config["trial"], state))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A trial has failed for good."""
        traceback = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "a worker was lost"
        self._told.trial(self._records.end(trial.config["trial"], FAILED, traceback.strip().splitlines()[-1]))


class _FailedDefault(tune.Stopper):
    """Ends a search whose first trial has failed for good: there is nothing to compare with, and others would too."""

    def __init__(self, records: TrialRecords) -> None:
        self._records = records

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether one trial is to be stopped."""
        return False

    def stop_all(self) -> bool:
        """Whether all are."""
        return any(trial.state == FAILED for trial in self._records.trials[:1])


def search_trials(
    records: TrialRecords,
    cache: Path,
    trials: int,
    epochs: int,
    told: Told,
    workers: int | None = None,
    address: str | None = None,
) -> None:
    """Run trials until so many have ended, the recorded ones counted.

    Parameters
    ----------
    records
        Of the search; filled.
    cache
        Folder of the standardised images; every machine of a cluster must see it.
    trials
        Number of trials, of which the first is the configuration that the search began with.
    epochs
        Most epochs of a trial.
    told
        Whom to tell.
    workers
        Trials at a time; by default as many as there are cores.
    address
        Of a Ray cluster; by default this machine alone.

    Raises
    ------
    ConfigurationError
        If no cluster answers at the address.
    """
    scratch = records.folder / "ray"
    with connected(address, scratch, workers):
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus = max(1, int(have.get("CPU", 1)))
        workers = min(workers or cpus, trials)
        threads = max(1, min(cpus // workers, MOST_THREADS))
        gpus = 0.0 if records.base.training.accelerator == "cpu" else min(1.0, have.get("GPU", 0.0) / workers)
        extra = {"cache": str(cache), "threads": threads}
        tune.Tuner(
            tune.with_resources(_Trainable, {"cpu": threads, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                search_alg=_Search(records, trials, extra),
                scheduler=_Scheduler(
                    EPOCH, VALUE, "min", max_t=epochs, grace_period=-(-epochs // REDUCTION**2),
                    reduction_factor=REDUCTION,
                ),
                num_samples=max(trials, len(records.trials)),
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['trial']:04d}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch.resolve()),
                verbose=0,
                stop=_FailedDefault(records),
                callbacks=[_Watch(records, epochs, told)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        ).fit()  # fmt: skip
