"""The page of a reproduction: the paper's table and figures beside ours, in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from cryorbit.io.runs import write_table, write_text
from cryorbit.report import reproduction_figures as figures
from cryorbit.report.drawing import LeftOut, save
from cryorbit.report.markup import embedded_figure, fill, paragraphs, table
from cryorbit.report.paper import FIGURES
from cryorbit.report.reproduction_figures import Draw
from cryorbit.report.reproduction_record import EXPERIMENTAL_LIKE, SIMULATED, ReproducedSet
from cryorbit.report.reproduction_table import (
    ALL,
    AREA_HEAD,
    HEAD,
    READINGS,
    area_rows,
    markdown,
    number,
    shown_rows,
    table_rows,
)
from cryorbit.report.symmetry_figure import symmetry
from cryorbit.report.wording import listed

PAGE = "reproduction.html"
TEMPLATE = "reproduction.html"
# In the CSV files, where the whole label on every line would be most of the file.
EXPERIMENTAL_LIKE_KIND = "experimental-like (simulated)"
DRAWN: Mapping[str, Draw] = {
    "figure3": figures.reconstructions,
    "figure4": figures.simulated_plane,
    "figure5": figures.outliers,
    "figure6": figures.latent_pairs,
    "figure7": symmetry,
    "figure8": figures.predictions,
}
NOTE = (
    "Ours: read from the latent orbits. Paper's formula here: the paper's polar formula on our latent space. "
    "Angles: root mean square error weighted by exp(defocus in µm) - 1 after one shift and one sign for the whole"
    " set (equation 8), of true particles. Defocus: root mean square error of true particles. AUC: isolation "
    "forest against |Z| > 2. Held out: particles that the training did not see. The paper compares with RELION's "
    "estimates, we with the truth."
)


@dataclass(frozen=True)
class Provenance:
    """What the page says of how it came about.

    Attributes
    ----------
    ingredients
        What the sets are made of, in sentences.
    facts
        Names and values: version, seed, preset, files.
    """

    ingredients: Sequence[str]
    facts: Mapping[str, str]


def write_reproduction(folder: Path, sets: Sequence[ReproducedSet], provenance: Provenance, seed: int) -> Path:
    """Draw the figures, write table and numbers, and the page that sets them beside the paper's.

    Parameters
    ----------
    folder
        Of the reproduction; all files are written into it.
    sets
        The sets that were made.
    provenance
        What they are made of.
    seed
        For the detectors that draw samples.

    Returns
    -------
    Path
        Of the page.
    """
    numbers = table_rows(sets, seed)
    rows = shown_rows(numbers)
    write_table(folder / "table1.csv", numbers)
    write_text(folder / "table1.md", markdown(HEAD, rows) + f"\n{NOTE}\n")
    drawn, left_out = _figures(folder, sets, seed)
    page = fill(
        TEMPLATE,
        title=escape(f"{folder.resolve().name}: the paper reproduced"),
        heading="The paper's results, reproduced",
        summary=paragraphs(_summary(sets, numbers)),
        label="" if all(one.is_simulated for one in sets) else _label(sets),
        table=_tables(rows, numbers),
        figures="\n".join(drawn),
        left_out=_left_out(left_out),
        sets=_sets(sets, provenance),
        provenance=table("How it was made", ["", ""], [[name, value] for name, value in provenance.facts.items()]),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _figures(folder: Path, sets: Sequence[ReproducedSet], seed: int) -> tuple[list[str], list[LeftOut]]:
    """Draw, save and embed one figure at a time."""
    drawn, left_out = [], []
    by_name = {one.name: one for one in sets}
    for name, draw in DRAWN.items():
        result = draw(by_name, seed)
        if isinstance(result, LeftOut):
            left_out.append(result)
            continue
        write_table(folder / f"{name}.csv", _labelled(result.numbers))
        section = embedded_figure(result.plot, save(result.plot.figure, folder, name), f"{name}.pdf")
        paper = f'<div class="paper"><p><strong>The paper shows:</strong> {escape(FIGURES[name].shows)}</p></div>'
        drawn.append(section.replace("</h3>\n", f"</h3>\n{paper}\n", 1))
    return drawn, left_out


def _labelled(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a figure, every row with the kind of set that it is of."""
    kind = np.where(numbers["set"] == SIMULATED, SIMULATED, EXPERIMENTAL_LIKE_KIND)
    return numbers.assign(kind=kind)[["set", "kind", *numbers.columns.drop("set")]]


