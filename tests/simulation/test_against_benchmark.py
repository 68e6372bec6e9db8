"""The independent benchmark generator and ours make the same images."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from cryorbit.simulation import make_simulation_config, map_projection, phantom_projection
from cryorbit.simulation.rendering import apply_transfer, make_spline, transfer_function, turned_image

pytestmark = pytest.mark.reference_data

BOX, PIXEL_A = 128, 3.0


@pytest.fixture(scope="module")
def benchmark_script(reference_data):
    path = reference_data.parent / "bench" / "make_benchmark.py"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    spec = importlib.util.spec_from_file_location("make_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def correlation(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


@pytest.mark.parametrize("psi_deg", [0.0, 47.0, -160.0])
@pytest.mark.parametrize("defocus_um", [0.5, 1.5, 3.0])
def test_images_of_one_specimen_are_equal(benchmark_script, psi_deg, defocus_um):
    fine = phantom_projection()
    shift_px = np.array([2.5, -1.25])
    theirs = benchmark_script.Model(fine.image, fine.pixel_size_A, BOX, PIXEL_A).image(psi_deg, defocus_um, *shift_px)
    transfer = transfer_function(make_simulation_config("paper"), defocus_um * 1e4, defocus_um * 1e4, 0.0)
    ours = apply_transfer(turned_image(make_spline(fine), BOX, PIXEL_A, psi_deg, shift_px), transfer)
    assert correlation(ours, theirs) > 0.99999


@pytest.mark.parametrize("view", [(0.0, 0.0), (40.0, 65.0), (-110.0, 130.0)])
@pytest.mark.parametrize("defocus_um", [0.5, 1.5])
def test_views_of_a_map_are_equal(benchmark_script, reference_data, view, defocus_um):
    path = reference_data / "volumes" / "human_80S_ribosome_4ug0_96px_4A.mrc"
    fine = benchmark_script.project_map(path, *view, 384, 1.0)
    shift_px = np.array([2.0, -3.0])
    theirs = benchmark_script.Model(fine, 1.0, BOX, PIXEL_A).image(30.0, defocus_um, *shift_px)
    transfer = transfer_function(make_simulation_config("paper"), defocus_um * 1e4, defocus_um * 1e4, 0.0)
    ours = turned_image(make_spline(map_projection(path, view)), BOX, PIXEL_A, 30.0, shift_px)
    assert correlation(apply_transfer(ours, transfer), theirs) > 0.9999
