"""The run folder: what is in it, who may write there, and writing without ever leaving half a file."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from cryorbit.errors import RunFolderError
from cryorbit.io.differences import what_differs

MANIFEST = "run.json"
# Columns of the particle file, for looking at beside the estimates.
FILE_COLUMNS = "file_columns.parquet"
# The page, and what it begins with where the run has no estimates yet.
REPORT = "report.html"
UNFINISHED = "<!-- The run is not finished. -->"
LOCK = ".lock"
# Kind of a folder that holds the classes of raw picks.
CLASSIFICATION = "classification"
# Kind of a folder that holds a classification and the run of each view.
VIEWS = "views"
# A run that grows is made anew in here.
APPENDING = ".appending"
# Particles that a demonstration made for itself lie inside its run folder.
INPUT = "input"
# Kind of a folder that holds a search of hyper-parameters.
SEARCH = "search"
# Kind of a folder that holds the paper's table and figures, and the runs that they come from.
REPRODUCTION = "reproduction"
TEMPORARY_PREFIX = ".writing-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; moved into place on success, removed on failure.

    Raises
    ------
    RunFolderError
        If the folder cannot be written or the disk is full.
    """
    beside = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield beside
        with beside.open("rb") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
    except OSError as error:
        raise RunFolderError(_cannot_write(path, error)) from error
    finally:
        with suppress(OSError):  # where nothing can be written nothing can be removed
            beside.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}: the disk is full; make room and give the same command again, which goes on from here."
    return f"{path}: cannot be written ({error.strerror}); choose a folder that you may write to."


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Libraries that write to a disk themselves say in many ways that it is full; bytes say it in one.
    """
    with atomic_path(path) as beside:
        beside.write_bytes(data)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as an uncompressed ``.npz`` file, or the one array of a ``.npy`` file, atomically."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        (array,) = arrays.values()
        np.save(buffer, array)
    else:
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet or CSV, by the path's suffix, atomically."""
    write_bytes(
        path, frame.to_parquet(index=False) if path.suffix == ".parquet" else frame.to_csv(index=False).encode()
    )


def report_path(folder: Path) -> Path:
    """Path of the page of a run."""
    return folder / REPORT


def has_report(folder: Path) -> bool:
    """Whether a run has its whole page, not only one that says how far it is."""
    try:
        with report_path(folder).open(encoding="utf-8", errors="replace") as page:
            return UNFINISHED not in page.read(200)
    except OSError:
        return False


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet or CSV file of a run folder, by the path's suffix.

    Raises
    ------
    RunFolderError
        If it is missing or damaged.
    """
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: does not exist; the stage that writes it has not been run.") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: is damaged; remove it and run the stage that writes it again.") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


@dataclass
class RunFolder:
    """A folder that holds one run; only the process that opened it writes there.

    Attributes
    ----------
    path
        The folder.
    manifest
        Content of ``run.json``.
    """

    path: Path
    manifest: dict[str, Any]
    _lock: IO[str]

    @classmethod
    def create_or_continue(
        cls, path: Path, manifest: Mapping[str, Any], overwrite: bool = False, inputs: Iterable[Path] = ()
    ) -> RunFolder:
        """Open a folder for the run that ``manifest["identity"]`` names.

        An unfinished run of the same identity is continued; any other folder that is not empty is refused, or
        moved aside first where ``overwrite`` says so.

        Parameters
        ----------
        path
            The folder.
        manifest
            For a new run.
        overwrite
            Whether to move another folder aside.
        inputs
            Files that must stay where they are: a folder that holds one is never moved.

        Raises
        ------
        RunFolderError
            If the folder holds something else, cannot be written, or is in use by another process.
        """
        found = contents(path)
        if found and overwrite:
            move_aside(path, inputs)
            found = []
        if found:
            old = manifest_of(path)
            if old is None or old.get("identity") != manifest["identity"] or old.get("finished"):
                raise RunFolderError(_refusal(path, old, manifest))
        make_folder(path)
        lock = _take_lock(path)
        run = cls(path, dict(manifest_of(path) or manifest), lock)
        run._remove_leftovers()
        run.save()
        return run

    @classmethod
    def reopen(cls, path: Path, to_append: bool = False) -> RunFolder:
        """Open the folder of an earlier run; one whose new files are still to be moved only to append.

        Raises
        ------
        RunFolderError
            If there is no run in it, or another process is at work there.
        """
        manifest = manifest_of(path)
        if manifest is None:
            raise RunFolderError(
                f"{path}: is not a run folder (it has no {MANIFEST}); give the --out folder of an earlier run, "
                "or a particle file together with --out."
            )
        if manifest.get("kind") == SEARCH:
            raise RunFolderError(
                f"{path}: holds a search of hyper-parameters, not a run; give its best.toml to `cryorbit run --config`."
            )
        if manifest.get("kind") == REPRODUCTION:
            raise RunFolderError(
                f"{path}: holds a reproduction, whose runs lie in its folders ({', '.join(manifest.get('sets', []))}); "
                "give one of them."
            )
        if manifest.get("kind") == CLASSIFICATION:
            raise RunFolderError(
                f"{path}: holds a classification, not a run of one view; give its particles_kept.star to cryorbit run, "
                "with --select rlnClassNumber=1 and so on."
            )
        if manifest.get("kind") == VIEWS:
            raise RunFolderError(
                f"{path}: holds the runs of several views; give the folder of one of them, such as {path / 'view_001'}."
            )
        if not to_append and is_pending(path):
            raise RunFolderError(
                f"{path}: its appending was cut short; end it first with cryorbit apply {path} --append."
            )
        return cls(path, manifest, _take_lock(path))

    def file(self, *parts: str) -> Path:
        """Path of a file in the folder, its own folder made if need be."""
        path = self.path.joinpath(*parts)
        make_folder(path.parent)
        return path

    def save(self) -> None:
        """Write ``run.json``."""
        write_text(self.path / MANIFEST, json.dumps(self.manifest, indent=2, default=_plain) + "\n")

    def stage_done(self, stage: str) -> bool:
        """Whether a stage has finished in this folder."""
        return bool(self.manifest.get("stages", {}).get(stage, {}).get("finished"))

    def record_stage(self, stage: str, seconds: float, **facts: Any) -> None:
        """Note that a stage has finished, how long it took and what it found."""
        self.manifest.setdefault("stages", {})[stage] = {
            "finished": True,
            "seconds": round(seconds, 3),
            **facts,
        }
        self.save()

    def _remove_leftovers(self) -> None:
        for leftover in self.path.rglob(f"{TEMPORARY_PREFIX}*"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    RunFolderError
        If that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(_cannot_write(path, error)) from error


def claim_folder(path: Path, overwrite: bool) -> None:
    """Refuse early, or move aside, a folder that cannot become or continue a run.

    Raises
    ------
    RunFolderError
        If the folder holds a finished run or something else.
    """
    if overwrite and path.is_dir() and any(path.iterdir()):
        move_aside(path)
    elif contents(path):
        manifest = manifest_of(path)
        if manifest is None or manifest.get("finished"):
            raise RunFolderError(_refusal(path, manifest, manifest or {}))


def _is_ours(entry: Path) -> bool:
    """Whether an entry of a folder is what cryorbit itself leaves there before a run begins."""
    if entry.name == LOCK:
        return entry.is_file() and entry.stat().st_size == 0
    return entry.name == INPUT and (entry / "simulation.json").is_file()


def contents(path: Path) -> list[Path]:
    """What a folder holds apart from what cryorbit leaves there before a run begins; nothing where it is not there.

    Raises
    ------
    RunFolderError
        If it is a file, or cannot be read.
    """
    try:
        if not os.path.lexists(path):
            return []
        if not path.is_dir():
            raise RunFolderError(f"{path}: is a file; --out names a folder.")
        return [entry for entry in path.iterdir() if not _is_ours(entry)]
    except OSError as error:
        raise RunFolderError(_cannot_write(path, error)) from error


def manifest_of(path: Path) -> dict[str, Any] | None:
    """Content of a folder's ``run.json``; None where there is none, or it is none of ours."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    whole = isinstance(manifest, dict) and {"identity", "configuration", "input", "stages"} <= manifest.keys()
    return manifest if whole else None


