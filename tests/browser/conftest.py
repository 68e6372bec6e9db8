"""A browser without a network, and pages in it; the tests skip where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ..report.run_folders import write_run_folder

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
N = 600
# Particles that lie apart from all others in the latent plane, in the middle of its ring.
CLUSTER = np.arange(7, N, 23)


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the page's tests are skipped")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Opens a page from the disk, with networking off; whatever the console complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_it(path: Path | str, offline: bool = True, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **options)
        contexts.append(context)
        if offline:
            context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda asked: complaints.append(asked.url) if offline and asked.url.startswith("http") else None
        )
        page.goto(path if isinstance(path, str) else path.resolve().as_uri())
        page.wait_for_selector("#explorer[data-ready]", timeout=30_000)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


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
