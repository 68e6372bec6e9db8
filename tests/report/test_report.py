"""The report: self-contained, complete, honest about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.estimation.truth import Truth
from cryorbit.report import page as page_module
from cryorbit.report import write_report
from cryorbit.report.comparison import compare
from cryorbit.report.drawing import Plot, cell_means, plain_label, save
from cryorbit.report.figures import FIGURES
from cryorbit.report.latent_figures import latent_plane, outliers_plane
from cryorbit.report.particle_figures import choose_particles
from cryorbit.report.record import read_run
from cryorbit.report.summary import evaluation_rows, key_numbers
from cryorbit.report.wording import degrees, micrometres

from .run_folders import KINDS, change_estimates, change_manifest, draw_all, sentences

# Figures are what this is about.
WHOLE_RUNS = True

ALL = (
    "agreement", "aligned", "calibration", "class_average", "histograms", "latent_plane", "latent_plane_truth",
    "losses", "micrographs", "montage", "orientations", "outliers", "predicted_against_true", "reconstructions", "roc",
    "what_the_data_allow",
)  # fmt: skip
NEED_TRUTH = {"calibration", "latent_plane_truth", "predicted_against_true", "roc"}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def read_page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def figures_in(folder) -> set[str]:
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {path.name for path in (folder / "figures").iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "pdf")}
    return names


@pytest.fixture(scope="module")
def finished(tmp_path_factory, write_run):
    """A run of 300 particles with its report: folder, truth and page."""
    folder = tmp_path_factory.mktemp("finished")
    truth = write_run(folder, 300)
    return folder, truth, write_report(folder, truth)


def test_page_is_self_contained_and_complete(finished):
    folder, _, path = finished
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert path == folder / "report.html"
    assert figures_in(folder) == set(ALL)
    assert len(FIGURES) == len(ALL)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(ALL)
    assert all(image["src"].startswith("data:image/webp;base64,") and image["alt"] for image in images)
    assert not re.search(r"https?:|url\(|@import", html)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any("src" in attributes for tag, attributes in page.tags if tag == "script")
    assert all(attributes["href"].startswith("#") for tag, attributes in page.tags if tag == "a")
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert all(attributes["href"][1:] in identifiers for tag, attributes in page.tags if tag == "a")
    assert "prefers-color-scheme" in html
    assert all(path.read_bytes().startswith(b"%PDF") for path in (folder / "figures").glob("*.pdf"))


def test_numbers_of_summary_table_and_head_are_the_same(finished):
    folder, truth, path = finished
    run = read_run(folder)
    comparison = compare(run, truth)
    rows = {row[0]: row[1:] for row in evaluation_rows(comparison.readings)}
    angle, defocus = rows["Angle error, rms"][0], rows["Defocus error, rms"][0]
    assert angle in sentences(folder, truth)
    assert defocus in sentences(folder, truth)
    assert {angle, defocus} <= set(key_numbers(run, comparison).values())
    assert read_page(path).words.count(angle) >= 3
    found = comparison.readings[""]
    error = (run.column("defocus_um") - truth.defocus_um)[~truth.is_outlier]
    assert found.defocus_rmse_um == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found.angle_rmse_deg < 4 < 80 < comparison.readings["plane_"].angle_rmse_deg
    assert (degrees(found.angle_rmse_deg), micrometres(found.defocus_rmse_um)) == (angle, defocus)


def test_particles_without_a_value_do_not_change_the_others_errors(make_run):
    folder, truth = make_run()
    before = compare(read_run(folder), truth).readings["orbit_"]
    std = read_run(folder).column("orbit_defocus_std_um").copy()
    std[::2] = np.nan
    change_estimates(folder, orbit_defocus_std_um=std)
    after = compare(read_run(folder), truth).readings["orbit_"]
    assert after.angle_rmse_deg == before.angle_rmse_deg
    assert after.defocus_rmse_um == before.defocus_rmse_um
    assert after.defocus_calibration is None


def test_one_particle(make_run):
    folder, truth = make_run(1)
    words = read_page(write_report(folder, truth)).words
    assert "Of the 1 particle of" in words
    assert not re.search(r"\bnan\b", words)


def test_without_truth_nothing_is_compared(make_run):
    folder, _ = make_run(7)
    words = read_page(write_report(folder)).words
    assert figures_in(folder) == set(ALL) - NEED_TRUTH - {"orientations"}  # of 7 angles nothing is to be seen
    assert "Of the 7 particles" in words
    assert "Against the truth" not in words
    assert "No truth was given" in words


@pytest.mark.parametrize(
    "known",
    [
        {"psi_deg": None},
        {"defocus_um": None},
        {"is_outlier": None, "kind": None},
        {"kind": None},
        {"psi_deg": None, "defocus_um": None, "is_outlier": None, "kind": None},
    ],
)
def test_part_of_the_truth(make_run, known, without_figures):
    folder, truth = make_run()
    part = replace(truth, **known)
    assert set(draw_all(folder, part)) == set(ALL)
    assert "Against the truth" in read_page(write_report(folder, part)).words


def test_columns_of_nan_and_all_kept(make_run):
    folder, truth = make_run(50)
    nothing = {
        name: np.nan
        for name in pd.read_parquet(folder / "estimates.parquet").columns
        if name not in ("id", "image", "kept")
    }
    change_estimates(folder, **nothing, kept=True)
    page = read_page(write_report(folder, truth))
    assert "50 are kept" in page.words
    assert "nan" not in page.words.lower().split()


@pytest.mark.parametrize("kind", KINDS)
def test_all_dropped(make_run, kind):
    folder, truth = make_run(kind=kind)
    change_estimates(folder, kept=False)
    assert "0 are kept and 40 (100.0 %) dropped" in sentences(folder)
    for plot in draw_all(folder, truth).values():
        if isinstance(plot, Plot):
            plot.figure.draw_without_rendering()


def test_missing_files_are_said(make_run):
    folder, truth = make_run(40, cached=False)
    for name in ("metrics.jsonl", "latent.parquet", "run.json"):
        (folder / name).unlink()
    for preview in (folder / "checkpoint").iterdir():
        preview.write_bytes(b"not an archive")
    page = read_page(write_report(folder, truth))
    for reason in (
        "copy of the images is gone",
        "metrics.jsonl",
        "latent.parquet is missing",
        "preview_",
        "no run.json",
    ):
        assert reason in page.words


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"chart": 3, "stages": [], "warnings": "x", "outliers": null, "alignment": [1], "input": 2}'],
)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_manifest(make_run, content, kind, without_figures):
    folder, _ = make_run(cached=False, kind=kind)
    (folder / "run.json").write_text(content)
    assert "40 particles" in read_page(write_report(folder)).words
    assert set(draw_all(folder)) == set(ALL)


def test_names_from_files_are_escaped(make_run, monkeypatch):
    monkeypatch.setattr(page_module, "FIGURES", (outliers_plane,))  # the one whose labels come from files
    folder, truth = make_run()
    attack = "<script>alert(1)</script>$_{x&\"'\u4e2d.star"
    change_manifest(folder, lambda m: m["input"].update(path=attack))
    change_manifest(folder, lambda m: m["warnings"].append(attack))
    kinds = np.where(truth.is_outlier, attack, "none")
    html = write_report(folder, replace(truth, source=attack, kind=kinds)).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$_{x&amp;" in html


def test_folder_without_estimates_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=r"estimates\.parquet") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "estimates.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RunFolderError, match="cannot be read"):
        write_report(tmp_path)


def test_truth_of_other_particles_is_refused(make_run):
    folder, _ = make_run(10)
    with pytest.raises(ParticleDataError, match="3 rows"):
        write_report(folder, Truth(np.zeros(3), None, None, None, "other.star"))


def test_latent_rows_are_matched_by_id(make_run):
    folder, _ = make_run(20)
    before = read_run(folder).principal
    latent = pd.read_parquet(folder / "latent.parquet")
    latent.iloc[::-1].to_parquet(folder / "latent.parquet", index=False)
    np.testing.assert_array_equal(read_run(folder).principal, before)


def test_plain_words_for_symmetry_folds_and_round_particles(make_run):
    folder, _ = make_run(20, kind="latent")
    assert "orbits run around 2 times" in sentences(folder)
    change_manifest(folder, lambda m: m.update(isotropy_order=3))
    assert "known modulo 120 degrees" in sentences(folder)
    change_manifest(folder, lambda m: m["chart"].update(winding=-1))
    assert "folds" not in sentences(folder)
    change_manifest(folder, lambda m: m["chart"].update(winding=0))
    assert "no angle of the particle" in sentences(folder)
    change_manifest(folder, lambda m: m["chart"].update(identifiable=False))
    assert "orbits are no rings" in sentences(folder)
    assert "median predicted deviation of 2" not in sentences(folder)


def test_plain_words_for_the_latents_defocus(make_run):
    folder, _ = make_run(20, kind="latent")
    assert "Defoci are read from the latent space" in sentences(folder)
    change_manifest(folder, lambda m: m["chart"].update(radial_evidence=0.01))
    assert "direction of the latent's defocus is uncertain" in sentences(folder)
    for prior in ("given", "micrograph"):
        change_manifest(folder, lambda m, prior=prior: m["defocus"].update(prior=prior))
        assert "input file's defocus was kept" in sentences(folder)
    change_manifest(folder, lambda m: m["defocus"].update(quartiles_um=[1.5, 1.5]))
    assert "nothing can be learnt" in sentences(folder)


def test_symmetric_view_is_compared_modulo_its_period(make_run):
    folder, truth = make_run(120)
    turned = read_run(folder).column("orbit_psi_deg") + 120.0 * (np.arange(120) % 3)
    change_estimates(folder, orbit_psi_deg=turned, psi_deg=turned)
    assert compare(read_run(folder), truth).readings["orbit_"].angle_rmse_deg > 50
    change_manifest(folder, lambda m: m.update(isotropy_order=3))
    assert compare(read_run(folder), truth).readings["orbit_"].angle_rmse_deg < 4
    assert all(isinstance(plot, Plot) for plot in draw_all(folder, truth).values())


def test_montage_shows_extremes_and_an_unbiased_sample_at_the_border(make_run):
    folder, _ = make_run(600)
    run = read_run(folder)
    score, kept = run.column("outlier_score"), run.kept
    best, doubtful, worst = choose_particles(run).values()
    assert score[best].max() <= np.sort(score)[len(best)]
    assert score[worst].min() >= np.sort(score)[-len(worst) - 1]
    assert 0 < kept[doubtful].sum() < len(doubtful)
    assert len(set(doubtful)) == len(doubtful)


def test_scores_without_meaning_rank_nothing(make_run):
    folder, truth = make_run(12)
    change_manifest(folder, lambda m: m["outliers"].update(meaningful=False, threshold=None))
    assert next(iter(choose_particles(read_run(folder)))).startswith("12 particles, not ranked")
    assert "junk could not be told" in sentences(folder, truth)
    assert draw_all(folder, truth).keys() == set(ALL)


def test_many_points_are_binned(make_run):
    folder, _ = make_run(25_000, cached=False)
    plot = latent_plane(read_run(folder), None)
    assert "mean over the particles in a small cell" in plot.caption
    save(plot.figure, folder, plot.name)
    assert (folder / "latent_plane.pdf").stat().st_size < 1_000_000


def test_cell_means_average_on_the_circle():
    x, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    means, agreement, _ = cell_means(x, y, np.array([170.0, -170.0, 10.0, 30.0]), 360.0)
    assert abs(means[0, 0]) == pytest.approx(180.0)
    assert means[-1, -1] == pytest.approx(20.0)
    assert agreement[0, 0] == pytest.approx(np.cos(np.radians(10.0)))
    assert np.isnan(means[0, 1])


def test_labels_cannot_upset_the_figure():
    assert plain_label("$x_\u4e2d") == r"\$x_?"
    assert plain_label("_" * 50) == "..."
