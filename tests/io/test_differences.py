"""A folder that is refused is refused for a reason that the user can read."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest

import cryorbit as co
from cryorbit.errors import RunFolderError
from cryorbit.io.differences import what_differs
from cryorbit.io.runs import CLASSIFICATION, RunFolder
from cryorbit.manifest import new_manifest
from cryorbit.rows import Rows

from ..pipeline_sets import tiny_set


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return co.read_particles(tiny_set(tmp_path_factory.mktemp("set"), images=4))


def manifest(table, changes=None, latent=True, rows=None):
    return new_manifest(rows.of(table) if rows else table, co.make_config("fast", changes), latent, rows)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"changes": {"seed": 7}}, "seed is 12345 there and 7 now"),
        ({"changes": {"preprocessing": {"box_size": 32}}}, "preprocessing.box_size is 64 there and 32 now"),
        ({"changes": {"preprocessing": {"invert": True}}}, "preprocessing.invert is not set there and True now"),
        ({"latent": False}, "it has a network"),
        ({"rows": Rows(("rlnDefocusU>0",))}, "it took other rows of the file"),
    ],
)
def test_each_setting_is_named(table, asked, said):
    assert said in what_differs(manifest(table), manifest(table, **asked))


def test_runs_that_are_the_same_do_not_differ(table):
    assert what_differs(manifest(table), manifest(table)) == ""


def test_of_many_settings_some_are_named(table):
    changes = {"seed": 1, "training": {"epochs": 3, "batch_size": 10, "precision": "32-true", "accelerator": "cpu"},
               "model": {"base_width": 4}}  # fmt: skip
    assert "2 more settings" in what_differs(manifest(table), manifest(table, changes))


def test_other_particles_are_named(table):
    asked = manifest(table)
    asked["input"] |= {"path": "/elsewhere/particles.star", "sha256": "0"}
    assert what_differs(asked, manifest(table)) == "its particles are those of /elsewhere/particles.star"
    changed = manifest(table)
    changed["input"]["sha256"] = "0"
    assert what_differs(changed, manifest(table)) == "its particle file has changed since"
    moved = manifest(table)
    moved["input"]["stacks_fingerprint"] = "0"
    assert what_differs(moved, manifest(table)) == "its image stacks have changed or moved since"


def test_a_model_is_known_by_what_it_learnt_not_by_its_place(table):
    plain, first, moved, other = (manifest(table) for _ in range(4))
    first["input"]["model"] = {"folder": "/a", "identity": "1"}
    moved["input"]["model"] = {"folder": "/b", "identity": "1"}
    other["input"]["model"] = {"folder": "/a", "identity": "2"}
    assert what_differs(first, moved) == ""
    assert what_differs(first, other) == what_differs(first, plain) == "it used what another run had learnt"
    assert what_differs(plain, first) == "it learnt by itself"


def test_the_refusal_says_it(table, tmp_path):
    there = manifest(table)
    RunFolder.create_or_continue(tmp_path / "run", there).close()
    with pytest.raises(RunFolderError, match=r"configuration \(seed is 12345 there and 3 now\); choose another --out"):
        RunFolder.create_or_continue(tmp_path / "run", manifest(table, {"seed": 3}))
    kind = deepcopy(there) | {"kind": CLASSIFICATION, "identity": "another"}
    with pytest.raises(RunFolderError, match="a run of one view there, a classification now"):
        RunFolder.create_or_continue(tmp_path / "run", kind)


@pytest.mark.parametrize("part", ["input", "configuration"])
def test_a_damaged_manifest_is_refused_without_reasons(table, tmp_path, part):
    """Whoever edited run.json by hand gets the refusal, not an exception."""
    RunFolder.create_or_continue(tmp_path / "run", manifest(table)).close()
    path = Path(tmp_path / "run" / "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: "damaged", "identity": "another"}))
    with pytest.raises(RunFolderError, match="another input or configuration"):
        RunFolder.create_or_continue(tmp_path / "run", manifest(table))
