"""Pieces of a page: every text of a file or a user is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from PIL import Image

from cryorbit.report.drawing import Plot

# Wider figures scroll sideways on a phone instead of shrinking beyond what can be read.
PHONE_FIGURE_INCH = 7.0
STYLE = "style.css"
WEBP_QUALITY = 66


def fill(template: str, **parts: str) -> str:
    """A page from a template of this folder; its style is the same for all."""
    folder = files("cryorbit.report")
    style = folder.joinpath(STYLE).read_text(encoding="utf-8")
    return Template(folder.joinpath(template).read_text(encoding="utf-8")).substitute(style=style, **parts)


def embedded_figure(plot: Plot, png: bytes, vector_file: str) -> str:
    """A figure with its caption, the image inside the page."""
    data = base64.b64encode(_smaller(png)).decode("ascii")
    label = escape(plot.title)
    shape = "wide panels" if plot.figure.get_figwidth() > PHONE_FIGURE_INCH else "wide"
    return (
        f'<section id="{plot.name}"><h3>{label}</h3>\n<figure>'
        f'<div class="{shape}" role="group" tabindex="0" aria-label="{label}, scrolls sideways">'
        f'<img alt="{escape(plot.alt)}" src="data:image/webp;base64,{data}"></div>\n'
        f"<figcaption>{escape(plot.caption)} <small>Vector file: {escape(vector_file)}</small></figcaption>"
        "</figure></section>"
    )


def _smaller(png: bytes) -> bytes:
    """A figure in a third of the bytes, for the page; the files beside it have it whole."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return buffer.getvalue()


def paragraphs(sentences: Iterable[str]) -> str:
    """A paragraph for every sentence."""
    return "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def definitions(items: Mapping[str, str]) -> str:
    """Key numbers: what each is called, and its value."""
    return "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items.items())


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" role="group" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
