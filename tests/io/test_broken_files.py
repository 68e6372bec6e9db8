"""A corpus of broken inputs, one for each kind of fault: each ends with exit code 2 and a sentence that names it."""

from __future__ import annotations

import bz2
import gzip
import pickle
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ..cli.test_cli import call
from .conftest import OPTICS, PARTICLES, write_stack
from .test_cryosparc import BLOB, CTF, records

N, BOX = 24, 16
HEADER = 1024
TABLE = PARTICLES + "1@Extract/a.mrcs m 1e4 1e4 0 1\n\n"
Fault = Callable[[Path], Path | None]


def sound(folder: Path) -> Path:
    """A small project without faults."""
    images = np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype(np.float32)
    write_stack(folder / "Extract" / "a.mrcs", images)
    rows = [f"{i + 1:06d}@Extract/a.mrcs mic{i // 6}.mrc 15000.0 14500.0 12.0 1" for i in range(N)]
    star = folder / "particles.star"
    star.write_text(OPTICS + PARTICLES + "\n".join(rows) + "\n\n")
    return star


def text(old: str, new: str, count: int = 1) -> Fault:
    """The STAR file with something replaced."""

    def do(folder: Path) -> None:
        star = folder / "particles.star"
        before = star.read_text()
        assert old in before
        star.write_text(before.replace(old, new, count))

    return do


def flagged(column: str) -> Fault:
    """A column of the optics table that is 1."""
    last, row = "_rlnImagePixelSize #6\n", OPTICS.rstrip().splitlines()[-1]
    return text(f"{last}{row}\n", f"{last}_{column} #7\n{row} 1\n")


