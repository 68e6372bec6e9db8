"""RELION judges the micrographs' files, the coordinates, and how particles are boxed."""

from __future__ import annotations

import shutil
import subprocess

import mrcfile
import numpy as np
import pandas as pd
import pytest

from cryorbit.io.star import write_star
from cryorbit.simulation import draw_truth, phantom_projection, simulate

from ..simulation.small_micrographs import small_config

pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION 3.1 is not on the PATH"),
]


def below_nyquist(images):
    """Fourier coefficients without the unpaired ones, which RELION keeps half of, and without the mean."""
    spectrum = np.fft.fftshift(np.fft.fft2(images), axes=(1, 2))[:, 1:, 1:]
    spectrum[:, 63, 63] = 0
    return spectrum.reshape(len(images), -1)


@pytest.mark.parametrize("dose_per_nm2", [300.0, 3000.0])  # written as 8 and as 16 bits
def test_relion_extracts_the_same_particles_from_the_kept_micrographs(tmp_path, dose_per_nm2):
    config = small_config("micrographs", jitter=1.0, dose_per_nm2=dose_per_nm2)
    simulate(tmp_path, phantom_projection(), config, keep_micrographs=True)
    truth = draw_truth(config)
    name = "micrographs/micrograph_00001.mrc"
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["one"],
            "rlnMicrographPixelSize": [config.micrograph_pixel_A],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
        }
    )
    micrographs = pd.DataFrame({"rlnMicrographName": [name], "rlnOpticsGroup": [1]})
    write_star(tmp_path / "micrographs.star", {"optics": optics, "micrographs": micrographs})
    picks = pd.DataFrame(truth.coordinate_px, columns=["rlnCoordinateX", "rlnCoordinateY"])
    write_star(tmp_path / name.replace(".mrc", "_pick.star"), {"": picks})
    command = "relion_preprocess --i micrographs.star --coord_dir ./ --coord_suffix _pick.star --part_dir Out/ "
    command += "--part_star out.star --extract --extract_size 192 --scale 128 --norm --no_ramp --bg_radius 45"
    subprocess.run([*command.split(), "--invert_contrast"], cwd=tmp_path, check=True, capture_output=True)
    theirs = mrcfile.read(tmp_path / "Out" / name.replace(".mrc", ".mrcs"))
    ours = mrcfile.read(tmp_path / "particles.mrcs")
    one, other = below_nyquist(theirs), below_nyquist(ours)
    agreement = (one.conj() * other).sum(1).real / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert agreement.min() > 0.99999
    np.testing.assert_allclose(theirs.std(axis=(1, 2)), ours.std(axis=(1, 2)), rtol=0.01)
