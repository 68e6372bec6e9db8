"""Where particles lie in micrographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.errors import ConfigurationError
from cryorbit.simulation import draw_truth, make_simulation_config
from cryorbit.simulation.micrograph_settings import grid_shape

from .small_micrographs import small_config

PAPER = make_simulation_config("paper-micrographs")


def box_edges(truth, config):
    first = truth.coordinate_px - config.extracted_px // 2
    return first, first + config.extracted_px


def test_the_papers_set_is_53_micrographs_of_48():
    truth = draw_truth(PAPER)
    assert len(truth) == 2544
    assert np.bincount(truth.micrograph).tolist() == [48] * 53
    assert PAPER.micrograph_pixel_A == pytest.approx(0.6173, abs=1e-4)
    assert PAPER.pixel_size_A == pytest.approx(3.125)
    assert (truth.shift_px == 0).all()


def test_each_defocus_has_nine_micrographs_but_one():
    truth = draw_truth(PAPER)
    per_micrograph = {number: set(truth.defocus_A[truth.micrograph == number]) for number in range(53)}
    assert all(len(values) == 1 for values in per_micrograph.values())
    levels = np.array([values.pop() for values in per_micrograph.values()])
    assert sorted(set(levels)) == [5000.0, 10000.0, 15000.0, 20000.0, 25000.0, 30000.0]
    assert sorted(np.unique(levels, return_counts=True)[1]) == [8, 9, 9, 9, 9, 9]


def test_a_range_gives_each_micrograph_its_own_defocus():
    truth = draw_truth(small_config(images=60, defocus_um="0.8:1.6"))
    levels = np.unique(truth.defocus_A)
    assert len(levels) == 5
    assert ((levels >= 8000) & (levels <= 16000)).all()


def test_the_papers_grid_is_eight_by_six():
    assert grid_shape(48, 5760, 4092) == (8, 6)
    truth = draw_truth(PAPER)
    first = truth.coordinate_px[truth.micrograph == 0]
    assert len(np.unique(first[:, 0])) == 8
    assert len(np.unique(first[:, 1])) == 6


@given(jitter=st.floats(0, 1), images=st.integers(1, 40), box=st.integers(128, 200), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_boxes_stay_in_the_micrograph_and_off_each_other(jitter, images, box, seed):
    config = small_config(jitter=jitter, images=images, extracted_px=box, seed=seed, particle_diameter_A=200.0)
    truth = draw_truth(config)
    first, end = box_edges(truth, config)
    assert (first >= 0).all()
    assert (end <= config.detector_px).all()
    assert (truth.coordinate_px == np.rint(truth.coordinate_px)).all()
    for number in range(truth.micrograph.max() + 1):
        rows = np.flatnonzero(truth.micrograph == number)
        for one in rows:
            for two in rows[rows > one]:
                assert ((first[one] >= end[two]) | (first[two] >= end[one])).any()


def test_rows_are_ordered_by_micrograph_and_every_row_has_one():
    truth = draw_truth(small_config(images=31))
    assert (np.diff(truth.micrograph) >= 0).all()
    assert np.bincount(truth.micrograph).tolist() == [11, 10, 10]


def test_jitter_moves_particles_off_the_grid():
    still, moved = (draw_truth(small_config(jitter=jitter)).coordinate_px for jitter in (0.0, 1.0))
    assert 0 < np.abs(still - moved).max() <= 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extracted_px": 700}, "boxes of 700 px are larger than the micrograph of 840 x 620 px"),
        ({"extracted_px": 64, "particle_diameter_A": 100.0}, "box is 128 px but only 64 px are cut out"),
        ({"particles_per_micrograph": 100}, "100 boxes of 192 px do not fit beside each other"),
        ({"pixel_size_A": 4.0}, "pixel_size_A is 4 but the magnification and the boxes make it 3"),
        ({"magnification": 0.0}, "magnification: Input should be greater than 0"),
        ({"dose_per_nm2": 0.0}, "dose_per_nm2: Input should be greater than 0"),
        ({"noise_spectrum": (1.0, 2.0)}, "noise_spectrum is for single boxes"),
        ({"optics": {"amplitude_contrast": 1.0}, "microscope": None}, "leaves no phase"),
        ({"detector": {"mtf_nyquist": 2.0}}, "mtf_nyquist is 2.0; expected a fraction"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_sentence(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        small_config(**changes)


def test_settings_of_micrographs_are_refused_for_single_boxes():
    with pytest.raises(ConfigurationError, match=r"dose_per_nm2: belongs to whole micrographs.*'noisy' makes single"):
        make_simulation_config("noisy", {"dose_per_nm2": 100.0})
