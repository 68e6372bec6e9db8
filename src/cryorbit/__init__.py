"""cryorbit: outliers, in-plane orientation and defocus of cryo-EM particle images from their latent orbits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cryorbit.applied import append, apply
    from cryorbit.classified import classify
    from cryorbit.config import RunConfig, make_config
    from cryorbit.errors import CryorbitError, ParticleDataError
    from cryorbit.estimation.evaluation import evaluate
    from cryorbit.estimation.outliers import find_outliers
    from cryorbit.first_look import look
    from cryorbit.hyperparameters import search
    from cryorbit.io import ImageStack, read_particles, write_particles
    from cryorbit.latent.embed import embed
    from cryorbit.latent.harmonics import fit_harmonics
    from cryorbit.many_views import run_views
    from cryorbit.particles import ParticleTable
    from cryorbit.pipeline import RunResult, rerun, run
    from cryorbit.report import write_report
    from cryorbit.simulation import simulate
    from cryorbit.training.loop import train

# Where each public name lives; it is imported when it is first used, so that `import cryorbit` costs nothing.
_HOMES = {
    "CryorbitError": "cryorbit.errors",
    "ImageStack": "cryorbit.io",
    "ParticleDataError": "cryorbit.errors",
    "ParticleTable": "cryorbit.particles",
    "RunConfig": "cryorbit.config",
    "RunResult": "cryorbit.pipeline",
    "append": "cryorbit.applied",
    "apply": "cryorbit.applied",
    "classify": "cryorbit.classified",
    "embed": "cryorbit.latent.embed",
    "evaluate": "cryorbit.estimation.evaluation",
    "find_outliers": "cryorbit.estimation.outliers",
    "fit_harmonics": "cryorbit.latent.harmonics",
    "look": "cryorbit.first_look",
    "make_config": "cryorbit.config",
    "read_particles": "cryorbit.io",
    "rerun": "cryorbit.pipeline",
    "run": "cryorbit.pipeline",
    "run_views": "cryorbit.many_views",
    "search": "cryorbit.hyperparameters",
    "simulate": "cryorbit.simulation",
    "train": "cryorbit.training.loop",
    "write_particles": "cryorbit.io",
    "write_report": "cryorbit.report",
}

__all__ = [
    "CryorbitError",
    "ImageStack",
    "ParticleDataError",
    "ParticleTable",
    "RunConfig",
    "RunResult",
    "append",
    "apply",
    "classify",
    "embed",
    "evaluate",
    "find_outliers",
    "fit_harmonics",
    "look",
    "make_config",
    "read_particles",
    "rerun",
    "run",
    "run_views",
    "search",
    "simulate",
    "train",
    "write_particles",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cryorbit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
