"""From phase to counts: what optics and detector make of a specimen's phase, and the noise of counting electrons.

Contrast is the part of the electrons that is missing where the specimen is: 0.1 means that one in ten is. It is
positive for protein at underfocus, as the transfer function's sign has it, so micrographs show protein dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import fft
from torch import Tensor

from cryorbit.conventions import FloatArray
from cryorbit.optics.ctf import ctf_at
from cryorbit.optics.detector import modulation_transfer
from cryorbit.optics.interaction import elastic_fraction
from cryorbit.optics.microscope import aperture_cutoff_per_A, b_factor_envelope, envelope
from cryorbit.simulation.ice import ice_phase_spectrum_A2
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.rendering import PADDING, FloatImage, SplineImage, turned_image

# Rows filtered or counted at once: small enough to stay in the processor's cache, and memory small.
BLOCK_ROWS = 256

Factor = Callable[[Tensor, Tensor], Tensor]
Defocus = tuple[float, float, float]


def filtered(image: FloatImage, pixel_size_A: float, factor: Factor, cutoff_per_A: float = math.inf) -> FloatImage:
    """Image whose Fourier coefficients are multiplied with a factor, periodic at its edges.

    Parameters
    ----------
    image
        Shape (h, w).
    pixel_size_A
        Pixel size in Angstrom.
    factor
        From frequencies of columns and of rows in 1/Angstrom, shapes (w,) and (h,), to factors of shape (h, w).
    cutoff_per_A
        No column or row beyond this frequency passes, whatever the factor.
    """
    height, width = image.shape
    spectrum = fft.rfft2(image)
    kx = torch.fft.rfftfreq(width, pixel_size_A)
    ky = torch.fft.fftfreq(height, pixel_size_A)
    columns = int((kx <= cutoff_per_A).sum())
    spectrum[:, columns:] = 0
    for start in range(0, height, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        if float(ky[rows].abs().min()) > cutoff_per_A:
            spectrum[rows] = 0
        else:
            spectrum[rows, :columns] *= factor(kx[:columns], ky[rows]).numpy()
    result: FloatImage = fft.irfft2(spectrum, s=image.shape, overwrite_x=True)
    return result


def contrast_transfer(config: MicrographConfig, defocus: Defocus) -> Factor:
    """Contrast in the micrograph for one radian of phase, ``2 / sqrt(1 - A^2)`` times CTF, envelopes and MTF.

    A weak phase object with a potential that absorbs in proportion, ``V (1 + i A / sqrt(1 - A^2))``, takes away this
    part of the intensity.

    Parameters
    ----------
    config
        Optics, microscope and detector count.
    defocus
        U and V in Angstrom, and the angle in degrees.

    References
    ----------
    Reimer and Kohl 2008, section 6.4; Vulovic et al. 2013, J. Struct. Biol. 183, 19.
    """
    u_A, v_A, angle_deg = (torch.tensor([value], dtype=torch.float32) for value in defocus)
    strength = 2.0 / math.sqrt(1.0 - config.optics.amplitude_contrast**2)
    nyquist_per_A = 0.5 / config.micrograph_pixel_A

    def factor(kx: Tensor, ky: Tensor) -> Tensor:
        k = torch.hypot(kx[None, :], ky[:, None])
        transfer = strength * ctf_at(kx, ky, u_A, v_A, angle_deg, config.optics)[0]
        if config.detector.mtf_nyquist < 1:
            transfer *= modulation_transfer(config.detector, k / nyquist_per_A)
        if config.b_factor_A2:
            transfer *= b_factor_envelope(config.b_factor_A2, k)
        if config.microscope is not None:
            transfer *= envelope(config.microscope, k, 0.5 * (u_A + v_A))
        return transfer

    return factor


def contrast(phase: FloatImage, pixel_size_A: float, config: MicrographConfig, defocus: Defocus) -> FloatImage:
    """Contrast of a phase image, periodic at its edges, shape (h, w)."""
    cutoff_per_A = math.inf if config.microscope is None else aperture_cutoff_per_A(config.microscope)
    return filtered(phase, pixel_size_A, contrast_transfer(config, defocus), cutoff_per_A)


def ice_phase(shape: tuple[int, int], config: MicrographConfig, rng: np.random.Generator) -> FloatImage:
    """Phase in radians of a layer of amorphous ice with random molecules, periodic, at the micrograph's pixel size."""
    pixel_A = config.micrograph_pixel_A
    grid_per_A = np.linspace(0.0, math.sqrt(0.5) / pixel_A, 2000)
    # White noise of unit variance has a spectrum of one pixel's area.
    amplitude = np.sqrt(ice_phase_spectrum_A2(grid_per_A, config.ice_nm, config.optics.voltage_kV)) / pixel_A

    def factor(kx: Tensor, ky: Tensor) -> Tensor:
        k = torch.hypot(kx[None, :], ky[:, None]).numpy()
        return torch.from_numpy(np.interp(k, grid_per_A, amplitude).astype(np.float32))

    return filtered(rng.standard_normal(shape, dtype=np.float32), pixel_A, factor)


def expected_count(config: MicrographConfig) -> float:
    """Electrons counted in a pixel of the micrograph where there is ice alone."""
    per_pixel = config.dose_per_nm2 * (0.1 * config.micrograph_pixel_A) ** 2
    return per_pixel * elastic_fraction(config.ice_nm, config.inelastic_mean_free_path_nm) * config.detector.dqe_zero


def count_electrons(contrast: FloatImage, count: float, rng: np.random.Generator) -> FloatImage:
    """Poisson numbers of electrons, of mean ``count (1 - contrast)``, and 0 where that is negative."""
    counted = np.empty_like(contrast)
    for start in range(0, len(contrast), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        counted[rows] = rng.poisson(np.maximum(count * (1.0 - contrast[rows]), 0.0))
    return counted


def lone_box(spline: SplineImage, config: MicrographConfig, defocus: Defocus) -> FloatImage:
    """Contrast of one particle alone, at the size of the written images, shape (box, box)."""
    box = config.box
    padded = np.zeros((PADDING * box, PADDING * box), dtype=np.float32)
    padded[:box, :box] = turned_image(spline, box, config.pixel_size_A, 0.0, np.zeros(2))
    return contrast(padded, config.pixel_size_A, config, defocus)[:box, :box]


def boxed_noise_variance(config: MicrographConfig, defocus: Defocus) -> float:
    """Variance of the contrast that counting and ice give to an image's pixel, after the crop in Fourier space."""
    if config.noise_free:
        return 0.0
    box, pixel_A = config.box, config.pixel_size_A
    kept = 2 * ((box - 1) // 2) + 1 if config.extracted_px > box else box
    counting = (kept / config.extracted_px) ** 2 / expected_count(config)
    k = torch.fft.fftfreq(box, pixel_A)
    transfer = contrast_transfer(config, defocus)(k, k).numpy().astype(np.float64)
    ring_per_A = np.hypot.outer(k.numpy(), k.numpy()).astype(np.float64)
    spectrum_A2: FloatArray = ice_phase_spectrum_A2(ring_per_A, config.ice_nm, config.optics.voltage_kV)
    return counting + float((spectrum_A2 * transfer**2).sum()) / (box * pixel_A) ** 2
