"""The report of each kind of run: aligned, by the latent space, and both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cryorbit.preprocessing.resample import rotate
from cryorbit.report import write_report
from cryorbit.report.agreement import angle_agreement, defocus_agreement
from cryorbit.report.comparison import (
    READINGS,
    angles_of,
    compare,
    defoci_of,
    distinct_readings,
    shift_errors_A,
)
from cryorbit.report.drawing import LeftOut, Plot
from cryorbit.report.particle_figures import shifts_px
from cryorbit.report.pictures import put_into_place
from cryorbit.report.record import read_run
from cryorbit.report.summary import evaluation_rows, key_numbers, precision_columns

from .run_folders import BOX, KINDS, PIXEL_A, change_estimates, change_manifest, draw_all, particle_image, sentences

ALIGNMENT_FIGURES = {"class_average", "what_the_data_allow"}
LATENT_FIGURES = {"latent_plane", "latent_plane_truth", "outliers", "reconstructions", "losses"}
IMAGES = {"montage", "aligned"}
LEFT_OUT = {
    "both": set(),
    "orbit": LATENT_FIGURES | IMAGES | {"agreement"},
    "latent": ALIGNMENT_FIGURES | {"agreement"},
}
READ = {
    "both": ["", "orbit_", "latent_", "plane_"],
    "orbit": ["", "orbit_"],
    "latent": ["", "latent_", "plane_"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_drawn_or_left_out_with_a_reason(make_run, kind):
    folder, truth = make_run(60, kind=kind)
    drawn = draw_all(folder, truth)
    assert {name for name, plot in drawn.items() if isinstance(plot, LeftOut)} == LEFT_OUT[kind]
    for plot in drawn.values():
        if isinstance(plot, Plot):
            plot.figure.draw_without_rendering()
        else:
            assert plot.reason.endswith(".")
            assert "missing" not in plot.reason  # nothing is: such a run never has it


@pytest.mark.parametrize("kind", KINDS)
def test_page_of_each_kind(make_run, kind, without_figures):
    folder, truth = make_run(kind=kind)
    html = write_report(folder, truth).read_text(encoding="utf-8")
    assert compare(read_run(folder), truth).readings.keys() == set(READ[kind])
    for prefix, name in READINGS.items():
        assert (f'<th scope="col">{name.replace(chr(39), "&#x27;")}</th>' in html) == (prefix in READ[kind])
    assert ("Evidence of the alignment" in html) == (kind != "latent")
    assert ("Isolation forest" in html) == (kind != "orbit")
    assert ("How well it is known" in html) == (kind != "latent")
    assert "nan" not in html.split()


def test_a_run_without_the_latent_space_does_not_speak_of_it(make_run):
    folder, truth = make_run(kind="orbit")
    words = sentences(folder, truth)
    assert "latent" not in words
    assert "plane" not in words
    assert not any("atent" in head for head in precision_columns(read_run(folder), None))


def test_latent_sentences_are_said_of_the_comparison_only(make_run):
    folder, _ = make_run()
    words = sentences(folder)
    begin = words.index("For comparison the latent space")
    assert "atent" not in words[:begin].replace("together with the latent space", "")
    assert "nothing of what follows was written" in words
    assert "orbits run around 2 times" in words
    assert "the written angles are read from the whole orbits" not in words


@pytest.mark.parametrize("kind", ["both", "orbit"])
def test_numbers_of_precision_are_the_same_everywhere(make_run, kind, without_figures):
    folder, truth = make_run(200, kind=kind)
    run, comparison = read_run(folder), compare(read_run(folder), truth)
    predicted, possible, true, *_ = precision_columns(run, comparison).values()
    words, numbers = sentences(folder, truth), key_numbers(run, comparison)
    rows = {row[0]: row[1] for row in evaluation_rows(comparison.readings)}
    assert predicted == [f"{np.median(run.column('psi_std_deg')[run.kept]):.2f}°", "0.60 Å", "0.100 µm"]
    assert possible == ["2.20°", "0.50 Å", "0.090 µm"]
    assert true == [rows["Angle error, rms"], rows["Shift error along an axis, rms"], rows["Defocus error, rms"]]
    assert all(number in words for number in predicted + possible + true)
    assert set(predicted) <= set(numbers.values())
    assert {true[0], true[2]} <= set(numbers.values())
    page = write_report(folder, truth).read_text(encoding="utf-8")
    assert all(page.count(number) >= 3 for number in (*predicted, true[0], true[2]))


def test_shift_errors_are_honest_and_know_no_common_offset(make_run):
    folder, truth = make_run(300, kind="orbit")
    run = read_run(folder)
    found = compare(run, truth).readings[""]
    assert found.origin_rmse_A == pytest.approx(0.6, rel=0.1)
    assert found.origin_calibration == pytest.approx(1.0, rel=0.1)
    angle = np.radians(run.column("psi_deg"))
    moved = truth.origin_A + 5.0 * np.stack([np.cos(angle), -np.sin(angle)], axis=1)  # (5, 0) in the average's frame
    np.testing.assert_allclose(
        shift_errors_A(run, replace(truth, origin_A=moved), ""), shift_errors_A(run, truth, ""), atol=1e-9
    )


def test_words_for_what_decided(make_run):
    folder, _ = make_run()
    assert "the alignment's evidence (is there the particle, is there something else) together with" in sentences(
        folder
    )
    assert "true particles are lost" not in sentences(folder)
    change_manifest(folder, lambda m: m["outliers"].update(false_rejection=0.012))
    assert "1.2 % of the true particles are lost" in sentences(folder)
    change_manifest(folder, lambda m: m["outliers"].update(method="robust_covariance"))
    assert "the scores of the robust covariance" in sentences(folder)


def test_words_for_the_resolution(make_run):
    folder, _ = make_run(kind="orbit")
    assert "agree to 8.0 Å or better, the finest that was looked at" in sentences(folder)
    assert "8.0 Å or better" in draw_all(folder)["class_average"].caption
    frame = pd.read_csv(folder / "average_frc.csv")
    frame.loc[11, "frc"] = 0.1  # the finest ring is the first below the threshold
    frame.to_csv(folder / "average_frc.csv", index=False)
    assert "agree to 8.0 Å (Fourier" in sentences(folder)
    change_manifest(folder, lambda m: m["alignment"].update(resolution_A=10.7))
    assert "agree to 10.7 Å (Fourier" in sentences(folder)


def test_words_for_symmetry_round_and_few_particles(make_run):
    folder, truth = make_run(kind="orbit")
    change_manifest(folder, lambda m: m.update(isotropy_order=2))
    assert "known modulo 180 degrees" in sentences(folder)
    change_manifest(folder, lambda m: m["alignment"].update(identifiable=False))
    words = sentences(folder, truth)
    assert "No in-plane angle can be known" in words
    assert "of the angle" not in words
    assert "the written angles are wrong" not in words
    assert key_numbers(read_run(folder), None)["predicted angle deviation (median)"] == "–"
    change_manifest(folder, lambda m: m["alignment"].update(learnt_from=0))
    assert "too few particles to learn an average from" in sentences(folder)
    assert "Two halves" not in sentences(folder)
    assert isinstance(draw_all(folder)["class_average"], LeftOut)


def test_words_for_the_defocus_of_an_alignment(make_run):
    folder, _ = make_run(kind="orbit")
    assert "Defoci were found from the images alone" in sentences(folder)
    assert "ambiguous" not in sentences(folder)
    change_manifest(folder, lambda m: m["alignment"].update(rival_nats=2.34))
    assert "ambiguous: another solution" in sentences(folder)
    assert "2.3 nats" in sentences(folder)
    change_manifest(folder, lambda m: m["alignment"].update(rival_nats=12.0))
    assert "ambiguous" not in sentences(folder)
    change_manifest(folder, lambda m: m["alignment"].update(prior="micrograph"))
    assert "searched near the input file's own" in sentences(folder)
    assert not read_run(folder).keeps_file_defocus
    change_manifest(folder, lambda m: m["alignment"].update(prior="given"))
    assert "trusted and kept" in sentences(folder)
    assert read_run(folder).keeps_file_defocus
    assert key_numbers(read_run(folder), None)["defocus in the output"] == "the file's"


def test_a_given_defocus_is_no_estimate_of_the_alignment(make_run):
    folder, truth = make_run()
    given = truth.defocus_um + 0.01
    change_estimates(
        folder, defocus_um=given, defocus_std_um=np.nan, file_defocus_um=given,
        orbit_defocus_um=given.astype(np.float32), orbit_defocus_std_um=0.0,
    )  # fmt: skip
    change_manifest(folder, lambda m: m["alignment"].update(prior="given"))
    run = read_run(folder)
    found = compare(run, truth).readings
    assert found["orbit_"].defocus_rmse_um is None
    assert found[""].defocus_rmse_um == pytest.approx(0.01)
    assert distinct_readings(run, defoci_of)[""] == "Written to the file: the input"
    assert list(distinct_readings(run, defoci_of)) == ["", "latent_", "plane_"]
    assert all(isinstance(plot, Plot) for plot in draw_all(folder, truth).values())


def test_what_was_written_is_shown_once_and_first(make_run):
    for kind, others in (("both", ["latent_", "plane_"]), ("orbit", []), ("latent", ["plane_"])):
        folder, _ = make_run(kind=kind)
        run = read_run(folder)
        assert list(distinct_readings(run, angles_of)) == ["", *others]
        assert READINGS[run.reading].lower() in distinct_readings(run, angles_of)[""]


def test_the_inputs_angles_are_what_was_written_where_none_can_be_known(make_run):
    folder, truth = make_run(kind="orbit")
    change_estimates(folder, file_psi_deg=truth.psi_deg)
    assert compare(read_run(folder), truth).readings[""].angle_rmse_deg > 0.1
    change_manifest(folder, lambda m: m["alignment"].update(identifiable=False))
    assert compare(read_run(folder), truth).readings[""].angle_rmse_deg == pytest.approx(0.0, abs=1e-9)


def test_agreement_knows_no_common_turn_or_sense(make_run):
    folder, _ = make_run(200)
    run = read_run(folder)
    before = angle_agreement(run)
    assert before.rms == pytest.approx(before.expected_rms, rel=0.15)
    assert f"{before.rms:.2f}° in the angle" in sentences(folder)
    assert f"{defocus_agreement(run).rms:.3f} µm in the defocus" in sentences(folder)
    assert len(before.difference) == run.kept.sum()
    change_estimates(folder, latent_psi_deg=-run.column("latent_psi_deg") + 77.0)
    assert angle_agreement(read_run(folder)).rms == pytest.approx(before.rms)


def test_agreement_is_modulo_what_the_network_sees(make_run):
    folder, _ = make_run(200)
    psi = read_run(folder).column("latent_psi_deg")
    change_estimates(folder, latent_psi_deg=psi + 180.0 * (np.arange(200) % 2))
    assert angle_agreement(read_run(folder)).rms > 40
    change_manifest(folder, lambda m: m["chart"].update(harmonics=[2, 4]))
    assert angle_agreement(read_run(folder)).rms < 10
    assert "modulo 180 degrees" in sentences(folder)
    change_manifest(folder, lambda m: m["chart"].update(identifiable=False))
    assert angle_agreement(read_run(folder)) is None
    assert "in the angle (rms" not in sentences(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("average.mrc", b"no image"),
        ("average_frc.csv", b""),
        ("limits.csv", b"a,b\n1,2\n"),
        ("average_frc.csv", b"\xff"),
    ],
)
def test_damaged_files_of_the_alignment(make_run, name, content):
    folder, truth = make_run(kind="orbit")
    (folder / name).write_bytes(content)
    for plot in (draw_all(folder, truth)[figure] for figure in ALIGNMENT_FIGURES):
        assert isinstance(plot, Plot)
        plot.figure.draw_without_rendering()
    (folder / "average.mrc").unlink(missing_ok=True)
    (folder / "average_frc.csv").unlink(missing_ok=True)
    assert "missing or damaged" in draw_all(folder, truth)["class_average"].reason


def test_defoci_that_are_all_the_same(make_run):
    folder, truth = make_run(kind="orbit")
    change_estimates(folder, orbit_defocus_um=1.5, defocus_um=1.5)
    for plot in draw_all(folder, replace(truth, defocus_um=np.full(40, 1.5))).values():
        if isinstance(plot, Plot):
            plot.figure.draw_without_rendering()


def test_particles_fall_into_place():
    """Turned and shifted back, an image is the reference again."""
    reference = torch.from_numpy(particle_image(40.0, np.zeros((BOX, BOX)))).float()
    psi, shift = np.array([0.0, 30.0, -110.0]), np.array([[0, 0], [2, -1], [-3, 2]])
    turned = rotate(reference.repeat(3, 1, 1), torch.from_numpy(psi).float()).numpy().astype(np.float64)
    images = np.stack([np.roll(image, (y, x), axis=(0, 1)) for image, (x, y) in zip(turned, shift, strict=True)])
    placed = put_into_place(images, psi, shift.astype(np.float64))
    inner = slice(6, BOX - 6)
    np.testing.assert_allclose(
        placed[:, inner, inner], np.broadcast_to(reference.numpy(), placed.shape)[:, inner, inner], atol=0.12
    )


def test_written_angles_and_origins_put_a_run_into_place(make_run):
    folder, truth = make_run(200)
    run = read_run(folder)
    good = np.flatnonzero(~truth.is_outlier)
    np.testing.assert_allclose(shifts_px(run, PIXEL_A)[:, 0] * -PIXEL_A, run.column("origin_x_A"))
    images = run.cache.read(good).numpy().astype(np.float64)
    placed = put_into_place(images, run.column("psi_deg")[good], shifts_px(run, PIXEL_A)[good]).mean(axis=0)
    expected = particle_image(40.0, np.zeros((BOX, BOX)))
    assert np.corrcoef(placed.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.corrcoef(images.mean(axis=0).ravel(), expected.ravel())[0, 1] < 0.8


def test_particles_without_a_known_angle_are_not_turned(make_run):
    folder, truth = make_run()
    change_manifest(folder, lambda m: m["alignment"].update(identifiable=False))
    assert "No angle" in draw_all(folder, truth)["aligned"].reason
