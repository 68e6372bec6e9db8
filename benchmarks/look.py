"""What `cryorbit run` sees in a file without classes: one view or several, of molecules of chance.

python benchmarks/look.py --molecules 101 102 103 --snr 0.05 --junk 0.2 --sides 1 2 4 500

A molecule is several chains of atoms that walk within ellipsoids of chance. The line that divides one view from
several is in `cryorbit.classification.survey`; what is printed is the share that is compared with it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import cryorbit as co
from cryorbit.io.mrc import write_image
from cryorbit.simulation import choose_projections, make_simulation_config

BOX, PIXEL_A = 96, 4.0
STEP_A, MOST_RADIUS_A = 6.0, 130.0


def molecule(seed: int) -> np.ndarray:
    """Density of a molecule, shape (box, box, box)."""
    rng, atoms = np.random.default_rng(seed), []
    for _ in range(rng.integers(2, 6)):
        centre, axes, place = rng.normal(0, rng.uniform(15, 55), 3), rng.uniform(20, 70, 3), np.zeros(3)
        for _ in range(int(4000 * np.prod(axes) / 40**3) + 500):
            there = place + rng.normal(0, STEP_A, 3)
            if np.square(there / axes).sum() < 1:
                place = there
            atoms.append(centre + place)
    places = np.array(atoms) - np.mean(atoms, axis=0)
    places *= min(1.0, MOST_RADIUS_A / np.linalg.norm(places, axis=1).max())
    volume = np.zeros((BOX, BOX, BOX), dtype=np.float32)
    np.add.at(volume, tuple(np.round(places / PIXEL_A).astype(int).T + BOX // 2), 1)
    return ndimage.gaussian_filter(volume, 1.0)


def main() -> None:
    """Print a row for each molecule and number of sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, nargs="+", default=[101, 102, 103], help="seeds")
    parser.add_argument("--sides", type=int, nargs="+", default=[1, 2, 4, 500], help="directions that it is seen from")
    parser.add_argument("--spread", type=float, default=8.0, help="of a single side, in degrees")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--junk", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| molecule | sides | share | several | classes | CPU s |\n|---|---|---|---|---|---|")
    for seed in options.molecules:
        for sides in options.sides:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_image(folder / "map.mrc", molecule(seed), PIXEL_A)
                changes = {
                    "images": options.images, "box": BOX, "pixel_size_A": PIXEL_A, "snr": options.snr,
                    "outliers": options.junk, "seed": options.seed + seed,
                    # A single side is a cone of directions, as a 2D class is.
                    "views": 100 if sides == 1 else sides, "view_spread_deg": options.spread if sides == 1 else 180.0,
                }  # fmt: skip
                config = make_simulation_config("junk", changes)
                view = tuple(np.random.default_rng(seed).uniform((0, 0), (360, 180)))
                co.simulate(folder / "set", choose_projections(folder / "map.mrc", None, False, view, config), config)
                started = time.process_time()
                look = co.look(co.read_particles(folder / "set" / "particles.star"))
                cpu_s, found = time.process_time() - started, look.survey
                if found is None:
                    raise SystemExit(look.said)
                print(
                    f"| {seed} | {sides} | {found.elsewhere:.2f} | {'yes' if found.several else 'no'} | {found.views} "
                    f"| {cpu_s:.0f} |", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
