"""How large the page of many particles is, how soon it shows its first picture, and how fast it answers.

``python benchmarks/page.py WORK --particles 10000 100000 1000000`` writes synthetic run folders into WORK, makes their
pages, and opens each in headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import sync_playwright

from cryorbit.report import write_report

DRAWN = "() => window.cryorbitExplorer && cryorbitExplorer.map && cryorbitExplorer.map.frames.length > 0"
MEASURE = """async () => {
    const e = cryorbitExplorer, map = e.map, frame = () => new Promise(requestAnimationFrame);
    const rate = async (step) => {
        const begin = performance.now();
        let pictures = 0;
        while (performance.now() - begin < 3000) { step(pictures++); await frame(); }
        return 1000 * pictures / (performance.now() - begin);
    };
    const pan = await rate((k) => map.pan(k % 40 < 20 ? 4 : -4, 2 * (k % 2) - 1));
    const zoom = await rate((k) => map.zoom(k % 40 < 20 ? 0.95 : 1 / 0.95, 400, 300));
    map.reset();
    const filter = e.filters[1];
    const slide = await rate((k) => { filter.low = 200 * (k % 100); e.refilter(); });
    filter.low = 0;
    e.refilter();
    const corner = (k) => [400 + 150 * Math.cos(k * 6.283 / 120), 300 + 150 * Math.sin(k * 6.283 / 120)];
    const begin = performance.now();
    e.pickPolygon(Array.from({ length: 120 }, (_, k) => map.toLevels(...corner(k))), "replace");
    const lasso_ms = performance.now() - begin;
    const memory_MB = performance.memory ? performance.memory.usedJSHeapSize / 1e6 : NaN;
    return { pan, zoom, slide, lasso_ms, memory_MB };
}"""


def write_run(folder: Path, n: int, seed: int = 1) -> None:
    """What a run on ``n`` particles leaves, as far as the page reads it."""
    random = np.random.default_rng(seed)
    psi, defocus = random.uniform(-180, 180, n), random.uniform(0.5, 2.5, n)
    junk = random.random(n) < 0.2
    radius = 0.4 + defocus / 3
    columns = {
        "id": np.arange(n), "image": pd.Categorical.from_codes(np.zeros(n, int), ["000001@a.mrcs"]),
        "psi_deg": psi, "psi_std_deg": random.gamma(2.0, 0.3, n), "defocus_um": defocus,
        "defocus_std_um": random.gamma(2.0, 0.02, n), "origin_x_A": random.normal(0, 6, n),
        "origin_y_A": random.normal(0, 6, n), "origin_std_A": random.gamma(2.0, 0.3, n), "orbit_psi_deg": psi,
        "orbit_psi_std_deg": random.gamma(2.0, 0.3, n), "orbit_defocus_um": defocus,
        "orbit_defocus_std_um": random.gamma(2.0, 0.02, n), "orbit_mode_probability": random.beta(20, 1, n),
        "orbit_amplitude": random.normal(1, 0.1, n), "orbit_log_likelihood_ratio": random.gamma(8.0, 40.0, n) * ~junk,
        "orbit_residual": random.normal(1, 0.05, n), "latent_psi_deg": psi + random.normal(0, 5, n),
        "latent_psi_std_deg": 5.0, "latent_defocus_um": defocus + random.normal(0, 0.2, n),
        "latent_defocus_std_um": 0.2, "plane_psi_deg": 2 * psi, "plane_psi_std_deg": 100.0, "plane_defocus_um": defocus,
        "plane_defocus_std_um": 0.3, "limit_psi_deg": 0.5, "limit_defocus_um": 0.04, "limit_origin_A": 0.5,
        "file_psi_deg": np.nan, "file_defocus_um": defocus, "robust_covariance": random.gamma(3.0, 1.0, n),
        "isolation_forest": random.beta(5, 5, n), "local_outlier_factor": random.gamma(3.0, 1.0, n),
        "evidence": random.gamma(3.0, 1.0, n), "outlier_score": random.gamma(3.0, 1.0, n),
        "outlier_z": random.normal(0, 1, n) + 5 * junk, "outlier_probability": np.where(junk, 0.97, 0.02),
        "weight": np.exp(defocus) - 1, "kept": ~junk,
    }  # fmt: skip
    pd.DataFrame(columns).to_parquet(folder / "estimates.parquet", index=False)
    angle = np.radians(psi)
    plane = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0.3 * np.cos(2 * angle)])
    plane = np.where(junk, 0.1, 1.0) * plane + random.normal(0, 0.05, (3, n))
    latent = {"id": np.arange(n)}
    for axis in range(3):
        latent |= {f"z{axis + 1}": plane[axis].astype(np.float32), f"pc{axis + 1}": plane[axis]}
    pd.DataFrame(latent).to_parquet(folder / "latent.parquet", index=False)
    words = np.char.add("FoilHole_", (np.arange(n) // 150).astype(str))
    pd.DataFrame({"id": np.arange(n), "rlnMicrographName": pd.Categorical(words)}).to_parquet(
        folder / "file_columns.parquet", index=False
    )
    (folder / "run.json").write_text(json.dumps({
        "input": {"path": "particles.star"}, "isotropy_order": 1, "alignment": {"identifiable": True, "prior": "blind"},
        "outliers": {"method": "evidence", "meaningful": True}, "chart": {"read": "orbit", "identifiable": True},
        "configuration": {"preset": "fast", "estimation": {"outlier_threshold": 0.5}},
    }))  # fmt: skip


def in_browser(page_file: Path, chromium: str) -> dict[str, float]:
    """Seconds to the first picture, and pictures a second while the map is moved, zoomed and filtered."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(page_file.resolve().as_uri(), wait_until="commit")
        page.wait_for_function(DRAWN)
        first = time.perf_counter() - started
        page.wait_for_selector("#explorer[data-ready=true]", timeout=120_000)
        ready = time.perf_counter() - started
        page.wait_for_timeout(1000)
        measured = page.evaluate(MEASURE)
        browser.close()
    return {"first_picture_s": first, "ready_s": ready, **measured}


def main() -> None:
    """Measure and print one line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--particles", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    for n in options.particles:
        folder = options.work / f"page_{n}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_run(folder, n)
        started = time.perf_counter()
        page = write_report(folder)
        found = {"particles": n, "written_s": time.perf_counter() - started, "page_MB": page.stat().st_size / 1e6}
        found |= in_browser(page, options.chromium)
        print(json.dumps({name: round(value, 2) for name, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
