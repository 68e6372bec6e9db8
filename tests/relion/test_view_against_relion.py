"""RELION judges views, in-plane turns, shifts and the sign of the contrast."""

from __future__ import annotations

import math
import shutil
import subprocess

import mrcfile
import numpy as np
import pandas as pd
import pytest

from cryorbit.io.star import write_star
from cryorbit.simulation import make_simulation_config, map_projection
from cryorbit.simulation.rendering import apply_transfer, make_spline, transfer_function, turned_image

pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION 3.1 is not on the PATH"),
]

BOX, VOXEL_A = 64, 4.0


@pytest.fixture(scope="module")
def blob_map(tmp_path_factory):
    """Gaussian blobs without symmetry or mirror."""
    path = tmp_path_factory.mktemp("map") / "blobs.mrc"
    rng = np.random.default_rng(5)
    offset = np.arange(BOX) - BOX // 2
    centres = rng.uniform(-11, 11, (9, 3))
    profile = [np.exp(-0.5 * ((offset - centres[:, axis, None]) / 1.8) ** 2) for axis in range(3)]
    volume = np.einsum("az,ay,ax,a->zyx", *profile, rng.uniform(0.5, 2.0, 9))
    with mrcfile.new(path, data=volume.astype(np.float32)) as mrc:
        mrc.voxel_size = VOXEL_A
    return path


def correlation(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


@pytest.mark.parametrize("view", [(0.0, 0.0), (40.0, 65.0), (-110.0, 130.0), (75.0, 0.0)])
def test_view_turn_shift_and_contrast_equal_relion(tmp_path, blob_map, view):
    psi_deg, shift_px = np.array([0.0, 35.0, -140.0]), np.array([[0.0, 0.0], [3.5, -2.0], [-4.0, 1.25]])
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{row + 1:06d}@none.mrcs" for row in range(3)],
            "rlnOpticsGroup": 1,
            "rlnAngleRot": view[0],
            "rlnAngleTilt": view[1],
            "rlnAnglePsi": psi_deg,
            "rlnOriginXAngst": -shift_px[:, 0] * VOXEL_A,
            "rlnOriginYAngst": -shift_px[:, 1] * VOXEL_A,
            "rlnDefocusU": 16000.0,
            "rlnDefocusV": 11000.0,
            "rlnDefocusAngle": 25.0,
        }
    )
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["one"], "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [VOXEL_A],
            "rlnImageSize": [BOX], "rlnImageDimensionality": [2],
        }
    )  # fmt: skip
    write_star(tmp_path / "particles.star", {"optics": optics, "particles": particles})
    command = f"relion_project --i {blob_map} --ang particles.star --ctf --o projected --angpix {VOXEL_A}"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    theirs = mrcfile.read(tmp_path / "projected.mrcs").reshape(3, BOX, BOX)

    spline = make_spline(map_projection(blob_map, view))
    config = make_simulation_config("paper", {"box": BOX, "pixel_size_A": VOXEL_A, "particle_diameter_A": 200.0})
    transfer = transfer_function(config, 16000.0, 11000.0, 25.0)
    for row in range(3):
        turned = turned_image(spline, BOX, VOXEL_A, psi_deg[row], shift_px[row])
        # RELION multiplies without padding, so that ringing comes back in at the edges: compare the middle.
        ours = apply_transfer(turned, transfer)
        middle = slice(BOX // 8, -BOX // 8)
        assert correlation(ours[middle, middle], theirs[row][middle, middle]) > 0.999
        mirrored = apply_transfer(turned_image(spline, BOX, VOXEL_A, -psi_deg[row], shift_px[row]), transfer)
        if not math.isclose(psi_deg[row], 0.0):
            assert correlation(mirrored[middle, middle], theirs[row][middle, middle]) < 0.9


def test_projection_without_transfer_function_equals_relion(tmp_path, blob_map):
    target = tmp_path / "view.mrc"
    view = "--rot 40 --tilt 65 --psi 20 --xoff 2 --yoff -3"
    command = f"relion_project --i {blob_map} --o {target} {view} --angpix {VOXEL_A}"
    subprocess.run(command.split(), check=True, capture_output=True)
    spline = make_spline(map_projection(blob_map, (40.0, 65.0)))
    # RELION's offset centres the particle: the particle lies at its opposite.
    ours = turned_image(spline, BOX, VOXEL_A, 20.0, np.array([-2.0, 3.0]))
    assert correlation(ours, mrcfile.read(target).squeeze()) > 0.999
