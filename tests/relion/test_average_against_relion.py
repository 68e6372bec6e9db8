"""With our poses, RELION averages the same particles to the same image."""

from __future__ import annotations

import shutil
import subprocess

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

import cryorbit as co
from cryorbit.preprocessing.resample import rotate
from cryorbit.simulation import make_simulation_config, phantom_projection

pytestmark = pytest.mark.relion
BOX, PIXEL_A, DIAMETER_A, ITERATIONS = 64, 6.0, 270.0, 5
OPTIONS = (
    "--K 1 --skip_align --ctf --tau2_fudge 4 --pad 2 --dont_combine_weights_via_disc --zero_mask --flatten_solvent "
    "--norm --oversampling 0 --psi_step 360 --offset_range 0 --j 1 --random_seed 1"
)


def low_passed(image, finest):
    ring = np.hypot(*np.meshgrid(np.fft.fftfreq(BOX, 1 / BOX), np.fft.fftfreq(BOX, 1 / BOX)))
    return np.fft.ifft2(np.fft.fft2(image) * (ring <= finest)).real


def correlation(one, other):
    inside = np.hypot(*np.meshgrid(*[np.arange(BOX) - BOX // 2] * 2)) < 0.5 * DIAMETER_A / PIXEL_A
    return np.corrcoef(one[inside], other[inside])[0, 1]


@pytest.mark.parametrize("prior", ["given", "blind"])
def test_relions_class_average_with_our_poses_is_ours(tmp_path, monkeypatch, prior):
    if shutil.which("relion_refine") is None:
        pytest.skip("relion_refine is not on the PATH: install RELION 3.1 (Debian package `relion`)")
    simulated = make_simulation_config(
        "demo", {"images": 500, "seed": 3, "box": BOX, "pixel_size_A": PIXEL_A, "snr": 0.5, "outliers": 0.05}
    )
    co.simulate(tmp_path / "set", phantom_projection(), simulated)
    config = co.make_config("fast", {"estimation": {"defocus_prior": prior}})
    co.run(tmp_path / "set" / "particles.star", tmp_path / "run", config, until="estimate", latent=False)
    monkeypatch.chdir(tmp_path / "set")  # where the paths of the stacks start
    command = [
        "relion_refine", "--i", str(tmp_path / "run" / "particles_kept.star"), "--o", str(tmp_path / "theirs"),
        "--iter", str(ITERATIONS), "--particle_diameter", str(DIAMETER_A), *OPTIONS.split(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ours = mrcfile.read(tmp_path / "run" / "average.mrc").astype(np.float64)
    theirs = mrcfile.read(tmp_path / f"theirs_it{ITERATIONS:03d}_classes.mrcs").astype(np.float64).reshape(BOX, BOX)
    # To the frequency at which the two halves of the set agree; beyond, both have noise, and each dampens it its way.
    curve = pd.read_csv(tmp_path / "run" / "average_frc.csv")
    finest = int(curve["ring"][curve["frc"] > 0.5].max())
    assert finest > BOX // 4
    ours, theirs = low_passed(ours, finest), low_passed(theirs, finest)
    assert correlation(ours, theirs) > 0.99
    turned = rotate(torch.from_numpy(theirs)[None].float(), torch.tensor([5.0]))[0].numpy()
    assert correlation(ours, turned) < 0.97
