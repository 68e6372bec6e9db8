"""STAR files come back as they were, and every fault is said in a sentence."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit import ParticleDataError, read_particles, write_particles
from cryorbit.io import star as star_module
from cryorbit.io.star import remarks, write_star

from .conftest import OPTICS, star_text, write_stack

RELION30 = """data_

loop_
_rlnImageName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnMagnification
_rlnDetectorPixelSize
_rlnDefocusU
1@a.mrcs 300 2.7 0.07 38168 5 15301.1
2@a.mrcs 300 2.7 0.07 38168 5 15303.0
"""


def values(path, block):
    """Raw text of every row of a block's loop, split at white space."""
    lines = path.read_text().split(f"data_{block}\n")[1].split("data_")[0].splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith(("_", "#", "loop_"))]


def test_untouched_values_are_byte_identical(project, tmp_path):
    star, _ = project
    write_particles(tmp_path / "out.star", read_particles(star))
    for block in ("optics", "particles"):
        assert values(tmp_path / "out.star", block) == values(star, block)


@pytest.mark.parametrize("name", ["empiar_10076_7", "relion31", "sample_particles_relion31", "trpv1_small_stack"])
def test_real_files_come_out_as_they_were(reference_data, tmp_path, name):
    path = reference_data / "io_samples" / f"{name}.star"
    table = read_particles(path, check_images=False)
    write_particles(tmp_path / "out.star", table.with_columns({"cryorbitWeight": np.arange(len(table))}))
    blocks = re.findall(r"^data_(\S*)", path.read_text(), flags=re.MULTILINE)
    assert blocks
    for block in blocks:
        before, after = values(path, block), values(tmp_path / "out.star", block)
        ours = len(after[0]) - len(before[0])
        assert ours in (0, 1)
        assert [row[: len(row) - ours] for row in after] == before


def test_version_comments_and_other_blocks_survive(project, tmp_path):
    star, _ = project
    star.write_text(
        "# made by hand\r\n# version 50001\n\ndata_general\n\n_rlnJobKind    'two words'\n\n" + star.read_text()
    )
    write_particles(tmp_path / "out.star", read_particles(star))
    text = (tmp_path / "out.star").read_text()
    assert text.count("# version 30001") == 2
    assert text.count("# made by hand\n# version 50001\n\ndata_general\n") == 1
    assert "_rlnJobKind 'two words'" in text


def test_writing_what_was_written_changes_nothing(project, tmp_path):
    star, _ = project
    write_particles(tmp_path / "once.star", read_particles(star))
    write_particles(tmp_path / "twice.star", read_particles(tmp_path / "once.star", check_images=False))
    assert (tmp_path / "once.star").read_bytes() == (tmp_path / "twice.star").read_bytes()


def test_long_tables_are_read_and_written_in_pieces(tmp_path, monkeypatch):
    star = tmp_path / "long.star"
    star.write_text(star_text([f"{i}@Extract/a{i % 3}.mrcs" for i in range(1, 31)]))
    whole = read_particles(star, check_images=False)
    write_particles(tmp_path / "whole.star", whole)
    for size in (1, 7, 30, 31):
        monkeypatch.setattr(star_module, "CHUNK", size)
        pieces = read_particles(star, check_images=False)
        assert pieces.frame.equals(whole.frame)
        write_particles(tmp_path / "pieces.star", pieces)
        assert (tmp_path / "pieces.star").read_bytes() == (tmp_path / "whole.star").read_bytes()


def test_new_columns_follow_the_old_and_another_reader_agrees(project, tmp_path):
    star, _ = project
    table = read_particles(star).with_columns({"cryorbitWeight": np.arange(6) / 7, "rlnDefocusU": np.full(6, 2e4)})
    write_particles(tmp_path / "out.star", table)
    read = starfile.read(tmp_path / "out.star")["particles"]
    assert list(read.columns) == [*starfile.read(star)["particles"].columns, "cryorbitWeight"]
    np.testing.assert_allclose(read["cryorbitWeight"], np.arange(6) / 7, atol=1e-6)
    np.testing.assert_allclose(read["rlnDefocusU"], 2e4)


