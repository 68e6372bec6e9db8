"""A run on a cryoSPARC job gives what a run on the same particles of RELION gives, in cryoSPARC's own terms."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import numpy.lib.recfunctions
import pytest

from cryorbit import conventions, read_particles, rerun, run, write_particles
from cryorbit.classified import classify
from cryorbit.errors import ParticleDataError, RunFolderError
from cryorbit.io.inspection import inspect_particles
from cryorbit.rows import Rows
from cryorbit.selection import Choice, export

from .pipeline_sets import class_config, many_views, tiny_config, tiny_set


def as_records(star):
    """The particles of a STAR file as cryoSPARC would have them."""
    table = read_particles(star)
    n = len(table)
    fields = [
        ("uid", "<u8"), ("blob/path", "S80"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
        ("blob/sign", "<f4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"),
        ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"), ("ctf/phase_shift_rad", "<f4"),
        ("location/exp_group_id", "<u4"),
    ]  # fmt: skip
    made = np.zeros(n, dtype=fields)
    made["uid"] = np.random.default_rng(0).permutation(np.arange(n, dtype=np.uint64) * 11 + 2**63)
    made["blob/path"] = [b">" + star.with_name("particles.mrcs").name.encode()] * n
    made["blob/idx"], made["blob/sign"] = table.locations.slice_index, 1
    made["blob/psize_A"], made["ctf/accel_kv"] = table.imaging.pixel_size_A, table.imaging.voltage_kV
    made["ctf/cs_mm"], made["ctf/amp_contrast"] = table.imaging.cs_mm, table.imaging.amplitude_contrast
    made["ctf/df1_A"], made["ctf/df2_A"] = table.defocus_u_A, table.defocus_v_A
    made["location/exp_group_id"] = 7
    return made


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Runs on a STAR file and on the same particles as a .cs file."""
    folder = tmp_path_factory.mktemp("cs")
    star = tiny_set(folder / "set")
    records = star.with_name("J3_particles.cs")
    with records.open("wb") as handle:
        np.save(handle, as_records(star))
    runs = [run(path, folder / name, tiny_config()) for path, name in ((star, "star"), (records, "cs"))]
    return records, *runs


def test_the_estimates_are_the_same(both):
    _, of_star, of_records = both
    # A .cs file has fewer digits: of voltage, contrast and pixel size too.
    for name, error in (("psi_deg", 0.01), ("defocus_um", 1e-3), ("outlier_probability", 0.05), ("kept", 0)):
        one, other = (result.estimates[name].astype(float) for result in (of_records, of_star))
        np.testing.assert_allclose(one, other, rtol=0, atol=error)


def test_the_files_are_cryosparcs(both):
    records, of_star, of_records = both
    before, folder = np.load(records), of_records.folder
    after = np.load(folder / "particles.cs", allow_pickle=False)
    for name in before.dtype.names:
        kept = f"cryorbit/input/{name}" if f"cryorbit/input/{name}" in after.dtype.names else name
        np.testing.assert_array_equal(after[kept], before[name])
    star = of_star.particles
    degrees = np.degrees(after["alignments2D/pose"])
    assert np.abs(conventions.wrap_deg(degrees - star.psi_deg)).max() < 1e-2
    origin_A = after["alignments2D/shift"] * after["alignments2D/psize_A"][:, None]
    np.testing.assert_allclose(origin_A[:, 0], star.numbers(conventions.ORIGIN_X), atol=1e-2)
    parts = [np.load(folder / f"particles_{part}.cs")["uid"] for part in ("kept", "dropped")]
    assert sorted(np.concatenate(parts)) == sorted(before["uid"])
    assert not list(folder.glob("*.star"))


