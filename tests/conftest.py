"""Shared fixtures. Arrays' shapes are checked at run time in the rooms where they matter most."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

pytest_plugins = ["tests.browsing"]

install_import_hook(
    ["cryorbit.model", "cryorbit.preprocessing.resample", "cryorbit.preprocessing.normalise", "cryorbit.optics"],
    "beartype.beartype",
)

# pytest-xdist gives each core a worker: more threads would only fight for it.
torch.set_num_threads(1)

# Where a checkout lies beside the reference data, no variable needs to be set.
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of the third-party reference data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CRYORBIT_REFERENCE_DATA", BESIDE))
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}: set CRYORBIT_REFERENCE_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny_runs(request):
    """Pages with their first figure alone and projections on few images: these take most of a tiny run.

    A module that is about them says ``WHOLE_RUNS = True``.
    """
    from cryorbit.report import page
    from cryorbit.training import trainer

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "WHOLE_RUNS", False):
            patch.setattr(page, "FIGURES", page.FIGURES[:1])
            patch.setattr(trainer, "PRINCIPAL_SAMPLE", 400)
        yield