def whole(content: bytes, name: str = "particles.star") -> Fault:
    """Another file altogether."""

    def do(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return do


def header(offset: int, kind: str, *values: float) -> Fault:
    """The stack with other numbers in its header."""

    def do(folder: Path) -> None:
        stack = folder / "Extract" / "a.mrcs"
        data = bytearray(stack.read_bytes())
        struct.pack_into(kind, data, offset, *values)
        stack.write_bytes(data)

    return do


def stack(change: Callable[[bytes], bytes], name: str = "a.mrcs") -> Fault:
    """The stack with other bytes, perhaps under another name."""

    def do(folder: Path) -> None:
        path = folder / "Extract" / "a.mrcs"
        data = change(path.read_bytes())
        path.unlink()
        (folder / "Extract" / name).write_bytes(data)
        star = folder / "particles.star"
        star.write_text(star.read_text().replace("Extract/a.mrcs", f"Extract/{name}"))

    return do


def images(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """Other images in the stack."""

    def do(folder: Path) -> None:
        path = folder / "Extract" / "a.mrcs"
        before = np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype(np.float32)
        path.unlink()
        write_stack(path, change(before))

    return do


def one_is(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(before: np.ndarray) -> np.ndarray:
        before[3] = value
        return before

    return change


def second_stack(height: int, width: int) -> Fault:
    """Half of the particles in a stack of another size."""

    def do(folder: Path) -> None:
        write_stack(folder / "Extract" / "b.mrcs", np.ones((N, height, width), dtype=np.float32))
        star = folder / "particles.star"
        star.write_text(star.read_text().replace("000002@Extract/a.mrcs", "000002@Extract/b.mrcs"))

    return do


def npy(array: np.ndarray, **options: object) -> Fault:
    """The stack as a NumPy array."""

    def do(folder: Path) -> None:
        np.save(folder / "Extract" / "a.npy", array, **options)
        star = folder / "particles.star"
        star.write_text(star.read_text().replace("a.mrcs", "a.npy"))

    return do


def cs(change: Callable[[np.ndarray], np.ndarray | bytes]) -> Fault:
    """A .cs file instead."""

    def do(folder: Path) -> Path:
        made = records(BLOB + CTF, n=N)
        made["blob/path"], made["blob/idx"] = b"Extract/a.mrcs", np.arange(N)
        changed, path = change(made), folder / "particles.cs"
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            with path.open("wb") as handle:
                np.save(handle, changed)
        return path

    return do


def with_value(field: str, row: int, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(made: np.ndarray) -> np.ndarray:
        made[field][row] = value
        return made

    return change


def without(field: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(made: np.ndarray) -> np.ndarray:
        kept = [name for name in made.dtype.names if name != field]
        return np.asarray(made[kept]).astype([(name, made.dtype[name]) for name in kept])

    return change


NPY_START = b"\x93NUMPY\x01\x00\x76\x00"
NEGATIVE_SHAPE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4, 4), }" + b" " * 55


def scratched(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(64) + data[at + 64 :]


def of_kind(field: str, *kind: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(made: np.ndarray) -> np.ndarray:
        fields = [(name, *kind) if name == field else (name, made.dtype[name]) for name in made.dtype.names]
        other = np.zeros(len(made), dtype=fields)
        for name in made.dtype.names:
            if name != field:
                other[name] = made[name]
        return other

    return change


def as_signed(made: np.ndarray) -> np.ndarray:
    return made.astype([(name, "<i8" if name == "blob/idx" else made.dtype[name]) for name in made.dtype.names])


def remove(folder: Path) -> None:
    (folder / "particles.star").unlink()


def a_folder(folder: Path) -> Path:
    return folder / "Extract"


def long_name(folder: Path) -> None:
    text("Extract/a.mrcs", "Extract/" + "a" * 3000 + ".mrcs")(folder)


def stack_is_folder(folder: Path) -> None:
    (folder / "Extract" / "a.mrcs").unlink()
    (folder / "Extract" / "a.mrcs").mkdir()


def gone_folder(folder: Path) -> None:
    shutil.rmtree(folder / "Extract")


def hdf5(make: Callable[[Any], None], change: Callable[[bytes], bytes] = bytes) -> Fault:
    """An HDF5 file instead."""

    def do(folder: Path) -> Path:
        path = folder / "particles.h5"
        with h5py.File(path, "w") as file:
            file["particles"] = np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype(np.float32)
            file["_rlnImagePixelSize"] = np.full(N, 3.0)
            file["_rlnDefocusU"] = np.full(N, 15000.0)
            make(file)
        path.write_bytes(change(path.read_bytes()))
        return path

    return do


def with_label(name: str, values: Any) -> Callable[[Any], None]:
    def make(file: Any) -> None:
        file.pop(name, None)
        file[name] = values

    return make


def only_labels(file: Any) -> None:
    del file["particles"]


def claiming_a_billion(file: Any) -> None:
    del file["particles"]
    file.create_dataset("particles", shape=(10**9, 64, 64), dtype="f4", chunks=(1, 64, 64))


def two_stacks(file: Any) -> None:
    file.move("particles", "a")
    file["b"] = file["a"][:]


FAULTS: dict[str, tuple[Fault, str]] = {
    # The file as a whole.
    "no such file": (remove, "does not exist"),
    "a folder": (a_folder, "folder"),
    "empty file": (whole(b""), "no particles"),
    "white space": (whole(b"\n\n  \n"), "no particles"),
    "prose": (whole(b"Dear diary, today I picked particles.\n" * 9), "not a readable STAR file"),
    "binary": (whole(bytes(range(256)) * 20), "not a readable STAR file"),
    "an image as a STAR file": (whole(b"\0" * 2048), "not a readable STAR file"),
    "a pickle": (whole(pickle.dumps({"a": 1})), "not a readable STAR file"),
    "HTML": (whole(b"<html><body>404 Not Found</body></html>"), "not a readable STAR file"),
    "compressed STAR": (whole(gzip.compress(b"data_particles")), "not a readable STAR file"),
    "only optics": (whole(OPTICS.encode()), "no particles"),
    "micrographs": (whole(b"data_micrographs\nloop_\n_rlnMicrographName #1\nm.mrc\n"), "no particles"),
    "no rows": (whole((OPTICS + PARTICLES).encode()), "empty"),
    "two tables of particles": (whole((OPTICS + TABLE + TABLE.replace("data_p", "data_q")).encode()), "2 tables"),
    "two tables of one name": (
        whole((OPTICS + TABLE + TABLE).encode()), "STAR",
    ),
    "letters that are not UTF-8": (whole((OPTICS + TABLE).encode().replace(b" m ", b" 'm\xe9m' ")), "UTF-8"),
    "cut in the middle of a row": (text("000024@Extract/a.mrcs mic3.mrc 15000.0 14500.0 12.0 1", "000024@Ext"), "STAR"),
    "a value too many": (text("mic2.mrc 15000.0", "mic2.mrc 15000.0 7"), "STAR"),
    "a value missing": (text("mic2.mrc 15000.0", "mic2.mrc"), "STAR"),
    "a column twice": (text("_rlnMicrographName #2", "_rlnDefocusU #2"), "STAR"),
    "another spelling": (text("_rlnImageName", "_rlnimagename"), "spelt"),
    "an open quotation": (text("mic2.mrc", "'mic2.mrc"), "STAR"),
    "unknown suffix": (whole(b"1 2 3\n", "particles.txt"), "particles.txt"),
    # Columns and values.
    "no image names": (text("_rlnImageName", "_rlnImageNamed"), "no particles"),
    "an image name without a number": (text("000003@Extract", "x@Extract"), "expected 'number@stack'"),
    "image number 0": (text("000003@Extract", "000000@Extract"), "expected 'number@stack'"),
    "a negative image number": (text("000003@Extract", "-3@Extract"), "expected 'number@stack'"),
    "a huge image number": (text("000003@Extract", "99999999999999999999@Extract"), "expected 'number@stack'"),
    "an image beyond the stack": (text("000003@Extract", "000025@Extract"), "does not exist"),
    "a defocus that is a word": (text("15000.0", "deep"), "expected a number"),
    "a defocus that is not a number": (text("15000.0", "nan"), "expected a number"),
    "an infinite defocus": (text("15000.0", "inf"), "expected a number"),
    "a negative defocus": (text("15000.0", "-15000.0"), "underfocus"),
    "a defocus in micrometres": (text("15000.0", "0.9"), "Angstrom"),
    "an angle that is a word": (text("14500.0 12.0 1", "14500.0 north 1"), "expected a number"),
    "no pixel size": (text("_rlnImagePixelSize", "_rlnPixelWidth"), "pixel size"),
    "pixel size 0": (text("0.100000 3.000000", "0.100000 0.000000"), "pixel size"),
    "a negative pixel size": (text("0.100000 3.000000", "0.100000 -3.0"), "pixel size"),
    "a pixel size that is a word": (text("0.100000 3.000000", "0.100000 small"), "expected a number"),
    "voltage in volts": (text("300.000000", "300000.0"), "300 kV is written 300"),
    "amplitude contrast in per cent": (text("0.100000 3", "10.0 3"), "fraction"),
    "an unknown optics group": (text("12.0 1", "12.0 7"), "optics group 7"),
    "an optics group twice": (text("1 opticsGroup1", "1 opticsGroup1 300 2.7 0.1 3.0\n1 opticsGroup1"), "stands twice"),
    "images multiplied by their CTF": (flagged("rlnCtfDataAreCtfPremultiplied"), "extract them again"),
    "phases flipped": (flagged("rlnCtfDataArePhaseFlipped"), "extract them again"),
    # Stacks.
    "a stack that is gone": (text("Extract/a.mrcs", "Extract/b.mrcs"), "do not exist"),
    "a folder of stacks that is gone": (gone_folder, "do not exist"),
    "a stack that is a folder": (stack_is_folder, "do not exist"),
    "a name that is too long": (long_name, "do not exist"),
    "an empty stack": (stack(lambda _: b""), "less than the 1024"),
    "half a header": (stack(lambda data: data[:500]), "less than the 1024"),
    "a truncated stack": (stack(lambda data: data[:-1]), "truncated"),
    "a stack of text": (stack(lambda _: b"particles\n" * 400), "not an MRC"),
    "a header of zeros": (stack(lambda data: bytes(HEADER) + data[HEADER:]), "not an MRC"),
    "a header that claims a billion images": (header(8, "<i", 10**9), "truncated"),
    "a header that claims huge images": (header(0, "<ii", 2**30, 2**30), "truncated"),
    "a header of negative size": (header(0, "<i", -16), "not an MRC"),
    "no images": (header(8, "<i", 0), "not an MRC image stack"),
    "an unknown mode": (header(12, "<i", 77), "its mode is 77"),
    "complex pixels": (header(12, "<i", 4), "its mode is 4"),
    "a negative extended header": (header(92, "<i", -500), "MRC"),
    "an extended header beyond the file": (header(92, "<i", 10**8), "truncated"),
    "oblong boxes": (images(lambda a: np.ascontiguousarray(a[:, :12])), "not square"),
    "boxes of two sizes": (second_stack(12, 12), "box sizes differ"),
    "some oblong boxes": (second_stack(16, 12), "not square"),
    "an image of NaN": (images(one_is(np.nan)), "NaN or infinite"),
    "an infinite image": (images(one_is(np.inf)), "NaN or infinite"),
    "a constant image": (images(one_is(2.5)), "constant"),
    "no gzip": (stack(lambda data: data, "a.mrcs.gz"), "cannot be read"),
    "truncated gzip": (stack(lambda data: gzip.compress(data)[:-900], "a.mrcs.gz"), "damaged"),
    "no bzip2": (stack(lambda data: data, "a.mrcs.bz2"), "cannot be read"),
    "gzip that holds too little": (stack(lambda data: gzip.compress(data[:-64]), "a.mrcs.gz"), "truncated"),
    "gzip that claims too much": (
        stack(lambda data: bz2.compress(data[:8] + struct.pack("<i", 10**9) + data[12:]), "a.mrcs.bz2"), "too many",
    ),
    "another compression": (stack(lambda data: data, "a.mrcs.xz"), "decompress"),
    "pickled arrays": (npy(np.array([{}] * N, dtype=object), allow_pickle=True), "never loaded"),
    "an array of the wrong shape": (npy(np.zeros(N)), "shape"),
    "damaged gzip": (stack(lambda data: scratched(gzip.compress(data), 90), "a.mrcs.gz"), "gz"),
    "gzip damaged at its start": (stack(lambda data: scratched(gzip.compress(data), 12), "a.mrcs.gz"), "gz"),
    "half a NumPy header": (stack(lambda _: NPY_START + b"{'descr': '<f4', (" + b" " * 100, "a.npy"), "NumPy"),
    "an array of negative size": (stack(lambda _: NPY_START + NEGATIVE_SHAPE, "a.npy"), "shape"),
    # HDF5.
    "no HDF5": (hdf5(lambda _: None, lambda _: b"particles" * 200), "not a readable HDF5 file"),
    "truncated HDF5": (hdf5(lambda _: None, lambda data: data[:-4000]), "HDF5"),
    "HDF5 without images": (hdf5(only_labels), "expected one data set of images"),
    "HDF5 with two stacks": (hdf5(two_stacks), "expected one data set of images"),
    "HDF5 that claims a billion images": (hdf5(claiming_a_billion), "does not hold all"),
    "HDF5 with too few labels": (hdf5(with_label("_rlnDefocusU", np.full(N - 1, 1e4))), "one of each image"),
    "HDF5 with a defocus that is not a number": (
        hdf5(with_label("_rlnDefocusU", np.r_[np.nan, np.full(N - 1, 1e4)])), "expected a number",
    ),
    "HDF5 without a pixel size": (hdf5(lambda file: file.pop("_rlnImagePixelSize")), "pixel size"),
    "HDF5 with oblong boxes": (
        hdf5(with_label("particles", np.random.default_rng(0).normal(size=(N, BOX, 12)))), "not square",
    ),
    # cryoSPARC.
    "empty .cs": (cs(lambda _: b""), "not a cryoSPARC .cs file"),
    "STAR as .cs": (cs(lambda _: b"data_particles\n"), "not a cryoSPARC .cs file"),
    "compressed .cs": (cs(lambda _: b"\x94CSDAT" + bytes(99)), "compressed"),
    "pickled .cs": (cs(lambda _: pickle.dumps([1])), "not a cryoSPARC .cs file"),
    ".cs without uid": (cs(without("uid")), "uid"),
    ".cs without images": (cs(without("blob/path")), "where the images are"),
    ".cs without pixel size": (cs(without("blob/psize_A")), "pixel size"),
    ".cs with a uid twice": (cs(lambda made: np.concatenate([made[:-1], made[:1]])), "uid"),
    ".cs with a pixel size of 0": (cs(with_value("blob/psize_A", 2, 0)), "pixel size"),
    ".cs with a defocus that is not a number": (cs(with_value("ctf/df1_A", 2, np.nan)), "ctf/df1_A"),
    ".cs with voltage in volts": (cs(with_value("ctf/accel_kv", 2, 3e5)), "300 kV is written 300"),
    ".cs with contrast in per cent": (cs(with_value("ctf/amp_contrast", 2, 7)), "fraction"),
    ".cs with a negative defocus": (cs(with_value("ctf/df1_A", 2, -5000)), "underfocus"),
    ".cs with words for numbers": (cs(of_kind("ctf/df1_A", "S5")), "ctf/df1_A"),
    ".cs with three angles for one": (cs(of_kind("ctf/df_angle_rad", "<f4", (3,))), "ctf/df_angle_rad"),
    ".cs with negative image numbers": (cs(lambda made: with_value("blob/idx", 2, -1)(as_signed(made))), "below 0"),
    ".cs with a stack that is gone": (cs(with_value("blob/path", 2, b"J1/gone.mrc")), "do not exist"),
    ".cs with an image beyond the stack": (cs(with_value("blob/idx", 2, 99)), "does not exist"),
    ".csg without files": (whole(b"results:\n", "job.csg"), "names no .cs file"),
    ".csg of a file that is gone": (whole(b"  metafile: '>J1/gone.cs'\n", "job.csg"), "does not exist"),
}  # fmt: skip


def test_the_sound_project_is_sound(tmp_path):
    code, out, err = call("inspect", sound(tmp_path))
    assert (code, err) == (0, "")
    assert "24 particles" in out


@pytest.mark.parametrize("command", ["inspect", "estimate"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_a_sentence(tmp_path, fault, command):
    star = sound(tmp_path)
    do, says = FAULTS[fault]
    path = do(tmp_path) or star
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    out_folder = ["--out", tmp_path / "run", "-q"] if command == "estimate" else []
    code, out, err = call(command, path, *out_folder)
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1_000_000  # kB
    assert code == 2
    assert "Traceback" not in out + err
    said = [line for line in err.splitlines() if says in line]
    assert len(said) == 1, out + err
    assert len(said[0]) < 5000


def test_the_corpus_is_large():
    assert len(FAULTS) >= 60
