"""The run folder: nothing lost, nothing half written, one process at a time."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from cryorbit.errors import RunFolderError
from cryorbit.io.runs import RunFolder, atomic_path, claim_folder, write_text

MANIFEST = {"identity": "a", "stages": {}, "finished": False, "configuration": {}, "input": {}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")

    class ProgramError(Exception):
        pass

    def fail():
        with atomic_path(path) as beside:
            beside.write_text("half")
            raise ProgramError

    with pytest.raises(ProgramError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said(tmp_path):
    def fill():
        with atomic_path(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFolderError, match="the disk is full"):
        fill()


def test_a_folder_that_became_read_only_is_said(tmp_path, monkeypatch):
    """Removing what is left fails there too, and must not hide what happened."""

    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunFolderError, match=r"x\.star: cannot be written \(Read-only file system\)"):
        write_text(tmp_path / "x.star", "")


def test_an_unfinished_run_is_continued(tmp_path):
    first = RunFolder.create_or_continue(tmp_path / "run", MANIFEST)
    first.record_stage("train", 1.0)
    first.close()
    again = RunFolder.create_or_continue(tmp_path / "run", MANIFEST)
    assert again.stage_done("train")
    assert not again.stage_done("embed")
    again.close()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"notes.txt": "mine"}, "holds no run"),
        ({"run.json": json.dumps({**MANIFEST, "identity": "b"})}, "another input or configuration"),
        ({"run.json": json.dumps({**MANIFEST, "finished": True})}, "holds a finished run"),
    ],
)
def test_other_folders_are_refused_and_moved_aside_on_demand(tmp_path, content, sentence):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(RunFolderError, match=sentence):
        RunFolder.create_or_continue(folder, MANIFEST)
    RunFolder.create_or_continue(folder, MANIFEST, overwrite=True).close()
    (aside,) = [path for path in tmp_path.iterdir() if path.name.startswith("run.old-")]
    assert {path.name: path.read_text() for path in aside.iterdir() if path.name in content} == content


def test_two_processes_cannot_share_a_folder(tmp_path):
    first = RunFolder.create_or_continue(tmp_path / "run", MANIFEST)
    with pytest.raises(RunFolderError, match="another cryorbit process"):
        RunFolder.create_or_continue(tmp_path / "run", MANIFEST)
    first.close()


def test_a_file_is_no_folder_and_a_stranger_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder.create_or_continue(tmp_path / "file", MANIFEST)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.reopen(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="holds no run"):
        claim_folder(tmp_path / "other", overwrite=False)


def test_a_folder_that_holds_the_input_is_never_moved(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "particles.star").write_text("mine")
    with pytest.raises(RunFolderError, match="which this run needs where it is"):
        RunFolder.create_or_continue(folder, MANIFEST, overwrite=True, inputs=[folder / "particles.star"])
    assert (folder / "particles.star").read_text() == "mine"


def test_a_run_at_work_is_never_moved(tmp_path):
    first = RunFolder.create_or_continue(tmp_path / "run", MANIFEST)
    with pytest.raises(RunFolderError, match="another cryorbit process"):
        RunFolder.create_or_continue(tmp_path / "run", {**MANIFEST, "identity": "b"}, overwrite=True)
    first.close()


def test_a_file_called_lock_is_somebodys(tmp_path):
    (tmp_path / ".lock").write_text("precious")
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.create_or_continue(tmp_path, MANIFEST)
    assert (tmp_path / ".lock").read_text() == "precious"
