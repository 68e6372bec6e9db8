"""Memory and time of every stage against the number of particles, up to more than would fit on a disk.

    python benchmarks/scale.py WORK_FOLDER --particles 5000 50000 200000 [--distinct 5000] [--seed 1] [--until embed]
                               [--box 128] [--workers 2] [--without-network] [--views 50]

The images are ``--distinct`` simulated ones of 384 A (SNR 0.1, shifts, a tenth junk), which a particle file names over
and over: every row is read, embedded, aligned and written by itself, as if it were another particle. The training is
cut short, for what it costs does not depend on the number of particles. Each number runs in a process of its own;
peaks are those of the resident memory within each stage (``VmHWM`` of Linux); time of the processor and memory of
``--workers`` are their own and not counted. ``CRYORBIT_THREADS`` says how many threads there are. With ``--views`` it
is a classification that is measured, into so many classes, of images that are seen from 200 directions, learnt
from 5,000 of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cryorbit as co
from cryorbit.classified import classify
from cryorbit.machine import Workers
from cryorbit.simulation import choose_projections, make_simulation_config
from cryorbit.stages import TITLES

WIDTH_A = 384.0
DIRECTIONS, LEARN_FROM = 200, 5000
CUT_SHORT = {"training": {"images_budget": 2000}, "estimation": {"defocus_prior": "blind"}}


class Watch:
    """Seconds, CPU seconds and peak memory of each stage."""

    def __init__(self) -> None:
        self.stages: list[dict[str, float | str]] = []
        self._title, self._began, self._cpu = "", 0.0, 0.0

    def stage(self, title: str) -> None:
        """Close the stage before, and begin another."""
        self.close()
        self._title, self._began, self._cpu = title, time.perf_counter(), cpu_seconds()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on

    def close(self) -> None:
        """Note what the stage took."""
        if self._title:
            self.stages.append({
                "stage": self._title, "seconds": time.perf_counter() - self._began,
                "cpu_seconds": cpu_seconds() - self._cpu, "peak_MB": peak_MB(),
            })  # fmt: skip

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Nothing to do."""

    def say(self, text: str) -> None:
        """Nothing to do."""


def cpu_seconds() -> float:
    """Of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_MB() -> float:
    """Highest resident memory since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024.0


def make_set(folder: Path, distinct: int, seed: int, box: int, directions: int) -> Path:
    """The distinct images, once."""
    if not (folder / "particles.star").exists():
        config = make_simulation_config("junk", {
            "images": distinct, "seed": seed, "box": box, "pixel_size_A": WIDTH_A / box, "snr": 0.1,
            "views": directions, "view_spread_deg": 180.0,
        })  # fmt: skip
        co.simulate(folder, choose_projections(None, None, False, (0.0, 0.0), config), config)
    return folder / "particles.star"


def repeated(star: Path, n: int) -> Path:
    """A particle file of ``n`` rows that names the images over and over."""
    path = star.with_name(f"particles_{n}.star")
    text = star.read_text().rstrip("\n").split("\n")
    first = next(k for k in range(len(text) - 1, -1, -1) if text[k].startswith("_")) + 1
    rows = [line for line in text[first:] if line.strip()]
    with path.open("w") as file:
        file.write("\n".join(text[:first]) + "\n")
        for k in range(n):
            file.write(rows[k % len(rows)] + "\n")
    return path


def measure(star: Path, options: argparse.Namespace) -> None:
    """Run the stages up to one in this process, and print what each took as JSON."""
    watch = Watch()
    config = co.make_config("fast", {**CUT_SHORT, "seed": options.seed})
    if options.views:
        classes = {"seed": options.seed, "classification": {"views": options.views, "learn_from": LEARN_FROM}}
        classify(star, options.work, co.make_config("fast", classes), observer=watch)
        watch.close()
        print(json.dumps({"stages": watch.stages}))
        return
    workers = Workers(options.workers) if options.workers else None
    latent = not options.without_network
    co.run(star, options.work, config, observer=watch, until=options.until, latent=latent, workers=workers)
    watch.close()
    print(json.dumps({"stages": watch.stages}))


def main() -> None:
    """Measure each number, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--particles", type=int, nargs="+", default=[5000, 50_000, 200_000])
    parser.add_argument("--distinct", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", default="report", help="last stage")
    parser.add_argument("--box", type=int, default=128, help="pixels across")
    parser.add_argument("--workers", type=int, default=0, help="processes that share alignment and embedding")
    parser.add_argument("--without-network", action="store_true", help="the alignment alone")
    parser.add_argument("--views", type=int, default=0, help="classify into so many classes instead")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        measure(options.one, options)
        return
    name = f"views_{options.box}" if options.views else f"set_{options.box}"
    directions = DIRECTIONS if options.views else 1
    star = make_set(options.work / name, options.distinct, options.seed, options.box, directions)
    for n in options.particles:
        out = options.work / f"run_{n}"
        shutil.rmtree(out, ignore_errors=True)
        command = [
            sys.executable, __file__, str(out), "--one", str(repeated(star, n)), "--seed", str(options.seed),
            "--until", options.until, "--workers", str(options.workers), "--views", str(options.views),
            *(["--without-network"] if options.without_network else []),
        ]  # fmt: skip
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        for row in found["stages"]:
            rate = n / max(row["seconds"], 1e-9)
            print(
                f"| {n:,} | {row['stage']} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {rate:,.0f} "
                f"| {row['peak_MB']:,.0f} |", flush=True,
            )  # fmt: skip
        both = sum(row["seconds"] for row in found["stages"] if row["stage"] in (TITLES["embed"], TITLES["align"]))
        if not options.views:
            print(f"| {n:,} | both: embed and align | {both:.1f} | | {n / both:,.0f} | |", flush=True)
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
