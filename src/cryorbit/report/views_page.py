"""The page of a run of many views: what became of all particles, and the way to each view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from cryorbit.io.mrc import read_images
from cryorbit.io.runs import report_path, write_text
from cryorbit.report.averages import as_webp
from cryorbit.report.markup import fill, paragraphs
from cryorbit.report.wording import count

TEMPLATE = "views.html"
AVERAGE = "average.mrc"
PICTURE_PX = 192


def write_views_page(folder: Path, classes: str, views: pd.DataFrame, particles: int, kept: int, too_few: str) -> Path:
    """Write the page; gives its path.

    Parameters
    ----------
    folder
        Where.
    classes
        Folder of the classification, in it.
    views
        One row for each view: ``class``, ``particles``, ``kept``, ``psi_std_deg`` and ``folder``.
    particles, kept
        How many there are of all.
    too_few
        What is to be said of classes that have no run of their own; empty where there are none.
    """
    name = folder.resolve().name
    said = [
        f"{count(particles)} particles were classified, and {len(views)} views aligned by themselves: {count(kept)} "
        "particles are kept. particles.star has all of them, with the pose that is known best, and rlnClassNumber.",
        *([too_few] if too_few else []),
    ]
    cards = "\n".join(_card(folder, row) for row in views.to_dict("records"))
    page = fill(
        TEMPLATE, title=escape(f"{name}: cryorbit views"), heading=escape(name), summary=paragraphs(said),
        classes=classes, cards=cards,
    )  # fmt: skip
    write_text(report_path(folder), page)
    return report_path(folder)


def _card(folder: Path, row: Mapping[Hashable, Any]) -> str:
    """A view's own average, which leads to its report."""
    where, number = escape(str(row["folder"])), int(row["class"])
    facts = f"{count(row['kept'])} of {count(row['particles'])} kept, median σ(ψ) {row['psi_std_deg']:.2f}°"
    average = folder / str(row["folder"]) / AVERAGE
    picture = (
        f'<img alt="Average of class {number}" width="{PICTURE_PX}" height="{PICTURE_PX}" '
        f'src="data:image/webp;base64,{as_webp(read_images(average)[0], PICTURE_PX)}">'
        if average.is_file()
        else ""
    )
    link = f'<a href="{where}/report.html">{picture}<strong>Class {number}</strong></a>'
    return f"<li>{link}<span>{escape(facts)}</span></li>"
