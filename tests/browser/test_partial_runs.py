"""The page of a run that failed or did a part only opens all the same, and says what happened."""

from __future__ import annotations

import numpy as np
import pytest

from cryorbit.report import write_report

from ..report.run_folders import change_estimates, change_manifest, write_run_folder

N = 60


def without_latent(folder):
    (folder / "latent.parquet").unlink()


def all_junk(folder):
    change_estimates(folder, kept=False, outlier_probability=1.0)


def no_numbers(folder):
    nothing = dict.fromkeys(("psi_deg", "defocus_um", "outlier_probability", "outlier_z", "outlier_score"), np.nan)
    change_estimates(folder, **nothing)


def stopped_training(folder):
    for path in [*folder.glob("checkpoint/*"), folder / "metrics.jsonl"]:
        path.unlink()
    change_manifest(folder, lambda facts: facts.update(warnings=["The training was stopped in epoch 1."]))


def no_ctf(folder):
    change_estimates(folder, file_defocus_um=np.nan)
    (folder / "file_columns.parquet").unlink()
    said = "p.star: gives no voltage (_rlnVoltage) for some or all particles: 300 kV ... were assumed."
    change_manifest(folder, lambda facts: facts.update(warnings=[said]))


def no_manifest(folder):
    (folder / "run.json").unlink()


@pytest.mark.parametrize("kind", ["both", "orbit", "latent"])
@pytest.mark.parametrize("fault", [None, without_latent, all_junk, no_numbers, stopped_training, no_ctf, no_manifest])
def test_it_opens(open_page, tmp_path, kind, fault, monkeypatch):
    from cryorbit.report import page as page_module

    monkeypatch.setattr(page_module, "FIGURES", ())
    if fault is not None and (kind, fault) in {("orbit", without_latent), ("orbit", stopped_training)}:
        pytest.skip("such a run has no latent space")
    write_run_folder(tmp_path, N, kind=kind)
    if fault is not None:
        fault(tmp_path)
    write_report(tmp_path)
    page = open_page(tmp_path / "report.html")
    assert page.get_attribute("#explorer", "data-ready") == "true"
    page.click("[data-do=all]")
    assert page.inner_text("#count-selected") == str(N)
    if fault is stopped_training:
        assert "stopped in epoch 1" in page.inner_text("#warnings")
    if fault is no_ctf:
        assert "gives no voltage" in page.inner_text("#warnings")
    if fault is all_junk:
        assert "0 are kept" in page.inner_text("#summary")