@pytest.mark.parametrize("passed", [("blob",), ("ctf", "location"), ("blob", "ctf", "location")])
def test_what_passed_through_the_job_is_in_the_result(both, tmp_path, passed):
    records, _, _ = both
    whole, n = np.load(records), 60
    shutil.copy(records.with_name("particles.mrcs"), tmp_path)
    through = [name for name in whole.dtype.names if name.split("/")[0] in passed]
    own = [name for name in whole.dtype.names if name not in through]
    if own == ["uid"]:
        own.append("alignments2D/class")
        whole = np.lib.recfunctions.append_fields(whole, own[1], np.zeros(len(whole), "<u4"), usemask=False)
    for name, fields in (("J3_particles.cs", own), ("J3_passthrough_particles.cs", ["uid", *through])):
        part = np.lib.recfunctions.repack_fields(whole[fields])
        with (tmp_path / name).open("wb") as handle:
            np.save(handle, part[::-1] if "through" in name else part)
    # Others of the folder, empty or damaged, are no matter.
    (tmp_path / "J3_passthrough_particles_excluded.cs").write_bytes(b"")
    config = tiny_config(estimation={"defocus_prior": "given"})
    result = run(tmp_path / "J3_particles.cs", tmp_path / "run", config, until="estimate", latent=False)
    after = np.load(result.folder / "particles.cs")
    assert len(after) == n
    for name in whole.dtype.names:
        kept = f"cryorbit/input/{name}" if f"cryorbit/input/{name}" in after.dtype.names else name
        np.testing.assert_array_equal(after[kept], whole[name])
    export(result.folder, tmp_path / "good.star")
    star = read_particles(tmp_path / "good.star")
    np.testing.assert_allclose(star.imaging.voltage_kV, 300)
    assert star.has_defocus
    assert rerun(result.folder, "report").report.is_file()


def test_what_is_read_back_is_what_was_found(both):
    _, of_star, of_records = both
    one, other = of_records.particles, of_star.particles
    ours = [name for name in other.frame.columns if name.startswith("cryorbit") and "Input" not in name]
    assert {"cryorbitOutlierProbability", "cryorbitAnglePsiStd", "cryorbitWeight"} <= set(ours)
    # Of junk nothing is known well: there fewer digits of the defocus tell.
    good = of_star.estimates["kept"].to_numpy()
    for name in (*ours, conventions.SELECT_ZSCORE):
        np.testing.assert_allclose(one.numbers(name)[good], other.numbers(name)[good], rtol=0.02, atol=0.02)
        assert np.isfinite(one.numbers(name)).all()
    np.testing.assert_allclose(one.numbers("cryorbitInputDefocusU"), other.numbers("cryorbitInputDefocusU"), rtol=1e-6)


def test_records_that_changed_are_refused(both, tmp_path):
    records, _, _ = both
    shutil.copytree(records.parent, tmp_path / "job")
    moved = tmp_path / "job" / records.name
    (tmp_path / "job" / "J3.csg").write_text(f"metafile: '>{records.name}'\n")
    run(tmp_path / "job" / "J3.csg", tmp_path / "run", tiny_config(), until="estimate", latent=False)
    changed = np.load(moved)[::-1].copy()
    with moved.open("wb") as handle:
        np.save(handle, changed)
    with pytest.raises(ParticleDataError, match="has changed"):
        rerun(tmp_path / "run", "estimate")


def test_stages_are_done_again_and_the_page_is_drawn_again(both):
    _, _, of_records = both
    again = rerun(of_records.folder, "estimate")
    np.testing.assert_array_equal(again.particles.psi_deg, of_records.particles.psi_deg)
    assert rerun(of_records.folder, "report").report.is_file()


def test_a_cs_file_is_inspected(both):
    records, _, _ = both
    found = inspect_particles(records)
    assert not found.problems
    assert any("cryosparc" in fact for fact in found.facts)


