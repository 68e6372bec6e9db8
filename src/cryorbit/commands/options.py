"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Particles = Annotated[Path, typer.Argument(help="Particles: RELION STAR or cryoSPARC .cs file.", show_default=False)]
Source = Annotated[
    Path,
    typer.Argument(help="RELION STAR or cryoSPARC .cs file (with --out), or a run folder.", show_default=False),
]
Folder = Annotated[Path, typer.Argument(help="Run folder.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder to make, or to go on with.", show_default=False)]
OptionalOut = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder, where particles are given.")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
RunSeed = Annotated[int | None, typer.Option(help="Seed of all random numbers (12345).", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Move another folder of that name aside first.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Preset = Annotated[
    str | None,
    typer.Option(help="fast (64 px, narrow; the default) or paper (128 px, as published).", show_default=False),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A single setting, such as training.epochs=10; may be repeated.", show_default=False),
]
StackRoot = Annotated[
    Path | None,
    typer.Option("--stack-root", help="Folder that the file's image paths start from.", show_default=False),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        help="Only rows of which this holds: rlnClassNumber=3,5 or '|rlnParticleSelectZScore|<2'; may be repeated.",
        show_default=False,
    ),
]
Subset = Annotated[
    int | None, typer.Option(help="A preview: only so many particles, drawn at random by --seed.", show_default=False)
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Processes that share the work, by Ray. Default: this one.", show_default=False
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to use (auto or HOST:PORT); all its machines must see the particles.", show_default=False
    ),
]
OutlierColumn = Annotated[
    str | None,
    typer.Option(
        help="Which rows of the truth are outliers: a column that is not 0 for them, or NAME=VALUE, or '|NAME|>2'.",
        show_default=False,
    ),
]
Invert = Annotated[
    bool | None, typer.Option("--invert/--no-invert", help="Particles are dark / white. Default: detected.")
]
Prior = Annotated[
    str | None,
    typer.Option("--defocus-prior", help="given, micrograph or blind. Default: given where the file has a defocus."),
]
DefocusRange = Annotated[str | None, typer.Option("--defocus-range", help="Range to search in micrometres (0.3:4.0).")]
Method = Annotated[
    str | None,
    typer.Option(help="orbit (alignment to the set's own average; the default) or latent.", show_default=False),
]
TruthFile = Annotated[
    Path | None, typer.Option("--truth", help="STAR or .cs file with the truth, for the report.", show_default=False)
]
