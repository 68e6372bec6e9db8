"""Images without noise: the fine projection turned, shifted, and seen through the microscope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage

from cryorbit.conventions import FloatArray
from cryorbit.errors import ConfigurationError
from cryorbit.optics.ctf import ctf_2d
from cryorbit.optics.microscope import b_factor_envelope, envelope
from cryorbit.simulation.contaminants import ice_image, overlap_neighbour, weaken_to
from cryorbit.simulation.settings import SimulationConfig
from cryorbit.simulation.specimens import Projection, phantom_projection
from cryorbit.simulation.truth import TruthTable

FloatImage = NDArray[np.float32]

# The contrast transfer function spreads a particle further than its box; without padding it would come back
# in at the opposite edge.
PADDING = 2
# What is fainter than this part of the projection's peak does not count as part of the particle.
FAINTEST = 1e-3


@dataclass(frozen=True)
class SplineImage:
    """A fine projection as a cubic spline.

    Attributes
    ----------
    coefficients
        Spline coefficients, shape (m, m).
    pixel_size_A
        Their spacing in Angstrom.
    peak
        Brightest value of the projection.
    radius_A
        Distance in Angstrom from the centre beyond which there is next to nothing.
    """

    coefficients: FloatArray
    pixel_size_A: float
    peak: float
    radius_A: float


@dataclass(frozen=True)
class PlacedParticle:
    """A particle as it lies in a box.

    Attributes
    ----------
    spline
        Which one.
    psi_deg
        In-plane turn in degrees.
    shift_px
        Its place relative to the centre of the box, x and y in pixels, shape (2,).
    """

    spline: SplineImage
    psi_deg: float
    shift_px: FloatArray


@dataclass(frozen=True)
class Renderer:
    """What is needed to make any image of a set.

    Attributes
    ----------
    config
        The simulation.
    views
        The specimen, from every direction that it is seen from.
    other
        The particle that plays another one among the junk.
    """

    config: SimulationConfig
    views: tuple[SplineImage, ...]
    other: SplineImage

    @property
    def particle(self) -> SplineImage:
        """The specimen, seen from the first direction."""
        return self.views[0]


def make_renderer(
    projection: Projection | Sequence[Projection], config: SimulationConfig, other: Projection | None = None
) -> Renderer:
    """Prepare a specimen for rendering.

    Parameters
    ----------
    projection
        The specimen; as many projections of it as the configuration has views.
    config
        The simulation.
    other
        Another particle for the junk, brought to half of the specimen's contrast; by default a phantom.

    Raises
    ------
    ConfigurationError
        If there are more or fewer projections than views.
    """
    views = [projection] if isinstance(projection, Projection) else list(projection)
    if len(views) != config.views:
        raise ConfigurationError(f"views is {config.views}, but the specimen is given from {len(views)} directions.")
    junk = weaken_to(other if other is not None else phantom_projection("other"), views[0])
    return Renderer(config, tuple(map(make_spline, views)), make_spline(junk))


def make_spline(projection: Projection) -> SplineImage:
    """Cubic spline through a fine projection."""
    coefficients = ndimage.spline_filter(projection.image, order=3, mode="constant")
    offset = np.arange(len(coefficients)) - len(coefficients) // 2
    distance = np.hypot(offset[:, None], offset[None, :])
    visible = np.abs(projection.image) > FAINTEST * np.abs(projection.image).max()
    # One pixel more, since a spline reaches beyond the last one that is not 0.
    radius_A = float(distance[visible].max() + 1.0) * projection.pixel_size_A
    return SplineImage(coefficients, projection.pixel_size_A, float(projection.image.max()), radius_A)


def turned_image(
    spline: SplineImage, box: int, pixel_size_A: float, psi_deg: float, shift_px: FloatArray
) -> FloatArray:
    """Particle turned and shifted, ``image(x) = reference(R(psi) (x - t))``, before the microscope.

    Parameters
    ----------
    spline
        The particle.
    box, pixel_size_A
        Width of the image in pixels, and their size in Angstrom.
    psi_deg
        In-plane turn in degrees.
    shift_px
        Place t of the particle, x and y in pixels from the centre of the box, shape (2,).

    Returns
    -------
    FloatArray
        Shape (box, box); 0 outside of the projection.
    """
    psi = math.radians(psi_deg)
    scale = pixel_size_A / spline.pixel_size_A
    # R(psi) for (row, column) = (y, x) instead of (x, y).
    matrix = scale * np.array([[math.cos(psi), math.sin(psi)], [-math.sin(psi), math.cos(psi)]])
    centre = np.full(2, len(spline.coefficients) // 2)
    offset = centre - matrix @ (box // 2 + shift_px[::-1])
    image: FloatArray = ndimage.affine_transform(
        spline.coefficients,
        matrix,
        offset,
        output_shape=(box, box),
        order=3,
        mode="constant",
        prefilter=False,
    )
    return image


def clean_image(renderer: Renderer, truth: TruthTable, row: int) -> FloatImage:
    """One image of a set without noise, in the units of the projection.

    Parameters
    ----------
    renderer
        The prepared specimen.
    truth
        How every image is made.
    row
        Which image; what is random in junk depends on the seed and on this number alone.

    Returns
    -------
    NDArray
        Shape (box, box), float32.
    """
    config = renderer.config
    if truth.kind[row] == "noise":
        return np.zeros((config.box, config.box), dtype=np.float32)
    image = np.zeros((config.box, config.box))
    if truth.kind[row] == "ice":
        image += ice_image(junk_rng(config, row), config.box, renderer.particle.peak)
    for placed in placed_particles(renderer, truth, row):
        image += turned_image(placed.spline, config.box, config.pixel_size_A, placed.psi_deg, placed.shift_px)
    transfer = transfer_function(
        config,
        float(truth.defocus_u_A[row]),
        float(truth.defocus_v_A[row]),
        float(truth.defocus_angle_deg[row]),
    )
    return apply_transfer(image * truth.contrast[row], transfer)


def junk_rng(config: SimulationConfig, row: int) -> np.random.Generator:
    """Source of what is random in one image's junk; it depends on the seed and the row alone."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(1, row)))


