"""RELION judges the sign of the contrast transfer function and the direction of astigmatism."""

from __future__ import annotations

import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch

from cryorbit.optics import Optics, ctf_2d

pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_ctf_toolbox") is None, reason="RELION 3.1 is not on the PATH"),
]


@pytest.mark.parametrize(
    ("u_A", "v_A", "angle_deg", "phase_shift_deg", "optics"),
    [
        (15000.0, 15000.0, 0.0, 0.0, Optics()),
        (15000.0, 12000.0, 30.0, 0.0, Optics()),
        (9000.0, 13000.0, -65.0, 0.0, Optics(200.0, 2.0, 0.07)),
        (7000.0, 6500.0, 120.0, 90.0, Optics(300.0, 0.01, 0.1)),
    ],
)
def test_equals_relion(tmp_path, u_A, v_A, angle_deg, phase_shift_deg, optics):
    image = tmp_path / "ctf.mrc"
    command = (
        f"relion_ctf_toolbox --simulate {image} --angpix 3 --box 128 --defU {u_A} --defV {v_A} "
        f"--defAng {angle_deg} --phase_shift {phase_shift_deg} --kV {optics.voltage_kV} --Cs {optics.cs_mm} "
        f"--Q0 {optics.amplitude_contrast}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    theirs = np.fft.ifftshift(mrcfile.read(image).squeeze())
    values = (torch.tensor([value]) for value in (u_A, v_A, angle_deg))
    ours = ctf_2d(128, 3.0, *values, optics, phase_shift_deg)[0].numpy()
    # The last column is the Nyquist frequency, to which RELION's full transform gives the other sign.
    np.testing.assert_allclose(ours[:, :64], theirs[:, :64], atol=1e-3)
