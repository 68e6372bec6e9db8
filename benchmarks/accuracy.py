"""How well angle, defocus and outliers come out on simulated sets, as a table: simulate, run, evaluate.

    python benchmarks/accuracy.py WORK_FOLDER [--map MAP.mrc] [--sets demo,paper,junk] [--seed 1]

Sets: the simulator's presets, of the built-in phantom, or of the map seen along --view where one is given. The defocus
is not told to the run (--defocus-prior blind), only its range. AUC is given for each of the paper's three detectors.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import cryorbit as co
from cryorbit.estimation.outliers import DETECTORS
from cryorbit.estimation.truth import evaluate_tables, read_truth
from cryorbit.progress import Lines
from cryorbit.simulation import choose_projection, make_simulation_config, parse_view, simulate

HEADER = (
    "| set | angle rms / weighted / median (degrees) | error / predicted | plane formula | defocus rms (um) | error / "
    "predicted | AUC isolation forest / robust covariance / local outlier factor | false rejections, missed | s wall, "
    "s CPU, peak MB |\n|---|---|---|---|---|---|---|---|---|"
)


def measure(preset: str, map_path: Path | None, view: str, seed: int, folder: Path) -> str:
    """Simulate a set, run the main job on it and describe the result as a row."""
    config = make_simulation_config(preset, {"seed": seed})
    simulate(folder / "set", choose_projection(map_path, None, False, parse_view(view)), config)
    known = (0.5, 3.0) if preset == "paper" else (0.5, 2.5)
    estimation = {"defocus_prior": "blind", "defocus_range_um": known}
    wall, cpu = time.perf_counter(), time.process_time()
    run_config = co.make_config("fast", {"seed": seed, "estimation": estimation})
    star = folder / "set" / "particles.star"
    result = co.run(star, folder / "run", run_config, until="estimate", observer=Lines())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    truth = read_truth(folder / "set" / "truth.star", result.particles)
    found = evaluate_tables(result.particles, truth)
    plane = co.evaluate(result.estimates["plane_psi_deg"].to_numpy(), truth.psi_deg, None, None)
    junk = "-"
    rejected = f"{(~result.estimates['kept'].to_numpy())[~truth.is_outlier].mean():.1%}, -"
    if truth.is_outlier.any():
        junk = " / ".join(f"{roc_auc_score(truth.is_outlier, result.estimates[name]):.4f}" for name in DETECTORS)
        rejected = rejected[:-1] + f"{result.estimates['kept'].to_numpy()[truth.is_outlier].mean():.1%}"
    name = f"{preset}, {f'map at {view}' if map_path is not None else 'phantom'}, seed {seed}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"| {name} | {found.angle_rmse_deg:.3f} / {found.angle_rmse_weighted_deg:.3f} / {found.angle_median_deg:.3f} | "
        f"{found.angle_calibration:.2f} | {np.nan if plane.angle_rmse_deg is None else plane.angle_rmse_deg:.1f} | "
        f"{found.defocus_rmse_um:.3f} | {found.defocus_calibration:.2f} | {junk} | {rejected} | {wall:.0f}, {cpu:.0f}, "
        f"{memory:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--view", default="0,0")
    parser.add_argument("--sets", default="demo,paper,junk")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print(HEADER)
    for preset in asked.sets.split(","):
        place = asked.folder / f"{preset}_{asked.seed}_{'map' if asked.map else 'phantom'}_{asked.view}"
        print(measure(preset, asked.map, asked.view, asked.seed, place), flush=True)


if __name__ == "__main__":
    main()
