"""The metrics file: one line of JSON per epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryorbit.io.runs import write_text


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every epoch's line of a metrics file; a line that an interrupt cut short is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def drop_epochs_after(path: Path, epoch: int) -> None:
    """Forget epochs that were logged but whose checkpoint an interrupt prevented."""
    records = read_metrics(path)
    kept = [record for record in records if record["epoch"] <= epoch]
    if path.is_file() and len(kept) != len(path.read_text(encoding="utf-8").splitlines()):
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")
