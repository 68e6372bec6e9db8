"""Sheets of small images within the page: a sample of the particles, and what the decoder draws over the latent map."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

from cryorbit.conventions import FloatArray
from cryorbit.report.drawing import middle_range
from cryorbit.report.particle_figures import shifts_px
from cryorbit.report.pictures import put_into_place
from cryorbit.report.record import RunRecord

MOST_SAMPLED, ACROSS = 384, 24
THUMBNAIL_PX, DRAWN_PX = 44, 32
JUDGED_PX, JUDGED_ACROSS = 96, 12
# Cells of the map of which every one that holds particles gets a sampled one, and of the decoder's map.
SAMPLE_CELLS, DECODER_CELLS = 12, 16
QUALITY = 62


@dataclass(frozen=True)
class Sheet:
    """Images side by side as one, in a format that browsers read, as an address of data."""

    address: str
    across: int
    size: int


def sheet(images: FloatArray, size: int, limits: tuple[float, float], across: int = ACROSS) -> Sheet:
    """Images of shape (k, h, w) at this size on one grey scale."""
    scale = size / images.shape[-1]
    small = np.stack([zoom(image, scale, order=1, grid_mode=True, mode="nearest") for image in images])[:, :size, :size]
    grey = np.clip((small - limits[0]) / max(limits[1] - limits[0], 1e-12), 0.0, 1.0) * 255.0
    rows = -(-len(grey) // across)
    whole = np.zeros((rows, size, across, size), dtype=np.uint8)
    for k, image in enumerate(grey):
        whole[k // across, :, k % across] = image.astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(whole.reshape(rows * size, across * size)).save(buffer, "WEBP", quality=QUALITY, method=4)
    return Sheet(f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", across, size)


def sampled_rows(run: RunRecord) -> NDArray[np.int64]:
    """Rows to show: one of every part of the latent map that has any, then others at random, half of them dropped."""
    random = np.random.default_rng(0)
    order = random.permutation(len(run))
    first: list[int] = []
    if run.principal is not None:
        cell = _cells(run.principal[:, :2], SAMPLE_CELLS)[order]
        first = order[np.unique(cell, return_index=True)[1]].tolist()
    dropped = order[~run.kept[order]][: MOST_SAMPLED // 3].tolist()
    rows = dict.fromkeys([*first, *dropped, *order.tolist()])
    return np.sort(np.array(list(rows)[:MOST_SAMPLED], dtype=np.int64))


def _cells(points: FloatArray, cells: int) -> NDArray[np.int64]:
    """Cell of each point in a grid over the middle of them all, shape (n,)."""
    low, high = np.nanquantile(points, [0.002, 0.998], axis=0)
    place = np.nan_to_num((points - low) / np.maximum(high - low, 1e-12)) * cells
    column, row = np.clip(place.astype(np.int64), 0, cells - 1).T
    return np.asarray(row * cells + column)


def sample(run: RunRecord) -> dict[str, Any] | None:
    """Sampled particles as they are, put into place, and drawn by the decoder; None where there are no images."""
    if run.pictures.images is None:
        return None
    rows = sampled_rows(run)
    raw = run.pictures.smoothed(rows)
    good = raw[run.kept[rows]] if run.kept[rows].any() else raw
    limits = middle_range(good.ravel(), 0.3)
    sheets = {"raw": sheet(raw, THUMBNAIL_PX, limits)}
    if run.angle_known and np.isfinite(run.column("psi_deg")[rows]).any():
        sheets["aligned"] = sheet(_placed(run, rows, raw), THUMBNAIL_PX, limits)
    latent = latent_points(run)
    if run.pictures.drawn is not None and latent is not None and np.isfinite(latent[rows]).all():
        drawn = run.pictures.drawn(latent[rows])
        sheets["drawn"] = sheet(drawn, THUMBNAIL_PX, middle_range(drawn.ravel(), 0.3))
    return {
        "rows": rows.tolist(), "across": ACROSS, "size": THUMBNAIL_PX,
        "sheets": {name: made.address for name, made in sheets.items()},
    }  # fmt: skip


def _placed(run: RunRecord, rows: NDArray[np.int64], images: FloatArray) -> FloatArray:
    """Images of these rows put into place by what was written to the file."""
    shift_px = shifts_px(run, run.pictures.pixel_size_A)[rows]
    return put_into_place(images, np.nan_to_num(run.column("psi_deg")[rows]), shift_px)


def images_of(run: RunRecord, rows: NDArray[np.int64], aligned: bool) -> Sheet:
    """Images of these rows, large enough to judge each."""
    images = run.pictures.smoothed(rows)
    limits = middle_range(images.ravel(), 0.3)
    images = _placed(run, rows, images) if aligned else images
    return sheet(images, min(images.shape[-1], JUDGED_PX), limits, JUDGED_ACROSS)


def latent_points(run: RunRecord) -> FloatArray | None:
    """Latent point of each particle, shape (n, latent); None without a latent space."""
    if run.latent is None:
        return None
    axes = [name for name in run.latent.columns if name[0] == "z" and name[1:].isdigit()]
    axes.sort(key=lambda name: int(name[1:]))
    return run.latent[axes].to_numpy(dtype=np.float64) if axes else None


def decoder_map(run: RunRecord, ends: tuple[tuple[float, float], tuple[float, float]]) -> dict[str, Any] | None:
    """What the decoder draws over the plane of the first two principal axes, where there are particles.

    Each cell has the image of the mean latent point of its particles: one on the plane itself may lie where no
    particle is.

    Parameters
    ----------
    run
        Its record.
    ends
        Values at the two ends of either axis of the page.
    """
    points, drawn = latent_points(run), run.pictures.drawn
    if run.principal is None or points is None or drawn is None:
        return None
    low, high = np.array(ends).T
    place = (run.principal[:, :2] - low) / (high - low) * DECODER_CELLS
    inside = np.isfinite(points).all(axis=1) & ((place >= 0) & (place < DECODER_CELLS)).all(axis=1)
    if not inside.any():
        return None
    column, row = place[inside].astype(np.int64).T
    cell = row * DECODER_CELLS + column
    counts = np.bincount(cell, minlength=DECODER_CELLS**2)
    occupied = np.flatnonzero(counts)
    sums = np.stack([np.bincount(cell, weights=axis, minlength=DECODER_CELLS**2) for axis in points[inside].T], axis=1)
    images = drawn(sums[occupied] / counts[occupied, None])
    places = np.full(DECODER_CELLS**2, -1)
    places[occupied] = np.arange(len(occupied))
    made = sheet(images, DRAWN_PX, middle_range(images.ravel(), 0.3))
    return {
        "x": "pc1", "y": "pc2", "cells": DECODER_CELLS, "places": places.tolist(), "across": made.across,
        "size": made.size, "sheet": made.address,
    }  # fmt: skip
