"""Each kind of junk has its law."""

from __future__ import annotations

import numpy as np
import pytest

from cryorbit.simulation import draw_truth, make_simulation_config, phantom_projection
from cryorbit.simulation.contaminants import edge_shift_px, ice_image, overlap_neighbour, weaken_to
from cryorbit.simulation.rendering import clean_image, make_renderer, make_spline, turned_image

RNG = np.random.default_rng(3)
BOX = 128
CONFIG = make_simulation_config("junk", {"images": 100, "outliers": 0.5})


@pytest.fixture(scope="module")
def junk():
    specimen = phantom_projection()
    renderer, truth = make_renderer(specimen, CONFIG), draw_truth(CONFIG)

    def images(kind, count=4):
        rows = np.flatnonzero(truth.kind == kind)[:count]
        return rows, np.stack([clean_image(renderer, truth, int(row)) for row in rows])

    return specimen, truth, images


@pytest.mark.parametrize("box", [64, 128, 256])
def test_edge_particles_are_a_quarter_to_three_eighths_of_the_box_off_centre(box):
    radius = np.array([np.hypot(*edge_shift_px(RNG, box)) for _ in range(500)]) * 128 / box
    assert 30 <= radius.min() < 31
    assert 47 < radius.max() <= 48


def test_edge_particles_go_in_all_directions():
    shifts = np.array([edge_shift_px(RNG, BOX) for _ in range(1000)])
    assert np.abs(shifts.mean(axis=0)).max() < 4


def test_edge_truth_is_where_the_particle_lies(junk):
    _, truth, images = junk
    rows, seen = images("edge")
    offset = np.arange(BOX) - BOX // 2
    for row, image in zip(rows, seen, strict=True):
        # The transfer function keeps the place of the image's energy.
        energy = image.astype(float) ** 2
        x, y = (energy.sum(axis=axis) @ offset / energy.sum() for axis in (0, 1))
        assert np.hypot(x, y) > 15
        assert np.dot([x, y], truth.shift_px[row]) > 0.8 * np.hypot(x, y) * np.hypot(*truth.shift_px[row])


def test_overlapping_neighbours_lie_next_to_the_centre():
    radius = np.array([np.hypot(*overlap_neighbour(RNG, BOX).shift_px) for _ in range(500)])
    assert 25 <= radius.min() < 26
    assert 39 < radius.max() <= 40


def test_overlap_is_the_particle_and_one_more(junk):
    specimen, truth, images = junk
    rows, seen = images("overlap")
    single = make_renderer(specimen, CONFIG)
    alone = truth.kind.copy()
    alone[rows] = "none"
    same_without = type(truth)(**{**truth.__dict__, "kind": alone})
    for row, image in zip(rows, seen, strict=True):
        rest = image - clean_image(single, same_without, int(row))
        # What is left is a particle too: as much contrast as the first, give or take what the box cuts off.
        assert 0.4 < rest.var() / (image - rest).var() < 1.6


def test_ice_is_smooth_and_strong(junk):
    _specimen, _, images = junk
    blobs = np.stack([ice_image(RNG, BOX, 1.0) for _ in range(200)])
    assert blobs.min() >= 0
    assert (blobs.max(axis=(1, 2)) > 0.8).mean() > 0.95
    assert blobs.max() < 4 * 3
    spectrum = (np.abs(np.fft.rfft2(blobs)) ** 2).mean(axis=0)
    assert spectrum[32:-32, 32:].sum() < 1e-3 * spectrum.sum()
    _, ice = images("ice")
    _, particles = images("none")
    assert ice.var(axis=(1, 2)).mean() > particles.var(axis=(1, 2)).mean()


def test_another_particle_has_half_of_the_contrast():
    specimen, other = phantom_projection(), phantom_projection("other")
    weak = weaken_to(other, specimen)
    assert weak.image.sum() / specimen.image.sum() == pytest.approx(0.5)


def test_another_particle_is_not_the_particle(junk):
    specimen, _, _ = junk
    one = turned_image(make_spline(specimen), BOX, 3.0, 0.0, np.zeros(2))
    other = make_spline(phantom_projection("other"))
    best = max(
        np.corrcoef(one.ravel(), turned_image(other, BOX, 3.0, psi_deg, np.zeros(2)).ravel())[0, 1]
        for psi_deg in np.arange(0.0, 360.0, 15.0)
    )
    assert best < 0.75


def test_noise_has_no_signal(junk):
    _, _, images = junk
    assert (images("noise")[1] == 0).all()


def test_every_kind_is_drawn_anew_for_every_image(junk):
    _, _, images = junk
    for kind in ("ice", "edge", "overlap", "other"):
        _, seen = images(kind, 2)
        assert not np.allclose(seen[0], seen[1])
