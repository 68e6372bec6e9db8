"""Files by which a job and RELION tell each other how it stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{how}" for how in ("SUCCESS", "FAILURE", "ABORTED"))
ENDS = (SUCCESS, FAILURE, ABORTED)
ABORT_NOW, NODES = "RELION_JOB_ABORT_NOW", "RELION_OUTPUT_NODES.star"


def mark_failed(arguments: Sequence[str]) -> None:
    """Mark a job as failed whose options were already wrong; RELION would wait for its end forever."""
    if "--o" in arguments[:-1]:
        folder = Path(arguments[arguments.index("--o") + 1])
        if folder.is_dir() and not any((folder / end).exists() for end in ENDS):
            (folder / FAILURE).touch()
