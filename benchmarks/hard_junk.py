"""Junk that is hard to tell, found in the latent space alone: area under the ROC curve of each detector, by kind.

    python benchmarks/hard_junk.py WORK_FOLDER RESULTS.jsonl [--map MAP.mrc] [--view 40,65] [--snr 0.1] [--seeds 1 2 3]

A tenth of a simulated set is replaced by junk of five kinds in equal parts: particles 20 to 60 A off the centre, two
that overlap, a neighbour that reaches into the box, broken ones (one half, at any angle), and a defocus beyond the
range of the set. Training and detectors see the whole set and no label.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
from sklearn.metrics import roc_auc_score

import cryorbit as co
from cryorbit.conventions import ANGSTROM_PER_UM
from cryorbit.estimation.outliers import DETECTORS
from cryorbit.io.runs import read_table
from cryorbit.progress import Lines
from cryorbit.simulation import choose_projection, make_simulation_config, parse_view, simulate
from cryorbit.simulation.noise import disc, measure_intensities, noise_image, normalise
from cryorbit.simulation.rendering import Renderer, clean_image, make_renderer
from cryorbit.simulation.specimens import Projection
from cryorbit.simulation.truth import TruthTable, draw_truth

KINDS = ("shifted", "overlap", "neighbour", "broken", "defocus")
SHIFT_A, OVERLAP, NEIGHBOUR, DEFOCUS_UM = (20.0, 60.0), (0.3, 0.7), (0.8, 1.1), (3.2, 4.5)
SHARE = 0.1


def broken_half(projection: Projection) -> Projection:
    """One half of a particle, the cut through its centre a little soft."""
    middle = np.arange(len(projection.image)) - len(projection.image) // 2
    keep = 1.0 / (1.0 + np.exp(-middle * projection.pixel_size_A / 4.0))
    return replace(projection, image=projection.image * keep[None, :])


def away(rng: np.random.Generator, low_px: float, high_px: float) -> np.ndarray:
    """A place in any direction."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return rng.uniform(low_px, high_px) * np.array([np.cos(angle), np.sin(angle)])


def junk_image(
    kind: str, renderer: Renderer, broken: Renderer, truth: TruthTable, row: int, rng: np.random.Generator
) -> np.ndarray:
    """One image of junk without noise."""
    config = renderer.config
    diameter_px = config.particle_diameter_A / config.pixel_size_A
    if kind == "broken":
        return clean_image(broken, truth, row)
    shift, defocus = truth.shift_px.copy(), truth.defocus_u_A.copy()
    if kind == "shifted":
        shift[row] = away(rng, *(value / config.pixel_size_A for value in SHIFT_A))
    elif kind == "defocus":
        defocus[row] = rng.uniform(*DEFOCUS_UM) * ANGSTROM_PER_UM
    image = clean_image(renderer, replace(truth, shift_px=shift, defocus_u_A=defocus, defocus_v_A=defocus), row)
    if kind in ("overlap", "neighbour"):
        span = OVERLAP if kind == "overlap" else NEIGHBOUR
        psi = truth.psi_deg.copy()
        shift[row], psi[row] = away(rng, span[0] * diameter_px, span[1] * diameter_px), rng.uniform(-180.0, 180.0)
        image = image + clean_image(renderer, replace(truth, shift_px=shift, psi_deg=psi), row)
    return image


def hard_set(folder: Path, asked: argparse.Namespace, seed: int) -> np.ndarray:
    """Write the set; gives the kind of every image, empty for particles."""
    config = make_simulation_config("noisy", {"seed": seed, "snr": asked.snr, "images": asked.images})
    projection = choose_projection(asked.map, None, False, parse_view(asked.view))
    if not (folder / "particles.star").is_file():
        simulate(folder, projection, config)
    truth, rng = draw_truth(config), np.random.default_rng(seed + 77)
    renderer, broken = make_renderer(projection, config), make_renderer(broken_half(projection), config)
    noise_std = np.float32(measure_intensities(renderer, truth).noise_std)
    outside = ~disc(config.box, config.particle_diameter_A / config.pixel_size_A)
    kind = np.full(config.images, "", dtype="<U9")
    rows = rng.permutation(config.images)[: round(SHARE * config.images)]
    kind[rows] = np.resize(np.array(KINDS), len(rows))
    with mrcfile.mmap(folder / "particles.mrcs", mode="r+") as stack:
        for row in rows:
            clean = junk_image(str(kind[row]), renderer, broken, truth, int(row), rng)
            noise = noise_image(renderer, int(row), None) * noise_std
            stack.data[row] = normalise((clean + noise).astype(np.float32), outside)
    return kind


def measure(asked: argparse.Namespace, seed: int) -> dict[str, object]:
    """Areas under the ROC curve for one seed."""
    folder = asked.folder / f"hard_{asked.view}_{asked.snr:g}_{seed}"
    kind = hard_set(folder / "set", asked, seed)
    config = co.make_config("fast", {"seed": seed, "estimation": {"defocus_prior": "blind"}})
    co.run(folder / "set" / "particles.star", folder / "run", config, until="outliers", observer=Lines())
    scores = read_table(folder / "run" / "outliers.parquet")
    row: dict[str, object] = {"view": asked.view, "snr": asked.snr, "seed": seed}
    for name in (*DETECTORS, "evidence"):
        score = scores[name].to_numpy()
        row[name] = round(float(roc_auc_score(kind != "", score)), 4)
        row[f"{name}_by_kind"] = {
            one: round(float(roc_auc_score(kind[rows] != "", score[rows])), 4)
            for one in KINDS
            for rows in ((kind == one) | (kind == ""),)
        }
    return row


def main() -> None:
    """Append the rows to the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--view", default="40,65")
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    asked = parser.parse_args()
    for seed in asked.seeds:
        line = json.dumps(measure(asked, seed))
        with asked.results.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
