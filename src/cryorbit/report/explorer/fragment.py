"""The explorer as a part of a page: its columns, images, style and program in one piece of HTML."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from cryorbit.report.drawing import COLOURS
from cryorbit.report.explorer.columns import Column, packed, run_columns
from cryorbit.report.explorer.sheets import decoder_map, sample
from cryorbit.report.record import RunRecord

FOLDER = "page"
SCRIPTS = (
    "data.js", "map.js", "filters.js", "particles.js", "explorer.js", "gestures.js", "controls.js", "review.js",
    "main.js",
)  # fmt: skip
# All columns together, as text; beyond that, those of least use are left out: a page must open.
MOST_BYTES = 23_000_000
CIRCLE_BACKGROUND = "#a9aeb3"
# What a run may have a map of: its latent space, or all views.
MAPS = (("pc1", "pc2"), ("view1", "view2"))
START_FILTERS = ("outlier_probability", "defocus_um", "psi_std_deg")


def explorer_section(run: RunRecord, review: dict[str, Any] | None = None, most_bytes: int = MOST_BYTES) -> str:
    """The explorer of a run as HTML.

    Parameters
    ----------
    run
        What is shown.
    review
        Where it is served, what the page must know of the server.
    most_bytes
        All columns together.
    """
    columns, left_out = _fitting(run, most_bytes)
    by_name = {column.name: column for column, _ in columns}
    if len([column for column in by_name.values() if column.kind != "words"]) < 2:
        return ""
    axes = [name for name, column in by_name.items() if column.kind != "words"]
    x, y = next((pair for pair in MAPS if set(pair) <= by_name.keys()), (axes[0], axes[1]))
    ids = run.column("id")
    decoder = decoder_map(run, (by_name["pc1"].ends, by_name["pc2"].ends)) if x == "pc1" else None
    data = {
        "particles": len(run),
        "input": run.fact("input", "sha256"),
        "rows": run.fact("input", "ids"),
        "columns": [column.header() for column, _ in columns],
        "ids": None if np.array_equal(ids, np.arange(len(run))) else packed(ids.astype("<i4").tobytes()),
        "start": {
            "x": x, "y": y, "colour": _start_colour(by_name), "filters": [n for n in START_FILTERS if n in by_name]
        },
        "sample": sample(run),
        "decoder": decoder,
        "colour_maps": _colour_maps(),
        "circle_background": CIRCLE_BACKGROUND,
        "review": review,
    }  # fmt: skip
    texts = "\n".join(
        f'<script type="text/plain" id="column-{k}">{text}</script>' for k, (_, text) in enumerate(columns)
    )
    return Template(_file("explorer.html")).substitute(
        columns=texts,
        data=_as_script(data),
        script="\n".join(map(_file, SCRIPTS)),
        left_out=_said(left_out),
        every=_file("every.html") if review else "",
    )


def explorer_style() -> str:
    """The explorer's part of the page's style."""
    return _file("explorer.css")


def _file(name: str) -> str:
    return files(__package__).joinpath(FOLDER, name).read_text(encoding="utf-8")


def _as_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in, whatever names a file has."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fitting(run: RunRecord, most_bytes: int) -> tuple[list[tuple[Column, str]], list[str]]:
    """Columns with their data as text as far as they fit, and the names of those that do not."""
    kept: list[tuple[Column, str]] = []
    left_out: list[str] = []
    size = 0
    for column in run_columns(run):
        if size >= most_bytes:
            left_out.append(column.label)
            continue
        text = column.data()
        words = sum(len(word) for word in column.words)
        if size + len(text) + words > most_bytes:
            left_out.append(column.label)
        else:
            kept.append((column, text))
            size += len(text) + words
    return kept, left_out


def _start_colour(columns: dict[str, Column]) -> str | None:
    return next((name for name in ("class", "defocus_um", "outlier_probability", "kept") if name in columns), None)


def _said(left_out: list[str]) -> str:
    if not left_out:
        return ""
    names = escape(", ".join(left_out))
    return f'<p class="note">Left out, for a page that opens: {names}. <code>cryorbit review</code> has them all.</p>'


def _colour_maps() -> dict[str, str]:
    """Colours as hexadecimal text: along a line, around a circle, of words, of no and yes."""
    # The end that would vanish into the background is left out.
    on_light, on_dark = np.linspace(0.0, 0.86, 256), np.linspace(0.24, 1.0, 256)
    return {
        "line_on_light": _hex(colormaps["viridis"](on_light)[:, :3]),
        "line_on_dark": _hex(colormaps["viridis"](on_dark)[:, :3]),
        "circle": _hex(colormaps["twilight"](np.arange(256) / 256)[:, :3]),
        "words": _hex(np.array([to_rgb(colour) for colour in COLOURS[:7]])),
        "yes": _hex(np.array([to_rgb(COLOURS[5])])),
        "no": _hex(np.array([to_rgb(COLOURS[1])])),
    }


def _hex(colours: np.ndarray) -> str:
    return bytes(np.round(colours.ravel() * 255).astype(np.uint8)).hex()
