"""RELION STAR files, 3.0 to 5: read without losing a value, written back with columns added or replaced.

gemmi parses; values stay text, so that what cryorbit does not change comes out byte for byte. Comments are not
part of what gemmi keeps, so those in front of blocks, as RELION's ``# version``, are found and written again.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from gemmi import cif
from numpy.typing import NDArray

from cryorbit.conventions import IMAGE_NAME
from cryorbit.errors import ParticleDataError
from cryorbit.io.mrc import check_stacks
from cryorbit.io.runs import atomic_path
from cryorbit.io.stacks import find_stack
from cryorbit.io.star_columns import OPTICS_GROUP, StarColumns, read_imaging, treated_images, unquoted
from cryorbit.particles import TEXT_DTYPE, ImageLocations, Imaging, IntArray, ParticleTable, Source, as_text

VERSION_31 = 30001
# Values that are Python's strings at one time: a million rows of them would take gigabytes.
CHUNK = 20_000
_COMMENTED = re.compile(rb"^(#[^\n]*\n(?:[ \t\r]*\n|#[^\n]*\n)*)data_(\S*)", re.MULTILINE)


@dataclass(frozen=True)
class StarDocument:
    """A parsed STAR file without the rows of its particles, and where in it these were."""

    document: cif.Document
    particles_block: int
    comments: Mapping[str, Sequence[str]]


def _read_document(path: Path) -> StarDocument:
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a name is too long
        raise ParticleDataError(f"{path} does not exist: give the path of a RELION STAR file with particles.")
    if path.is_dir():
        raise ParticleDataError(f"{path} is a folder: give the STAR file inside it.")
    try:
        document = cif.read(str(path))
    except (ValueError, OSError, RuntimeError) as error:
        reason = str(error).removeprefix(f"{path}:").strip()
        raise ParticleDataError(
            f"{path}: is not a readable STAR file ({reason}); expected blocks that start with 'data_'."
        ) from error
    tables = [index for index, block in enumerate(document) if block.find_loop(f"_{IMAGE_NAME}").tag]
    if len(tables) > 1:
        names = ", ".join(f"data_{document[index].name.strip()}" for index in tables)
        raise ParticleDataError(f"{path}: holds {len(tables)} tables of particles ({names}); expected one: split it.")
    if tables:
        if len(document[tables[0]].find_loop(f"_{IMAGE_NAME}")) == 0:
            raise ParticleDataError(f"{path}: the particle table is empty; expected at least one row.")
        return StarDocument(document, tables[0], _comments(path))
    found = ", ".join(f"data_{block.name.strip()}" for block in document) or "no block"
    raise ParticleDataError(
        f"{path}: holds no particles ({found}, none with a table that has _{IMAGE_NAME}); "
        "give the STAR file of a particle extraction, selection or refinement."
    )


def _comments(path: Path) -> dict[str, list[str]]:
    """Comments in front of each block, by the block's name."""
    if path.stat().st_size == 0:
        return {}
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = [(match[2], match[1].decode(errors="replace").splitlines()) for match in _COMMENTED.finditer(text)]
    return {name.decode(errors="replace"): [line for line in lines if line.strip()] for name, lines in found}


def _loop_frame(block: cif.Block, tag: str) -> pd.DataFrame:
    """The loop that holds ``tag`` as text columns."""
    tags = block.find_loop(tag).get_loop().tags
    return pd.DataFrame({name.removeprefix("_"): _text_column(block.find_loop(name)) for name in tags})


def _text_column(values: Iterable[str]) -> pd.Series:
    rest, parts = iter(values), []
    while part := list(islice(rest, CHUNK)):
        parts.append(pa.array(part, type=pa.large_string()))
    whole = pa.chunked_array(parts, type=pa.large_string()).combine_chunks()
    return pd.Series(pd.array(whole, dtype=TEXT_DTYPE))


def _without_rows(star: StarDocument) -> StarDocument:
    """The document without the rows of its particles, which would take more memory than their table."""
    loop = star.document[star.particles_block].find_loop(f"_{IMAGE_NAME}").get_loop()
    loop.set_all_values([[] for _ in loop.tags])
    # What an emptied list has reserved is given back by copying it alone.
    document = cif.Document()
    for block in star.document:
        document.add_copied_block(block)
    return StarDocument(document, star.particles_block, star.comments)


