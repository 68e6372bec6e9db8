"""What a command was told: options and settings on their way to a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryorbit.errors import ConfigurationError

if TYPE_CHECKING:
    from cryorbit.config import RunConfig
    from cryorbit.rows import Rows


def range_um(text: str | None) -> tuple[float, float] | None:
    """A range such as ``0.3:4.0`` in micrometres."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigurationError(
            f"--defocus-range is {text!r}; expected two numbers in micrometres, such as 0.3:4.0."
        ) from None
    return low, high


def given(**values: Any) -> dict[str, Any]:
    """Options that were given, those that were not left out."""
    return {name: value for name, value in values.items() if value is not None}


def setting(text: str) -> dict[str, Any]:
    """One ``a.b=value`` as a nested mapping, the value read as TOML, or as text where it is none."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigurationError(f"--set {text}: expected name=value, such as training.epochs=10.")
    try:
        nested: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        nested = value
    for part in reversed(name.strip().split(".")):
        nested = {part: nested}
    return dict(nested)


@dataclass(frozen=True)
class Choices:
    """What a command was told about a run, apart from its particles."""

    preset: str | None
    file: Path | None
    settings: list[str] | None
    seed: int | None
    stack_root: Path | None
    overwrite: bool
    estimation: dict[str, Any]
    invert: bool | None = None
    select: list[str] | None = None
    subset: int | None = None
    others: dict[str, Any] = field(default_factory=dict)

    def config(self) -> RunConfig:
        """Configuration of a new run."""
        from cryorbit.config import make_config, merge

        merged: dict[str, Any] = {} if self.seed is None else {"seed": self.seed}
        preprocessing = given(invert=self.invert)
        for single in (
            *map(setting, self.settings or []), {"estimation": self.estimation, "preprocessing": preprocessing},
            self.others,
        ):  # fmt: skip
            merged = merge(merged, single)
        return make_config(self.preset or "fast", merged, self.file)

    def rows(self) -> Rows:
        """Which particles of the file."""
        from cryorbit.rows import Rows

        return Rows(tuple(self.select or ()), self.subset, self.config().seed)

    def changes_to_a_run(self, folder: Path) -> dict[str, Any]:
        """Settings of the estimates that a run folder may be told anew; anything else would be another run."""
        from cryorbit.config import merge

        fixed = {
            "--preset": self.preset, "--config": self.file, "--seed": self.seed, "--stack-root": self.stack_root,
            "--overwrite": self.overwrite or None, "--invert": self.invert, "--select": self.select or None,
            "--subset": self.subset,
        }  # fmt: skip
        changes: dict[str, Any] = {}
        for single in map(setting, self.settings or []):
            changes = merge(changes, single)
        others = [option for option, value in fixed.items() if value is not None]
        others += [f"--set {name}" for name in changes if name != "estimation"]
        if others:
            raise ConfigurationError(
                f"{folder}: is a run folder, whose images and network are what they are: {', '.join(others)} cannot "
                "change them; start a new run with a particle file and another --out."
            )
        return merge(changes.get("estimation", {}), self.estimation)
