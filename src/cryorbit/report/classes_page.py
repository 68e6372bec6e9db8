"""The page of a classification: class averages to click on, tied to the map of all particles."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cryorbit.conventions import FloatArray
from cryorbit.errors import RunFolderError
from cryorbit.io.mrc import read_images
from cryorbit.io.runs import read_table, report_path, write_text
from cryorbit.report.drawing import Plot, middle_range, new_figure, save
from cryorbit.report.explorer.fragment import explorer_section, explorer_style
from cryorbit.report.markup import definitions, embedded_figure, fill, paragraphs, table
from cryorbit.report.page import EXPLORER_BEGINS, EXPLORER_ENDS
from cryorbit.report.pictures import Pictures
from cryorbit.report.provenance import provenance, warnings_section
from cryorbit.report.record import RunRecord, read_run
from cryorbit.report.wording import count, percent

TEMPLATE, SCRIPT = "classes.html", "classes.js"
CARD_PX = 96
ACROSS = 10
WEBP_QUALITY = 80
# Deviation from the bulk of the classes that is worth a word on the card.
WORTH_SAYING = 3.0
REASONS = {
    "deviation_empty": "nothing to align to",
    "deviation_agreement": "no lines in common with the others",
    "deviation_offset": "off the centre",
    "deviation_extent": "of another size",
    "deviation_outside": "reaches beyond the particle",
}
TABLE_NOTE = (
    "Resolution: where the correlation of the averages of two halves of the class falls below 0.143. Angle: typical "
    "deviation. Lines: correlation of the best common lines with the other classes, the median; two views of one "
    "object share a line. Offset and extent: of what the average shows, in radii of the particle. Nats: how much more "
    "likely an image of the class is with the average than without, as a logarithm. Roundness: share of the average's "
    "power that no turn changes. The same in files: classes.mrcs, classes.star, classes.csv."
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
    page = fill(
        TEMPLATE,
        title=escape(f"{name}: cryorbit classes"),
        heading=escape(name),
        key_numbers=definitions(_key_numbers(run, classes)),
        summary=paragraphs(_summary(run, classes)),
        warnings=warnings_section(run),
        cards="\n".join(_card(row, image) for row, image in zip(classes.to_dict("records"), averages, strict=True)),
        explorer_style=explorer_style(),
        explorer_begins=EXPLORER_BEGINS,
        explorer=explorer_section(run),
        explorer_ends=EXPLORER_ENDS,
        table_note=escape(TABLE_NOTE),
        table=_facts_table(classes),
        figures=_montage(folder, classes, averages),
        provenance=provenance(run),
        script=files("cryorbit.report").joinpath(SCRIPT).read_text(encoding="utf-8"),
    )
    write_text(report_path(folder), page)
    return report_path(folder)


def _key_numbers(run: RunRecord, classes: pd.DataFrame) -> dict[str, str]:
    kept = int(run.kept.sum())
    good = classes[classes["kept"]]
    numbers = {
        "particles": count(len(run)),
        "kept": f"{count(kept)} ({percent(kept, len(run))})",
        "classes of particles": count(len(good)),
        "classes of junk": count(len(classes) - len(good)),
    }
    if len(good):
        numbers["best resolution of a class"] = f"{good['resolution_A'].min():.0f} Å"
        numbers["angle, typical deviation"] = f"{good['psi_std_deg'].median():.2g}°"
    return numbers


def _summary(run: RunRecord, classes: pd.DataFrame) -> list[str]:
    """What was done, in sentences."""
    learnt = run.number("stages", "learn", "learnt_from")
    asked = run.number("configuration", "classification", "views")
    views = run.number("stages", "learn", "views")
    how = "as many as were asked for" if asked is not None else "as many as images that were held out were better with"
    said = [
        f"{count(len(run))} particles were sorted into {count(int(views or len(classes)))} classes, {how}. The "
        f"averages were learnt from {count(int(learnt or len(run)))} of them, from nothing: each begins as a blur of a "
        "few images, and no reference of any kind was used."
    ]
    if run.fact("configuration", "classification", "mirror") == "tied":
        said.append(
            "A view and its reflection, which is the view from the other side, are one class: the column "
            "cryorbitMirrored says which images were reflected."
        )
    else:
        said.append("A view and its reflection, which is the view from the other side, are classes of their own.")
    junk, dropped = classes[~classes["kept"]], int((~run.kept).sum())
    said.append(
        f"{count(dropped)} particles look like junk: {count(int(junk['particles'].sum()))} are in {count(len(junk))} "
        "classes that are unlike the bulk, and the others are unlike their own class."
    )
    if len(classes) < int(views or 0):
        said.append(f"{int(views or 0) - len(classes)} classes ended without any particle and are left out.")
    return said


def why_junk(row: Mapping[Hashable, Any]) -> list[str]:
    """In what a class that was dropped is unlike the others, the plainest first."""
    found = sorted(REASONS, key=lambda name: -row[name])
    return [REASONS[name] for name in found if row[name] > WORTH_SAYING] or ["its particles are unlike each other"]


def _card(row: Mapping[Hashable, Any], image: FloatArray) -> str:
    """A class to click on."""
    number, particles = int(row["class"]), count(int(row["particles"]))
    reasons = [f"{row['resolution_A']:.0f} Å"] if row["kept"] else why_junk(row)
    said = reasons[0] if row["kept"] else f"junk: {reasons[0]}"
    probability = f"junk probability {row['outlier_probability']:.0%}"
    label = escape(f"Class {number}, {particles} particles, {', '.join(reasons)}, {probability}")
    kept = "true" if row["kept"] else "false"
    return (
        f'<li><button type="button" data-class="{number}" data-kept="{kept}" aria-pressed="{kept}" title="{label}">'
        f'<img alt="{label}" width="{CARD_PX}" height="{CARD_PX}" src="data:image/webp;base64,{_picture(image)}">'
        f"<strong>{number}</strong> · {particles}<br><span>{escape(said)}</span>"
        '<span class="bar-of"><i></i></span><span class="note selected"></span></button></li>'
    )


def _grey(image: FloatArray) -> FloatArray:
    """An average between black and white."""
    low, high = middle_range(image.ravel(), 0.2)
    return np.asarray(np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0))


def _picture(image: FloatArray) -> str:
    """An average as text for a page."""
    grey = Image.fromarray((255 * _grey(image)).astype(np.uint8))
    buffer = io.BytesIO()
    grey.resize((CARD_PX, CARD_PX), Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _facts_table(classes: pd.DataFrame) -> str:
    head = ["Class", "Particles", "Kept", "Junk", "Resolution", "Angle", "Lines", "Offset", "Extent", "Nats",
            "Roundness", "Isotropy"]  # fmt: skip
    return table("All classes", head, [_facts_row(row) for row in classes.to_dict("records")])


def _facts_row(row: Mapping[Hashable, Any]) -> Sequence[str]:
    return [
        str(int(row["class"])), count(int(row["particles"])), count(int(row["kept_particles"])),
        f"{100 * row['outlier_probability']:.0f} %", f"{row['resolution_A']:.1f} Å", f"{row['psi_std_deg']:.2f}°",
        f"{row['agreement']:.2f}", f"{row['offset']:.2f}", f"{row['extent']:.2f}", f"{row['nats']:.0f}",
        f"{row['roundness']:.2f}", f"C{int(row['isotropy_order'])}",
    ]  # fmt: skip


def _montage(folder: Path, classes: pd.DataFrame, averages: FloatArray) -> str:
    """All averages in one figure, as papers show them."""
    rows = -(-len(averages) // ACROSS)
    figure = new_figure(ACROSS * 0.85, rows * 0.98)
    for place, (row, image) in enumerate(zip(classes.to_dict("records"), averages, strict=True)):
        axes = figure.add_subplot(rows, ACROSS, place + 1)
        axes.imshow(_grey(image), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{int(row['particles']):,}{'' if row['kept'] else ' junk'}", fontsize=7, pad=2)
        axes.set_axis_off()
    plot = Plot(
        figure=figure, name="classes", title="Class averages",
        caption="Every class average with the number of its particles, the kept classes first.",
        alt=f"{len(averages)} class averages in rows.",
    )  # fmt: skip
    (folder / "figures").mkdir(exist_ok=True)
    return embedded_figure(plot, save(figure, folder / "figures", plot.name), f"figures/{plot.name}.pdf")