def _particles_frame(path: Path, star: StarDocument) -> pd.DataFrame:
    """The particle table as text."""
    try:
        frame = _loop_frame(star.document[star.particles_block], f"_{IMAGE_NAME}")
    except UnicodeDecodeError as error:
        raise ParticleDataError(
            f"{path}: holds letters that are not UTF-8 ({error.object[error.start : error.end]!r}); save it as UTF-8."
        ) from error
    if IMAGE_NAME not in frame:
        raise ParticleDataError(f"{path}: its column of images is not spelt _{IMAGE_NAME}; expected RELION's spelling.")
    return frame


def read_loop(path: Path, tags: Sequence[str]) -> pd.DataFrame | None:
    """The first loop of a STAR file with one of these columns, as text; None where there is none.

    Raises
    ------
    ParticleDataError
        If the file cannot be read.
    """
    try:
        document = cif.read(str(path))
    except (ValueError, OSError, RuntimeError) as error:
        reason = str(error).removeprefix(f"{path}:").strip()
        raise ParticleDataError(
            f"{path}: is not a readable STAR file ({reason}); expected blocks that start with 'data_'."
        ) from error
    found = [(block, f"_{tag}") for block in document for tag in tags if block.find_loop(f"_{tag}").tag]
    return _loop_frame(*found[0]) if found else None


def _optics_frame(star: StarDocument) -> pd.DataFrame | None:
    for block in star.document:
        if block.name == "optics":
            if block.find_loop(f"_{OPTICS_GROUP}").tag:
                return _loop_frame(block, f"_{OPTICS_GROUP}")
            pairs = {tag[1:]: [value] for tag, value in _pairs(block)}
            return pd.DataFrame(pairs, dtype=TEXT_DTYPE) if f"{OPTICS_GROUP}" in pairs else None
    return None


def _pairs(block: cif.Block) -> Iterator[tuple[str, str]]:
    """Tags and values of a block that stand outside loops."""
    for item in block:
        if item.pair is not None:
            tag, value = cast("list[str]", item.pair)
            yield tag, value


def _locations(
    path: Path, home: Path, frame: pd.DataFrame, stack_root: Path | None, problems: list[str]
) -> ImageLocations:
    stack_names, numbers = _image_parts(path, frame, np.arange(len(frame)), problems)
    codes, unique = pd.factorize(stack_names)
    stacks = tuple(find_stack(str(name), home, stack_root) for name in unique)
    return ImageLocations(stacks, codes.astype(np.int64), numbers - 1)


def _image_parts(
    path: Path, frame: pd.DataFrame, ids: IntArray, problems: list[str]
) -> tuple[pd.Series, NDArray[np.int64]]:
    """Stack and number, from 1, of each image."""
    names = unquoted(frame[IMAGE_NAME])
    parts = names.str.extract("^(?:(?P<number>[^@]*)@)?(?P<stack>.*)$")
    index = parts["number"].where(names.str.contains("@", regex=False), "1")
    numbers = pd.to_numeric(index.where(index.str.fullmatch("[0-9]{1,9}")), errors="coerce")
    wrong = np.flatnonzero(numbers.isna() | (numbers < 1))
    if len(wrong):
        problems.append(
            f"{path}, particle {ids[wrong[0]] + 1}: _{IMAGE_NAME} is {names.iloc[wrong[0]]!r}; expected 'number@stack' "
            f"with numbers from 1 on ({len(wrong)} such values)."
        )
        numbers = numbers.fillna(1).clip(lower=1)
    return parts["stack"], numbers.to_numpy(dtype=np.int64)


def examine_star(
    path: Path, stack_root: Path | None = None, check_images: bool = True, home: Path | None = None
) -> tuple[ParticleTable, list[str]]:
    """Read a particle STAR file and list what is wrong with its values and its stacks.

    Parameters
    ----------
    path
        The STAR file.
    stack_root
        Folder that paths of stacks start from; else the working folder and those above the file are tried.
    check_images
        Whether to look at the stacks.
    home
        File in whose place it is to be read: where its paths start from.

    Returns
    -------
    table
        The rows as far as they can be understood.
    problems
        One sentence each; empty for a sound file.

    Raises
    ------
    ParticleDataError
        If the file holds no table of particles at all.
    """
    star = _read_document(path)
    frame = _particles_frame(path, star)
    star = _without_rows(star)
    optics = _optics_frame(star)
    columns = StarColumns(path, frame, optics)
    imaging = read_imaging(columns)
    problems = columns.problems
    locations = _locations(path, home or path, frame, stack_root, problems)
    names = frame[IMAGE_NAME].to_numpy()
    if check_images:
        problems.extend(treated_images(columns))
        problems.extend(check_stacks(locations, names, str(path)))
    table = ParticleTable(
        frame=frame,
        ids=np.arange(len(frame), dtype=np.int64),
        imaging=imaging,
        locations=locations,
        source=Source(
            path,
            "star-3.0" if optics is None else "star-3.1",
            str(stack_root.resolve()) if stack_root is not None else None,
            star,
        ),
    )
    return table, problems


