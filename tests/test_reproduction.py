"""A reproduction from end to end, tiny: files, labels, numbers that agree, and going on after an interruption."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cryorbit import reproduction
from cryorbit.errors import ConfigurationError, RunFolderError
from cryorbit.estimation.evaluation import align_angles, root_mean_square
from cryorbit.pipeline import rerun
from cryorbit.report.drawing import LeftOut
from cryorbit.report.reproduction_page import DRAWN
from cryorbit.report.reproduction_record import EXPERIMENTAL_LIKE
from cryorbit.report.symmetry_figure import TURNS_deg, self_correlation
from cryorbit.reproduction import Request, reproduce
from cryorbit.simulation import phantom_projection, simulate
from cryorbit.simulation.view_spread import nearly_symmetric

from .cli.test_cli import call
from .simulation.small_micrographs import small_config

IMAGES = 48
SETTINGS = {
    "preprocessing": {"box_size": 32},
    "model": {"principal_images": 16, "hidden_width": 16, "discriminator_width": 4, "discriminator_blocks": 3,
              "n_blocks": 3},
    "training": {"epochs": 4, "precision": "32-true", "accelerator": "cpu"},
    "alignment": {"box_size": 48},
}  # fmt: skip
REQUEST = Request(images=IMAGES, settings=SETTINGS, seed=3)


def small_paper(out, projection, seed, progress=None, images=IMAGES):
    return simulate(out, projection, small_config(images=images, seed=seed), progress=progress)


class Interruption(Exception):
    pass


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    """Folder of a reproduction that stopped before its second run, then went on; and the runs that each did."""
    folder = tmp_path_factory.mktemp("reproduction") / "out"
    runs = [[], []]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "simulate_paper", small_paper)
        real = reproduction.run

        def first(particles, out, *arguments, **options):
            if runs[0]:
                raise Interruption
            runs[0].append(out.name)
            return real(particles, out, *arguments, **options)

        patch.setattr(reproduction, "run", first)
        with pytest.raises(Interruption):
            reproduce(folder, REQUEST)

        def second(particles, out, *arguments, **options):
            runs[1].append(out.name)
            return real(particles, out, *arguments, **options)

        patch.setattr(reproduction, "run", second)
        result = reproduce(folder, REQUEST)
    return result, runs


def test_goes_on_where_it_stopped_and_does_nothing_twice(interrupted_once):
    _, runs = interrupted_once
    assert runs == [["simulated"], ["view_39", "view_93", "view_30"]]


def test_a_finished_folder_or_another_request_is_refused(interrupted_once):
    result, _ = interrupted_once
    with pytest.raises(RunFolderError, match="finished"):
        reproduce(result.folder, REQUEST)
    with pytest.raises(RunFolderError, match="another input or configuration"):
        reproduce(result.folder, Request(images=IMAGES, settings=SETTINGS, seed=4))
    with pytest.raises(RunFolderError, match="view_39"):
        rerun(result.folder, "report")


def test_all_files_are_there(interrupted_once):
    result, _ = interrupted_once
    for name in DRAWN:
        for suffix in ("png", "pdf", "csv"):
            assert (result.folder / f"{name}.{suffix}").stat().st_size > 100, (name, suffix)
    assert (result.folder / "table1.csv").is_file()
    assert result.table.is_file()
    assert result.page.is_file()


def test_every_experimental_like_row_and_figure_has_its_label(interrupted_once):
    result, _ = interrupted_once
    table = pd.read_csv(result.folder / "table1.csv")
    like = table["set"] != "simulated"
    assert table["title"][like].str.contains(EXPERIMENTAL_LIKE).all()
    assert not table["title"][~like].str.contains("experimental").any()
    rows = [line for line in result.table.read_text().splitlines() if line.startswith("| View")]
    assert len(rows) == 3
    assert all(EXPERIMENTAL_LIKE in row for row in rows)
    for name in DRAWN:
        numbers = pd.read_csv(result.folder / f"{name}.csv", low_memory=False)
        assert ((numbers["kind"] == "simulated") == (numbers["set"] == "simulated")).all()
        assert set(numbers["kind"]) <= {"simulated", "experimental-like (simulated)"}
    page = result.page.read_text()
    for name in ("figure3", "figure5", "figure6", "figure7", "figure8"):
        section = page[page.index(f'id="{name}"') :].split("</section>")[0]
        assert EXPERIMENTAL_LIKE in section, name


def test_the_page_stands_alone(interrupted_once):
    result, _ = interrupted_once
    page = result.page.read_text()

    found = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.extend(value for name, value in attributes if name in ("src", "href"))

    Sources().feed(page)
    assert len([source for source in found if source.startswith("data:image/webp")]) == len(DRAWN)
    assert all(source.startswith(("data:", "#")) for source in found)
    assert str(result.folder.parent) not in page


def test_numbers_of_figure_8_are_those_of_the_table(interrupted_once):
    result, _ = interrupted_once
    table, points = pd.read_csv(result.folder / "table1.csv"), pd.read_csv(result.folder / "figure8.csv")
    ours = table[(table["particles"] == "all") & (table["reading"] == "latent orbits")].set_index("set")
    for name, of_set in points.groupby("set"):
        row = ours.loc[name]
        assert len(of_set) == row["good_images"]
        error = of_set["predicted_defocus_um"] - of_set["true_defocus_um"]
        assert root_mean_square(error.to_numpy()) == pytest.approx(row["defocus_rmse_um"])
        weight = np.expm1(of_set["predicted_defocus_um"].to_numpy()).clip(0)
        psi = of_set["predicted_psi_deg"].to_numpy(), of_set["true_psi_deg"].to_numpy()
        residual = align_angles(*psi, weight, int(row["isotropy_order"])).residual_deg
        assert root_mean_square(residual, weight) == pytest.approx(row["angle_rmse_weighted_deg"])


def test_areas_of_figure_5_are_those_of_the_table(interrupted_once):
    result, _ = interrupted_once
    table, points = pd.read_csv(result.folder / "table1.csv"), pd.read_csv(result.folder / "figure5.csv")
    row = table[(table["set"] == "view_39") & table["auc_z_truth"].notna() & (table["particles"] == "all")].iloc[0]
    for kind in ("z", "true"):
        for detector, curve in points[points["panel"] == f"roc_{kind}"].groupby("detector"):
            area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
            assert area == pytest.approx(row[f"auc_{kind}_{detector}"], abs=1e-6)
            assert curve["auc"].iloc[0] == pytest.approx(row[f"auc_{kind}_{detector}"])
    map_points = points[points["panel"] == "latent"]
    assert len(map_points) == IMAGES
    assert ((map_points["z_score"].abs() > 2).sum()) > 0


def test_held_out_particles_are_a_fifth(interrupted_once):
    result, _ = interrupted_once
    table = pd.read_csv(result.folder / "table1.csv")
    assert set(table["images"][table["particles"] == "held out"]) == {round(0.2 * IMAGES)}


def test_a_figure_without_its_set_is_left_out():
    for name in ("figure3", "figure4", "figure5", "figure6", "figure7"):
        found = DRAWN[name]({}, 1)
        assert isinstance(found, LeftOut)
        assert "not asked for" in found.reason


def test_a_threefold_image_is_like_itself_after_a_third_of_a_turn():
    specimen = phantom_projection(view=(0.0, 30.0))
    values = self_correlation(nearly_symmetric(specimen, 3, 0.0).image[::4, ::4], 64)
    at = dict(zip(TURNS_deg, values, strict=True))
    assert at[0.0] == pytest.approx(1.0)
    assert at[120.0] > 0.97
    assert at[240.0] > 0.97
    assert at[60.0] < 0.9


def test_requests_that_cannot_be(tmp_path):
    with pytest.raises(ConfigurationError, match="experimental-like"):
        reproduce(tmp_path / "a", Request(dataset="real"))
    with pytest.raises(ConfigurationError, match="exclude"):
        reproduce(tmp_path / "a", Request(map_path=tmp_path / "m.mrc", structure_path=tmp_path / "s.cif"))
    assert not (tmp_path / "a").exists()


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path):
    table = tmp_path / "defoci.csv"
    table.write_text("a,b\n1,2\n")
    code, _, said = call("reproduce", "--out", tmp_path / "out", "--defocus-table", table, "-q")
    assert code == 2
    assert said.startswith(f"cryorbit: {table}: has no column of defoci")
    assert len(said.strip().splitlines()) == 1
    code, _, said = call("reproduce", "--out", tmp_path / "out", "--view", "up", "-q")
    assert code == 2
    assert "--view" in said
    assert not (tmp_path / "out").exists()


def test_the_paper_preset_has_a_fourth_axis_for_experimental_like_sets_only():
    request = Request(preset="paper")
    defocus = reproduction.usual_defocus()
    assert request.config_of("simulated", defocus).model.latent_dim == 3
    assert request.config_of("view_39", defocus).model.latent_dim == 4
    assert request.config_of("view_39", defocus).estimation.defocus_range_um == (0.8, 3.9)
