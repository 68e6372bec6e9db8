"""Figures of angles and of micrographs: what is uniform shows as uniform, and a bad micrograph by its name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cryorbit.io.runs import FILE_COLUMNS
from cryorbit.report.distribution_figures import FAR, by_micrograph, micrographs, orientations
from cryorbit.report.drawing import LeftOut
from cryorbit.report.record import read_run

from .run_folders import change_estimates, change_manifest

N, OF_EACH = 1200, 30


@pytest.fixture
def folder(make_run):
    made, _ = make_run(N)
    names = [f"mic{k // OF_EACH:02d}.mrc" for k in range(N)]
    pd.DataFrame({"id": np.arange(N), "rlnMicrographName": names}).to_parquet(made / FILE_COLUMNS, index=False)
    return made


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bad_micrograph_is_named_and_others_are_not(folder, seed):
    random = np.random.default_rng(seed)
    bad = random.integers(N // OF_EACH)
    of_bad = np.arange(N) // OF_EACH == bad
    residual = 1 + 0.05 * random.standard_normal(N)
    change_estimates(folder, orbit_residual=residual)
    assert (by_micrograph(read_run(folder)).misfit < FAR).all()
    change_estimates(folder, orbit_residual=residual + 0.1 * of_bad)
    found = by_micrograph(read_run(folder))
    assert list(found.names[found.misfit > FAR]) == [f"mic{bad:02d}.mrc"]
    plot = micrographs(read_run(folder), None)
    assert f"mic{bad:02d}.mrc" in plot.caption
    # Numbers are those of the run.
    assert found.particles.sum() == N
    assert found.kept.sum() == read_run(folder).kept.sum()
    assert (np.diff(found.dropped_share) <= 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_angles_look_uniform_and_a_stripe_does_not(folder, seed):
    random = np.random.default_rng(seed)

    def chi2(psi):
        change_estimates(folder, psi_deg=psi, kept=True)
        return float(orientations(read_run(folder), None).alt.rsplit(" ", 1)[1].rstrip("."))

    uniform = random.uniform(-180, 180, N)
    assert 0.3 < chi2(uniform) < 2.2
    assert chi2(np.where(np.arange(N) % 6 == 0, 90 + random.standard_normal(N), uniform)) > 10


def test_what_cannot_be_drawn_is_said(folder):
    change_manifest(folder, lambda facts: facts["alignment"].update(identifiable=False))
    assert isinstance(orientations(read_run(folder), None), LeftOut)
    (folder / FILE_COLUMNS).unlink()
    assert isinstance(micrographs(read_run(folder), None), LeftOut)
