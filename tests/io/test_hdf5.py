"""HDF5 files of images with RELION's labels, as the paper's, give what the same particles give from a STAR file."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest

from cryorbit import ImageStack, ParticleDataError, read_particles, run, write_particles
from cryorbit.estimation.truth import read_truth
from cryorbit.io.mrc import stack_header
from cryorbit.rows import Rows
from cryorbit.selection import Choice, export

from ..pipeline_sets import tiny_config, tiny_set

LABELS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnMicrographName")


def as_hdf5(star, path, group="", underscore="_", **storage):
    """The particles of a STAR file as an HDF5 file."""
    table = read_particles(star)
    with ImageStack(table.locations) as stack:
        images = stack.read(np.arange(len(table)))
    with h5py.File(path, "w") as file:
        into = file.require_group(group) if group else file
        into.create_dataset("particles", data=images, **storage)
        for name in LABELS:
            if name in table:
                text = table.frame[name]
                into[underscore + name] = text.astype(float) if name != LABELS[-1] else text.astype(str).to_list()
        for name, values in (
            ("rlnImagePixelSize", table.imaging.pixel_size_A), ("rlnVoltage", table.imaging.voltage_kV),
            ("rlnSphericalAberration", table.imaging.cs_mm),
            ("rlnAmplitudeContrast", table.imaging.amplitude_contrast),
        ):  # fmt: skip
            into[underscore + name] = values
    return images


@pytest.mark.parametrize(
    ("group", "underscore", "storage"),
    [("", "_", {}), ("", "", {"chunks": (3, 48, 48), "compression": "gzip"}), ("set/one", "_", {"dtype": "f2"})],
)
def test_images_and_labels(tmp_path, group, underscore, storage):
    star = tiny_set(tmp_path / "set", images=25)
    images = as_hdf5(star, tmp_path / "a.h5", group, underscore, **storage)
    table, expected = read_particles(tmp_path / "a.h5"), read_particles(star)
    for name in LABELS:
        if name in expected:
            assert name in table
    np.testing.assert_allclose(table.defocus_u_A, expected.defocus_u_A)
    np.testing.assert_array_equal(table.imaging.pixel_size_A, expected.imaging.pixel_size_A)
    assert stack_header(tmp_path / "a.h5").images == 25
    with ImageStack(table.locations) as stack:
        for rows in ([0, 1, 2], [24, 3, 3, 0], []):
            read = stack.read(rows)
            assert read.dtype == np.float32
            np.testing.assert_allclose(read, images[rows], rtol=2e-3 if "dtype" in storage else 0, atol=2e-3)


def test_a_run_gives_what_it_gives_from_a_star_file(tmp_path):
    star = tiny_set(tmp_path / "set", images=60)
    as_hdf5(star, tmp_path / "a.hdf5")
    first, then = (
        run(path, tmp_path / name, tiny_config(), until="estimate", latent=False)
        for path, name in ((star, "star"), (tmp_path / "a.hdf5", "hdf5"))
    )
    np.testing.assert_allclose(then.particles.psi_deg, first.particles.psi_deg, atol=1e-3)
    # The result is a STAR file that says where each image is, and is read back with them.
    written = read_particles(tmp_path / "hdf5" / "particles.star")
    assert len(written) == 60
    with ImageStack(written.locations) as stack, ImageStack(read_particles(star).locations) as other:
        np.testing.assert_array_equal(stack.read([5, 50]), other.read([5, 50]))
    np.testing.assert_array_equal(written.imaging.voltage_kV, read_particles(star).imaging.voltage_kV)


def test_links_to_other_files_are_not_followed(tmp_path):
    star = tiny_set(tmp_path / "set", images=25)
    as_hdf5(star, tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["particles"] = h5py.ExternalLink(str(tmp_path / "a.h5"), "particles")
    with pytest.raises(ParticleDataError, match="expected one data set of images"):
        read_particles(tmp_path / "b.h5")


def test_without_h5py_it_is_said_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ParticleDataError, match=r"pip install 'cryorbit\[hdf5\]'"):
        read_particles(tmp_path / "a.h5")


@pytest.mark.parametrize("chunks", [(1, 64, 64), (1, 32, 64), (10**7, 64, 64)])
def test_what_was_never_written_takes_no_memory(tmp_path, chunks):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = file.create_dataset("images", shape=(10**8, 64, 64), dtype="f4", chunks=chunks)
        if chunks[0] == 1:
            images[0] = 1.0
    with pytest.raises(ParticleDataError, match="does not hold all"):
        read_particles(tmp_path / "a.h5")


def test_the_names_that_images_had_lead_to_their_truth(tmp_path):
    """A STAR file of the same particles is a truth, or a selection, of a run on an HDF5 file."""
    star = tiny_set(tmp_path / "set", images=40)
    as_hdf5(star, tmp_path / "a.h5")
    order = np.random.default_rng(3).permutation(40)
    names = read_particles(star).frame["rlnImageName"].to_list()
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["_rlnImageName"] = names
    shuffled = read_particles(star.with_name("truth.star"), check_images=False).take(order)
    write_particles(tmp_path / "truth.star", shuffled)
    result = run(tmp_path / "a.h5", tmp_path / "run", tiny_config(), truth=tmp_path / "truth.star", latent=False)
    assert list(result.particles.frame["cryorbitInputImageName"]) == names
    truth = read_truth(tmp_path / "truth.star", result.particles)
    np.testing.assert_array_equal(truth.psi_deg[order], shuffled.psi_deg)
    chosen = export(result.folder, tmp_path / "out.star", Choice(selection=tmp_path / "truth.star"))
    assert chosen.written == 40


def test_yes_and_no_are_numbers(tmp_path):
    star = tiny_set(tmp_path / "set", images=25)
    as_hdf5(star, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["_rlnCtfDataArePhaseFlipped"] = np.ones(25, dtype=bool)
    with pytest.raises(ParticleDataError, match="flipping phases"):
        read_particles(tmp_path / "a.h5")
    assert (
        Rows(("rlnCtfDataArePhaseFlipped=1",)).of(read_particles(tmp_path / "a.h5", check_images=False)).ids.size == 25
    )
