"""Accuracy, honesty and cost of the orbit method on sets with known truth, several seeds each.

    python benchmarks/alignment.py noisy10 noisy05 --root SETS --seeds 1,2,3 --out results.jsonl

Each set is a folder with particles.star, truth.star and truth.csv (columns psi, defocus_um, tx, ty, outlier,
outlier_type), as the independent generator of the benchmark sets writes them. The defocus columns are taken out first:
the estimate is blind. Every estimate is a process of its own, of which CPU time and peak memory are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cryorbit.conventions import wrap_deg
from cryorbit.estimation.evaluation import best_offset_deg, origin_errors_A, roc
from cryorbit.io import read_particles

DEFOCUS = re.compile(r"_rlnDefocus(U|V|Angle) ")


def blind_copy(star: Path, copy: Path) -> None:
    """The same particles without defocus columns."""
    lines: list[str] = []
    dropped: list[int] = []
    header = 0
    for line in star.read_text(encoding="utf-8").splitlines():
        if line.startswith(("loop_", "data_")):
            dropped, header = [], 0
        if line.startswith("_rln"):
            if DEFOCUS.match(line + " "):
                dropped.append(header)
            else:
                lines.append(f"{line.split()[0]} #{header + 1 - len(dropped)}")
            header += 1
            continue
        if dropped and line.strip():
            line = " ".join(value for number, value in enumerate(line.split()) if number not in dropped)
        lines.append(line)
    copy.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(star: Path, root: Path, out: Path, seed: int, extra: list[str]) -> dict[str, float]:
    """Estimate in a process of its own, on one thread; what it cost."""
    command = [
        sys.executable, "-m", "cryorbit.cli", "estimate", str(star), "--stack-root", str(root), "--method", "orbit",
        "--out", str(out), "--seed", str(seed), "--quiet", "--overwrite", *extra,
    ]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with exit status {status}.")
    wall = time.perf_counter() - began
    return {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": wall, "peak_GB": used.ru_maxrss / 1e6}


def start_up_s() -> float:
    """CPU seconds that Python and the imports of an estimate take."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import cryorbit.pipeline, cryorbit.stages, cryorbit.results, torch"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(out: Path, truth_csv: Path) -> dict[str, float]:
    """Errors over true inliers, errors over predicted deviations, and outlier detection by kind."""
    found, truth = pd.read_parquet(out / "estimates.parquet"), pd.read_csv(truth_csv, keep_default_na=False)
    truth = truth.iloc[found["id"].to_numpy()].reset_index(drop=True)
    good = truth["outlier"].to_numpy() == 0
    psi, std = found["psi_deg"].to_numpy(), found["psi_std_deg"].to_numpy()
    difference = psi - truth["psi"].to_numpy()
    offset = best_offset_deg(difference[good], np.ones(int(good.sum())))
    near = np.abs(wrap_deg(difference + offset)) < 5
    offset -= float(np.mean(wrap_deg(difference + offset)[good & near])) if (good & near).any() else 0.0
    error = wrap_deg(difference + offset)[good]
    across = (found["defocus_um"].to_numpy() - truth["defocus_um"].to_numpy())[good]
    across_std = found["defocus_std_um"].to_numpy()[good]
    shift = _shift_error_A(found, truth, psi, out)[good]
    metrics = {
        "n": len(found), "angle_rmse_deg": _rms(error), "angle_median_deg": float(np.median(np.abs(error))),
        "within_5_deg": float(np.mean(np.abs(error) < 5)), "angle_calibration": float(np.std(error / std[good])),
        "angle_calibration_mad": _spread(error / std[good]), "defocus_rmse_um": _rms(across),
        "defocus_median_um": float(np.median(np.abs(across))), "defocus_bias_um": float(across.mean()),
        "defocus_calibration": float(np.std(across / across_std)),
        "defocus_calibration_mad": _spread(across / across_std), "shift_rmse_A": _rms(shift),
        "shift_calibration": float(np.std(shift / found["origin_std_A"].to_numpy()[good, None])),
        "limit_psi_deg": _rms(found["limit_psi_deg"].to_numpy()[good]),
        "limit_defocus_um": _rms(found["limit_defocus_um"].to_numpy()[good]),
        "limit_origin_A": _rms(found["limit_origin_A"].to_numpy()[good]),
        "confident_and_wrong": int(np.sum((np.abs(error) > 5) & (std[good] < 5))),
        "false_rejection": float(np.mean(~found["kept"].to_numpy()[good])),
    }  # fmt: skip
    if not good.all():
        score = found["outlier_score"].to_numpy()
        metrics["auc"] = roc(score, ~good).auc
        metrics["missed"] = float(np.mean(found["kept"].to_numpy()[~good]))
        for kind in sorted(set(truth["outlier_type"][~good])):
            rows = good | (truth["outlier_type"] == kind).to_numpy()
            metrics[f"auc_{kind}"] = roc(score[rows], ~good[rows]).auc
    return metrics


