"""Image stacks: any order, many files, few of them open, every mode and byte order."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryorbit import ImageStack, ParticleDataError, read_particles
from cryorbit.io.mrc import read_stack_header
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
