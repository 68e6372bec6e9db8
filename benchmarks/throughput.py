"""How fast reading, caching, training and embedding are, as a table: by preset, device and batch.

    python benchmarks/throughput.py [--images 1024] [--steps 20] [--presets fast,paper] [--batches 16,32,128]

Images are random: speed does not depend on what they show. Compare ratios within one table; a shared machine is never
twice the same. "per CPU second" counts the process's own time on all cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch

from cryorbit import ImageStack, make_config
from cryorbit.latent.embed import N_TURNS, embed
from cryorbit.particles import ImageLocations
from cryorbit.preprocessing.dataset import ParticleCache, build_cache
from cryorbit.training.loop import train
from cryorbit.training.trainer import choose_precision

BOX = 128
IMAGES_PER_STACK = 64


@dataclass
class Row:
    """One line of the table."""

    what: str
    wall_s: float
    cpu_s: float
    images: int

    def __str__(self) -> str:
        return f"| {self.what} | {self.images / self.wall_s:,.0f} | {self.images / self.cpu_s:,.0f} |"


@contextmanager
def timed(what: str, images: int, rows: list[Row]) -> Iterator[None]:
    """Add what happens inside to the table."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    rows.append(Row(what, time.perf_counter() - wall, max(time.process_time() - cpu, 1e-9), images))
    print(rows[-1], flush=True)


def write_stacks(folder: Path, images: int) -> ImageLocations:
    """Random images spread over many stacks."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(-(-images // IMAGES_PER_STACK)):
        path = folder / f"{number:05d}.mrcs"
        with mrcfile.new(path) as mrc:
            mrc.set_data(rng.normal(size=(IMAGES_PER_STACK, BOX, BOX)).astype(np.float32))
            mrc.set_image_stack()
        paths.append(path)
    rows = np.arange(images)
    return ImageLocations(tuple(paths), rows // IMAGES_PER_STACK, rows % IMAGES_PER_STACK)


def time_reading(locations: ImageLocations, rows: list[Row]) -> None:
    """Reading from the stacks, in order and at random."""
    images = len(locations.stack)
    order = np.random.default_rng(1).permutation(images)
    with ImageStack(locations) as stack:
        for what, wanted in (("in file order", np.arange(images)), ("in random order", order)):
            with timed(f"read {BOX} px from {len(locations.stacks)} stacks, {what}", images, rows):
                for start in range(0, images, 256):
                    stack.read(wanted[start : start + 256])


def make_cache(locations: ImageLocations, folder: Path, preset: str, rows: list[Row]) -> ParticleCache:
    """Reading, cropping, standardising and storing."""
    names = np.array([str(i) for i in range(len(locations.stack))], dtype=object)
    settings = make_config(preset).preprocessing
    with ImageStack(locations) as stack, timed(f"cache at {settings.box_size} px", len(stack), rows):
        return build_cache(stack, 3.0, folder, settings, names)


def time_training(cache: ParticleCache, preset: str, device: str, batch: int, steps: int, rows: list[Row]) -> None:
    """One epoch of a few steps, after one of warming up; validation is a small part of it."""
    images = min(len(cache), steps * batch)
    changes = {"epochs": 2, "batch_size": batch, "accelerator": device, "validation_fraction": 0.0, "patience": 9}
    config = make_config(preset, {"training": {**changes, "images_budget": None}})
    small = _First(cache, images)
    precision = choose_precision("auto", device)
    marks: list[tuple[float, float]] = []

    def mark(*_: object) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        train(small, config, Path(folder) / "c", Path(folder) / "m.jsonl", mark)
    (wall0, cpu0), (wall1, cpu1) = marks
    what = f"train {preset}, {device}, batch {batch}, {precision}, with validation and checkpoint"
    rows.append(Row(what, wall1 - wall0, cpu1 - cpu0, images))
    print(rows[-1], flush=True)


class _First(ParticleCache):
    """The first images of a cache."""

    def __init__(self, cache: ParticleCache, images: int) -> None:
        super().__init__(cache.folder)
        self._images = images

    def __len__(self) -> int:
        return self._images


def time_embedding(cache: ParticleCache, preset: str, images: int, rows: list[Row]) -> None:
    """Encoding each image and its turned copies."""
    from cryorbit.model.vaegan import build_networks

    autoencoder, _ = build_networks(cache.box_size, make_config(preset).model)
    with timed(f"embed {preset}, cpu, {N_TURNS} turns an image", images, rows):
        embed(autoencoder.eval(), _First(cache, images))


def numbers(kind: Callable[[str], object]) -> Callable[[str], list]:
    """Comma-separated values."""
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--presets", type=numbers(str), default=["fast", "paper"])
    parser.add_argument("--batches", type=numbers(int), default=[16, 32, 128])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    gpu = torch.cuda.get_device_name() if "cuda" in devices else "no GPU"
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads, {gpu}, ",
        end="",
    )
    print(f"torch {torch.__version__}, Python {platform.python_version()}\n")
    print("| what | images/s | images per CPU second |\n|---|---|---|")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        locations = write_stacks(folder, asked.images)
        time_reading(locations, rows)
        for preset in asked.presets:
            cache = make_cache(locations, folder / preset, preset, rows)
            for device in devices:
                for batch in asked.batches:
                    time_training(cache, preset, device, batch, asked.steps if preset == "fast" else 4, rows)
            time_embedding(cache, preset, asked.images if preset == "fast" else 64, rows)


if __name__ == "__main__":
    main()
