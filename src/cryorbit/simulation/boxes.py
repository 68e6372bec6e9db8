"""Particles boxed from micrographs, as RELION's extraction does it: cut out, inverted, cropped, normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.conventions import FloatArray
from cryorbit.preprocessing.resample import fourier_crop
from cryorbit.simulation.exposure import expected_count
from cryorbit.simulation.micrographs import Micrograph, Scene, iter_micrographs
from cryorbit.simulation.noise import disc, normalise
from cryorbit.simulation.rendering import FloatImage
from cryorbit.simulation.single_images import ImageBatch

# Boxes brought down at once: their transforms are the largest arrays beside the micrograph's.
CROPPED_AT_ONCE = 8


def iter_boxes(scene: Scene, keep: Callable[[Micrograph], None] | None = None) -> Iterator[ImageBatch]:
    """Make the images of a set micrograph by micrograph, in the order of the truth's rows.

    Parameters
    ----------
    scene
        From :func:`cryorbit.simulation.micrographs.make_scene`.
    keep
        Called with every micrograph, for instance to write it.
    """
    for micrograph in iter_micrographs(scene):
        if keep is not None:
            keep(micrograph)
        yield box_particles(micrograph, scene)


def box_particles(micrograph: Micrograph, scene: Scene) -> ImageBatch:
    """Box the particles of a micrograph: protein white, background of mean 0 and standard deviation 1.

    Parameters
    ----------
    micrograph
        One exposure.
    scene
        Where its particles lie, and the size of the boxes.
    """
    config, coordinate_px = scene.config, scene.truth.coordinate_px[micrograph.rows]
    inside = disc(config.box, config.particle_diameter_A / config.pixel_size_A)
    clean = _cropped(micrograph.contrast, coordinate_px, config.extracted_px, config.box)
    variance = clean[:, inside].astype(np.float64).var(axis=1)
    if config.noise_free:
        # One scale for all: the background is only the ringing of the transfer function.
        images = [normalise(image, ~inside, std=scene.intensities.clean_std) for image in clean]
    else:
        missing = 1.0 - micrograph.intensity / np.float32(expected_count(config))
        boxes = _cropped(missing, coordinate_px, config.extracted_px, config.box)
        images = [normalise(image, ~inside) for image in boxes]
    return ImageBatch(torch.from_numpy(np.stack(images)), variance)


def cut_boxes(image: FloatImage, coordinate_px: FloatArray, box: int) -> Float[Tensor, "batch box box"]:
    """Squares whose pixel ``box // 2`` is the given one.

    Parameters
    ----------
    image
        A micrograph, shape (h, w).
    coordinate_px
        Centres of the boxes, x and y, whole numbers, shape (batch, 2).
    box
        Width of the squares in pixels.

    Raises
    ------
    ValueError
        If a square is not inside the image.
    """
    corners = np.rint(coordinate_px).astype(np.int64) - box // 2
    height, width = image.shape
    if (corners < 0).any() or (corners + box > [width, height]).any():
        raise ValueError(f"Expected boxes of {box} px inside {width} x {height} px; some corners are outside.")
    return torch.from_numpy(np.stack([image[y : y + box, x : x + box] for x, y in corners]))


def _cropped(image: FloatImage, coordinate_px: FloatArray, extracted_px: int, box: int) -> FloatImage:
    parts = [
        fourier_crop(cut_boxes(image, coordinate_px[start : start + CROPPED_AT_ONCE], extracted_px), box)
        for start in range(0, len(coordinate_px), CROPPED_AT_ONCE)
    ]
    boxes: FloatImage = torch.cat(parts).numpy()
    return boxes
