"""The page of a classification: class averages to click on, tied to the map of all particles."""

from __future__ import annotations

import shlex
from collections.abc import Hashable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryorbit.conventions import FloatArray
from cryorbit.errors import RunFolderError
from cryorbit.io.mrc import read_images
from cryorbit.io.runs import read_table, report_path, write_text
from cryorbit.report.averages import as_webp, grey
from cryorbit.report.drawing import Plot, new_figure, save
from cryorbit.report.explorer.fragment import explorer_section, explorer_style
from cryorbit.report.markup import definitions, embedded_figure, fill, paragraphs, table
from cryorbit.report.page import EXPLORER_BEGINS, EXPLORER_ENDS
from cryorbit.report.pictures import Pictures
from cryorbit.report.provenance import provenance, warnings_section
from cryorbit.report.record import RunRecord, read_run
from cryorbit.report.wording import NOTHING, count, percent

TEMPLATE, SCRIPT = "classes.html", "classes.js"
CARD_PX = 96
ACROSS = 10
# Deviation from the bulk of the classes that is worth a word on the card.
WORTH_SAYING = 3.0
REASONS = {
    "deviation_empty": "no signal: noise",
    "deviation_agreement": "no common lines with the others: another object",
    "deviation_offset": "off-centre density: an edge or a neighbour",
    "deviation_extent": "of another size: ice, a fragment or an aggregate",
    "deviation_outside": "density beyond the particle",
}
UNLIKE = "its particles are unlike each other"
TABLE_NOTE = (
    "Resolution: where the Fourier ring correlation of the averages of two halves of the class falls below 0.143; the "
    "halves were aligned to one average, so that it is no gold standard. σ(ψ): median standard deviation of the "
    "in-plane angle. Common lines: correlation of the best ones with the other classes, the median; two views of one "
    "object share a line. Offset and radius of gyration: of the density that the average shows. Gain: by how much an "
    "image of the class is more likely with the average than without, the logarithm. Rotational: share of the power of "
    "the average that no in-plane rotation changes. Symmetry: in-plane. The same numbers are in classes.csv."
)


def write_class_report(folder: Path, pictures: Pictures | None = None) -> Path:
    """Write the page of a classification.

    Parameters
    ----------
    folder
        Of the classification; ``figures/`` and ``report.html`` are written into it.
    pictures
        Images of its particles.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    RunFolderError
        If a file of it is missing, or the folder cannot be written.
    """
    run, classes = read_run(folder, pictures), read_table(folder / "classes.csv")
    averages = read_images(folder / "classes.mrcs")
    if len(averages) != len(classes):
        raise RunFolderError(f"{folder}: classes.mrcs and classes.csv are of different runs; classify again.")
    name = folder.resolve().name
    box_A, kept = _box_A(run), classes["kept"].to_numpy(dtype=bool)
    cards = [_card(row, image, box_A) for row, image in zip(classes.to_dict("records"), averages, strict=True)]
    page = fill(
        TEMPLATE,
        title=escape(f"{name}: cryorbit classes"),
        heading=escape(name),
        key_numbers=definitions(_key_numbers(run, classes)),
        summary=paragraphs(_summary(run, classes)),
        warnings=warnings_section(run),
        diameter=f"{100 * _diameter_A(run) / box_A:.1f}",
        diameter_A=f"{_diameter_A(run):.0f} Å",
        kept_heading=_heading("Kept", classes[kept], "the largest first"),
        kept_cards="\n".join(card for card, good in zip(cards, kept, strict=True) if good),
        rejected=_rejected([card for card, good in zip(cards, kept, strict=True) if not good], classes[~kept]),
        explorer_style=explorer_style(),
        explorer_begins=EXPLORER_BEGINS,
        explorer=explorer_section(run),
        explorer_ends=EXPLORER_ENDS,
        go_on=_go_on(folder, classes),
        table_note=escape(TABLE_NOTE),
        table=_facts_table(classes, run),
        figures=_montage(folder, classes, averages),
        provenance=provenance(run),
        script=files("cryorbit.report").joinpath(SCRIPT).read_text(encoding="utf-8"),
    )
    write_text(report_path(folder), page)
    return report_path(folder)


def _box_A(run: RunRecord) -> float:
    """Width of the averages in Angstrom."""
    return (run.number("images", "box_size") or 1.0) * (run.number("images", "pixel_size_A") or 1.0)


def _diameter_A(run: RunRecord) -> float:
    """Diameter that particles were taken to have."""
    return 2 * (run.number("images", "particle_radius_px") or 0.0) * (run.number("images", "pixel_size_A") or 1.0)


