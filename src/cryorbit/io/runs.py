"""The run folder: what is in it, who may write there, and writing without ever leaving half a file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from cryorbit.errors import RunFolderError

MANIFEST = "run.json"
LOCK = ".lock"
# Particles that a demonstration made for itself lie inside its run folder.
INPUT = "input"
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
        beside.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{path}: the disk is full; make room and give the same command again, which goes on from here."
    return f"{path}: cannot be written ({error.strerror}); choose a folder that you may write to."


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet or CSV, by the path's suffix, atomically."""
    with atomic_path(path) as beside:
        if path.suffix == ".parquet":
            frame.to_parquet(beside, index=False)
        else:
            frame.to_csv(beside, index=False)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stacks_fingerprint(stacks: tuple[Path, ...]) -> str:
    """Digest of path, size and time of change of every stack: hashing terabytes of images would take hours."""
    digest = hashlib.sha256()
    for stack in stacks:
        status = stack.stat()
        digest.update(f"{stack.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def identity(parts: Mapping[str, Any]) -> str:
    """Digest of what decides a run's result; the same command has the same identity."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


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
    def create_or_continue(cls, path: Path, manifest: Mapping[str, Any], overwrite: bool = False) -> RunFolder:
        """Open a folder for the run that ``manifest["identity"]`` names.

        An unfinished run of the same identity is continued; any other folder that is not empty is refused, or
        moved aside first where ``overwrite`` says so.

        Raises
        ------
        RunFolderError
            If the folder holds something else, cannot be written, or is in use by another process.
        """
        found = _contents(path)
        if found and overwrite:
            _move_aside(path)
            found = []
        if found:
            old = _read_manifest(path)
            if old is None or old.get("identity") != manifest["identity"] or old.get("finished"):
                raise RunFolderError(_refusal(path, old, str(manifest["identity"])))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(_cannot_write(path, error)) from error
        lock = _take_lock(path)
        run = cls(path, dict(_read_manifest(path) or manifest), lock)
        run._remove_leftovers()
        run.save()
        return run

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises
        ------
        RunFolderError
            If there is no run in it, or another process is at work there.
        """
        manifest = _read_manifest(path)
        if manifest is None:
            raise RunFolderError(
                f"{path}: is not a run folder (it has no {MANIFEST}); give the --out folder of an earlier run, "
                "or a particle file together with --out."
            )
        return cls(path, manifest, _take_lock(path))

    def file(self, *parts: str) -> Path:
        """Path of a file in the folder, its own folder made if need be."""
        path = self.path.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(_cannot_write(path.parent, error)) from error
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
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()


def claim_folder(path: Path, overwrite: bool) -> None:
    """Refuse early, or move aside, a folder that cannot become or continue a run.

    Raises
    ------
    RunFolderError
        If the folder holds a finished run or something else.
    """
    found = _contents(path)
    if overwrite and path.is_dir() and any(path.iterdir()):
        _move_aside(path)
    elif found:
        manifest = _read_manifest(path)
        if manifest is None or manifest.get("finished"):
            raise RunFolderError(_refusal(path, manifest, str((manifest or {}).get("identity"))))


def _contents(path: Path) -> list[Path]:
    if not path.exists():
        return []
    if not path.is_dir():
        raise RunFolderError(f"{path}: is a file; --out names a folder.")
    return [entry for entry in path.iterdir() if entry.name not in (LOCK, INPUT)]


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _refusal(path: Path, old: dict[str, Any] | None, identity: str) -> str:
    if old is None:
        what = "is not empty and holds no run of cryorbit"
    elif old.get("identity") == identity:
        what = "holds a finished run of this input and configuration"
    else:
        what = "holds a run of another input or configuration"
    return f"{path}: {what}; choose another --out, or give --overwrite, which moves the old folder aside."


def _move_aside(path: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.resolve().name}.old-{stamp}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-{secrets.token_hex(2)}")
    try:
        path.rename(aside)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be moved aside ({error.strerror}).") from error


def _take_lock(path: Path) -> IO[str]:
    try:
        lock = (path / LOCK).open("w")
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
