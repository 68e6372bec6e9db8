"""The search of hyper-parameters: prepares the images once, has trials trained on them, and says what is best."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from cryorbit.config import RunConfig, make_config, to_toml
from cryorbit.errors import ConfigurationError, CryorbitError
from cryorbit.io import ImageStack, read_particles
from cryorbit.io.fingerprints import identity
from cryorbit.io.runs import SEARCH, RunFolder, write_text
from cryorbit.machine import check_ray_address
from cryorbit.manifest import new_manifest
from cryorbit.particles import ParticleTable
from cryorbit.progress import Observer, Silent
from cryorbit.stages import Job, is_guided
from cryorbit.training.objective import fixed_weights
from cryorbit.training.space import SearchSpace
from cryorbit.training.team import Team
from cryorbit.training.trainer import epochs_for, split_rows
from cryorbit.training.trials import FINISHED, Trial, TrialRecords

BEST_FILE = "best.toml"
SUMMARY_FILE = "search.json"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes
    ----------
    folder
        Of the search.
    best
        TOML file with the best configuration.
    trials
        One row per trial.
    best_trial, best_value
        The best trial that was trained to the end, and its validation loss.
    default_value
        Validation loss of the configuration that the search began with; None if it diverged.
    """

    folder: Path
    best: Path
    trials: pd.DataFrame
    best_trial: int
    best_value: float
    default_value: float | None

    @property
    def sentence(self) -> str:
        """What came of it."""
        count, default = len(self.trials), self.default_value
        if self.best_trial == 0:
            return f"None of the {count - 1} other trials beat the default, whose validation loss is {default:.2f}."
        best = f"The best of {count} trials has a validation loss of {self.best_value:.2f}"
        if default is None:
            return f"{best}; the default diverged."
        gain = default - self.best_value
        percent = f" ({100 * gain / abs(default):.2g} %)" if default else ""
        return f"{best}, the default {default:.2f}: better by {gain:.2f}{percent}."