def _refusal(path: Path, old: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> str:
    if old is None:
        what = "is not empty and holds no run of cryorbit"
    elif old.get("identity") == asked["identity"]:
        what = "holds a finished run of this input and configuration"
    else:
        differs = what_differs(old, asked)
        what = f"holds a run of another input or configuration{differs and f' ({differs})'}"
    return f"{path}: {what}; choose another --out, or give --overwrite, which moves the old folder aside."


def move_aside(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Give a folder or file another name, so that a new one can take its place.

    Raises
    ------
    RunFolderError
        If it holds the input of the new run or the working folder, or a run is at work in it.
    """
    folder = path.resolve()
    for needed in (Path.cwd(), *inputs):
        if needed.resolve().is_relative_to(folder):
            raise RunFolderError(f"{path}: holds {needed}, which this run needs where it is; choose another --out.")
    if (folder / MANIFEST).is_file():
        _take_lock(folder).close()
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    aside = folder.with_name(f"{folder.name}.old-{stamp}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-{secrets.token_hex(2)}")
    try:
        folder.rename(aside)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be moved aside ({error.strerror}).") from error


def _take_lock(path: Path) -> IO[str]:
    try:
        lock = (path / LOCK).open("a")
    except OSError as error:
        raise RunFolderError(_cannot_write(path, error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise RunFolderError(
            f"{path}: another cryorbit process is at work there; wait for it or choose another --out."
        ) from error
    except OSError:
        pass  # some network file systems know no locks: then the user's care is all there is
    return lock


def is_pending(path: Path) -> bool:
    """Whether a run has grown, and its new files are still to be moved to where they belong."""
    return is_finished(path / APPENDING / path.resolve().name)


def is_finished(path: Path) -> bool:
    """Whether a folder holds a run that came to its end."""
    return bool((manifest_of(path) or {}).get("finished"))


def run_identity(path: Path) -> str | None:
    """What the run in a folder is of; None where there is none."""
    manifest = manifest_of(path)
    return None if manifest is None else str(manifest.get("identity"))


def run_input(path: Path) -> tuple[Path, Path | None]:
    """The particle file that a run read, and the folder that it was told paths of stacks start from.

    Raises
    ------
    RunFolderError
        If there is no run in the folder.
    """
    manifest = manifest_of(path)
    if manifest is None:
        raise RunFolderError(f"{path}: is not a run folder (it has no {MANIFEST}).")
    root = manifest["input"].get("stack_root")
    return Path(manifest["input"]["path"] or path), Path(root) if root is not None else None


def isotropy_order_beside(result: Path) -> int:
    """Isotropy order that the run which wrote this file found; 1 where none is known."""
    manifest = manifest_of(result.parent)
    order = (manifest or {}).get("isotropy_order")
    return order if isinstance(order, int) else 1
