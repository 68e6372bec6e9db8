"""A .cs file is read by uid and written back with all that it had; its signs are RELION's."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from cryorbit import conventions
from cryorbit.errors import ParticleDataError
from cryorbit.io import read_particles
from cryorbit.io.cryosparc import examine_cs
from cryorbit.io.cryosparc_write import write_cs
from cryorbit.io.mrc import ImageStack

from .conftest import write_stack

N = 12
BLOB = [
    ("blob/path", "S40"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
    ("blob/sign", "<f4"),
]  # fmt: skip
CTF = [
    ("ctf/type", "S9"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"),
    ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"), ("ctf/phase_shift_rad", "<f4"),
    ("ctf/bfactor", "<f4"),
]  # fmt: skip
ALIGNED = [
    ("alignments2D/shift", "<f4", (2,)), ("alignments2D/pose", "<f4"), ("alignments2D/psize_A", "<f4"),
    ("alignments2D/class", "<u4"), ("alignments2D/class_posterior", "<f4"),
]  # fmt: skip


def records(fields, seed=0, n=N):
    """Records of random values, the uids large and in no order."""
    random = np.random.default_rng(seed)
    made = np.zeros(n, dtype=[("uid", "<u8"), *fields])
    made["uid"] = random.permutation(np.arange(n, dtype=np.uint64) * 7 + 2**63)
    for name, *_ in fields:
        if made[name].dtype.kind == "f":
            made[name] = random.uniform(0.5, 2.0, made[name].shape)
    names = made.dtype.names
    if "blob/path" in names:
        made["blob/path"] = [f"J3/extract/mic{i % 3}.mrc".encode() for i in range(n)]
        made["blob/idx"] = np.arange(n) // 3
        made["blob/shape"], made["blob/psize_A"], made["blob/sign"] = 16, 1.5, -1.0
    if "ctf/df1_A" in names:
        made["ctf/df1_A"] = random.uniform(1e4, 2e4, n)
        made["ctf/df2_A"] = made["ctf/df1_A"] - 300
        made["ctf/accel_kv"], made["ctf/cs_mm"], made["ctf/amp_contrast"] = 300, 2.7, 0.1
    if "alignments2D/class" in names:
        made["alignments2D/class"] = np.arange(n) % 4
        made["alignments2D/psize_A"] = 3.0
    return made


def packed(view):
    """Some fields of records, one after the other as a file has them."""
    return view.astype([(name, view.dtype[name]) for name in view.dtype.names])


@pytest.fixture
def job(tmp_path):
    """A job folder with images; gives a function that writes its .cs files."""
    images = np.random.default_rng(5).standard_normal((3, N // 3, 16, 16)).astype(np.float32)
    for number, stack in enumerate(images):
        write_stack(tmp_path / "J3" / "extract" / f"mic{number}.mrc", stack)

    def write(**files):
        (tmp_path / "J7").mkdir(exist_ok=True)
        for name, made in files.items():
            with (tmp_path / "J7" / f"{name}.cs").open("wb") as handle:
                np.save(handle, made)
        return tmp_path / "J7" / f"{next(iter(files))}.cs"

    return write, images


def test_fields_get_relions_names_and_units(job):
    write, images = job
    made = records(BLOB + CTF + ALIGNED)
    table = read_particles(write(J7_particles=made))
    assert table.frame["rlnImageName"].iloc[4] == "000002@J3/extract/mic1.mrc"
    np.testing.assert_allclose(table.psi_deg, np.degrees(made["alignments2D/pose"].astype(float)))
    # Shifts are in pixels of the alignment, not of the images.
    np.testing.assert_allclose(table.numbers(conventions.ORIGIN_X), 3.0 * made["alignments2D/shift"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(table.defocus_u_A, made["ctf/df1_A"], rtol=1e-7)
    np.testing.assert_allclose(
        table.numbers(conventions.DEFOCUS_ANGLE), np.degrees(made["ctf/df_angle_rad"].astype(float)), rtol=1e-7
    )
    assert (table.numbers("rlnClassNumber") == made["alignments2D/class"] + 1).all()
    assert (table.imaging.pixel_size_A == 1.5).all()
    assert (table.imaging.voltage_kV == 300).all()
    with ImageStack(table.locations) as stack:
        np.testing.assert_array_equal(stack.read(np.arange(N)), images.transpose(1, 0, 2, 3).reshape(N, 16, 16))


@pytest.mark.parametrize("seed", [1, 2])
def test_what_passes_through_is_found_by_uid(job, seed):
    write, _ = job
    whole = records(BLOB + CTF + ALIGNED, seed)
    shuffled = np.random.default_rng(seed).permutation(whole)
    main = whole[["uid", *(name for name, *_ in ALIGNED)]]
    rest = shuffled[["uid", *(name for name, *_ in BLOB + CTF)]]
    strangers = records(BLOB + CTF, seed + 9)
    strangers["uid"] += 1
    path = write(
        J7_particles=packed(main),
        J7_passthrough_particles=packed(rest),
        A_passthrough_strangers=strangers,
    )
    joined, alone = read_particles(path), read_particles(write(J7_whole=whole))
    assert joined.frame.equals(alone.frame[list(joined.frame.columns)])
    assert joined.source.document.paths == (path, path.with_name("J7_passthrough_particles.cs"))


def test_a_group_of_results_names_its_files(job):
    write, _ = job
    whole = records(BLOB + CTF)
    path = write(cryosparc_P1_J7_001_particles=whole)
    group = path.with_name("J7_particles.csg")
    group.write_text("results:\n  blob:\n    metafile: '>J7/cryosparc_P1_J7_001_particles.cs'\n    num_items: 12\n")
    assert read_particles(group).frame.equals(read_particles(path).frame)


@pytest.mark.parametrize("fields", [BLOB + CTF + ALIGNED, BLOB + CTF, BLOB])
def test_what_is_not_changed_is_written_byte_for_byte(job, tmp_path, fields):
    write, _ = job
    path = write(J7_particles=records(fields))
    table = read_particles(path)
    write_cs(tmp_path / "same.cs", table)
    assert (tmp_path / "same.cs").read_bytes() == path.read_bytes()
    chosen = table.take([5, 2, 9])
    write_cs(tmp_path / "some.cs", chosen)
    np.testing.assert_array_equal(np.load(tmp_path / "some.cs"), np.load(path)[[5, 2, 9]])


@pytest.mark.parametrize("fields", [BLOB + CTF + ALIGNED, BLOB + CTF, BLOB])
def test_estimates_go_into_cryosparcs_own_fields(job, tmp_path, fields):
    write, _ = job
    before = records(fields)
    table = read_particles(write(J7_particles=before)).take(np.arange(3, N))
    random = np.random.default_rng(8)
    new = {
        conventions.PSI: random.uniform(-180, 180, len(table)),
        conventions.ORIGIN_X: random.normal(0, 5, len(table)),
        conventions.ORIGIN_Y: random.normal(0, 5, len(table)),
        conventions.DEFOCUS_U: random.uniform(1e4, 2e4, len(table)),
        conventions.OUTLIER_PROBABILITY: random.uniform(0, 1, len(table)),
        conventions.SELECT_ZSCORE: random.normal(0, 1, len(table)),
    }
    write_cs(tmp_path / "out.cs", table.with_columns(new))
    after = np.load(tmp_path / "out.cs", allow_pickle=False)
    for name in before.dtype.names:
        kept = (
            name if name not in ("alignments2D/pose", "alignments2D/shift", "ctf/df1_A") else f"cryorbit/input/{name}"
        )
        np.testing.assert_array_equal(after[kept], before[name][3:])
    np.testing.assert_allclose(after["alignments2D/pose"], np.radians(new[conventions.PSI]), atol=1e-6)
    np.testing.assert_allclose(after["cryorbit/outlier_probability"], new[conventions.OUTLIER_PROBABILITY], atol=1e-6)
    # The file that was written says the same as the table that was.
    again = read_particles(tmp_path / "out.cs", check_images=False)
    for name in (conventions.PSI, conventions.ORIGIN_X, conventions.ORIGIN_Y, conventions.DEFOCUS_U):
        np.testing.assert_allclose(again.numbers(name), new[name], rtol=1e-6, atol=1e-4)


def test_a_slot_that_passed_through_is_written_whole(job, tmp_path):
    write, _ = job
    whole = records(BLOB + CTF)
    main, rest = (whole[["uid", *(name for name, *_ in part)]] for part in (BLOB, CTF))
    path = write(
        J7_particles=packed(main),
        J7_passthrough_particles=packed(rest),
    )
    table = read_particles(path)
    write_cs(tmp_path / "out.cs", table.with_columns({conventions.DEFOCUS_U: np.full(N, 12345.0)}))
    after = np.load(tmp_path / "out.cs")
    assert {name for name, *_ in CTF} <= set(after.dtype.names)
    assert (after["ctf/df1_A"] == 12345).all()
    np.testing.assert_array_equal(after["ctf/bfactor"], whole["ctf/bfactor"])


def test_a_defocus_where_there_was_none_comes_with_the_whole_slot(job, tmp_path):
    write, _ = job
    given = [field for field in CTF if field[0] in ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")]
    before = records(BLOB + given)
    before["ctf/accel_kv"], before["ctf/cs_mm"], before["ctf/amp_contrast"] = 200, 1.4, 0.07
    table = read_particles(write(J7_particles=before))
    write_cs(
        tmp_path / "out.cs", table.with_columns({name: np.full(N, 1.5e4) for name in ("rlnDefocusU", "rlnDefocusV")})
    )
    after = np.load(tmp_path / "out.cs")
    np.testing.assert_array_equal(after["ctf/accel_kv"], before["ctf/accel_kv"])
    assert (after["ctf/df2_A"] == 1.5e4).all()
    assert (after["ctf/scale"] == 1).all()
    # Of what nobody said anything, nothing is there.
    for name in ("df_angle_rad", "phase_shift_rad", "tilt_A", "anisomag", "bfactor"):
        assert not after[f"ctf/{name}"].any()


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def _pickled(made):
    array = np.empty(len(made), dtype=[("uid", "<u8"), ("blob/path", object)])
    array["uid"], array["blob/path"] = made["uid"], _Trap()
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _saved(made):
    buffer = io.BytesIO()
    np.save(buffer, made)
    return buffer.getvalue()


def _claiming(made, n):
    head, tail = _saved(made).split(f"({len(made)},)".encode(), 1)
    return head + f"({n},)".encode() + tail


BROKEN = {
    "empty": (lambda _: b"", "begins with b''"),
    "text": (lambda _: b"data_particles\n\nloop_\n", "not a cryoSPARC .cs file"),
    "compressed": (lambda _: b"\x94CSDAT" + bytes(90), "compressed"),
    "truncated": (lambda made: _saved(made)[:-5], "truncated"),
    "a billion records": (lambda made: _claiming(made, 10**9), "truncated"),
    "pickle": (_pickled, "pickled"),
    "bare pickle": (lambda _: pickle.dumps(_Trap()), "not a cryoSPARC .cs file"),
    "half a header": (lambda made: _saved(made)[:20], "not a NumPy array"),
    "plain array": (lambda _: _saved(np.zeros(4)), "records of particles"),
    "no records": (lambda made: _saved(made[:0]), "no particles"),
    "no uid": (lambda made: _saved(np.zeros(3, dtype=[("blob/idx", "<u4")])), "no field uid"),
    "no images": (lambda made: _saved(np.ones(1, dtype=[("uid", "<u8")])), "where the images are"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_named_in_one_sentence(tmp_path, fault):
    content, says = BROKEN[fault]
    path = tmp_path / "broken.cs"
    path.write_bytes(content(records(BLOB + CTF)))
    with pytest.raises(ParticleDataError) as caught:
        read_particles(path)
    assert len(caught.value.problems) == 1
    assert "broken.cs" in caught.value.problems[0]
    assert says in caught.value.problems[0]


def test_all_that_is_wrong_is_said_at_once(job):
    write, _ = job
    made = records(BLOB + CTF)
    made["uid"][1] = made["uid"][0]
    made["ctf/df1_A"][3] = np.nan
    made["blob/psize_A"][2] = 0
    made["blob/path"][4] = b"J3/extract/gone.mrc"
    _, problems = examine_cs(write(J7_particles=made))
    for word in ("uid", "ctf/df1_A", "pixel size", "gone.mrc"):
        assert sum(word in problem for problem in problems) == 1


@pytest.mark.parametrize("name", ["empiar_10076_7.cs", "cryosparc_P12_J24_001_particles.cs"])
def test_files_of_cryosparc_come_out_as_they_were(reference_data, tmp_path, name):
    path = reference_data / "io_samples" / name
    table, problems = examine_cs(path, check_images=name.startswith("empiar"))
    assert not problems
    write_cs(tmp_path / name, table)
    before, after = (np.load(file) for file in (path, tmp_path / name))
    assert before.dtype == after.dtype
    assert before.tobytes() == after.tobytes()
    write_cs(tmp_path / name, table.with_columns({conventions.PSI: np.zeros(len(table))}))
    assert set(before.dtype.names) <= set(np.load(tmp_path / name).dtype.names)
