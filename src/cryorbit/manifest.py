"""What ``run.json`` says of a run: its input, its configuration, and the identity that both make."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cryorbit
from cryorbit.config import RunConfig
from cryorbit.io.fingerprints import file_sha256, identity, stacks_fingerprint
from cryorbit.particles import ParticleTable
from cryorbit.rows import Rows


def run_identity_of(config: RunConfig, described: Mapping[str, Any], latent: bool) -> str:
    """Identity of a run: the same command on the same input has the same, wherever an earlier run lies by now."""
    if "model" in described:
        described = {**described, "model": described["model"]["identity"]}
    return identity({"configuration": config.model_dump(mode="json"), "input": described, "latent": latent})


def input_hash(files: tuple[Path, ...]) -> str:
    """Of one file its own hash, of several one of all."""
    hashes = [file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else identity({"files": hashes})


def new_manifest(
    particles: ParticleTable,
    config: RunConfig,
    latent: bool,
    rows: Rows | None = None,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``run.json`` says at the start of a run."""
    path = particles.source.path
    described: dict[str, Any] = {
        "path": str(path.resolve()) if path is not None else None,
        "sha256": input_hash(particles.source.all_files) if path is not None else None,
        "files": [str(file.resolve()) for file in particles.source.all_files],
        "particles": len(particles),
        "ids": identity({"ids": particles.ids.tolist()}) if len(particles) else None,
        "stacks": len(particles.locations.used),
        "stacks_fingerprint": stacks_fingerprint(particles.locations.used),
        "stack_root": particles.source.stack_root,
    }
    if rows:
        described["rows"] = rows.described()
    if model:
        described["model"] = dict(model)
    return {
        "program": "cryorbit",
        "version": cryorbit.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": run_identity_of(config, described, latent),
        "latent": latent,
        "input": described,
        "configuration": config.model_dump(mode="json"),
        "seeds": {"all": config.seed},
        "isotropy_order": None,
        "finished": False,
        "stages": {},
        "warnings": [],
        "warnings_by_stage": {},
    }
