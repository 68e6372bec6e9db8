"""The documentation is true: it builds without a warning, tutorials and examples run as they stand."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryorbit import read_particles

from ..browsing import downloaded, lasso

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def environment() -> dict[str, str]:
    """With the program that is tested first on the PATH, and one thread for each worker."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1",
    }  # fmt: skip


def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'cryorbit[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"conventions/index.html", "reference/commands/index.html", "benchmarks/index.html"} <= pages
    # Every command and every field is there, and nothing is fetched from elsewhere.
    commands = (tmp_path / "site/reference/commands/index.html").read_text()
    for name in ("estimate", "review", "relion-job", "--defocus-prior", "--selection"):
        assert name in commands
    assert "lambda_reg" in (tmp_path / "site/reference/configuration/index.html").read_text()
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', commands)
    assert [address for address in fetched if "fonts" in address or "cdn" in address or "unpkg" in address] == []


def execute(tutorial: Path, folder: Path) -> None:
    """The commands of a tutorial as they stand, in an empty folder."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", tutorial.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    script = "set -eu\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tutorial", [path for path in TUTORIALS if path.stem != "demo"], ids=lambda path: path.stem)
def test_a_tutorial_runs_as_it_stands(tutorial, tmp_path):
    execute(tutorial, tmp_path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the tutorial on the demonstration's set leaves."""
    folder = tmp_path_factory.mktemp("demo")
    execute(DOCS / "tutorials" / "demo.md", folder)
    return folder


def test_the_demo_tutorial_leaves_what_it_says(demo):
    for name in ("found/particles_kept.star", "sure.star", "both/report.html"):
        assert (demo / name).is_file()


@pytest.mark.browser
def test_what_is_drawn_around_on_the_demo_s_page_is_exported(demo, open_page):
    """On the page of a real run, from the disk and without a network."""
    page = open_page(demo / "both" / "report.html")
    assert page.locator("#figures img").count() > 10
    latent = pd.read_parquet(demo / "both" / "latent.parquet")
    low, high = zip(*(gaps(latent[name].to_numpy()) for name in ("pc1", "pc2")), strict=True)
    points = latent[["pc1", "pc2"]].to_numpy()
    inside = ((points > low) & (points < high)).all(axis=1)
    assert 20 < inside.sum() < len(points) - 20
    page.locator("#map-overlay").scroll_into_view_if_needed()
    box = page.locator("#map-overlay").bounding_box()
    corners = page.evaluate(
        """(places) => places.map(([x, y]) => { const e = cryorbitExplorer;
        return e.map.toScreen(e.x.levelOf(x), e.y.levelOf(y)); })""",
        [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]],
    )
    lasso(page, [(box["x"] + x, box["y"] + y) for x, y in corners])
    downloaded(page, "#save-selection").save_as(demo / "drawn.json")
    command = ["cryorbit", "export", "both", "--selection", "drawn.json", "--out", "drawn.star"]
    subprocess.run(command, cwd=demo, env=environment(), check=True, capture_output=True)
    written = read_particles(demo / "drawn.star", check_images=False).frame["rlnImageName"]
    names = read_particles(demo / "both" / "particles.star", check_images=False).frame["rlnImageName"]
    assert list(written) == list(names[inside])


def gaps(values: np.ndarray) -> tuple[float, float]:
    """Places between the values, as far from them as can be, below and above their middle half."""
    ordered = np.sort(values)
    eighth = len(ordered) // 8
    found = []
    for part in (ordered[eighth : 3 * eighth], ordered[-3 * eighth : -eighth]):
        widest = np.argmax(np.diff(part))
        found.append(float(part[widest : widest + 2].mean()))
    return found[0], found[1]


def test_examples_of_the_library_are_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(DOCS / "library.md"), module_relative=False, verbose=False)
    assert found.attempted > 10
    assert found.failed == 0


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert there <= listed