def placed_particles(renderer: Renderer, truth: TruthTable, row: int) -> list[PlacedParticle]:
    """All particles of one box: mostly one, two that overlap, or none.

    Parameters
    ----------
    renderer
        The prepared specimen.
    truth
        How every image is made.
    row
        Which image.
    """
    kind = str(truth.kind[row])
    if kind in ("noise", "ice"):
        return []
    particle = renderer.views[truth.view[row]]
    spline = renderer.other if kind == "other" else particle
    placed = [PlacedParticle(spline, float(truth.psi_deg[row]), truth.shift_px[row])]
    if kind == "overlap":
        second = overlap_neighbour(junk_rng(renderer.config, row), renderer.config.box)
        placed.append(PlacedParticle(particle, second.psi_deg, second.shift_px))
    return placed


def transfer_function(
    config: SimulationConfig, defocus_u_A: float, defocus_v_A: float, defocus_angle_deg: float
) -> FloatImage:
    """Contrast transfer function with the envelopes of the configuration, on the padded ``rfft2`` grid.

    Returns
    -------
    NDArray
        Shape (2 box, box + 1), float32.
    """
    size = PADDING * config.box
    u_A, v_A, angle_deg = (torch.tensor([value]) for value in (defocus_u_A, defocus_v_A, defocus_angle_deg))
    transfer = ctf_2d(size, config.pixel_size_A, u_A, v_A, angle_deg, config.optics)[0]
    if config.b_factor_A2 or config.microscope is not None:
        kx = torch.fft.rfftfreq(size, config.pixel_size_A)
        ky = torch.fft.fftfreq(size, config.pixel_size_A)
        k = torch.hypot(kx[None, :], ky[:, None])
        transfer = transfer * b_factor_envelope(config.b_factor_A2, k)
        if config.microscope is not None:
            transfer = transfer * envelope(config.microscope, k, 0.5 * (u_A + v_A))
    values: FloatImage = transfer.numpy()
    return values


def apply_transfer(image: FloatArray, transfer: FloatImage) -> FloatImage:
    """Multiply an image by a transfer function on the padded ``rfft2`` grid, and cut it back to its box.

    Parameters
    ----------
    image
        Shape (box, box).
    transfer
        Shape (2 box, box + 1).
    """
    box, size = len(image), len(transfer)
    # Transformed one axis at a time: half of the rows are padding going in and are cut away coming out.
    # Padding at the far edges only is enough, since the convolution is periodic.
    spectrum = fft.fft(fft.rfft(image.astype(np.float32), size, axis=1), size, axis=0)
    rows = fft.ifft(spectrum * transfer, axis=0)[:box]
    seen: FloatImage = fft.irfft(rows, size, axis=1)[:, :box]
    return seen
