"""A small run folder of each kind as a run would leave it, made without any run, and ways to look at it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cryorbit.conventions import particle_weight, wrap_deg
from cryorbit.estimation.truth import Truth
from cryorbit.io.mrc import write_image
from cryorbit.io.runs import FILE_COLUMNS
from cryorbit.preprocessing.dataset import CacheInfo
from cryorbit.report.comparison import compare
from cryorbit.report.figures import FIGURES
from cryorbit.report.record import read_run
from cryorbit.report.summary import summary

BOX = 32
PIXEL_A = 3.0
KINDS = ("both", "orbit", "latent")


def particle_image(psi_deg: float, noise: np.ndarray, shift_px=(0.0, 0.0)) -> np.ndarray:
    """An off-centre blob at an angle, in noise."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    x, y = x - shift_px[0], y - shift_px[1]
    a = np.radians(psi_deg)
    blob = np.exp(-((x - 6 * np.cos(a)) ** 2 + (y - 6 * np.sin(a)) ** 2) / 12.0)
    return 3.0 * blob + np.exp(-(x**2 + y**2) / 40.0) + 0.5 * noise


def write_run_folder(folder: Path, n: int, seed: int = 1, cached: bool = True, kind: str = "both") -> Truth:
    """Write every file of a run of ``n`` particles, a tenth of them junk, by both methods or one of them."""
    random = np.random.default_rng(seed)
    psi, defocus = random.uniform(-180, 180, n), random.uniform(0.5, 2.5, n)
    shift = random.normal(0.0, 1.5, (n, 2))
    junk = np.arange(n) % 10 == 9
    kinds = np.where(junk, np.where(np.arange(n) % 20 == 9, "ice", "edge"), "none")
    _write_estimates(folder, random, psi, defocus, shift, junk, kind)
    names = [f"mic{k % 5}.mrc" for k in range(n)]
    pd.DataFrame({"id": np.arange(n), "rlnMicrographName": names}).to_parquet(folder / FILE_COLUMNS, index=False)
    if kind != "latent":
        _write_average(folder)
    if kind != "orbit":
        _write_latent(folder, random, psi, defocus)
        _write_training(folder, random, psi)
    if cached and kind != "orbit":
        _write_cache(folder / "cache", random, psi, shift, junk)
    (folder / "run.json").write_text(json.dumps(manifest(n, kind), indent=2))
    return Truth(psi, defocus, junk, kinds, "truth.star", None if kind == "latent" else -shift * PIXEL_A)


def _write_estimates(folder, random, psi, defocus, shift, junk, kind) -> None:
    n = len(psi)
    std = random.uniform(1.0, 4.0, n)
    estimate = wrap_deg(-psi + 40.0 + std * random.standard_normal(n))
    found_um = defocus + 0.1 * random.standard_normal(n)
    origin = -shift * PIXEL_A + 0.6 * random.standard_normal((n, 2))
    latent_std = random.uniform(4.0, 8.0, n)
    latent_um = defocus + 0.2 * random.standard_normal(n)
    latent_psi = wrap_deg(-psi - 70.0 + latent_std * random.standard_normal(n))
    score = 0.45 + 0.03 * random.standard_normal(n) + 0.2 * junk
    aligned = {
        "orbit_psi_deg": estimate, "orbit_psi_std_deg": std, "orbit_defocus_um": found_um, "orbit_defocus_std_um": 0.1,
        "orbit_origin_x_A": origin[:, 0], "orbit_origin_y_A": origin[:, 1], "orbit_origin_std_A": 0.6,
        "limit_psi_deg": 2.2, "limit_defocus_um": 0.09, "limit_origin_A": 0.5,
        "orbit_residual": 1.0 + 0.05 * np.cos(np.arange(n)),
    }  # fmt: skip
    latent = {
        "latent_psi_deg": latent_psi, "latent_psi_std_deg": latent_std,
        "latent_defocus_um": latent_um, "latent_defocus_std_um": 0.2,
        "plane_psi_deg": wrap_deg(2 * psi), "plane_psi_std_deg": 103.92,
        "plane_defocus_um": latent_um + 0.3 * random.standard_normal(n), "plane_defocus_std_um": 0.3,
    }  # fmt: skip
    detectors = {
        "isolation_forest": score, "robust_covariance": np.exp(6 * score),
        "local_outlier_factor": score + 0.1 * random.standard_normal(n),
    }  # fmt: skip
    columns = (aligned if kind != "latent" else {}) | (latent if kind != "orbit" else {})
    made_by = "latent" if kind == "latent" else "orbit"
    written = {c: columns[f"{made_by}_{c}"] for c in ("psi_deg", "psi_std_deg", "defocus_um", "defocus_std_um")}
    place = {c: columns.get(f"orbit_{c}", np.nan) for c in ("origin_x_A", "origin_y_A", "origin_std_A")}
    frame = pd.DataFrame({
        "id": np.arange(n), "image": [f"{k + 1:06d}@particles.mrcs" for k in range(n)],
        **written, **place, **columns, "file_psi_deg": np.nan, "file_defocus_um": defocus,
        **(detectors if kind != "orbit" else {}), **({"evidence": score} if kind != "latent" else {}),
        "outlier_probability": np.where(score > 0.55, 0.9, 0.1), "outlier_score": score,
        "outlier_z": (score - 0.45) / 0.03, "weight": particle_weight(written["defocus_um"]), "kept": score <= 0.55,
    })  # fmt: skip
    frame.to_parquet(folder / "estimates.parquet", index=False)


