"""The metrics file: one line of JSON per epoch, and the same for TensorBoard where that is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryorbit.errors import ConfigurationError
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


def log_to_tensorboard(folder: Path, record: dict[str, Any]) -> None:
    """Add one epoch's numbers to a TensorBoard log.

    Raises
    ------
    ConfigurationError
        If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigurationError(
            "training.tensorboard is set but TensorBoard is not installed: pip install 'cryorbit[tensorboard]'."
        ) from error
    with SummaryWriter(str(folder)) as writer:
        for name, value in record.items():
            if isinstance(value, int | float):
                writer.add_scalar(name, value, record["epoch"])
