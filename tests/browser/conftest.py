"""A run folder with a known cluster, and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ..report.run_folders import write_run_folder

N = 600
# Particles that lie apart from all others in the latent plane, in the middle of its ring.
CLUSTER = np.arange(7, N, 23)


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A run with a known cluster, words and names of a hostile user, and its page."""
    from cryorbit.report import write_report

    folder = tmp_path_factory.mktemp("browser") / "run"
    folder.mkdir()
    write_run_folder(folder, N)
    latent = pd.read_parquet(folder / "latent.parquet")
    for name, middle in (("pc1", 0.02), ("pc2", -0.03)):
        noise = np.random.default_rng(0).normal(0, 0.02, len(CLUSTER))
        latent.loc[CLUSTER, name] = middle + noise
    latent.to_parquet(folder / "latent.parquet", index=False)
    micrographs = np.array(HOSTILE_NAMES)[np.arange(N) % len(HOSTILE_NAMES)]
    columns = {"id": np.arange(N), "rlnMicrographName": micrographs, HOSTILE_COLUMN: np.arange(N) % 11 + 0.5}
    columns["rlnClassNumber"] = (np.arange(N) % 7 + 1).astype(np.float32)
    pd.DataFrame(columns).to_parquet(folder / "file_columns.parquet", index=False)
    write_report(folder)
    return folder


HOSTILE_COLUMN = "rln</script><script>alert(1)</script>\"'&日本"
HOSTILE_NAMES = [
    "</script><script>alert(2)</script>.mrc",
    '"><img src=x onerror=alert(3)>.mrc',
    "Ωμ 日本 'a'.mrc",
    "plain.mrc",
]
