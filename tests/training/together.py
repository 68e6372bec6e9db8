"""Training as one of a team, for the tests: ``torchrun -m tests.training.together FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from cryorbit import make_config
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.training.aligned import AlignedSet
from cryorbit.training.guidance import Guide
from cryorbit.training.loop import train_by_epochs
from cryorbit.training.team import Team

from .conftest import TINY

# A batch that two processes cannot halve, and a last one with a single image.
ODD = {"batch_size": 15, "epochs": 2, "learning_rate": 1e-3}


def configurations():
    """Networks that differ in what they would have in common only by chance: batch norm, drawn images, both losses."""
    for name, preset, changes in (
        ("paper", "paper", {"training": ODD}),
        ("turned", "fast", {"model": {"architecture": "convolutional", "lambda_GAN": 0.1}, "training": ODD}),
        ("guided", "fast", {"training": {**ODD, "batch_size": 15}}),
    ):
        model = TINY["model"] | {"hidden_width": 32, "principal_images": 20} | changes.get("model", {})
        yield name, make_config(preset, {**TINY, "model": model, "training": TINY["training"] | changes["training"]})


def main(folder: Path) -> None:
    """Train each, and leave the checkpoints of the lead."""
    team = Team.of_environment()
    team.connect()
    cache, aligned = ParticleCache(folder / "cache" / "shards"), AlignedSet.load(folder / "guide.npz")
    out = folder / f"of_{team.size}"
    for name, config in configurations():
        guide = Guide.of(cache, aligned, config.seed) if name == "guided" else None
        for _ in train_by_epochs(cache, config, out / name, out / f"{name}.jsonl", guide, team):
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
