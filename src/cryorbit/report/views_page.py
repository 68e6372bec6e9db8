"""The page of a run of many views: what became of all particles, and the way to each view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from cryorbit.conventions import FloatArray
from cryorbit.io.mrc import read_images
from cryorbit.io.runs import report_path, write_text
from cryorbit.report.averages import as_webp
from cryorbit.report.markup import fill, paragraphs
from cryorbit.report.wording import count

TEMPLATE = "views.html"
AVERAGE, AVERAGES = "average.mrc", "classes.mrcs"
PICTURE_PX = 192


def write_views_page(
    folder: Path, classes: str, views: pd.DataFrame, particles: int, kept: int, remarks: Sequence[str], file: str
) -> Path:
    """Write the page; gives its path.

    Parameters
    ----------
    folder
        Where.
    classes
        Folder of the classification, in it.
    views
        One row for each view: ``class``, ``particles``, ``kept``, ``psi_std_deg``, and ``folder`` of its own run, empty
        where it has none.
    particles, kept
        How many there are of all.
    remarks
        What else is to be said, a paragraph each.
    file
        Name of the file of all particles.
    """
    name = folder.resolve().name
    said = [
        f"{count(particles)} particles were classified into {count(len(views))} views that were kept, of which "
        f"{count(int((views['folder'] != '').sum()))} were aligned by themselves: {count(kept)} particles are kept, "
        f"{count(particles - kept)} dropped.",
        f"{file} has all of them, with the number of the class, and the pose that is known best, said against the "
        f"average of the class (in {classes}/classes.mrcs, by its number); particles_kept has those that are kept.",
        *map(escape, remarks),
    ]
    averages = read_images(folder / classes / AVERAGES)
    cards = "\n".join(_card(folder, classes, row, averages) for row in views.to_dict("records"))
    page = fill(
        TEMPLATE, title=escape(f"{name}: cryorbit views"), heading=escape(name), summary=paragraphs(said),
        classes=classes, cards=cards,
    )  # fmt: skip
    write_text(report_path(folder), page)
    return report_path(folder)


def _card(folder: Path, classes: str, row: Mapping[Hashable, Any], averages: FloatArray) -> str:
    """A view's own average, which leads to its report; that of the class, and its page, where it has no run."""
    number, own = int(row["class"]), str(row["folder"])
    facts = [f"{count(row['kept'])} of {count(row['particles'])} kept", f"median σ(ψ) {row['psi_std_deg']:.2f}°"]
    if not own:
        facts.append("too few to be run: as classified")
    average = folder / own / AVERAGE
    image = read_images(average)[0] if own and average.is_file() else averages[number - 1]
    picture = (
        f'<img alt="Average of class {number}" width="{PICTURE_PX}" height="{PICTURE_PX}" '
        f'src="data:image/webp;base64,{as_webp(image, PICTURE_PX)}">'
    )
    link = f'<a href="{escape(own or classes)}/report.html">{picture}<strong>Class {number}</strong></a>'
    return f"<li>{link}<span>{escape(', '.join(facts))}</span></li>"
