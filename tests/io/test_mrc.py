"""Image stacks: any order, many files, few of them open, every mode and byte order."""

from __future__ import annotations

import bz2
import gzip
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryorbit import ImageStack, ParticleDataError, read_particles, threads
from cryorbit.io import mrc as mrc_module
from cryorbit.io.headers import read_stack_header
from cryorbit.particles import ImageLocations

from .conftest import write_stack


def locations(paths, count):
    stack = np.repeat(np.arange(len(paths)), count)
    return ImageLocations(tuple(paths), stack, np.tile(np.arange(count), len(paths)))


def test_images_come_in_the_order_asked_for(project):
    star, images = project
    with ImageStack(read_particles(star).locations) as stack:
        assert (len(stack), stack.box_size) == (6, 16)
        for rows in ([0, 1, 2, 3, 4, 5], [5, 0, 0, 3], [2], []):
            np.testing.assert_array_equal(stack.read(rows), images[rows])


def test_the_same_image_is_the_same_file(tmp_path):
    image = np.random.default_rng(0).normal(size=(8, 8))
    for name in ("a", "b"):
        mrc_module.write_image(tmp_path / f"{name}.mrc", image, 2.5)
        time.sleep(1.1)  # mrcfile writes the time into its labels
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()
    np.testing.assert_allclose(mrc_module.read_image(tmp_path / "a.mrc"), image, rtol=1e-6)
    assert mrcfile.validate(tmp_path / "a.mrc")


def open_stacks(folder: Path) -> int:
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.exists() and link.readlink().parent == folder for link in links)


def test_few_files_are_open_at_once(tmp_path):
    images = np.arange(40 * 4, dtype=np.float32).reshape(40, 1, 2, 2)
    paths = [write_stack(tmp_path / f"{i}.mrcs", image) for i, image in enumerate(images)]
    with ImageStack(locations(paths, 1), max_open_files=3) as stack:
        for rows in (range(40), reversed(range(40))):
            rows = list(rows)
            np.testing.assert_array_equal(stack.read(rows), images[rows, 0])
            assert open_stacks(tmp_path) <= 3
    assert open_stacks(tmp_path) == 0


def test_threads_read_from_more_files_than_may_be_open(tmp_path):
    images = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    paths = [write_stack(tmp_path / f"{i}.mrcs", image) for i, image in enumerate(images)]
    draw = np.random.default_rng(1)
    wanted = [draw.integers(40, size=20) for _ in range(200)]
    with ImageStack(locations(paths, 1), max_open_files=2) as stack:
        for rows, found in zip(wanted, threads.mapped(stack.read, wanted, 8), strict=True):
            np.testing.assert_array_equal(found, images[rows, 0])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_modes(tmp_path, dtype):
    images = np.random.default_rng(1).integers(0, 100, (3, 8, 8)).astype(dtype)
    path = write_stack(tmp_path / "a.mrcs", images)
    with ImageStack(locations([path], 3)) as stack:
        np.testing.assert_array_equal(stack.read([2, 0]), images[[2, 0]].astype(np.float32))


def test_big_endian_and_extended_header(tmp_path):
    images = np.random.default_rng(1).normal(size=(3, 8, 8)).astype(">f4")
    path = tmp_path / "a.mrcs"
    with mrcfile.new(path) as mrc:
        mrc.set_data(images)
        mrc.set_extended_header(np.zeros(4, dtype="V20"))
        mrc.set_image_stack()
    with ImageStack(locations([path], 3)) as stack:
        np.testing.assert_array_equal(stack.read([1, 2]), images[1:].astype(np.float32))


def test_damaged_stacks_are_named(tmp_path):
    whole = write_stack(tmp_path / "whole.mrcs", np.ones((3, 8, 8), dtype=np.float32))
    cut = tmp_path / "cut.mrcs"
    cut.write_bytes(whole.read_bytes()[:-100])
    text = tmp_path / "text.mrcs"
    text.write_text("no image at all\n" * 200)
    short = tmp_path / "short.mrcs"
    short.write_bytes(b"x" * 10)
    for path, sentence in (
        (cut, "is truncated: 1692 bytes where its header promises 1792"),
        (text, "is not an MRC"),
        (short, "less than the 1024 of an MRC header"),
        (tmp_path / "absent.mrcs", "does not exist"),
    ):
        with pytest.raises(ParticleDataError, match=sentence) as caught:
            read_stack_header(path)
        assert path.name in str(caught.value)


