"""What a search of hyper-parameters minimises: a validation loss that means the same in every trial.

A trial's own total cannot be compared with another's, since the weights of its terms are part of what is searched:
with ``lambda_reg`` at nothing the total is smallest, and the latent space worthless. So every trial is judged with the
weights of the configuration that the search began with. Nothing here knows who searches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryorbit.config import ModelConfig, RunConfig
from cryorbit.model.losses import LossWeights
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.aligned import GUIDE_FILE, AlignedSet
from cryorbit.training.guidance import Guide
from cryorbit.training.loop import train_by_epochs
from cryorbit.training.metrics import read_metrics

METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class EpochValue:
    """Where a trial stands after an epoch.

    Attributes
    ----------
    epoch
        Epochs trained.
    loss
        Objective of this epoch's network.
    kept_epoch, value
        The epoch whose network training would keep if it ended now, and the objective of that.
    own_total
        Validation loss of this epoch with the trial's own weights, by which training chooses what to keep.
    """

    epoch: int
    loss: float
    kept_epoch: int
    value: float
    own_total: float


def fixed_weights(config: ModelConfig) -> LossWeights:
    """Weights of the objective: the configuration's own, without the adversarial term.

    How well a generator fools a discriminator says as much of the discriminator, and each trial trains its own.
    """
    return LossWeights(
        regularisation=config.lambda_reg, adversarial=0.0, cone=config.lambda_cone, pose=config.lambda_pose
    )


def objective(record: Mapping[str, Any], weights: LossWeights) -> float:
    """Validation loss of an epoch, from its line of metrics: the sum of its terms, weighed."""
    terms = {
        "reconstruction": 1.0, "kl": weights.regularisation, "adversarial": weights.adversarial, "cone": weights.cone,
        "pose": weights.pose,
    }  # fmt: skip
    return sum(weight * float(record[f"validation_{name}"]) for name, weight in terms.items() if weight)


def epoch_values(records: Iterable[Mapping[str, Any]], weights: LossWeights) -> Generator[EpochValue]:
    """Values of a trial's epochs, in order, from their lines of metrics."""
    kept_epoch, lowest_total, value = 0, float("inf"), float("inf")
    for record in records:
        epoch, total, loss = int(record["epoch"]), float(record["validation_total"]), objective(record, weights)
        if total < lowest_total:
            kept_epoch, lowest_total, value = epoch, total, loss
        yield EpochValue(epoch, loss, kept_epoch, value, total)


def trial_curve(
    cache: ParticleCache, config: RunConfig, weights: LossWeights, folder: Path, ended: bool = False
) -> Generator[EpochValue]:
    """Train one configuration, an epoch for each value asked for; who asks no more has stopped it.

    Epochs that were trained before are told from their record, and training goes on after them.

    Parameters
    ----------
    cache
        Standardised particle images.
    config
        The trial's configuration.
    weights
        Of the objective.
    folder
        The trial's own: metrics of every epoch, and its checkpoints while it runs.
    ended
        Whether to tell what is recorded only.

    Raises
    ------
    TrainingDivergedError
        If the loss is no number any more.
    """
    return epoch_values(_records(cache, config, folder, ended), weights)


def _records(cache: ParticleCache, config: RunConfig, folder: Path, ended: bool) -> Iterator[dict[str, Any]]:
    told = read_metrics(folder / METRICS)
    yield from told
    if not ended:
        for record in train_by_epochs(cache, config, folder / CHECKPOINT, folder / METRICS, _guide(cache, config)):
            # An epoch whose checkpoint a kill prevented is trained again, to the same numbers.
            if record["epoch"] > len(told):
                yield record


def _guide(cache: ParticleCache, config: RunConfig) -> Guide | None:
    """What the training is told, where the alignment left something beside the images."""
    path = cache.folder / GUIDE_FILE
    return Guide.of(cache, AlignedSet.load(path), config.seed) if path.is_file() else None
