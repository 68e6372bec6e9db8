"""What aligning and embedding spend the processor's time on: the operations that take most of it, as two tables.

    python benchmarks/hotspots.py STAR RUN [--images 2000]

STAR is a particle file, and RUN a finished run of particles like them, with a network. One thread, so that waiting is
not counted as work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import cryorbit as co
from cryorbit.aligned import SEARCHED_DEFOCUS_um
from cryorbit.alignment.memory import from_plain
from cryorbit.alignment.orbit import align_others, geometry_of
from cryorbit.alignment.reader import RingReader
from cryorbit.io import ImageStack
from cryorbit.latent.embed import BATCH, N_TURNS, embed_batch
from cryorbit.machine import freed_memory_kept, limit_threads
from cryorbit.preprocessing.dataset import ParticleCache, prepare_images
from cryorbit.training.checkpoint import BEST, load_autoencoder, load_checkpoint

CHUNK = 1000
SHOWN = 12


def table(title: str, work: Callable[[], object], images: int) -> None:
    """Do the work once to warm up, once for the time, once for the table."""
    work()
    began = time.process_time()
    work()
    seconds = time.process_time() - began
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"\n{title}: {images} images in {seconds:.2f} CPU s, {images / seconds:,.0f} a CPU second\n")
    print("| operation | share of the time | calls |\n|---|---|---|")
    for row in rows[:SHOWN]:
        print(f"| {row.key} | {100 * row.self_cpu_time_total / total:.1f} % | {row.count} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("star", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    asked = parser.parse_args()
    limit_threads(1)
    particles = co.read_particles(asked.star)
    particles = particles.take(np.arange(min(asked.images, len(particles))))
    n, config, checkpoint = len(particles), co.make_config("fast"), asked.run / "checkpoint"
    with freed_memory_kept(), ImageStack(particles.locations) as stack:
        names, pixel_size_A = particles.image_names, float(particles.imaging.pixel_size_A[0])
        images = prepare_images(stack, pixel_size_A, config.alignment.box_size, config.preprocessing, names)
        reader = RingReader.of(particles, images, "blind", SEARCHED_DEFOCUS_um, torch.device("cpu"))
        memory = from_plain(load_checkpoint(checkpoint / "average.pt"), geometry_of(reader))

        def aligning() -> None:
            for start in range(0, n, CHUNK):
                rows = np.arange(start, min(start + CHUNK, n))
                align_others(reader.read(rows), memory, np.ones(len(rows)))

        table("Aligning", aligning, n)
    autoencoder, cache = load_autoencoder(checkpoint / BEST, config.model), ParticleCache(asked.run / "cache")
    n = min(n, len(cache))

    def embedding() -> None:
        for start in range(0, n, BATCH):
            embed_batch(autoencoder, cache.read(np.arange(start, min(start + BATCH, n))), N_TURNS)

    table(f"Embedding, {N_TURNS} turns", embedding, n)


if __name__ == "__main__":
    main()
