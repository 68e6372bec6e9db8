"""The demonstration: a set like the paper's, made, analysed and compared with its truth, from nothing."""

from __future__ import annotations

from pathlib import Path

from cryorbit.config import make_config
from cryorbit.errors import RunFolderError
from cryorbit.estimation.evaluation import Evaluation
from cryorbit.estimation.truth import evaluate_tables, read_truth
from cryorbit.io import read_particles
from cryorbit.io.runs import INPUT, claim_folder
from cryorbit.pipeline import RunResult, run
from cryorbit.progress import Observer
from cryorbit.simulation import make_simulation_config, phantom_projection, simulate

# Enough to see everything, and a demonstration should not outlast a cup of coffee.
EPOCHS = 25


def run_demo(out: Path, images: int, seed: int, overwrite: bool, observer: Observer) -> tuple[RunResult, Evaluation]:
    """Simulate particles into ``out/input`` and run the main job on them in ``out``, defocus unknown to it.

    Raises
    ------
    RunFolderError
        If ``out`` holds something other than an unfinished demonstration.
    """
    claim_folder(out, overwrite)
    simulated = out / INPUT
    config = make_simulation_config("demo", {"seed": seed, "images": images})
    if not (simulated / "particles.star").is_file():
        observer.stage("Simulating")
        simulate(simulated, phantom_projection(), config, progress=observer.advance)
    elif len(read_particles(simulated / "particles.star", check_images=False)) != images:
        raise RunFolderError(f"{out}: holds a demonstration of another size; choose another --out or give --overwrite.")
    changes = {"seed": seed, "estimation": {"defocus_prior": "blind"}, "training": {"epochs": EPOCHS}}
    blind = make_config("fast", changes)
    truth = simulated / "truth.star"
    result = run(simulated / "particles.star", out, blind, truth=truth, observer=observer)
    table = read_particles(result.folder / "particles.star", check_images=False)
    return result, evaluate_tables(table, read_truth(truth, table))