def is_limited(resolution_A: float, limit_A: float | None) -> bool:
    """Whether a resolution is only the finest that the classification looks at."""
    return limit_A is not None and resolution_A <= limit_A * 1.001


def _resolution(resolution_A: float, limit_A: float | None) -> str:
    return f"{'≤ ' if is_limited(resolution_A, limit_A) else ''}{resolution_A:.0f} Å"


def _some(number: int, kind: str) -> str:
    """Some classes or particles in words."""
    return f"{count(number)} {kind}{'' if number == 1 else 'es' if kind.endswith('s') else 's'}"


def _heading(word: str, classes: pd.DataFrame, order: str) -> str:
    particles = _some(int(classes["particles"].sum()), "particle")
    return escape(f"{word}: {_some(len(classes), 'class')}, {particles}, {order}")


def _rejected(cards: list[str], classes: pd.DataFrame) -> str:
    if not cards:
        return "<h3>Rejected: none</h3>"
    heading = _heading("Rejected", classes, "with the reason")
    return f'<h3>{heading}</h3>\n<ul class="class-cards" id="rejected-classes">\n' + "\n".join(cards) + "\n</ul>"


def _key_numbers(run: RunRecord, classes: pd.DataFrame) -> dict[str, str]:
    kept = int(run.kept.sum())
    good = classes[classes["kept"]]
    numbers = {
        "particles": count(len(run)),
        "kept": f"{count(kept)} ({percent(kept, len(run))})",
        "classes kept": count(len(good)),
        "classes rejected": count(len(classes) - len(good)),
    }
    if len(good):
        limit_A = run.number("stages", "estimate", "limit_A")
        numbers["best resolution of a class"] = _resolution(float(good["resolution_A"].min()), limit_A)
        numbers["median σ(ψ)"] = f"{good['psi_std_deg'].median():.2g}°"
    return numbers


def _summary(run: RunRecord, classes: pd.DataFrame) -> list[str]:
    """What was done, in sentences."""
    learnt = int(run.number("stages", "learn", "learnt_from") or len(run))
    asked = run.number("configuration", "classification", "views")
    views = int(run.number("stages", "learn", "views") or len(classes))
    how = "as many as were asked for" if asked is not None else "as many as held-out images are better explained by"
    began = f"It began with {views}, {how}"
    began += "; those that show the same view were merged, empty ones left out." if len(classes) < views else "."
    pixel_size = run.number("images", "pixel_size_A") or float("nan")
    limit_A = run.number("stages", "estimate", "limit_A") or 2 * pixel_size
    said = [
        f"{_some(len(run), 'particle')} were sorted into {_some(len(classes), 'class')} without a reference: the "
        f"averages were learnt from {count(learnt)} of them, from random starts. {began}",
        f"Images were brought to {pixel_size:.3g} Å per pixel; nothing finer than {limit_A:.0f} Å was looked at, which "
        "is the best resolution that a class can have here (--set classification.box_size=128 goes further).",
    ]
    if run.fact("configuration", "classification", "mirror") == "tied":
        said.append(
            "A view and its reflection, which is the view from the other side, are one class: the column "
            "cryorbitMirrored says which images were reflected."
        )
    else:
        said.append("A view and its reflection, which is the view from the other side, are classes of their own.")
    junk, dropped = classes[~classes["kept"]], int((~run.kept).sum())
    inside = dropped - int((junk["particles"] - junk["kept_particles"]).sum())
    were, rejected = "was" if dropped == 1 else "were", _some(len(junk), "rejected class")
    said.append(
        f"{_some(dropped, 'particle')} {were} dropped: those of {rejected}, unlike the bulk of the set, and "
        f"{count(inside)} that are unlike their own class."
    )
    return said


def _go_on(folder: Path, classes: pd.DataFrame) -> str:
    """What to do with the files, with the names that they have here."""
    place = shlex.quote(str(folder))
    one = f"cryorbit run {place}/particles_kept.star --select rlnClassNumber=1 --out {place}_class1"
    chosen = f"cryorbit export {place} --selection SAVED.json --out selected.star"
    parts = [
        "<p>rlnClassNumber is the number of a class on this page and its place in classes.mrcs; a number that the file "
        "had before is in cryorbitInputClassNumber.</p>",
        "<p>In RELION: use particles_kept.star, or a selection, as the input of an initial model or a refinement, from "
        "the project's folder; classes.mrcs are templates for picking. In cryoSPARC: import particles_kept (the .cs "
        "file where the input was one), and classes.mrcs as templates.</p>",
        "<p>A selection that was saved above becomes a particle file by</p>",
        f"<pre>{escape(chosen)}</pre>",
    ]
    if classes["kept"].any():
        parts += [
            "<p>Angle, centre and defocus of one view as well as they can be known:</p>",
            f"<pre>{escape(one)}</pre>",
        ]
    return "\n".join(parts)


