"""The paper's Figure 7: a class average beside what the decoder draws, and how each looks after a turn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from cryorbit.conventions import FloatArray
from cryorbit.preprocessing.normalise import disc_mask
from cryorbit.preprocessing.resample import fourier_crop, rotate
from cryorbit.report.alignment_figures import average_image
from cryorbit.report.drawing import COLOURS, LINES, LeftOut, Plot, new_figure
from cryorbit.report.paper import FIGURES
from cryorbit.report.particle_figures import shifts_px
from cryorbit.report.pictures import put_into_place
from cryorbit.report.record import RunRecord
from cryorbit.report.reproduction_figures import Reproduced, Sets, missing
from cryorbit.report.reproduction_record import ReproducedSet

TURNS_deg = np.arange(0.0, 361.0, 3.0)
# The particle lies within this part of the box.
PARTICLE_SHARE = 0.75
MOST_AVERAGED = 1000


def symmetry(sets: Sets, seed: int) -> Reproduced | LeftOut:  # noqa: ARG001
    """Class average and reconstruction of view 30, and how much each is like itself after a turn."""
    name = "figure7"
    if "view_30" not in sets or not sets["view_30"].run.previews:
        return missing(name, "view 30")
    one = sets["view_30"]
    average, average_name = _average(one)
    drawn = _drawn(one)
    images = {average_name: average, "reconstruction": drawn}
    curves = {title: self_correlation(image, len(drawn)) for title, image in images.items()}
    figure = new_figure(10.4, 4.0)
    panels = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.35))
    field_A = _field_A(one.run)
    for axes, (title, image) in zip(panels[:2], images.items(), strict=True):
        average_image(axes, image, None if field_A is None else field_A / len(image))
        axes.set_title(title, fontsize=10)
    _curves(panels[2], curves)
    figure.suptitle(one.title, fontsize=10)
    numbers = [
        pd.DataFrame({"panel": title, "row": rows.ravel(), "column": columns.ravel(), "value": image.ravel()})
        for title, image in images.items()
        for rows, columns in [np.indices(image.shape)]
    ]
    numbers += [
        pd.DataFrame({"panel": "turned", "image": title, "turn_deg": TURNS_deg, "correlation": values})
        for title, values in curves.items()
    ]
    caption = (
        f"{one.title}. Left, the {average_name}; middle, what the decoder draws of a held-out particle; right, the "
        f"correlation of each with itself after a turn, at the decoder's pixel size. {_found(one.run)}"
    )
    alt = "Class average and reconstruction of view 30, and their correlation with themselves after a turn."
    return Reproduced(
        Plot(name, FIGURES[name].title, figure, caption, alt),
        pd.concat(numbers, ignore_index=True).assign(set=one.name),
    )


def _found(run: RunRecord) -> str:
    """What the run says of the symmetry, and by what evidence."""
    order, aligned, nats = (
        run.isotropy_order,
        run.number("alignment", "isotropy_order"),
        run.number("alignment", "rival_nats"),
    )
    text = f"The run found the isotropy group C{order}" if order > 1 else "The run found no symmetry (C1)"
    if aligned is not None:
        text += f"; the alignment found C{aligned:g}"
        if nats is not None:
            text += f", its best rival angle being {nats:.1f} nats behind for a typical particle"
    winding = run.number("chart", "winding")
    if winding is not None:
        text += (
            f". In the plane of two principal components the orbits run around {abs(winding):g} times while a particle "
            "turns once"
        )
    locks = run.fact("chart", "locks")
    if isinstance(locks, list):
        strengths = ", ".join(f"{lock:.2f}" for lock in locks if isinstance(lock, int | float))
        text += (
            f". The latent orbits contain the harmonics {', '.join(map(str, run.fact('chart', 'harmonics') or []))}; "
            f"how strictly the harmonics 1, 2, ... follow the strongest: {strengths}"
        )
    return text + "."


def _average(one: ReproducedSet) -> tuple[FloatArray, str]:
    """The class average and its name: the alignment's, or the mean of particles put into place by their estimates."""
    run = one.run
    if run.average.image is not None:
        return run.average.image, "class average of the alignment"
    if run.pictures.images is None:
        return np.zeros_like(_drawn(one)), "class average (images are missing)"
    rows = np.flatnonzero(run.kept)[:MOST_AVERAGED].astype(np.int64)
    images = run.pictures.images(rows)
    shifts = np.nan_to_num(shifts_px(run, run.pictures.pixel_size_A)[rows])
    placed = put_into_place(images, run.column("psi_deg")[rows], shifts)
    return placed.mean(axis=0), "mean of the particles, put into place"


def _drawn(one: ReproducedSet) -> FloatArray:
    """What the decoder draws of a good particle at the end of the training."""
    last = one.run.previews[-1]
    if len(last.rows) != len(last.drawn):
        return np.asarray(last.drawn[0])
    good = np.flatnonzero(~one.is_junk[last.rows])
    return np.asarray(last.drawn[good[0] if len(good) else 0])


def _field_A(run: RunRecord) -> float | None:
    size, pixel = run.number("images", "box_size"), run.number("images", "pixel_size_A")
    return None if size is None or pixel is None else size * pixel


def self_correlation(image: FloatArray, size: int) -> FloatArray:
    """Correlation of an image, brought to a width, with itself after turns of 0 to 360 degrees, shape (turns,)."""
    whole = torch.from_numpy(np.ascontiguousarray(image)).float()[None]
    small = fourier_crop(whole, size) if size < len(image) else whole
    turned = rotate(small.expand(len(TURNS_deg), -1, -1), torch.from_numpy(TURNS_deg).float()).double()
    inside = disc_mask(small.shape[-1], 0.5 * PARTICLE_SHARE * small.shape[-1]) > 0.5
    values = turned[:, inside]
    values = values - values.mean(dim=1, keepdim=True)
    values = values / values.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return np.asarray((values @ values[0]).numpy())


def _curves(axes: Axes, curves: dict[str, FloatArray]) -> None:
    for number, (title, values) in enumerate(curves.items()):
        axes.plot(TURNS_deg, values, color=COLOURS[number], linestyle=LINES[number], linewidth=1.8, label=title)
    for third in (120.0, 240.0):
        axes.axvline(third, color="grey", linestyle=":", linewidth=0.9)
    axes.set(xlabel="turn (degrees)", ylabel="correlation with itself", xlim=(0.0, 360.0))
    axes.set_xticks([0, 60, 120, 180, 240, 300, 360])
    axes.set_title("alike after a turn?", fontsize=10)
    axes.legend(fontsize=8, loc="lower center")
