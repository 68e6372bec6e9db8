"""A million particles in ten thousand stacks: time, memory and open files of `inspect` and `export`.

    python benchmarks/million.py WORK_FOLDER [--particles 1000000] [--stacks 10000] [--format star|cs]

The stacks are hard links to one small stack of noise. The run folder that is exported from is made up: `export` reads
no more of a run than that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd

BOX = 16
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
opticsGroup1 1 300.000000 2.700000 0.100000 1.100000 16 2


# version 30001

data_particles

loop_
"""
COLUMNS = (
    "rlnCoordinateX", "rlnCoordinateY", "rlnImageName", "rlnMicrographName", "rlnDefocusU", "rlnDefocusV",
    "rlnDefocusAngle", "rlnCtfMaxResolution", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnClassNumber",
    "rlnOpticsGroup", "rlnParticleSelectZScore",
)  # fmt: skip


def make_stacks(folder: Path, stacks: int, images: int) -> None:
    """Stacks that are links to one of noise."""
    (folder / "Extract").mkdir(parents=True)
    first = folder / "Extract" / "mic_00000.mrcs"
    with mrcfile.new(first) as file:
        file.set_data(np.random.default_rng(0).normal(size=(images, BOX, BOX)).astype(np.float32))
        file.set_image_stack()
    for number in range(1, stacks):
        os.link(first, folder / "Extract" / f"mic_{number:05d}.mrcs")


def make_star(path: Path, particles: int, images: int) -> None:
    """A particle file as an extraction and a classification leave it."""
    random = np.random.default_rng(1)
    with path.open("w") as handle:
        handle.write(OPTICS + "".join(f"_{name} #{n}\n" for n, name in enumerate(COLUMNS, start=1)))
        for row in range(particles):
            number, image = divmod(row, images)
            mic = f"mic_{number:05d}.mrc"
            x, y, u, psi, z = random.random(5).tolist()
            handle.write(
                f"{4000 * x:.6f} {4000 * y:.6f} {image + 1:06d}@Extract/{mic}s Micrographs/{mic} "
                f"{8000 + 20000 * u:.6f} {7800 + 20000 * u:.6f} 12.345678 3.456789 {360 * psi - 180:.6f} 1.234567 "
                f"-2.345678 {row % 50 + 1} 1 {5 * z:.6f}\n"
            )
        handle.write("\n")


def make_cs(path: Path, particles: int, images: int) -> None:
    """The same as cryoSPARC's records."""
    fields = [
        ("uid", "<u8"), ("blob/path", "S40"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4"), ("blob/shape", "<u4", (2,)),
        ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"),
        ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"), ("alignments2D/pose", "<f4"),
        ("alignments2D/shift", "<f4", (2,)), ("alignments2D/psize_A", "<f4"),
    ]  # fmt: skip
    made = np.zeros(particles, dtype=fields)
    made["uid"] = np.random.default_rng(1).permutation(particles).astype(np.uint64) + 2**60
    rows = np.arange(particles)
    made["blob/path"] = np.char.mod(b">Extract/mic_%05d.mrcs", rows // images)
    made["blob/idx"], made["blob/psize_A"], made["blob/shape"] = rows % images, 1.1, BOX
    made["ctf/accel_kv"], made["ctf/cs_mm"], made["ctf/amp_contrast"] = 300, 2.7, 0.1
    made["ctf/df1_A"] = made["ctf/df2_A"] = 15000
    made["alignments2D/psize_A"] = 1.1
    np.save(path.open("wb"), made)


def make_run(folder: Path, source: Path, particles: int) -> None:
    """What `export` needs of a run."""
    folder.mkdir()
    os.link(source, folder / f"particles{source.suffix}")
    described = {"path": str(source.resolve()), "stack_root": None}
    manifest = {"identity": "-", "configuration": {}, "stages": {}, "input": described}
    (folder / "run.json").write_text(json.dumps(manifest))
    probability = np.random.default_rng(2).uniform(size=particles)
    frame = pd.DataFrame({"outlier_probability": probability, "outlier_z": 4 * probability, "kept": probability < 0.5})
    frame.to_parquet(folder / "estimates.parquet")


def measure(folder: Path, *arguments: str) -> str:
    """Run the program; its times, memory and files."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    running = subprocess.Popen([sys.executable, "-m", "cryorbit", *arguments], cwd=folder, stdout=subprocess.PIPE)
    most = peak = 0

    def watch() -> None:
        nonlocal most, peak
        while running.poll() is None:
            try:
                most = max(most, sum(1 for _ in Path(f"/proc/{running.pid}/fd").iterdir()))
                status = Path(f"/proc/{running.pid}/status").read_text()
                peak = max(peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
            except (OSError, TypeError):
                pass
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = running.communicate()[0].decode()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.monotonic() - began
    line = (
        f"{arguments[0]}: {wall:.1f} s wall, {cpu:.1f} s CPU, {peak / 1e6:.2f} GB, {most} open files, "
        f"exit code {running.returncode}"
    )
    return line + "".join(f"\n    {text[:110]}" for text in said.splitlines())


def main() -> None:
    """Make the project and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--stacks", type=int, default=10_000)
    parser.add_argument("--format", choices=("star", "cs"), default="star")
    options = parser.parse_args()
    images = options.particles // options.stacks
    make_stacks(options.folder, options.stacks, images)
    source = options.folder / f"particles.{options.format}"
    (make_star if options.format == "star" else make_cs)(source, options.particles, images)
    make_run(options.folder / "run", source, options.particles)
    print(f"{source}: {source.stat().st_size / 1e6:.0f} MB", flush=True)
    print(measure(options.folder, "inspect", source.name), flush=True)
    print(measure(options.folder, "export", "run", "--out", f"good{source.suffix}"), flush=True)
    if options.format == "cs":
        print(measure(options.folder, "export", "run", "--out", "good.star"), flush=True)


if __name__ == "__main__":
    main()
