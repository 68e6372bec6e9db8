"""Figures of the training: reconstructions over the epochs (paper, Figure 3) and the loss curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cryorbit.estimation.truth import Truth
from cryorbit.model.losses import BALANCED_DISCRIMINATOR_LOSS
from cryorbit.report.drawing import COLOURS, LeftOut, Plot, middle_range, new_figure
from cryorbit.report.record import NO_LATENT_SPACE, Preview, RunRecord

TERMS = {
    "reconstruction": "reconstruction (nats / image)",
    "kl": "KL divergence (nats / image)",
    "adversarial": "adversarial, generator (nats)",
    "cone": "cone (latent units$^4$)",
    "total": "total, weighted (nats / image)",
    "discriminator": "discriminator (nats)",
    "noise_variance": "noise variance of a pixel",
    "active_axes": "active latent axes",
}


def reconstructions(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """Held-out images beside what the decoder draws for them, epoch by epoch."""
    name, title = "reconstructions", "Reconstructions during training"
    if not run.previews and not run.has_latent:
        return LeftOut(name, title, NO_LATENT_SPACE)
    if not run.previews:
        return LeftOut(name, title, "The run folder has no previews of reconstructions (checkpoint/preview_*.npz).")
    last = run.previews[-1]
    previews = [preview for preview in run.previews if preview.images.shape == last.images.shape]
    figure = new_figure(1.5 * (len(previews) + 1), 1.5 * len(last.images) + 0.4)
    panels = figure.subplots(len(last.images), len(previews) + 1, squeeze=False)
    drawn_range = middle_range(last.drawn.ravel(), 0.5)
    for row, image in enumerate(last.images):
        _show(panels[row, 0], image, middle_range(image.ravel(), 0.5))
        for column, preview in enumerate(previews):
            _show(panels[row, column + 1], preview.drawn[row], drawn_range)
    panels[0, 0].set_title("particle", fontsize=10)
    for column, preview in enumerate(previews):
        panels[0, column + 1].set_title(_epoch_name(preview), fontsize=10)
    caption = (
        "Left, particles that training did not see, as the network sees them (cropped, standardised, protein "
        "white). Then what the decoder draws for each after so many epochs. It should first draw a blob, then the "
        "shape, then the shape turned like the particle; noise should not appear. Drawings that all look alike "
        "mean that the latent space says little about the particle. Particles have a grey scale each, all "
        "drawings share one."
    )
    alt = f"{len(last.images)} particles and their reconstructions at {len(previews)} epochs."
    return Plot(name, title, figure, caption, alt)


def _epoch_name(preview: Preview) -> str:
    return f"epoch {preview.epoch}"


def _show(axes: Axes, image: Any, limits: tuple[float, float]) -> None:
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
    axes.set(xticks=[], yticks=[])


def losses(run: RunRecord, truth: Truth | None) -> Plot | LeftOut:  # noqa: ARG001
    """Every term of the loss over the epochs."""
    name, title = "losses", "Loss curves"
    shown = [term for term in TERMS if any(_used(record, term) for record in run.metrics)]
    if not shown and not run.has_latent:
        return LeftOut(name, title, NO_LATENT_SPACE)
    if not shown:
        return LeftOut(name, title, "The run folder has no training curves (metrics.jsonl).")
    columns = min(3 if len(shown) < 7 else 4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.3 * columns, 2.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, term in zip(panels, shown, strict=False):
        _curves(axes, run, term)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    caption = (
        "Every term of the loss, unweighted, and their weighted total. Training terms are taken at a random draw "
        "from the posterior on turned images, validation terms at its mean on held-out images, so "
        "validation may lie lower; it should fall and level off, and a rise at the end means overfitting. Terms "
        "that are zero throughout are not in use and left out."
    )
    if "discriminator" in shown:
        caption += (
            f" The discriminator's loss should stay near {BALANCED_DISCRIMINATOR_LOSS:.2f} (2 ln 2, guessing) or "
            "somewhat below: near 0 it has won and teaches nothing."
        )
    return Plot(name, title, figure, caption, f"Loss terms over {len(run.metrics)} epochs.")


def _used(record: Mapping[str, Any], term: str) -> bool:
    values = [record.get(f"{part}{term}") for part in ("train_", "validation_", "")]
    return any(isinstance(value, int | float) and np.isfinite(value) and value != 0 for value in values)


def _curves(axes: Axes, run: RunRecord, term: str) -> None:
    """Training and validation values of one term, or a single curve for what is neither."""
    epochs = [record.get("epoch", number + 1) for number, record in enumerate(run.metrics)]
    parts = (
        ("train_", "training", "--", COLOURS[0]),
        ("validation_", "validation", "-", COLOURS[1]),
        ("", "", "-", COLOURS[2]),
    )
    for prefix, label, line, colour in parts:
        if not any(f"{prefix}{term}" in record for record in run.metrics):
            continue
        values = [float(record.get(f"{prefix}{term}") or np.nan) for record in run.metrics]
        axes.plot(
            epochs, values, line, color=colour, label=label or None, marker="o" if len(epochs) < 15 else None,
            markersize=3, linewidth=1.5,
        )  # fmt: skip
    if term == "discriminator":
        axes.axhline(BALANCED_DISCRIMINATOR_LOSS, color="grey", linestyle=":", label="balanced, 2 ln 2")
    axes.set_xlabel("epoch")
    axes.set_ylabel(TERMS[term], fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if term not in ("noise_variance", "active_axes"):
        axes.legend(fontsize=8)