def _write_latent(folder, random, psi, defocus) -> None:
    n = len(psi)
    a, r = np.radians(psi), 0.5 + defocus / 3
    noise = 0.05 * random.standard_normal((3, n))
    pc = np.stack([r * np.cos(2 * a), r * np.sin(2 * a), 0.5 * r * np.cos(a)]) + noise
    latent = pd.DataFrame({"id": np.arange(n)})
    for k in range(3):
        latent[f"z{k + 1}"], latent[f"log_variance{k + 1}"], latent[f"pc{k + 1}"] = pc[k], -3.0, pc[k]
    latent["plane_radius"], latent["plane_angle_deg"], latent["orbit_radius"] = r, 2 * psi, r
    latent.to_parquet(folder / "latent.parquet", index=False)


def _write_average(folder) -> None:
    write_image(folder / "average.mrc", particle_image(40.0, np.zeros((BOX, BOX))), PIXEL_A)
    frequency = np.arange(1, 13) / (BOX * PIXEL_A)
    frc = np.linspace(1.0, 0.3, 12)
    pd.DataFrame({
        "ring": np.arange(1, 13), "spatial_frequency_per_A": frequency, "resolution_A": 1 / frequency, "frc": frc,
    }).to_csv(folder / "average_frc.csv", index=False)  # fmt: skip
    um = np.arange(0.2, 4.3, 0.1)
    pd.DataFrame({
        "defocus_um": um, "psi_limit_deg": 2.2 / um**0.1, "origin_limit_A": 0.5, "defocus_limit_um": 0.09,
        "expected_nats": 300.0,
    }).to_csv(folder / "limits.csv", index=False)  # fmt: skip


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


def _write_cache(folder, random, psi, shift, junk) -> None:
    folder.mkdir()
    noise = random.standard_normal((len(psi), BOX, BOX))
    images = [
        2 * w if bad else particle_image(p, w, s) for p, bad, w, s in zip(psi, junk, noise, shift, strict=True)
    ]  # fmt: skip
    np.save(folder / "shard_00000.npy", np.stack(images).astype(np.float16))
    info = CacheInfo(len(psi), BOX, PIXEL_A, 64, 1.5, 12.0, False, 8.0, False, False, 4096)
    (folder / "cache.json").write_text(json.dumps(vars(info)))


def manifest(n: int, kind: str) -> dict:
    facts = {
        "version": "0.1.0", "created": "2026-01-01T00:00:00+00:00",
        "input": {"path": "particles.star", "particles": n},
        "configuration": {"preset": "fast", "seed": 7, "estimation": {"defocus_prior": None, "outlier_threshold": 0.5}},
        "stages": {"train": {"finished": True, "seconds": 12.3}, "embed": {"finished": True, "seconds": 4.5}},
        "isotropy_order": 1,
        "outliers": {"method": "isolation_forest" if kind == "latent" else "evidence", "features": "orbit", "kept": n,
                     "dropped": 0, "meaningful": True, "threshold": 0.55},
        "images": {"box_size": BOX, "pixel_size_A": PIXEL_A, "inverted": False},
        "warnings": ["The discriminator has won."],
    }  # fmt: skip
    if kind != "orbit":
        facts["chart"] = {
            "read": "orbit", "winding": 2, "winding_share": 0.9, "closure_deg": 5.0, "harmonics": [1, 2],
            "locks": [0.9, 1.0], "variation": 0.1, "identifiable": True, "radial_evidence": 0.4,
        }  # fmt: skip
        facts["defocus"] = {"prior": "blind", "quartiles_um": [1.0, 2.0], "known_from": "uniform, 0.5 to 2.5 um"}
    if kind != "latent":
        facts["alignment"] = {
            "prior": "blind", "searched_um": [0.2, 4.2], "box_size": BOX, "pixel_size_A": PIXEL_A,
            "identifiable": True, "isotropy_order": 1, "learnt_from": n, "snr": 0.1, "rings": 12, "finest_A": 8.0,
            "resolution_A": 8.0, "rival_nats": None, "noise": [[1.0] * 12], "optics_groups": 1,
            "limits": {"psi_deg": 2.2, "defocus_um": 0.09, "origin_A": 0.5},
        }  # fmt: skip
    return facts


def change_estimates(folder, **columns) -> None:
    path = folder / "estimates.parquet"
    pd.read_parquet(path).assign(**columns).to_parquet(path, index=False)


def change_manifest(folder, change) -> None:
    path = folder / "run.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def sentences(folder, truth=None) -> str:
    run = read_run(folder)
    return " ".join(summary(run, None if truth is None else compare(run, truth)))


def draw_all(folder, truth=None) -> dict[str, object]:
    """Every figure, drawn but not rendered."""
    run = read_run(folder)
    return {result.name: result for result in (draw(run, truth) for draw in FIGURES)}
