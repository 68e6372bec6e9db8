"""Tables of measured defoci: every usual spelling, and one sentence for what is wrong."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from cryorbit.errors import ParticleDataError
from cryorbit.io.defocus_table import read_defocus_um

STAR = """
data_particles

loop_
_rlnMicrographName #1
_rlnDefocusU #2
_rlnDefocusV #3
a.mrc 10000.0 12000.0
b.mrc 20000.0 20000.0
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "defocusU_A,defocusV_A,angle_deg\n10000,12000,3\n20000,20000,4\n"),
        ("t.csv.gz", "defocusU,defocusV\n10000,12000\n20000,20000\n"),
        ("t.csv", "rlnDefocusV, rlnDefocusU\n12000,10000\n20000,20000\n"),
        ("t.csv", "_rlnDefocusU\n11000\n20000\n"),
        ("t.star", STAR),
    ],
)
def test_reads_every_usual_table(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    np.testing.assert_allclose(read_defocus_um(path), [1.1, 2.0])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "a,b\n1,2\n", "no column of defoci"),
        ("t.csv", "", "cannot be read"),
        ("t.csv", "defocusU,defocusV\n10000,abc\n20000,20000\n", "row 1: the defocus is 10000, abc"),
        ("t.csv", "defocusU\n-10000\n20000\n", "positive for underfocus"),
        ("t.csv", "defocusU\n20000\n20000\n", "the same"),
        ("t.csv.gz", "not compressed", "cannot be read"),
        ("t.star", "nonsense", "not a readable STAR"),
        ("t.star", "data_\n_rlnFoo 1\n", "no column of defoci"),
    ],
)
def test_says_what_is_wrong(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ParticleDataError, match=said) as caught:
        read_defocus_um(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ParticleDataError, match="does not exist"):
        read_defocus_um(tmp_path / "none.csv")
