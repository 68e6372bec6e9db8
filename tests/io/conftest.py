"""Small particle files on disk."""

from __future__ import annotations

import warnings

import mrcfile
import numpy as np
import pytest

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
1 opticsGroup1 300.000000 2.700000 0.100000 3.000000

"""

PARTICLES = """
# version 30001

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnOpticsGroup #6
"""


def star_text(names, optics=OPTICS, group="1", defocus="15000.0"):
    rows = [f"{name} mic{i // 3}.mrc {defocus} 14500.5000 1.2e+01 {group}" for i, name in enumerate(names)]
    return optics + PARTICLES + "\n".join(rows) + "\n\n"


def write_stack(path, images, pixel_size_A=3.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as mrc:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pixels that are no numbers, which some tests want
            mrc.set_data(images)
        mrc.set_image_stack()
        mrc.voxel_size = pixel_size_A
    return path


@pytest.fixture
def project(tmp_path):
    """A project of two stacks, interleaved in one STAR file; gives its path and all images in row order."""
    rng = np.random.default_rng(5)
    stacks = [rng.normal(size=(4, 16, 16)).astype(np.float32) for _ in range(2)]
    for number, images in enumerate(stacks):
        write_stack(tmp_path / f"Extract/stack{number}.mrcs", images)
    order = [(0, 2), (1, 0), (0, 0), (1, 3), (1, 1), (0, 1)]
    names = [f"{index + 1:06d}@Extract/stack{stack}.mrcs" for stack, index in order]
    star = tmp_path / "particles.star"
    star.write_text(star_text(names))
    return star, np.stack([stacks[stack][index] for stack, index in order])