def judged_star_rows(table: ParticleTable) -> tuple[Imaging, list[str]]:
    """Imaging of some rows of a STAR or HDF5 file, and what is wrong with them; their stacks are not looked at."""
    if table.source.path is None:
        return table.imaging, []
    document = table.source.document
    optics = _optics_frame(document) if isinstance(document, StarDocument) else None
    columns = StarColumns(table.source.path, table.frame, optics, table.ids)
    imaging = read_imaging(columns)
    _image_parts(table.source.path, table.frame, table.ids, columns.problems)
    return imaging, [*columns.problems, *treated_images(columns)]


def remarks(table: ParticleTable) -> list[str]:
    """What is unusual about a file, though it can be worked with."""
    found = []
    path = table.source.path
    if path is not None and table.source.file_format.startswith("star") and b"\r\n" in _head(path):
        found.append(f"{path}: has Windows line ends, which RELION refuses; files that cryorbit writes have none.")
    duplicated = table.frame[IMAGE_NAME].duplicated()
    if duplicated.any():
        row = int(np.flatnonzero(duplicated)[0])
        found.append(
            f"{path}, particle {row + 1}: {table.frame[IMAGE_NAME].iloc[row]} stands in the file before "
            f"({int(duplicated.sum())} rows repeat an image)."
        )
    if not table.has_defocus:
        found.append(f"{path}: gives no defocus (_rlnDefocusU); it is estimated blind.")
    if np.isnan(table.imaging.voltage_kV).any():
        found.append(f"{path}: gives no acceleration voltage (_rlnVoltage).")
    return found


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(65536)


def _loop_lines(frame: pd.DataFrame) -> Iterator[str]:
    """Header and rows of a loop; RELION ends a loop at the first blank line, so there is none inside."""
    yield "loop_"
    for number, name in enumerate(frame.columns, start=1):
        yield f"_{name} #{number}"
    blank = pa.scalar(" ", type=pa.large_string())
    for start in range(0, len(frame), CHUNK):
        part = frame.iloc[start : start + CHUNK]
        yield from pc.binary_join_element_wise(*(_loop_values(part[name]) for name in frame.columns), blank).to_pylist()


def _loop_values(column: pd.Series) -> pa.Array:
    """Raw values; a text of several lines must begin a line of its own."""
    values = pa.array(column, type=pa.large_string())
    if pc.any(pc.match_substring(values, "\n")).as_py():
        return pa.array([f"\n{value}\n" if "\n" in value else value for value in column], type=pa.large_string())
    return values


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with atomic_path(path) as beside, beside.open("w", encoding="utf-8", newline="\n") as handle:
        for line in lines:
            handle.write(line)
            handle.write("\n")


def write_star(path: Path, blocks: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as the blocks of a RELION 3.1 STAR file.

    Parameters
    ----------
    path
        Written beside and moved into place.
    blocks
        Table of each block by name; columns without the leading underscore, floats written with six decimals.
    """

    def lines() -> Iterator[str]:
        for name, frame in blocks.items():
            yield from ("", f"# version {VERSION_31}", "", f"data_{name}", "")
            text = {name: [cif.quote(value) for value in as_text(column.to_numpy())] for name, column in frame.items()}
            yield from _loop_lines(pd.DataFrame(text))
            yield ""

    _write_lines(path, lines())


def write_star_particles(path: Path, table: ParticleTable) -> None:
    """Write a table in the form of the file it came from: other blocks, order and untouched values as they were.

    Raises
    ------
    ParticleDataError
        If the table did not come from a STAR file.
    """
    star = table.source.document
    if not isinstance(star, StarDocument):
        raise ParticleDataError(f"{table.name} was not read from a STAR file and cannot be written as one.")

    def lines() -> Iterator[str]:
        for index, block in enumerate(star.document):
            name = block.name.strip()
            yield ""
            if name in star.comments:
                yield from (*star.comments[name], "")
            yield from (f"data_{name}", "")
            for item in block:
                if item.pair is not None:
                    tag, value = cast("list[str]", item.pair)
                    yield f"{tag}\n{value}" if value.startswith(";") else f"{tag} {value}"
                elif item.loop is not None:
                    tag = item.loop.tags[0]
                    ours = index == star.particles_block and f"_{IMAGE_NAME}" in item.loop.tags
                    yield from _loop_lines(table.frame if ours else _loop_frame(block, tag))
                    yield ""
            yield ""

    _write_lines(path, lines())
