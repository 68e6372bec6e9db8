"""Noise of a given spectrum, and the normalisation that an experimenter's extraction applies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cryorbit.conventions import FloatArray
from cryorbit.errors import ParticleDataError
from cryorbit.simulation.rendering import FloatImage, Renderer, clean_image
from cryorbit.simulation.truth import TruthTable

# The mean signal variance of that many particles is within 2 % of that of all, at a fraction of the time.
SAMPLE_IMAGES = 500


@dataclass(frozen=True)
class Intensities:
    """The scale of a set's signal and noise, in the units of the projection.

    Attributes
    ----------
    signal_variance
        Mean over particles of the variance inside the particle's disc.
    noise_std
        Standard deviation of the noise; 0 where there is none.
    clean_std
        Standard deviation of all pixels inside the disc, by which a set without noise is divided.
    """

    signal_variance: float
    noise_std: float
    clean_std: float


def disc(box: int, diameter_px: float) -> NDArray[np.bool_]:
    """Pixels at most half of ``diameter_px`` from pixel ``(box // 2, box // 2)``, shape (box, box)."""
    offset = np.arange(box) - box // 2
    inside: NDArray[np.bool_] = offset[:, None] ** 2 + offset[None, :] ** 2 <= (0.5 * diameter_px) ** 2
    return inside


def particle_disc(renderer: Renderer) -> NDArray[np.bool_]:
    """Disc that holds the particle, shape (box, box)."""
    config = renderer.config
    return disc(config.box, config.particle_diameter_A / config.pixel_size_A)


def measure_intensities(renderer: Renderer, truth: TruthTable) -> Intensities:
    """Signal of the set's particles, junk left out, and the noise that gives the configured ratio.

    At most :data:`SAMPLE_IMAGES` particles, spread evenly over the set, are rendered for it.

    Raises
    ------
    ParticleDataError
        If all images are junk, or the particles have no contrast.
    """
    rows = np.flatnonzero(~truth.outlier)
    if not len(rows):
        raise ParticleDataError("All simulated images are junk; expected at least one particle: lower outliers.")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_IMAGES)).astype(int)]
    inside = particle_disc(renderer)
    sample = np.stack([clean_image(renderer, truth, int(row))[inside] for row in rows]).astype(np.float64)
    signal_variance = float(sample.var(axis=1).mean())
    if signal_variance == 0:
        raise ParticleDataError(
            "The simulated particles have no contrast inside their disc: give a larger particle_diameter_A."
        )
    snr = renderer.config.snr
    noise_std = float(np.sqrt(signal_variance / snr)) if snr else 0.0
    return Intensities(signal_variance, noise_std, float(sample.std()))


def noise_amplitude(box: int, spectrum: tuple[float, ...]) -> FloatArray:
    """Factor of each ``rfft2`` coefficient that turns white noise into noise of the given ring spectrum.

    Parameters
    ----------
    box
        Width of the image in pixels.
    spectrum
        Relative power in rings 0, 1, 2, ... pixels from zero frequency; the last value holds beyond.

    Returns
    -------
    FloatArray
        Shape (box, box // 2 + 1); the noise keeps its variance.
    """
    frequency = np.fft.fftfreq(box, 1.0 / box)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    power = np.asarray(spectrum, dtype=np.float64)[np.minimum(ring, len(spectrum) - 1)]
    amplitude: FloatArray = np.sqrt(power / power.mean())[:, : box // 2 + 1]
    return amplitude


def noise_image(renderer: Renderer, row: int, amplitude: FloatArray | None) -> FloatImage:
    """Noise of unit variance for one image; it depends on the seed and the row alone.

    Parameters
    ----------
    renderer
        Gives the box and the seed.
    row
        Which image.
    amplitude
        From :func:`noise_amplitude`; None for white noise.
    """
    config = renderer.config
    stream = np.random.SeedSequence(config.seed, spawn_key=(2, row))
    shape = (config.box, config.box)
    white = np.random.Generator(np.random.Philox(stream)).standard_normal(shape, dtype=np.float32)
    if amplitude is None:
        return white
    coloured: FloatImage = fft.irfft2(fft.rfft2(white) * amplitude.astype(np.float32), s=shape)
    return coloured


def normalise(image: FloatImage, background: NDArray[np.bool_], std: float | None = None) -> FloatImage:
    """Background of mean 0 and standard deviation 1, as RELION's extraction makes it.

    Parameters
    ----------
    image
        Shape (box, box).
    background
        Pixels outside of the particle, shape (box, box).
    std
        Divisor for the whole set, where there is no noise to measure; None: the background's own.
    """
    outside = image[background].astype(np.float64)
    divisor = outside.std() if std is None else std
    normal: FloatImage = ((image - outside.mean()) / divisor).astype(np.float32)
    return normal
