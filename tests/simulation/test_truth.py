"""Configuration, defocus notation and the drawing of truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError

from cryorbit.errors import ConfigurationError
from cryorbit.optics import Microscope, Optics
from cryorbit.simulation import (
    KINDS,
    PRESETS,
    DefocusRange,
    DefocusSeries,
    SimulationConfig,
    draw_truth,
    make_simulation_config,
    parse_defocus,
)


def test_defocus_notation():
    assert parse_defocus("0.5:2.5") == DefocusRange(0.5, 2.5)
    assert parse_defocus("0.5,1.0,1.5") == DefocusSeries((0.5, 1.0, 1.5))
    assert parse_defocus("1.5") == DefocusSeries((1.5,))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a:b", "cannot be read; expected a range such as 0.5:2.5"),
        ("1:2:3", "cannot be read"),
        ("", "cannot be read"),
        ("2.5:0.5", "give 0.5:2.5"),
        ("-1:2", "expected above 0"),
        ("5000:25000", "give micrometres of underfocus, not Angstrom"),
        ("nan", "Defocus is nan"),
    ],
)
def test_wrong_defocus_is_refused(text, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        parse_defocus(text)


def test_every_preset_is_valid_and_survives_json():
    for name in PRESETS:
        config = make_simulation_config(name)
        assert config.preset == name
        assert SimulationConfig.model_validate_json(config.model_dump_json()) == config


def test_paper_preset_is_the_papers_set():
    config = make_simulation_config("paper")
    assert (config.images, config.box, config.noise_free, config.outliers) == (2544, 128, True, 0.0)
    truth = draw_truth(config)
    levels, counts = np.unique(truth.defocus_A, return_counts=True)
    np.testing.assert_allclose(levels, [5000, 10000, 15000, 20000, 25000, 30000])
    assert set(counts) == {424}
    assert (truth.shift_px == 0).all()
    assert not truth.outlier.any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": 5}, "image: Extra inputs are not permitted"),
        ({"images": 0}, "images: "),
        ({"snr": -1}, "snr: "),
        ({"snr": math.inf}, "must be finite"),
        ({"outliers": 1.0}, "outliers: "),
        ({"particle_diameter_A": 400}, "the box is 384 A wide and leaves no background"),
        ({"defocus_um": "5000:25000"}, "defocus_um: Defocus is 5000 um"),
        ({"noise_spectrum": ()}, "noise_spectrum must hold at least one value"),
        ({"noise_spectrum": (1.0, -1.0)}, "none negative"),
        ({"astigmatism_A": 20000}, "turns the smallest defocus of 5000 A into overfocus"),
        ({"optics": {"voltage_kV": 300000}}, "this looks like volts"),
        ({"microscope": Microscope(optics=Optics(200.0))}, "give the same to both"),
    ],
)
def test_impossible_configurations_are_refused(changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_simulation_config("demo", changes)


def test_unknown_presets_are_refused():
    with pytest.raises(ConfigurationError, match="choose one of paper, noisy, junk, demo, low-snr"):
        make_simulation_config("quiet")


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        make_simulation_config().images = 3


def test_distributions_are_as_configured():
    truth = draw_truth(make_simulation_config("demo", {"images": 20_000, "shift_px": 1.5}))
    assert np.abs(np.exp(1j * np.deg2rad(truth.psi_deg)).mean()) < 0.03
    assert truth.defocus_A.min() > 5000
    assert truth.defocus_A.max() < 25000
    assert truth.defocus_A.mean() == pytest.approx(15000, rel=0.02)
    centred = truth.shift_px[truth.kind != "edge"]
    assert centred.std(axis=0) == pytest.approx([1.5, 1.5], rel=0.03)
    assert truth.outlier.sum() == 2000
    assert {kind: (truth.kind == kind).sum() for kind in KINDS} == dict.fromkeys(KINDS, 400)


def test_micrographs_hold_particles_of_nearly_equal_defocus():
    truth = draw_truth(make_simulation_config("demo", {"images": 2000}))
    counts = np.bincount(truth.micrograph)
    assert set(counts) == {47, 48}
    ranges = sorted(
        (truth.defocus_A[truth.micrograph == m].min(), truth.defocus_A[truth.micrograph == m].max())
        for m in range(len(counts))
    )
    assert all(high <= next_low for (_, high), (next_low, _) in itertools.pairwise(ranges))


def test_rows_are_in_random_order_of_defocus_and_micrograph():
    truth = draw_truth(make_simulation_config("demo"))
    rows = np.arange(len(truth))
    assert abs(np.corrcoef(rows, truth.defocus_A)[0, 1]) < 0.1
    assert abs(np.corrcoef(truth.micrograph, truth.defocus_A)[0, 1]) < 0.5


def test_a_micrograph_never_mixes_levels_of_a_series():
    truth = draw_truth(make_simulation_config("paper"))
    for number in range(truth.micrograph.max() + 1):
        assert np.ptp(truth.defocus_A[truth.micrograph == number]) == 0


def test_astigmatism_belongs_to_the_micrograph():
    truth = draw_truth(make_simulation_config("demo", {"astigmatism_A": 400.0}))
    np.testing.assert_allclose(truth.defocus_u_A - truth.defocus_v_A, 400.0)
    for number in range(truth.micrograph.max() + 1):
        assert np.ptp(truth.defocus_angle_deg[truth.micrograph == number]) == 0
    assert np.ptp(truth.defocus_angle_deg) > 90


def test_seeds_decide_the_truth():
    one, same, other = (draw_truth(make_simulation_config("demo", {"seed": seed})) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.psi_deg, same.psi_deg)
    np.testing.assert_array_equal(one.kind, same.kind)
    assert not np.allclose(one.psi_deg, other.psi_deg)


def test_a_set_without_noise_has_no_junk_of_noise_alone():
    truth = draw_truth(make_simulation_config("junk", {"snr": None, "images": 400}))
    assert set(truth.kind[truth.outlier]) == set(KINDS) - {"noise"}
