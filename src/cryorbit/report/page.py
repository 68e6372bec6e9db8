"""The page: one HTML file that needs nothing else, made from a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from cryorbit.errors import RunFolderError
from cryorbit.estimation.truth import Truth
from cryorbit.io.runs import report_path, write_text
from cryorbit.latent.circle import UNKNOWN_ANGLE_STD_DEG
from cryorbit.report.comparison import DETECTORS, NO_JUNK, READINGS, Comparison, compare
from cryorbit.report.drawing import LeftOut, save
from cryorbit.report.explorer.fragment import explorer_section, explorer_style
from cryorbit.report.figures import FIGURES
from cryorbit.report.markup import definitions, embedded_figure, fill, paragraphs, table
from cryorbit.report.pictures import Pictures
from cryorbit.report.provenance import provenance, warnings_section
from cryorbit.report.record import RunRecord, read_run
from cryorbit.report.summary import evaluation_rows, key_numbers, precision_columns, summary
from cryorbit.report.wording import count, percent, ratio

TEMPLATE = "page.html"
# What lies between is replaced where the page is served.
EXPLORER_BEGINS, EXPLORER_ENDS = "<!-- explorer -->", "<!-- end of the explorer -->"


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
        warnings=warnings_section(run),
        explorer_style=explorer_style(),
        explorer_begins=EXPLORER_BEGINS,
        explorer=explorer_section(run),
        explorer_ends=EXPLORER_ENDS,
        figures="\n".join(drawn),
        left_out=_left_out_section(left_out),
        provenance=provenance(run),
    )
    write_text(report_path(folder), page)
    return report_path(folder)


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


def _left_out_section(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    titles: dict[str, list[str]] = {}
    for item in left_out:
        titles.setdefault(item.reason, []).append(item.title)
    items = "\n".join(f"<li>{escape('; '.join(named))}: {escape(reason)}</li>" for reason, named in titles.items())
    return f'<section id="left-out"><h2>Left out</h2>\n<ul>{items}</ul></section>'