def search(
    particles: ParticleTable | str | Path,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    trials: int = 24,
    space: SearchSpace | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> SearchResult:
    """Search hyper-parameters of the network, or go on with a search that was interrupted.

    Parameters
    ----------
    particles
        Table from :func:`cryorbit.read_particles`, or the path of a particle file.
    out
        Folder of the search, new or empty, or holding an unfinished search of the same particles and configuration.
    config
        What to begin with, and to compare with; the preset ``fast`` by default.
    trials
        Number of trials, the first of which is ``config`` itself.
    space
        Where to look; by default :meth:`SearchSpace.around` the configuration.
    workers
        Trials at a time; by default one on each core.
    ray_address
        Of a Ray cluster, whose machines must all see ``out``; by default this machine alone.
    overwrite
        Move another folder of that name aside.
    observer
        Told of the progress.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend.
    """
    if Team.of_environment().size > 1:
        raise ConfigurationError(
            "A search shares its trials out by itself: start it without torchrun, with --workers or --ray-address."
        )
    _require_ray()
    if ray_address is not None:
        check_ray_address(ray_address)
    config, observer = config or make_config(), observer or Silent()
    to_toml(config)  # what cannot be written later is refused now
    if trials < 1 or (workers is not None and workers < 1):
        raise ConfigurationError("A search needs at least one trial and one worker.")
    table = particles if isinstance(particles, ParticleTable) else read_particles(particles)
    with ImageStack(table.locations) as stack:
        space = space or SearchSpace.around(config, stack.box_size)
        space.check(config, stack.box_size)
    folder = _open(Path(out), table, config, space, overwrite)
    try:
        job = Job(folder, config, table, observer)
        _prepare(job)
        started = time.perf_counter()
        records = TrialRecords(folder.path, config, space, fixed_weights(config.model))
        _run_trials(job, records, trials, workers, ray_address)
        result = _conclude(folder.path, records)
        folder.manifest["finished"] = True
        folder.record_stage("search", time.perf_counter() - started, trials=len(records.trials))
        return result
    finally:
        folder.close()


def _prepare(job: Job) -> None:
    """What all trials share: the images, and what a guided training is told of them."""
    from cryorbit.training.aligned import GUIDE_FILE

    guided = is_guided(job.config)
    job.run("align" if guided else "prepare")
    aligned = job.aligned_set() if guided else None
    if aligned is not None:
        aligned.save(job.cache.folder / GUIDE_FILE)


def _require_ray() -> None:
    try:
        import_module("cryorbit.training.search")
    except ImportError as error:
        raise ConfigurationError(
            f"The search needs Ray Tune and HyperOpt, of which {error.name} cannot be imported: "
            "pip install 'cryorbit[search]'."
        ) from error


def _open(out: Path, table: ParticleTable, config: RunConfig, space: SearchSpace, overwrite: bool) -> RunFolder:
    manifest = new_manifest(table, config, latent=True)
    manifest |= {"kind": SEARCH, "space": space.as_dict()}
    manifest["identity"] = identity({"kind": SEARCH, "run": manifest["identity"], "space": space.as_dict()})
    needed = [*filter(None, [table.source.path]), *table.locations.stacks]
    return RunFolder.create_or_continue(out, manifest, overwrite, needed)


def _run_trials(job: Job, records: TrialRecords, trials: int, workers: int | None, ray_address: str | None) -> None:
    from cryorbit.training.search import Told, search_trials  # imports Ray

    config, observer = job.config, job.observer
    training_rows, _ = split_rows(
        len(job.cache), config.training.validation_fraction, config.seed, config.training.learn_from
    )
    epochs = epochs_for(len(training_rows), config.training.epochs, config.training.images_budget)
    known = {trial.number for trial in records.trials if trial.ended}
    ended: set[int] = set()

    def on_epoch(number: int, epoch: int, value: float) -> None:
        if number not in known:
            observer.advance(len(ended), trials, f"trial {number}, epoch {epoch} of {epochs}: {value:.2f}")

    def on_end(trial: Trial) -> None:
        ended.add(trial.number)
        if trial.number not in known:
            value = "" if trial.value is None else f": {trial.value:.2f}"
            after = f"after {trial.epochs} of {epochs} epochs"
            observer.say(f"Trial {trial.number} {trial.state} {after}{value}{trial.message and f' ({trial.message})'}")
        observer.advance(len(ended), trials)

    observer.stage("Searching")
    if known:
        observer.say(f"{len(known)} trials are recorded already.")
    search_trials(records, records.folder / "cache", trials, epochs, Told(on_epoch, on_end), workers, ray_address)


def _conclude(folder: Path, records: TrialRecords) -> SearchResult:
    """Write the best configuration and the summary."""
    default, best = records.trials[0], records.best()
    if best is None or best.value is None:
        raise CryorbitError(
            f"{folder}: no trial was trained to the end (the default {default.state}"
            f"{default.message and ': '}{default.message}); the same command tries those that failed again."
        )
    default_value = default.value if default.state == FINISHED else None
    result = SearchResult(folder, folder / BEST_FILE, records.table(), best.number, best.value, default_value)
    write_text(result.best, _best_toml(result, best, records))
    states = result.trials["state"].value_counts()
    summary: dict[str, Any] = {
        "sentence": result.sentence, "trials": len(records.trials), "states": states.to_dict(),
        "default_value": default_value, "best_trial": best.number, "best_value": best.value,
        "best_parameters": best.parameters, "default_parameters": default.parameters,
        "space": records.space.as_dict(), "objective_weights": asdict(records.weights), "seed": records.base.seed,
    }  # fmt: skip
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    return result


def _best_toml(result: SearchResult, best: Trial, records: TrialRecords) -> str:
    found = ", ".join(f"{name} = {value:.4g}" for name, value in best.parameters.items())
    lines = [
        "# Settings for `cryorbit run PARTICLES --config best.toml --out DIR`, found by `cryorbit search`.",
        f"# {result.sentence}",
        f"# It is trial {best.number}, epoch {best.kept_epoch} of {best.epochs}: {found}.",
        "# Whatever is not named here is as in the preset.",
    ]
    return "\n".join(lines) + "\n\n" + to_toml(records.space.applied(records.base, best.parameters))
