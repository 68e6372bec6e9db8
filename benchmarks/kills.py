"""Whether a run that is killed at any moment goes on to the result of one that is not.

    python benchmarks/kills.py WORK_FOLDER [--kills 20] [--images 300] [--seed 1] [--signal KILL|TERM|INT]

Simulates a set, runs it once undisturbed, then as often as asked in a folder of its own, where the whole process group
gets the signal at a random moment after ``run.json`` was written; the same command is then given again. All results are
compared byte by byte (what has times in it, without them), and the input's hash before and after.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = [
    "training.epochs=6", "training.patience=6", "model.base_width=4", "model.n_blocks=3",
    "model.discriminator_blocks=3", "preprocessing.box_size=32", "training.accelerator=cpu",
]  # fmt: skip
# Files of a run whose bytes must be the same; others hold times.
RESULTS = (
    "particles.star", "particles_kept.star", "particles_dropped.star", "estimates.parquet", "latent.parquet",
    "outliers.parquet", "alignment.parquet", "average.mrc", "average_frc.csv", "limits.csv",
)  # fmt: skip
PROGRAM = [sys.executable, "-m", "cryorbit"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(star: Path, out: Path) -> list[str]:
    """The run that is killed."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return [*PROGRAM, "run", str(star), "--out", str(out), "--defocus-prior", "blind", "--quiet", *settings]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def results(out: Path) -> dict[str, Any]:
    """What a run found, without its times."""
    found: dict[str, Any] = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in RESULTS}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{name: value for name, value in line.items() if "second" not in name} for line in lines]
    manifest = json.loads((out / "run.json").read_text())
    found["manifest"] = {name: manifest.get(name) for name in ("identity", "isotropy_order", "alignment", "outliers")}
    found["warnings"] = manifest["warnings"]
    leftovers = [path.name for path in out.rglob("*") if path.name.startswith(".writing-")]
    return found | {"leftovers": leftovers}


def kill_once(star: Path, out: Path, seconds: float, sent: signal.Signals) -> str | None:
    """Start a run and kill it; the stage it was in, or None where it had ended already."""
    running = subprocess.Popen(command(star, out), env=ONE_THREAD, start_new_session=True, stderr=subprocess.DEVNULL)
    while not (out / "run.json").is_file() and running.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    if running.poll() is not None:
        return None
    os.killpg(running.pid, sent)
    running.wait()
    manifest = json.loads((out / "run.json").read_text())
    if manifest["finished"]:
        return None
    done = list(manifest["stages"])
    return f"after {done[-1]}" if done else "in the first stage"


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    options = parser.parse_args()
    sent = signal.Signals[f"SIG{options.signal}"]
    chosen = random.Random(options.seed)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    star = folder / "set" / "particles.star"
    simulate = ["simulate", str(star.parent), "--preset", "demo", "--images", str(options.images)]
    subprocess.run([*PROGRAM, *simulate, "--seed", str(options.seed), "--quiet"], check=True, env=ONE_THREAD)
    before = digests(star.parent)
    subprocess.run(command(star, folder / "whole"), check=True, env=ONE_THREAD, stdout=subprocess.DEVNULL)
    expected = results(folder / "whole")
    stages = json.loads((folder / "whole" / "run.json").read_text())["stages"]
    seconds = sum(stage["seconds"] for stage in stages.values())
    print(f"undisturbed: {seconds:.1f} s in {', '.join(stages)}", flush=True)
    kills = wrong = 0
    while kills < options.kills:
        out = folder / "killed"
        moment = chosen.uniform(0, seconds)
        where = kill_once(star, out, moment, sent)
        if where is not None:
            kills += 1
            done = subprocess.run(
                command(star, out), env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
            )
            same = done.returncode == 0 and results(out) == expected and digests(star.parent) == before
            wrong += not same
            print(f"{kills}: after {moment:.2f} s ({where}): {'the same' if same else 'DIFFERENT'}", flush=True)
            if not same:
                print(done.stderr.decode(), flush=True)
                shutil.copytree(out, folder / f"different_{kills}")
        shutil.rmtree(out)
    print(f"{kills - wrong} of {kills} the same; the input's hash {'un' * (digests(star.parent) == before)}changed")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
