"""The page: one HTML file that needs nothing else, made from a run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cryorbit.errors import RunFolderError
from cryorbit.estimation.truth import Truth
from cryorbit.io.runs import write_text
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.report.comparison import DETECTORS, NO_JUNK, READINGS, Comparison, compare
from cryorbit.report.drawing import LeftOut, save
from cryorbit.report.explorer.fragment import explorer_section, explorer_style
from cryorbit.report.figures import FIGURES
from cryorbit.report.markup import definitions, embedded_figure, fill, paragraphs, table
from cryorbit.report.pictures import Pictures
from cryorbit.report.record import RunRecord, read_run
from cryorbit.report.summary import evaluation_rows, key_numbers, precision_columns, summary
from cryorbit.report.wording import count, percent, ratio

REPORT = "report.html"
TEMPLATE = "page.html"
# What lies between is replaced where the page is served.
EXPLORER_BEGINS, EXPLORER_ENDS = "<!-- explorer -->", "<!-- end of the explorer -->"
# Longer lists are left to run.json.
LONGEST_LIST = 12


def write_report(folder: Path, truth: Truth | None = None, pictures: Pictures | None = None) -> Path:
    """Draw all figures of a run and write the page that explains them.

    Parameters
    ----------
    folder
        Run folder; ``figures/`` (PNG and PDF) and ``report.html`` are written into it.
    truth
        What is known of the particles, in the row order of the estimates.
    pictures
        Images of its particles; from its cache, where there is one, if left out.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    RunFolderError
        If there are no estimates, or the folder cannot be written.
    ParticleDataError
        If the truth has another number of rows.
    """
    run = read_run(folder, pictures)
    comparison = None if truth is None else compare(run, truth)
    drawn, left_out = _draw_figures(run, truth)
    page = fill(
        TEMPLATE,
        title=escape(f"{folder.resolve().name}: cryorbit report"),
        heading=escape(folder.resolve().name),
        key_numbers=definitions(key_numbers(run, comparison)),
        summary=paragraphs(summary(run, comparison)) + _precision_table(run, comparison),
        truth="" if comparison is None else _truth_section(comparison, UNKNOWN_ANGLE_STD_DEG / run.isotropy_order),
        warnings=_warnings_section(run),
        explorer_style=explorer_style(),
        explorer_begins=EXPLORER_BEGINS,
        explorer=explorer_section(run),
        explorer_ends=EXPLORER_ENDS,
        figures="\n".join(drawn),
        left_out=_left_out_section(left_out),
        provenance=_provenance(run),
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def with_explorer(page: str, section: str, path: Path) -> str:
    """A page with another explorer in the place of its own.

    Raises
    ------
    RunFolderError
        If the page, which came from ``path``, has none.
    """
    before, begins, rest = page.partition(EXPLORER_BEGINS)
    _, ends, after = rest.rpartition(EXPLORER_ENDS)
    if not begins or not ends:
        raise RunFolderError(f"{path}: was written by another version; do 'cryorbit report {path.parent}' first.")
    return f"{before}{begins}{section}{ends}{after}"


def _draw_figures(run: RunRecord, truth: Truth | None) -> tuple[list[str], list[LeftOut]]:
    """Draw, save and embed one figure at a time: all at once would not fit a small memory."""
    folder = run.folder / "figures"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be made ({error.strerror}); choose a folder that you may write to."
        ) from error
    drawn, left_out = [], []
    for draw in FIGURES:
        result = draw(run, truth)
        if isinstance(result, LeftOut):
            left_out.append(result)
        else:
            png = save(result.figure, folder, result.name)
            drawn.append(embedded_figure(result, png, f"figures/{result.name}.pdf"))
    return drawn, left_out


def _precision_table(run: RunRecord, comparison: Comparison | None) -> str:
    columns = precision_columns(run, comparison)
    if not columns:
        return ""
    names = ["Angle", "Shift along an axis", "Defocus"]
    return table("How well it is known", ["", *columns], zip(names, *columns.values(), strict=True))


def _truth_section(comparison: Comparison, guess_deg: float) -> str:
    has_shifts = any(found.origin_rmse_A is not None for found in comparison.readings.values())
    shifts = "; shifts in the frame of the average, after one offset" if has_shifts else ""
    parts = [
        f'<section id="truth"><h2>Against the truth</h2>\n<p>The truth is {escape(comparison.source)}. '
        "Errors are over true particles, dropped or not; angles after one shift and one sign for the whole set "
        f"(equation 8 of the paper), wrapped before squaring{shifts}. "
        f"An error of about {guess_deg:.0f}° is that of a guess.</p>",
        table(
            "Angle and defocus",
            ["", *(READINGS[prefix] for prefix in comparison.readings)],
            evaluation_rows(comparison.readings),
        ),
    ]
    if comparison.curves:
        rows = [[DETECTORS[name], ratio(curve.auc)] for name, curve in comparison.curves.items()]
        parts.append(table("Outlier detectors", ["Detector", "Area under the ROC curve"], rows))
    if comparison.kinds:
        rows = [
            ["true particles" if kind.kind == NO_JUNK else kind.kind, count(kind.particles), count(kind.dropped),
             percent(kind.dropped, kind.particles)]
            for kind in comparison.kinds
        ]  # fmt: skip
        parts.append(table("What was dropped", ["Kind", "Particles", "Dropped", "Share"], rows))
    return "\n".join([*parts, "</section>"])


def _warnings_section(run: RunRecord) -> str:
    found = run.fact("warnings")
    warnings = [str(item) for item in found] if isinstance(found, list) else []
    if not warnings:
        return ""
    items = "\n".join(f"<li>{escape(item)}</li>" for item in warnings)
    return f'<section id="warnings" class="warning"><h2>Warnings</h2>\n<ul>{items}</ul></section>'


def _left_out_section(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    titles: dict[str, list[str]] = {}
    for item in left_out:
        titles.setdefault(item.reason, []).append(item.title)
    items = "\n".join(f"<li>{escape('; '.join(named))}: {escape(reason)}</li>" for reason, named in titles.items())
    return f'<section id="left-out"><h2>Left out</h2>\n<ul>{items}</ul></section>'


def _provenance(run: RunRecord) -> str:
    facts = {
        "cryorbit": run.fact("version"),
        "Created": run.fact("created"),
        "Seed": run.fact("configuration", "seed"),
        "Preset": run.fact("configuration", "preset"),
    }
    known = [[name, str(value)] for name, value in facts.items() if value is not None]
    parts = [table("Run", ["", ""], known)] if known else []
    for key, caption in (
        ("input", "Input"), ("images", "Images"), ("alignment", "Alignment"), ("chart", "Latent orbits"),
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
