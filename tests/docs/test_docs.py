"""The documentation is true: it builds without a warning, tutorials and examples run as they stand."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_as_it_stands(tutorial, tmp_path):
    blocks = re.findall(r"^```sh\n(.*?)^```$", tutorial.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    script = "set -eu\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_examples_of_the_library_are_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(DOCS / "library.md"), module_relative=False, verbose=False)
    assert found.attempted > 10
    assert found.failed == 0


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert there <= listed
