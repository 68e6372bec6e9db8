"""What the encoder alone knows of particles it has never seen: angle and defocus, no likelihood search.

    python benchmarks/encoder.py WORK_FOLDER RESULTS.jsonl --map MAP.mrc [--views 0,0 ...] [--seeds 1 2 3]
        [--set paper|noisy] [--snr 0.1] [--outliers 0.1] [--variants ours ...] [--images N]

For every view, seed and variant: simulate a set, train on it (the defoci are not told), then embed other images of the
same particle, made by the same simulator with other random numbers and the same scale, and read them. The set `paper`
is tested on its six levels and on defoci between them; a set with junk is tested on good particles.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cryorbit as co
from cryorbit.config import merge
from cryorbit.conventions import ANGSTROM_PER_UM, IMAGE_NAME
from cryorbit.estimation.lesson import read_lesson
from cryorbit.estimation.outliers import find_outliers
from cryorbit.io.mrc import ImageStack
from cryorbit.latent.embed import Embedding, embed_batch, load_embedding
from cryorbit.latent.orbits import orbit_invariants
from cryorbit.model.cone import Cone
from cryorbit.preprocessing.dataset import ParticleCache, prepare_images
from cryorbit.preprocessing.normalise import standardise
from cryorbit.preprocessing.resample import fourier_crop
from cryorbit.progress import Lines
from cryorbit.readings import Sample, estimate_from_latent
from cryorbit.simulation import choose_projection, make_simulation_config, parse_view, simulate
from cryorbit.simulation.noise import measure_intensities
from cryorbit.simulation.rendering import make_renderer
from cryorbit.simulation.single_images import iter_batches
from cryorbit.simulation.truth import draw_truth
from cryorbit.stages import TOLD
from cryorbit.training.checkpoint import BEST, load_autoencoder
from cryorbit.training.trainer import split_rows

# The paper's loss on the narrow network, so that all variants have the same time; then one change after the other.
PAPER_LOSS = {
    "model": {
        "architecture": "convolutional", "latent_dim": 3, "likelihood": "bernoulli", "scale_head": True,
        "lambda_GAN": 1.0, "lambda_cone": 1.0, "lambda_pose": 0.0,
    },
    "training": {
        "guide": "none", "turn_images": False, "schedule": "constant", "learning_rate": 1e-3,
        "discriminator_floor": 0.0,
    },
}  # fmt: skip
UNGUIDED = {"model": {"lambda_pose": 0.0}, "training": {"guide": "none"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, convolutional": {"model": {"architecture": "convolutional"}},
    "ours, unguided": UNGUIDED,
    "ours, unguided, convolutional": merge(UNGUIDED, {"model": {"architecture": "convolutional"}}),
    "paper's loss": PAPER_LOSS,
    "paper's loss, no cone": merge(PAPER_LOSS, {"model": {"lambda_cone": 0.0}}),
    "paper's loss, no GAN": merge(PAPER_LOSS, {"model": {"lambda_GAN": 0.0}}),
    "paper's loss, no cone, no GAN": merge(PAPER_LOSS, {"model": {"lambda_cone": 0.0, "lambda_GAN": 0.0}}),
}
TEST_SEED = 1_000_000
N_TURNS = 24
BATCH = 256


@dataclass(frozen=True)
class TestImages:
    """Images that no training saw, and their truth."""

    name: str
    images: torch.Tensor
    psi_deg: np.ndarray
    defocus_um: np.ndarray


def simulated(folder: Path, asked: argparse.Namespace, view: str, seed: int) -> tuple[Path, list[TestImages]]:
    """A set to train on, and images to test with."""
    changes = {"seed": seed, **{name: value for name, value in (
        ("snr", asked.snr), ("outliers", asked.outliers), ("images", asked.images)) if value is not None}}  # fmt: skip
    config = make_simulation_config(asked.set, changes)
    projection = choose_projection(asked.map, None, False, parse_view(view))
    if not (folder / "particles.star").is_file():
        simulate(folder, projection, config)
    scale = measure_intensities(make_renderer(projection, config, None), draw_truth(config))
    span = "0.5:3.0" if asked.set == "paper" else "0.5:2.5"
    wanted = {"between": {"defocus_um": span}} | ({"levels": {}} if asked.set == "paper" else {})
    tests = []
    for number, (name, change) in enumerate(wanted.items()):
        other = {
            **changes,
            **change,
            "outliers": 0.0,
            "images": asked.test_images,
            "seed": TEST_SEED + 10 * seed + number,
        }
        test = make_simulation_config(asked.set, other)
        truth = draw_truth(test)
        images = torch.cat(
            [batch.images for batch in iter_batches(truth, make_renderer(projection, test, None), scale)]
        )
        tests.append(TestImages(name, images, truth.psi_deg, truth.defocus_A / ANGSTROM_PER_UM))
    return folder / "particles.star", tests


def embedded(run: Path, particles: co.ParticleTable, config: Any, tests: list[TestImages]) -> Embedding:
    """Embedding of the training particles, followed by that of the test images."""
    cache = ParticleCache(run / "cache")
    autoencoder = load_autoencoder(run / "checkpoint" / BEST, config.model)
    with ImageStack(particles.locations) as stack:
        names = particles.frame[IMAGE_NAME].to_numpy()
        pixel_size_A = float(particles.imaging.pixel_size_A[0])
        prepared = prepare_images(stack, pixel_size_A, cache.box_size, config.preprocessing, names)
    parts = [load_embedding(run / "cache")]
    for test in tests:
        images = standardise(fourier_crop(test.images, cache.box_size), cache.info.particle_radius_px, prepared.scale)
        both = [embed_batch(autoencoder, images[i : i + BATCH], N_TURNS) for i in range(0, len(images), BATCH)]
        means, log_variances = (torch.cat(values).numpy() for values in zip(*both, strict=True))
        parts.append(Embedding(means[:, 0], log_variances[:, 0], means, log_variances.mean(axis=1)))
    return Embedding(*(np.concatenate([getattr(part, name)[:] for part in parts]) for name in (
        "mean", "log_variance", "orbit", "orbit_log_variance")))  # fmt: skip


def measure(asked: argparse.Namespace, view: str, seed: int, variant: str) -> list[dict[str, Any]]:
    """Rows of results, one for each kind of test images."""
    name = "_".join(map(str, (asked.set, view, seed, asked.snr, asked.outliers, asked.images)))
    star, tests = simulated(asked.folder / name / "set", asked, view, seed)
    known = (0.5, 3.0) if asked.set == "paper" else (0.5, 2.5)
    changes = {"seed": seed, "estimation": {"defocus_prior": "blind"}, "training": {"accelerator": "cpu"}}
    for single in asked.change:
        path, _, value = single.partition("=")
        room, field = path.split(".")
        changes = merge(changes, {room: {field: json.loads(value)}})
    config = co.make_config("fast", merge(VARIANTS[variant], changes))
    run = asked.folder / name / f"run_{variant.replace(' ', '_').replace(',', '')}{asked.tag}"
    wall, cpu = time.perf_counter(), time.process_time()
    co.run(star, run, config, until="embed", observer=Lines())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    manifest = json.loads((run / "run.json").read_text())
    particles = co.read_particles(star)
    embedding = embedded(run, particles, config, tests)
    n = len(particles)
    training = replace(embedding, **{key: value[:n] for key, value in vars(embedding).items()})
    found = find_outliers(orbit_invariants(training), "robust_covariance", seed)
    kept = np.zeros(len(embedding.mean), dtype=bool)
    kept[:n] = found.probability <= 0.5
    autoencoder = load_autoencoder(run / "checkpoint" / BEST, config.model)
    sample = Sample.draw(autoencoder, ParticleCache(run / "cache"), training, kept[:n], seed)
    lesson = None
    if manifest.get("guide"):
        _, held_out = split_rows(n, config.training.validation_fraction, config.seed, config.training.learn_from)
        lesson = read_lesson(run / "checkpoint" / TOLD, Cone(**manifest["guide"]), held_out[kept[held_out]])
    settings = config.estimation.model_copy(update={"defocus_range_um": known})
    outcome = estimate_from_latent(particles, embedding, kept, settings, sample, lesson)
    rows, start = [], n
    for test in tests:
        here = slice(start, start + len(test.psi_deg))
        start = here.stop
        row: dict[str, Any] = {
            "set": asked.set, "snr": asked.snr, "outliers": asked.outliers, "view": view, "seed": seed,
            "variant": variant, "tag": asked.tag, "test": test.name, "wall_s": round(wall), "cpu_s": round(cpu),
            "order": outcome.harmonics.isotropy_order, "winding": outcome.axes.winding,
        }  # fmt: skip
        single = np.degrees(np.arctan2(embedding.mean[here, 1], embedding.mean[here, 0]))
        row["single_angle_w_deg"] = co.evaluate(
            single, test.psi_deg, test.defocus_um, test.defocus_um).angle_rmse_weighted_deg  # fmt: skip
        for reading, of in (("orbit", outcome.orbit), ("plane", outcome.plane)):
            score = co.evaluate(
                of.angle.psi_deg[here], test.psi_deg, of.defocus.defocus_um[here], test.defocus_um,
                of.angle.std_deg[here], of.defocus.std_um[here],
            )  # fmt: skip
            row |= {
                f"{reading}_angle_w_deg": score.angle_rmse_weighted_deg, f"{reading}_angle_deg": score.angle_rmse_deg,
                f"{reading}_angle_median_deg": score.angle_median_deg, f"{reading}_defocus_um": score.defocus_rmse_um,
                f"{reading}_angle_calibration": score.angle_calibration,
                f"{reading}_defocus_calibration": score.defocus_calibration,
            }  # fmt: skip
        if test.name == "levels":
            read = outcome.orbit.defocus.defocus_um[here]
            row["levels_um"] = {
                f"{level:g}": [round(float(values.mean()), 4), round(float(values.std()), 4)]
                for level in np.unique(test.defocus_um)
                for values in (read[test.defocus_um == level],)
            }
        rows.append(row)
    return rows


def main() -> None:
    """Append the rows to the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--set", default="paper", choices=["paper", "noisy"])
    parser.add_argument("--views", nargs="+", default=["0,0"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--snr", type=float)
    parser.add_argument("--outliers", type=float)
    parser.add_argument("--images", type=int)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--variants", nargs="+", default=["ours"])
    parser.add_argument("--change", nargs="*", default=[], help="room.field=value, such as model.lambda_GAN=0.1")
    parser.add_argument("--tag", default="")
    asked = parser.parse_args()
    for view in asked.views:
        for seed in asked.seeds:
            for variant in asked.variants:
                for row in measure(asked, view, seed, variant):
                    with asked.results.open("a", encoding="utf-8") as handle:
                        handle.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