def test_selection_keeps_rows_and_identity(project, tmp_path):
    table = read_particles(project[0])
    chosen = table.where(np.array([0, 1, 0, 1, 1, 0], dtype=bool))
    assert chosen.ids.tolist() == [1, 3, 4]
    write_particles(tmp_path / "out.star", chosen)
    expected = values(project[0], "particles")
    assert values(tmp_path / "out.star", "particles") == [expected[i] for i in (1, 3, 4)]


def test_a_relion_30_file_gives_its_pixel_size(tmp_path):
    write_stack(tmp_path / "a.mrcs", np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32))
    (tmp_path / "old.star").write_text(RELION30)
    table = read_particles(tmp_path / "old.star")
    np.testing.assert_allclose(table.imaging.pixel_size_A, 5e4 / 38168)
    assert table.source.file_format == "star-3.0"
    write_particles(tmp_path / "out.star", table)
    assert "data_\n" in (tmp_path / "out.star").read_text()
    assert values(tmp_path / "out.star", "") == values(tmp_path / "old.star", "")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text("abc _'\"#é", max_size=6), st.floats(-1e6, 1e6)), min_size=1, max_size=6))
def test_any_table_can_be_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("star") / "table.star"
    frame = pd.DataFrame(rows, columns=["rlnImageName", "rlnValue"])
    write_star(path, {"particles": frame})
    read = read_star_frame(path)
    assert read["rlnImageName"].tolist() == frame["rlnImageName"].tolist()
    np.testing.assert_allclose(pd.to_numeric(read["rlnValue"]), frame["rlnValue"], atol=5e-7)


def read_star_frame(path):
    from gemmi import cif

    block = cif.read(str(path))[0]
    loop = block.find_loop("_rlnImageName").get_loop()
    return pd.DataFrame({tag[1:]: [cif.as_string(v) for v in block.find_loop(tag)] for tag in loop.tags})


def test_remarks_name_what_is_unusual(project):
    star, _ = project
    lines = star.read_text().rstrip("\n").split("\n")
    star.write_bytes("\r\n".join([*lines, lines[-1], "", ""]).encode())
    found = " ".join(remarks(read_particles(star)))
    assert "Windows line ends" in found
    assert "1 rows repeat an image" in found


GROUP = OPTICS.strip().split("\n")[-1]
TWO_GROUPS = OPTICS.replace(GROUP, f"{GROUP}\n{GROUP}")
TWO_TABLES = star_text(["1@a.mrcs"]) + star_text(["2@a.mrcs"], "").replace("particles", "more")
FAULTS = {
    "not STAR": ("hello\nworld\n", "is not a readable STAR file"),
    "no particles": (OPTICS, "holds no particles"),
    "empty table": (star_text([]), "the particle table is empty"),
    "unknown group": (star_text(["1@a.mrcs"], group="7"), "optics group 7 is not in data_optics"),
    "pixel size 0": (star_text(["1@a.mrcs"], OPTICS.replace(" 3.000000", " 0.0")), "the pixel size is 0 A"),
    "no pixel size": (
        star_text(["1@a.mrcs"], OPTICS.replace("_rlnImagePixelSize", "_rlnSomething")), "gives no pixel size",
    ),
    "volts": (star_text(["1@a.mrcs"], OPTICS.replace("300.0", "300000.0")), "_rlnVoltage is 300000 kV;"),
    "negative defocus": (star_text(["1@a.mrcs"], defocus="-5.0"), "_rlnDefocusU is -5 A; expected 1 to 1e+06"),
    "word": (star_text(["1@a.mrcs"], defocus="none"), "_rlnDefocusU is 'none', expected a number"),
    "fraction": (star_text(["1.7@a.mrcs"]), "numbers from 1 on"),
    "exponent": (star_text(["1e0@a.mrcs"]), "numbers from 1 on"),
    "group twice": (star_text(["1@a.mrcs"], TWO_GROUPS), "stands twice"),
    "two tables": (TWO_TABLES, "holds 2 tables"),
    "latin-1": (star_text(["1@a.mrcs"]).replace("mic0", "mik\udce9"), "is not a readable STAR file"),
    "contrast 5": (star_text(["1@a.mrcs"], OPTICS.replace(" 0.100000", " 5.0")), "_rlnAmplitudeContrast is 5;"),
    "index 0": (star_text(["0@a.mrcs"]), "numbers from 1 on"),
    "beyond": (star_text(["9@a.mrcs"]), "a.mrcs holds 2 images"),
    "missing": (star_text(["1@gone.mrcs"]), "point --stack-root"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said_in_a_sentence_that_names_the_file(tmp_path, fault):
    text, sentence = FAULTS[fault]
    write_stack(tmp_path / "a.mrcs", np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32))
    (tmp_path / "bad.star").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ParticleDataError, match=r"bad\.star") as caught:
        read_particles(tmp_path / "bad.star")
    assert sentence in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_faults_are_said_at_once(tmp_path):
    (tmp_path / "bad.star").write_text(star_text(["1@gone.mrcs"], OPTICS.replace("300.0", "300000.0"), defocus="-1"))
    with pytest.raises(ParticleDataError) as caught:
        read_particles(tmp_path / "bad.star")
    assert len(caught.value.problems) == 3