def test_particles_of_a_cs_run_are_exported_as_either(both, tmp_path):
    _, of_star, of_records = both
    one = export(of_records.folder, tmp_path / "a.cs")
    assert export(of_records.folder, tmp_path / "a.star").written == one.written
    uids = np.load(tmp_path / "a.cs")["uid"]
    star = read_particles(tmp_path / "a.star")
    assert list(star.frame["cryosparcUid"]) == [str(uid) for uid in uids]
    # RELION reads the same optics and the same estimates from it.
    first = of_star.particles
    np.testing.assert_allclose(star.imaging.pixel_size_A, first.imaging.pixel_size_A[0], rtol=1e-6)
    kept = of_star.estimates["kept"].to_numpy()
    np.testing.assert_allclose(star.numbers("rlnAnglePsi"), first.psi_deg[kept], atol=0.02)
    assert {"rlnParticleSelectZScore", "cryorbitOutlierProbability"} <= set(star.frame.columns)


def run_on_mrc(records, folder):
    """A run on the same job with its stack called ``.mrc``, in ``folder / "run"``."""
    shutil.copytree(records.parent, folder / "job")
    shutil.move(folder / "job" / "particles.mrcs", folder / "job" / "particles.mrc")
    made = np.load(folder / "job" / records.name)
    made["blob/path"] = b">particles.mrc"
    with (folder / "job" / records.name).open("wb") as handle:
        np.save(handle, made)
    run(folder / "job" / records.name, folder / "run", tiny_config(), until="estimate", latent=False)