def test_boxes_must_be_square_and_equal(tmp_path):
    square = write_stack(tmp_path / "a.mrcs", np.ones((1, 8, 8), dtype=np.float32))
    larger = write_stack(tmp_path / "b.mrcs", np.ones((1, 10, 10), dtype=np.float32))
    oblong = write_stack(tmp_path / "c.mrcs", np.ones((1, 8, 10), dtype=np.float32))
    for paths in ([square, larger], [oblong]):
        with pytest.raises(ParticleDataError, match="square boxes of one size"):
            ImageStack(locations(paths, 1))


def compressed(path, suffix):
    squeezed = path.with_name(path.name + suffix)
    squeezed.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}[suffix](path.read_bytes()))
    return squeezed


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_compressed_stacks_are_read(tmp_path, suffix, monkeypatch):
    images = np.random.default_rng(2).normal(size=(3, 4, 8, 8)).astype(np.float32)
    paths = [compressed(write_stack(tmp_path / f"{i}.mrc", image), suffix) for i, image in enumerate(images)]
    # Room for one at a time: what was let go is read again.
    monkeypatch.setattr(mrc_module, "HELD_BYTES", 1)
    order = np.random.default_rng(3).permutation(12)
    with ImageStack(locations(paths, 4)) as stack:
        np.testing.assert_array_equal(stack.read(order), images.reshape(12, 8, 8)[order])
        np.testing.assert_array_equal(stack.read([11, 0]), images.reshape(12, 8, 8)[[11, 0]])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i2", "|u1"])
def test_numpy_arrays_are_stacks(tmp_path, dtype):
    images = np.random.default_rng(1).integers(0, 100, (3, 8, 8)).astype(dtype)
    np.save(tmp_path / "a.npy", images)
    with ImageStack(locations([tmp_path / "a.npy"], 3)) as stack:
        np.testing.assert_array_equal(stack.read([2, 0]), images[[2, 0]].astype(np.float32))


def test_damaged_files_of_other_kinds_are_named(tmp_path):
    whole = write_stack(tmp_path / "whole.mrcs", np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32))
    for suffix in (".gz", ".bz2"):
        squeezed = compressed(whole, suffix)
        squeezed.write_bytes(squeezed.read_bytes()[:-90])
        with (
            pytest.raises(ParticleDataError, match=r"damaged|truncated"),
            ImageStack(locations([squeezed], 3)) as stack,
        ):
            stack.read([2])
    (tmp_path / "no.gz").write_bytes(b"no gzip at all" * 100)
    (tmp_path / "lz.mrcs.xz").write_bytes(b"x" * 2000)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(9))
    np.save(tmp_path / "complex.npy", np.zeros((2, 4, 4), dtype=complex))
    np.save(tmp_path / "fortran.npy", np.zeros((2, 4, 4), order="F"))
    cut = tmp_path / "cut.npy"
    np.save(cut, np.zeros((2, 4, 4)))
    cut.write_bytes(cut.read_bytes()[:-1])
    claims = tmp_path / "claims.npy"
    claims.write_bytes(cut.read_bytes().replace(b"(2, 4, 4)", b"(1000000000, 4, 4)"))
    for name, sentence in (
        ("no.gz", "cannot be read"), ("lz.mrcs.xz", "decompress it"), ("pickled.npy", "never loaded"),
        ("flat.npy", "shape"), ("complex.npy", "not an image stack"), ("fortran.npy", "Fortran"),
        ("cut.npy", "truncated"), ("claims.npy", "truncated"),
    ):  # fmt: skip
        with pytest.raises(ParticleDataError, match=sentence) as caught:
            read_stack_header(tmp_path / name)
        assert name in str(caught.value)