def why_junk(row: Mapping[Hashable, Any]) -> list[str]:
    """In what a class that was dropped is unlike the others, the plainest first."""
    found = sorted(REASONS, key=lambda name: (name != "deviation_empty", -row[name]))
    return [REASONS[name] for name in found if row[name] > WORTH_SAYING] or [UNLIKE]


def _card(row: Mapping[Hashable, Any], image: FloatArray, box_A: float) -> str:
    """A class to click on."""
    number, particles = int(row["class"]), count(int(row["particles"]))
    said = "; ".join(why_junk(row)[:2]) if not row["kept"] else _resolution(row["resolution_A"], row["limit_A"])
    junk = f"junk probability {row['outlier_probability']:.0%}"
    label = escape(f"Class {number}, {particles} particles, {said}, {junk}, box {box_A:.0f} Å")
    kept = "true" if row["kept"] else "false"
    return (
        f'<li><button type="button" data-class="{number}" data-kept="{kept}" aria-pressed="{kept}" title="{label}">'
        f'<span class="picture"><img alt="{label}" width="{CARD_PX}" height="{CARD_PX}" '
        f'src="data:image/webp;base64,{as_webp(image, CARD_PX)}"><i></i></span>'
        f'<span><strong>{number}</strong> · {particles}</span><span class="why">{escape(said)}</span>'
        '<span class="bar-of"><i></i></span></button></li>'
    )


def _facts_table(classes: pd.DataFrame, run: RunRecord) -> str:
    head = ["Class", "Particles", "Share", "Kept", "Junk", "Resolution", "σ(ψ)", "σ(defocus)", "Common lines", "Offset",
            "Radius of gyration", "Gain", "Rotational", "Symmetry"]  # fmt: skip
    radius_A = 0.5 * _diameter_A(run)
    return table("All classes", head, [_facts_row(row, radius_A) for row in classes.to_dict("records")])


def _facts_row(row: Mapping[Hashable, Any], radius_A: float) -> Sequence[str]:
    empty, order = row["deviation_empty"] > WORTH_SAYING, row["isotropy_order"]
    symmetry = "round" if np.isnan(order) else f"C{int(order)}"
    return [
        str(int(row["class"])), count(int(row["particles"])), f"{100 * row['share']:.1f} %",
        count(int(row["kept_particles"])), f"{100 * row['outlier_probability']:.0f} %",
        _resolution(row["resolution_A"], row["limit_A"]), NOTHING if empty else f"{row['psi_std_deg']:.2f}°",
        _defocus_std(row, empty),
        f"{row['agreement']:.2f}", f"{row['offset'] * radius_A:.0f} Å", f"{row['extent'] * radius_A:.0f} Å",
        f"{row['nats']:.0f}", f"{row['roundness']:.2f}", NOTHING if empty else symmetry,
    ]  # fmt: skip


def _defocus_std(row: Mapping[Hashable, Any], empty: bool) -> str:
    """How well the defocus of the images of a class is known; 0 is what the file's own value is taken for."""
    std_um = row.get("defocus_std_um")  # of the first versions' classes there is none
    if std_um == 0:
        return "given"
    return NOTHING if empty or std_um is None else f"{std_um:.3f} µm"


def _montage(folder: Path, classes: pd.DataFrame, averages: FloatArray) -> str:
    """All averages in one figure, as papers show them."""
    rows = -(-len(averages) // ACROSS)
    figure = new_figure(ACROSS * 0.85, rows * 1.0)
    for place, (row, image) in enumerate(zip(classes.to_dict("records"), averages, strict=True)):
        axes = figure.add_subplot(rows, ACROSS, place + 1)
        axes.imshow(grey(image), cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            f"{int(row['class'])}: {int(row['particles']):,}{'' if row['kept'] else ' (r)'}", fontsize=7, pad=2
        )
        axes.set_axis_off()
    plot = Plot(
        figure=figure, name="class_averages", title="Class averages",
        caption="Every class average with its number and the number of its particles, the kept classes first; (r) "
        "marks rejected ones.",
        alt=f"{len(averages)} class averages in rows.",
    )  # fmt: skip
    (folder / "figures").mkdir(exist_ok=True)
    return embedded_figure(plot, save(figure, folder / "figures", plot.name), f"figures/{plot.name}.pdf")