def test_stacks_that_do_not_end_in_mrcs_are_linked_for_relion(both, tmp_path):
    records, _, _ = both
    run_on_mrc(records, tmp_path)
    export(tmp_path / "run", tmp_path / "good.star")
    table = read_particles(tmp_path / "good.star")
    (link,) = table.locations.stacks
    # Of a run elsewhere, written in its place: the former file, moved aside, still has its own images.
    shutil.copytree(tmp_path / "job", tmp_path / "other")
    run(tmp_path / "other" / records.name, tmp_path / "run2", tiny_config(), until="estimate", latent=False)
    export(tmp_path / "run2", tmp_path / "good.star", overwrite=True)
    (then,) = read_particles(tmp_path / "good.star").locations.stacks
    assert then.resolve() == (tmp_path / "other" / "particles.mrc").resolve()
    (aside,) = tmp_path.glob("good.star.old-*")
    assert str(link) in aside.read_text()
    assert link.suffix == ".mrcs"
    assert link.resolve() == (tmp_path / "job" / "particles.mrc").resolve()
    if shutil.which("relion_stack_create") is not None:
        command = ["relion_stack_create", "--i", str(tmp_path / "good.star"), "--o", str(tmp_path / "theirs")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_input_of_a_run_is_never_replaced(both):
    records, _, of_records = both
    before = records.read_bytes()
    with pytest.raises(RunFolderError, match="was read from"):
        export(of_records.folder, records, overwrite=True)
    assert records.read_bytes() == before


def test_a_file_of_the_user_is_no_link(both, tmp_path):
    records, _, _ = both
    run_on_mrc(records, tmp_path)
    export(tmp_path / "run", tmp_path / "good.star")
    (link,) = (tmp_path / "good_stacks").iterdir()
    link.unlink()
    link.write_text("mine")
    with pytest.raises(RunFolderError, match="choose another place"):
        export(tmp_path / "run", tmp_path / "good.star", overwrite=True)
    assert link.read_text() == "mine"


def test_a_selection_made_of_an_exported_star_file_comes_back_by_uid(both, tmp_path):
    """RELION chose among the particles of a .cs run; cryoSPARC goes on with them."""
    _, _, of_records = both
    export(of_records.folder, tmp_path / "all.star", Choice("all"))
    table = read_particles(tmp_path / "all.star", check_images=False)
    chosen = table.take([40, 3, 17]).with_columns(
        {"rlnImageName": [f"{i}@Extract/job007/again.mrcs" for i in (1, 2, 3)]}
    )
    write_particles(tmp_path / "chosen.star", chosen)
    export(of_records.folder, tmp_path / "chosen.cs", Choice(selection=tmp_path / "chosen.star"))
    assert sorted(map(str, np.load(tmp_path / "chosen.cs")["uid"])) == sorted(chosen.frame["cryosparcUid"])
    export(of_records.folder, tmp_path / "rest.cs", Choice(selection=tmp_path / "chosen.cs", complement=True))
    assert len(np.load(tmp_path / "rest.cs")) == 57


def test_conditions_may_name_cryosparcs_fields(both, tmp_path):
    """Classes count from 0 there, and from 1 in the column that RELION has for them."""
    records, _, _ = both
    whole = np.load(records)
    whole = np.lib.recfunctions.append_fields(
        whole, "alignments2D/class", np.arange(60, dtype="<u4") % 4, usemask=False
    )
    with (tmp_path / "J4.cs").open("wb") as handle:
        np.save(handle, whole)
    shutil.copy(records.with_name("particles.mrcs"), tmp_path)
    for text in ("alignments2D/class=0,2", "rlnClassNumber=1,3"):
        np.testing.assert_array_equal(
            Rows((text,)).read(tmp_path / "J4.cs").ids, np.flatnonzero(np.arange(60) % 2 == 0)
        )
    assert len(Rows(("blob/path!=other.mrcs", "uid>0")).read(tmp_path / "J4.cs")) == 60
    # Uids are more than a float can tell apart.
    uid = int(whole["uid"][9])
    whole["uid"][10] = uid + 1
    whole = np.lib.recfunctions.append_fields(whole, "blob/good", np.arange(60) % 3 == 0, usemask=False)
    with (tmp_path / "J4.cs").open("wb") as handle:
        np.save(handle, whole)
    assert Rows((f"uid={uid}",)).read(tmp_path / "J4.cs").ids.tolist() == [9]
    assert len(Rows((f"uid!={uid},{uid + 1}",)).read(tmp_path / "J4.cs")) == 58
    assert (
        len(Rows(("blob/good",)).read(tmp_path / "J4.cs")) == len(Rows(("blob/good=1",)).read(tmp_path / "J4.cs")) == 20
    )
    with pytest.raises(ParticleDataError, match=r"no column _blob/shape .*blob/idx"):
        Rows(("blob/shape=48",)).read(tmp_path / "J4.cs")
    # Two records of one uid, of which none is chosen.
    whole["uid"][7], whole["alignments2D/class"][6] = whole["uid"][6], 3
    whole["ctf/df1_A"][7] = -1.0
    with (tmp_path / "J4.cs").open("wb") as handle:
        np.save(handle, whole)
    with pytest.raises(ParticleDataError, match="particle 8: ctf/df1_A is -1 A"):
        Rows(("alignments2D/class=3,2",)).read(tmp_path / "J4.cs")
    assert len(Rows(("alignments2D/class=1",)).read(tmp_path / "J4.cs")) == 15


def test_classes_of_a_job_are_in_its_own_fields(tmp_path):
    star = many_views(tmp_path / "set", images=60)
    records = star.with_name("J3_particles.cs")
    with records.open("wb") as handle:
        np.save(handle, as_records(star))
    result = classify(records, tmp_path / "out", class_config(2, classification={"mirror": "tied"}))
    written = np.load(tmp_path / "out" / "particles.cs")
    assert written["alignments2D/class"].dtype == np.uint32
    np.testing.assert_array_equal(written["alignments2D/class"] + 1, result.estimates["class"])
    np.testing.assert_array_equal(written["cryorbit/mirrored"] > 0.5, result.estimates["mirrored"])
    np.testing.assert_allclose(written["cryorbit/class_probability"], result.estimates["class_probability"], atol=1e-5)
    one = read_particles(tmp_path / "out" / "particles_kept.cs")
    assert Rows(("rlnClassNumber=1",)).of(one).numbers("rlnClassNumber", 0.0).tolist() == [1.0] * int(
        (result.estimates["kept"] & (result.estimates["class"] == 1)).sum()
    )
