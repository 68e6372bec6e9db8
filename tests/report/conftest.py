"""A small run folder as a run would leave it, without any training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryorbit.conventions import particle_weight, wrap_deg
from cryorbit.estimation.truth import Truth
from cryorbit.preprocessing.dataset import CacheInfo

BOX = 32
MakeRun = Callable[..., tuple[Path, Truth]]


def particle_image(psi_deg: float, noise: np.ndarray) -> np.ndarray:
    """An off-centre blob at an angle, in noise."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    a = np.radians(psi_deg)
    blob = np.exp(-((x - 6 * np.cos(a)) ** 2 + (y - 6 * np.sin(a)) ** 2) / 12.0)
    return 3.0 * blob + np.exp(-(x**2 + y**2) / 40.0) + 0.5 * noise


def write_run_folder(folder: Path, n: int, seed: int = 1, cached: bool = True) -> Truth:
    """Write every file of a run of ``n`` particles, a tenth of them junk."""
    random = np.random.default_rng(seed)
    psi, defocus = random.uniform(-180, 180, n), random.uniform(0.5, 2.5, n)
    junk = np.arange(n) % 10 == 9
    kind = np.where(junk, np.where(np.arange(n) % 20 == 9, "ice", "edge"), "none")
    _write_tables(folder, random, psi, defocus, junk)
    _write_training(folder, random, psi)
    if cached:
        _write_cache(folder / "cache", random, psi, junk)
    (folder / "run.json").write_text(json.dumps(manifest(n), indent=2))
    return Truth(psi, defocus, junk, kind, "truth.star")


def _write_tables(folder, random, psi, defocus, junk) -> None:
    n = len(psi)
    std = random.uniform(1.0, 4.0, n)
    estimate = wrap_deg(-psi + 40.0 + std * random.standard_normal(n))
    latent_um = defocus + 0.1 * random.standard_normal(n)
    score = 0.45 + 0.03 * random.standard_normal(n) + 0.2 * junk
    frame = pd.DataFrame({
        "id": np.arange(n), "image": [f"{k + 1:06d}@particles.mrcs" for k in range(n)],
        "psi_deg": estimate, "psi_std_deg": std, "defocus_um": latent_um, "defocus_std_um": 0.1,
        "orbit_psi_deg": estimate, "orbit_psi_std_deg": std,
        "orbit_defocus_um": latent_um, "orbit_defocus_std_um": 0.1,
        "plane_psi_deg": wrap_deg(2 * psi), "plane_psi_std_deg": 103.92,
        "plane_defocus_um": latent_um + 0.3 * random.standard_normal(n), "plane_defocus_std_um": 0.3,
        "file_psi_deg": np.nan, "file_defocus_um": defocus,
        "outlier_probability": np.where(score > 0.55, 0.9, 0.1), "outlier_score": score,
        "outlier_z": (score - 0.45) / 0.03, "isolation_forest": score,
        "robust_covariance": np.exp(6 * score), "local_outlier_factor": score + 0.1 * random.standard_normal(n),
        "weight": particle_weight(latent_um), "kept": score <= 0.55,
    })  # fmt: skip
    frame.to_parquet(folder / "estimates.parquet", index=False)
    a, r = np.radians(psi), 0.5 + defocus / 3
    noise = 0.05 * random.standard_normal((3, n))
    pc = np.stack([r * np.cos(2 * a), r * np.sin(2 * a), 0.5 * r * np.cos(a)]) + noise
    latent = pd.DataFrame({"id": np.arange(n)})
    for k in range(3):
        latent[f"z{k + 1}"], latent[f"log_variance{k + 1}"], latent[f"pc{k + 1}"] = pc[k], -3.0, pc[k]
    latent["plane_radius"], latent["plane_angle_deg"], latent["orbit_radius"] = r, 2 * psi, r
    latent.to_parquet(folder / "latent.parquet", index=False)


def _write_training(folder, random, psi) -> None:
    lines = []
    for epoch in range(1, 13):
        terms = {
            "reconstruction": 100 / epoch,
            "kl": 5.0,
            "adversarial": 0.7,
            "cone": 0.0,
            "total": 105 / epoch,
        }
        lines.append({
            "epoch": epoch, **{f"train_{k}": v for k, v in terms.items()}, "train_discriminator": 1.3,
            **{f"validation_{k}": 0.9 * v for k, v in terms.items()},
            "noise_variance": 1 / epoch, "active_axes": 3, "images_seen": 100 * epoch, "images_per_second": 500.0,
            "warnings": [],
        })  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for epoch in (1, 3, 10, 12):
        shown = psi[:4]
        images = np.stack([particle_image(p, random.standard_normal((BOX, BOX))) for p in shown])[:, None]
        drawn = np.stack([particle_image(p, np.zeros((BOX, BOX))) for p in shown])[:, None] * epoch / 12
        np.savez(checkpoint / f"preview_{epoch:04d}.npz", rows=np.arange(len(shown)), images=images, drawn=drawn)


def _write_cache(folder, random, psi, junk) -> None:
    folder.mkdir()
    noise = random.standard_normal((len(psi), BOX, BOX))
    images = [2 * w if bad else particle_image(p, w) for p, bad, w in zip(psi, junk, noise, strict=True)]
    np.save(folder / "shard_00000.npy", np.stack(images).astype(np.float16))
    info = CacheInfo(len(psi), BOX, 3.0, 64, 1.5, 12.0, False, 8.0, False, False, 4096)
    (folder / "cache.json").write_text(json.dumps(vars(info)))


def manifest(n: int) -> dict:
    return {
        "version": "0.1.0", "created": "2026-01-01T00:00:00+00:00",
        "input": {"path": "particles.star", "particles": n},
        "configuration": {"preset": "fast", "seed": 7, "estimation": {"defocus_prior": None, "outlier_threshold": 0.5}},
        "stages": {"train": {"finished": True, "seconds": 12.3}, "embed": {"finished": True, "seconds": 4.5}},
        "isotropy_order": 1,
        "chart": {"winding": 2, "winding_share": 0.9, "closure_deg": 5.0, "harmonics": [1, 2], "locks": [0.9, 1.0],
                  "variation": 0.1, "identifiable": True, "radial_evidence": 0.4},
        "defocus": {"prior": "blind", "quartiles_um": [1.0, 2.0], "known_from": "uniform, 0.5 to 2.5 um"},
        "outliers": {"method": "isolation_forest", "features": "orbit", "kept": n, "dropped": 0, "meaningful": True,
                     "threshold": 0.55},
        "images": {"box_size": BOX, "pixel_size_A": 3.0, "inverted": False},
        "warnings": ["The discriminator has won."],
    }  # fmt: skip


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Truth]:
    return write_run_folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(n: int = 40, **options) -> tuple[Path, Truth]:
        folder = tmp_path / "run"
        folder.mkdir()
        return folder, write_run_folder(folder, n, **options)

    return make
