"""Fixtures that make run folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cryorbit.estimation.truth import Truth
from cryorbit.report import page as page_module

from .run_folders import write_run_folder

MakeRun = Callable[..., tuple[Path, Truth]]


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Truth]:
    return write_run_folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(n: int = 40, **options) -> tuple[Path, Truth]:
        folder = tmp_path / options.get("kind", "run")
        folder.mkdir()
        return folder, write_run_folder(folder, n, **options)

    return make


@pytest.fixture
def without_figures(monkeypatch):
    """The page alone, which takes no time."""
    monkeypatch.setattr(page_module, "FIGURES", ())
