"""Pages that are generated from the code: commands with their options, fields of the configuration, the decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for path, content in (
        ("reference/commands.md", commands()),
        ("reference/configuration.md", configuration()),
        ("decisions/index.md", decisions()),
        ("benchmarks.md", benchmarks()),
    ):
        files.append(File.generated(config, path, content=content))
    return files


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def commands() -> str:
    """Every command with all its arguments and options, as `--help` has them."""
    import typer

    from cryorbit.cli import app

    program = typer.main.get_command(app)
    parts = ["# Commands\n", "All of them end with status 0, or with 2 and one sentence on what to mend.\n"]
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        parts.append(f"## cryorbit {name}\n\n{command.help}\n\n| | means |\n|---|---|")
        for parameter in command.params:
            if parameter.name == "help":
                continue
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            is_argument = parameter.param_type_name == "argument"
            shown = f"`{parameter.name.upper()}`" if is_argument else names
            text = _cell(getattr(parameter, "help", "") or "")
            parts.append(f"| {shown} | {text} |")
        parts.append("")
    return "\n".join(parts)


def configuration() -> str:
    """Every field of the configuration with its default and what it means."""
    from cryorbit.config import RunConfig

    parts = [
        "# Configuration\n",
        "A TOML file for `--config`, one table for each section; `--set section.field=value` sets a single one. "
        "Defaults are those of the preset `fast`.\n",
    ]
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if hasattr(kind, "model_fields"):
            parts.append(f"## [{name}]\n\n{(kind.__doc__ or '').strip()}\n\n| field | default | means |\n|---|---|---|")
            parts += [_row(inner, of) for inner, of in kind.model_fields.items()]
            parts.append("")
        else:
            parts.insert(2, f"- `{name}`: {field.description or _type(kind)} Default: `{field.default}`.\n")
    return "\n".join(parts)


def _row(name: str, field: Any) -> str:
    return f"| `{name}` | `{_cell(field.default)}` | {_cell(field.description or _type(field.annotation))} |"


def _type(kind: Any) -> str:
    """What a field without a description may be."""
    if get_origin(kind) is not None and all(isinstance(value, str) for value in get_args(kind)):
        return "One of " + ", ".join(f"`{value}`" for value in get_args(kind)) + "."
    return f"A value of type {getattr(kind, '__name__', str(kind))}."


def decisions() -> str:
    """The record of what was tried, kept and dropped."""
    rows = []
    for path in sorted((HERE / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"- [{title}]({path.name})")
    return "# Decisions\n\nWhat was tried, measured, kept and dropped, a page each.\n\n" + "\n".join(rows) + "\n"


def benchmarks() -> str:
    """The results, as they stand beside the benchmarks."""
    text = (HERE.parent / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    return text.replace("](../docs/", "](")
