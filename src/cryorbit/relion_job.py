"""RELION as a host: a run as one of its "External" jobs, which it starts, watches, aborts and takes the results of.

References
----------
RELION 3.1 manual, "External" jobs: arguments ``--in_parts``, ``--o`` and ``--j``; files ``RELION_OUTPUT_NODES.star``,
``RELION_JOB_EXIT_SUCCESS``, ``..._FAILURE`` and ``..._ABORTED``, and ``RELION_JOB_ABORT_NOW``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from cryorbit.config import RunConfig
from cryorbit.errors import RunFolderError
from cryorbit.io import particles_suffix, read_particles, written_particles
from cryorbit.io.runs import is_finished, run_identity, write_text
from cryorbit.io.star import write_star
from cryorbit.machine import limit_threads
from cryorbit.manifest import new_manifest
from cryorbit.pipeline import run
from cryorbit.progress import Lines
from cryorbit.relion_markers import ABORT_NOW, ABORTED, ENDS, FAILURE, NODES, SUCCESS
from cryorbit.rows import Rows

# Folder of the run within that of the job, which RELION fills with files of its own.
RUN_FOLDER = "cryorbit"
# RELION 3.1 knows types of nodes by number, later versions by a label; each ignores the other's column.
PARTICLES_NODE, PARTICLES_LABEL = 3, "ParticlesData.star.relion"


class JobLines(Lines):
    """Progress as lines for the job's ``run.out``; stops where RELION asks for it.

    Parameters
    ----------
    folder
        Of the job.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(sys.stdout)
        self._abort = folder / ABORT_NOW

    def stage(self, title: str) -> None:
        """Print the title."""
        self._stop_if_asked()
        super().stage(title)

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Print how far the stage is, now and then."""
        self._stop_if_asked()
        super().advance(done, total, note)

    def _stop_if_asked(self) -> None:
        if self._abort.exists():
            raise KeyboardInterrupt


def run_as_job(
    particles: Path,
    folder: Path,
    config: RunConfig,
    threads: int = 1,
    latent: bool = True,
    rows: Rows | None = None,
) -> Path:
    """Run on a project's particles as RELION's External job.

    Parameters
    ----------
    particles
        STAR file, as RELION gives it: relative to the project, which is the working folder.
    folder
        Of the job. A job that is continued goes on where it was.
    config
        Of the run.
    threads
        Most threads.
    latent
        Whether to train a network too.
    rows
        Which of the particles; all if left out.

    Returns
    -------
    Path
        STAR file of the kept particles, which RELION offers to the next job.

    Raises
    ------
    ParticleDataError, RunFolderError, ConfigurationError
        For mistakes that the user can mend; the job is then marked as failed.
    KeyboardInterrupt
        If RELION or the user stopped it; the job is then marked as aborted.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: does not exist; RELION makes the folder of a job before it starts it.")
    # Asked for while the job waited in a queue; one that RELION forgot lies beside the marker of an earlier end.
    aborted = (folder / ABORT_NOW).exists() and not any((folder / end).exists() for end in ENDS)
    for marker in (*ENDS, ABORT_NOW):
        (folder / marker).unlink(missing_ok=True)
    limit_threads(threads)
    try:
        if aborted:
            raise KeyboardInterrupt
        out = _run_or_keep(particles, folder, config, latent, rows or Rows())
        kept = _write_nodes(folder, out)
    except KeyboardInterrupt:
        (folder / ABORT_NOW).unlink(missing_ok=True)
        write_text(folder / ABORTED, "")
        raise
    except BaseException:
        write_text(folder / FAILURE, "")
        raise
    write_text(folder / SUCCESS, "")
    return kept


def _run_or_keep(particles: Path, folder: Path, config: RunConfig, latent: bool, rows: Rows) -> Path:
    """The folder of the run: one that was interrupted goes on, one of other particles or settings makes place."""
    out = folder / RUN_FOLDER
    table = rows.read(particles)
    old = run_identity(out)
    same = old == new_manifest(table, config, latent, rows)["identity"]
    if not (same and is_finished(out)):
        overwrite = old is not None and not same
        run(table, out, config, rows=rows, latent=latent, overwrite=overwrite, observer=JobLines(folder))
    return out


def _write_nodes(folder: Path, out: Path) -> Path:
    """Tell RELION of the results: all particles, the kept and the dropped ones, the kept ones first."""
    suffix = particles_suffix(read_particles(written_particles(out), check_images=False))
    files = [out / f"particles{part}{suffix}" for part in ("_kept", "", "_dropped")]
    nodes = {
        "rlnPipeLineNodeName": list(map(str, files)),
        "rlnPipeLineNodeType": [PARTICLES_NODE] * len(files),
        "rlnPipeLineNodeTypeLabel": [PARTICLES_LABEL] * len(files),
    }
    write_star(folder / NODES, {"output_nodes": pd.DataFrame(nodes)})
    return files[0]