def test_a_moved_project_is_found_with_stack_root(project, tmp_path):
    star, images = project
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    (tmp_path / "Extract").rename(elsewhere / "Extract")
    with pytest.raises(ParticleDataError, match="--stack-root"):
        read_particles(star)
    assert len(read_particles(star, stack_root=elsewhere)) == len(images)


def test_values_of_several_lines_survive(project, tmp_path):
    star, _ = project
    text = star.read_text().replace(" mic0.mrc ", "\n;a note\nof two lines\n;\n", 1)
    star.write_text(text)
    write_particles(tmp_path / "out.star", read_particles(star))
    written = read_particles(tmp_path / "out.star", check_images=False)
    assert written.frame["rlnMicrographName"].iloc[0] == read_particles(star).frame["rlnMicrographName"].iloc[0]


def test_a_value_of_several_lines_outside_a_table_survives(project, tmp_path):
    star, _ = project
    star.write_text("data_job\n_rlnNote\n;a note\nof two lines\n;\n_rlnJob 3\n\n" + star.read_text())
    write_particles(tmp_path / "out.star", read_particles(star))
    write_particles(tmp_path / "again.star", read_particles(tmp_path / "out.star", check_images=False))
    assert "_rlnNote\n;a note\nof two lines\n;\n_rlnJob 3\n" in (tmp_path / "out.star").read_text()
    assert (tmp_path / "again.star").read_bytes() == (tmp_path / "out.star").read_bytes()


@pytest.mark.parametrize("quote", ["'", '"'])
def test_numbers_in_quotation_marks_are_numbers(project, tmp_path, quote):
    star, _ = project
    names = [f"1@Extract/stack{i}.mrcs" for i in range(2)]
    quoted = star_text(names, group=f"{quote}1{quote}", defocus=f"{quote}15000.5{quote}")
    star.write_text(quoted.replace(" 300.000000", f" {quote}300.0{quote}"))
    table = read_particles(star)
    np.testing.assert_array_equal(table.defocus_u_A, 15000.5)
    np.testing.assert_array_equal(table.imaging.voltage_kV, 300)
    write_particles(tmp_path / "out.star", table)
    assert values(tmp_path / "out.star", "particles") == values(star, "particles")
    # One in marks among whole numbers without.
    star.write_text(star_text(names, defocus="15000").replace("15000 ", f"{quote}15000.5{quote} ", 1))
    np.testing.assert_array_equal(read_particles(star).defocus_u_A, [15000.5, 15000])
    star.write_text(quoted.replace("15000.5", "far"))
    with pytest.raises(ParticleDataError, match="expected a number"):
        read_particles(star)
