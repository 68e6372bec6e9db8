"""Images one particle at a time, each in a box of its own, with noise and normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.conventions import FloatArray
from cryorbit.simulation.noise import Intensities, noise_amplitude, noise_image, normalise, particle_disc
from cryorbit.simulation.rendering import Renderer, clean_image
from cryorbit.simulation.truth import TruthTable

BATCH_IMAGES = 64


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive images of a simulated set.

    Attributes
    ----------
    images
        As an experimenter's extraction leaves them: background of mean 0 and standard deviation 1.
    signal_variance
        Variance of each image inside the particle's disc before noise and normalisation, shape (batch,).
    """

    images: Float[Tensor, "batch h w"]
    signal_variance: FloatArray


def iter_batches(
    truth: TruthTable, renderer: Renderer, intensities: Intensities, batch_size: int = BATCH_IMAGES
) -> Iterator[ImageBatch]:
    """Make the images of a set batch by batch; an image does not depend on the batch it is in.

    Parameters
    ----------
    truth
        How every image is made.
    renderer
        The prepared specimen and the configuration.
    intensities
        The set's signal and noise.
    batch_size
        Images held at once.
    """
    config = renderer.config
    inside = particle_disc(renderer)
    amplitude = noise_amplitude(config.box, config.noise_spectrum) if config.noise_spectrum else None
    for start in range(0, len(truth), batch_size):
        rows = range(start, min(start + batch_size, len(truth)))
        images = np.empty((len(rows), config.box, config.box), dtype=np.float32)
        variance = np.empty(len(rows))
        for place, row in enumerate(rows):
            image = clean_image(renderer, truth, row)
            variance[place] = image[inside].astype(np.float64).var()
            if config.noise_free:
                # One scale for all: the background is only the ringing of the transfer function.
                images[place] = normalise(image, ~inside, std=intensities.clean_std)
            else:
                noise = noise_image(renderer, row, amplitude) * np.float32(intensities.noise_std)
                images[place] = normalise(image + noise, ~inside)
        yield ImageBatch(torch.from_numpy(images), variance)
