"""What a run was: its warnings, its input and its settings, as parts of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from cryorbit.report.markup import table
from cryorbit.report.record import RunRecord

# Longer lists are left to run.json.
LONGEST_LIST = 12


def warnings_section(run: RunRecord) -> str:
    """The warnings of a run; nothing where it has none."""
    found = run.fact("warnings")
    warnings = [str(item) for item in found] if isinstance(found, list) else []
    if not warnings:
        return ""
    items = "\n".join(f"<li>{escape(item)}</li>" for item in warnings)
    return f'<section id="warnings" class="warning"><h2>Warnings</h2>\n<ul>{items}</ul></section>'


def provenance(run: RunRecord) -> str:
    """Version, input, findings and settings of a run as tables."""
    facts = {
        "cryorbit": run.fact("version"),
        "Created": run.fact("created"),
        "Seed": run.fact("configuration", "seed"),
        "Preset": run.fact("configuration", "preset"),
    }
    known = [[name, str(value)] for name, value in facts.items() if value is not None]
    parts = [table("Run", ["", ""], known)] if known else []
    for key, caption in (
        ("input", "Input"), ("look", "One view or several"), ("images", "Images"), ("alignment", "Alignment"),
        ("chart", "Latent orbits"),
        ("defocus", "Defocus of the latent orbits"), ("outliers", "Outliers"), ("configuration", "Configuration"),
    ):  # fmt: skip
        rows = list(_flat(run.fact(key)))
        if rows:
            facts_table = table(caption, ["Name", "Value"], rows)
            parts.append(f"<details><summary>{caption}</summary>{facts_table}</details>")
    timings = _timings(run.fact("stages"))
    if timings:
        parts.append(table("Time taken", ["Stage", "Seconds"], timings))
    return "\n".join(parts) or "<p>The run folder has no run.json, so input and configuration are not known.</p>"


def _timings(stages: object) -> list[list[str]]:
    if not isinstance(stages, Mapping):
        return []
    seconds = {name: facts.get("seconds") for name, facts in stages.items() if isinstance(facts, Mapping)}
    rows = [[str(name), f"{value:.1f}"] for name, value in seconds.items() if isinstance(value, int | float)]
    total = sum(value for value in seconds.values() if isinstance(value, int | float))
    return [*rows, ["all", f"{total:.1f}"]] if rows else []


def _flat(value: Any, name: str = "") -> Iterable[list[str]]:
    """Nested facts as rows of dotted name and value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        nested = len(value) > LONGEST_LIST or any(isinstance(item, list | Mapping) for item in value)
        yield [name, "see run.json" if nested else ", ".join(map(_short, value))]
    elif value is not None:
        yield [name, f"{value:.6g}" if isinstance(value, float) else str(value)]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