def _shift_error_A(found: pd.DataFrame, truth: pd.DataFrame, psi_deg: np.ndarray, out: Path) -> np.ndarray:
    """Errors of the origins in the frame of the average, shape (n, 2)."""
    pixel_size = float(read_particles(out / "particles.star", check_images=False).imaging.pixel_size_A[0])
    true = -truth[["tx", "ty"]].to_numpy() * pixel_size
    return origin_errors_A(found[["origin_x_A", "origin_y_A"]].to_numpy(), true, psi_deg)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _spread(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def main() -> None:
    """Run all sets with all seeds; print one line each and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that holds the sets")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--out", type=Path, default=Path("alignment.jsonl"))
    parser.add_argument("--images", type=int, help="only so many of each set, the first ones")
    parser.add_argument("--between", help="only particles with a true defocus in this range, such as 1.4:1.6")
    parser.add_argument("--given", action="store_true", help="leave the defocus in the file, and trust it")
    parser.add_argument("extra", nargs="*", help=argparse.SUPPRESS)
    chosen, extra = parser.parse_known_args()
    print(f"start-up: {start_up_s():.1f} CPU s", flush=True)
    for name in chosen.sets:
        folder = chosen.root / name
        for seed in map(int, chosen.seeds.split(",")):
            with tempfile.TemporaryDirectory() as scratch:
                star = Path(scratch) / "blind.star"
                if chosen.given:
                    shutil.copy(folder / "particles.star", star)
                else:
                    blind_copy(folder / "particles.star", star)
                _select(star, folder, chosen.images, chosen.between)
                cost = run(star, chosen.root, Path(scratch) / "run", seed, extra)
                measured = measure(Path(scratch) / "run", _truth_of(star, folder))
            line = {"set": name, "seed": seed, **cost, **measured}
            print(
                json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()})
            )
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _select(star: Path, folder: Path, images: int | None, between: str | None) -> None:
    """Keep some rows of the file, and the same rows of the truth beside it."""
    truth = pd.read_csv(folder / "truth.csv", keep_default_na=False)
    rows = np.arange(len(truth))
    if between:
        low, high = (float(part) for part in between.split(":"))
        rows = rows[truth["defocus_um"].between(low, high).to_numpy()]
    rows = rows[:images]
    lines = star.read_text(encoding="utf-8").splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("_rln"))
    body = [line for line in lines[last + 1 :] if line.strip()]
    star.write_text("\n".join([*lines[: last + 1], *(body[row] for row in rows)]) + "\n", encoding="utf-8")
    truth.iloc[rows].to_csv(star.with_name("truth.csv"), index=False)


def _truth_of(star: Path, folder: Path) -> Path:
    chosen = star.with_name("truth.csv")
    return chosen if chosen.is_file() else folder / "truth.csv"


if __name__ == "__main__":
    main()