def _summary(sets: Sequence[ReproducedSet], numbers: pd.DataFrame) -> list[str]:
    """What was found, in plain words."""
    sentences = [
        "Miolane, Poitevin, Li and Holmes (CVPR workshops 2020, arXiv:1911.08121) train a network on the images of one "
        "view of a particle and read from its latent space which images are junk, how each particle is turned and what "
        "its defocus was. This page has their Table 1 and Figures 3 to 8 as cryorbit makes them."
    ]
    ours = numbers[(numbers["particles"] == ALL) & (numbers["reading"] == READINGS["latent_"])]
    for row in ours.to_dict("records"):
        said = f"{row['title']}: {number(row['angle_rmse_weighted_deg'])} degrees"
        if row["isotropy_order"] > 1:
            said += f" (modulo {360 // row['isotropy_order']})"
        elif row["symmetry_order"] > 1:
            folded = number(row["angle_rmse_weighted_up_to_symmetry_deg"])
            said += f" ({folded} modulo {360 // row['symmetry_order']}, the symmetry that the view nearly has)"
        said += f" and {number(row['defocus_rmse_um'])} µm"
        if pd.notna(row.get("auc_z_isolation_forest")):
            said += f", AUC {number(row['auc_z_isolation_forest'])}"
        if pd.notna(row["paper_angle_deg"]):
            said += f"; the paper has {row['paper_angle_deg']} degrees and {row['paper_defocus_um']} µm"
            said += f", AUC {row['paper_auc']}" if pd.notna(row["paper_auc"]) else ""
        sentences.append(f"{said}.")
    guided = [one for one in sets if one.run.fact("chart", "guided")]
    if guided:
        alone = [one.short for one in sets if one not in guided]
        but = f" (but for {listed(alone)}, whose angles the alignment calls unknown)" if alone else ""
        sentences.append(
            f"Two things differ from the paper. The training was guided{but}: an alignment of the particles, which"
            " sees no labels, tells the encoder the angles and defoci that it finds; what is reported is what the"
            " encoder says, from the latent space alone. And angles and defoci are read from the orbits of turned"
            " copies, not by the polar formula in the plane of two principal components, whose numbers stand "
            "beside."
        )
    return sentences


def _label(sets: Sequence[ReproducedSet]) -> str:
    like = listed([one.short for one in sets if not one.is_simulated])
    text = (
        f"The paper's experimental images are not public. {like.capitalize()} here are {EXPERIMENTAL_LIKE}: their "
        "numbers can be compared with the paper's in kind, not in size."
    )
    return f'<div class="like"><p><strong>{escape(text)}</strong></p></div>'


def _tables(rows: list[list[str]], numbers: pd.DataFrame) -> str:
    parts = [table("Table 1, the paper's numbers beside ours", HEAD, rows), f"<p>{escape(NOTE)}</p>"]
    areas = area_rows(numbers)
    if areas:
        parts.append(table("Area under the ROC curve, against |Z| > 2 / against the truth", AREA_HEAD, areas))
        parts.append(
            "<p>Detectors look at features of the latent orbits that no turn changes; the last but one looks at "
            "the latent points themselves, as in the paper. Labels by Z-score have mistakes that no detector can "
            "foresee: even one that knows the truth falls short of 1 against them.</p>"
        )
    full = numbers[["title", "particles", "reading", "images"]].astype(str)
    for name in ("angle_rmse_weighted_deg", "angle_rmse_deg", "angle_median_deg", "defocus_rmse_um"):
        full[name] = [number(value) for value in numbers[name]]
    head = [
        "Set", "Particles", "Reading", "Images", "Angle, weighted (degrees)", "Angle, rms (degrees)",
        "Angle, median (degrees)", "Defocus, rms (µm)",
    ]  # fmt: skip
    parts.append(
        "<details><summary>All readings, and held-out particles</summary>"
        f"{table('All readings', head, full.to_numpy().tolist())}</details>"
    )
    return "\n".join(parts)


def _left_out(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    items = "\n".join(f"<li>{escape(item.title)}: {escape(item.reason)}</li>" for item in left_out)
    return f'<section id="left-out"><h2>Left out</h2>\n<ul>{items}</ul></section>'


def _sets(sets: Sequence[ReproducedSet], provenance: Provenance) -> str:
    rows = [
        [
            one.title, f"{len(one.run):,}", f"{int(one.is_junk.sum()):,}",
            "" if one.beyond_z is None else f"{int(one.beyond_z.sum()):,}", f"{one.name}/report.html",
        ]
        for one in sets
    ]  # fmt: skip
    head = ["Set", "Images", "Junk in truth", "|Z| > 2", "Report of the run"]
    return paragraphs(provenance.ingredients) + table("Sets", head, rows)
