"""What tells two runs apart, in words: a folder that cannot be gone on with is refused for a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Settings that are named; of more the rest is counted.
MOST_SETTINGS = 4
NAMES = {None: "run of one view", "views": "run of several views", "search": "search of hyper-parameters"}


def what_differs(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In what the run of a folder differs from the one that is asked for; empty where that cannot be told.

    Parameters
    ----------
    there, asked
        Contents of ``run.json``.
    """
    kinds = [manifest.get("kind") for manifest in (there, asked)]
    if kinds[0] != kinds[1]:
        was, now = (NAMES.get(kind, kind) for kind in kinds)
        return f"a {was} there, a {now} now"
    parts = [manifest[name] for manifest in (there, asked) for name in ("input", "configuration")]
    if not all(isinstance(part, Mapping) for part in parts):
        return ""  # edited by hand
    return "; ".join([*_input(there["input"], asked["input"]), *_settings(there, asked)])


def _input(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """How two inputs differ."""

    def differ(*names: str) -> bool:
        return any(there.get(name) != asked.get(name) for name in names)

    if differ("path", "files"):
        yield f"its particles are those of {there.get('path')}"
    elif differ("sha256"):
        yield "its particle file has changed since"
    if differ("rows"):
        yield "it took other rows of the file (--select, --subset)"
    elif not differ("sha256") and differ("particles", "ids"):
        yield "it took other particles"
    if differ("stacks", "stacks_fingerprint", "stack_root") and not differ("path", "files"):
        yield "its image stacks have changed or moved since"
    models = [(part.get("model") or {}).get("identity") for part in (there, asked)]
    if models[0] != models[1]:
        yield "it learnt by itself" if models[0] is None else "it used what another run had learnt"


def _settings(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Which settings differ."""
    old, new = (dict(_flat(manifest["configuration"])) for manifest in (there, asked))
    names = [name for name in old | new if old.get(name) != new.get(name)]
    for name in names[:MOST_SETTINGS]:
        yield f"{name} is {_word(old.get(name))} there and {_word(new.get(name))} now"
    if len(names) > MOST_SETTINGS:
        yield f"{len(names) - MOST_SETTINGS} more settings"
    if bool(there.get("latent", True)) != bool(asked.get("latent", True)):
        yield "it has a network, which is not asked for now" if there.get("latent", True) else "it has no network"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings under their dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _word(value: object) -> str:
    return "not set" if value is None else str(value)
