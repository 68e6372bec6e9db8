"""Fourier cropping and in-plane turns, both about pixel ``n // 2``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor


def cropped_pixel_size_A(pixel_size_A: float, size: int, new_size: int) -> float:
    """Pixel size after Fourier cropping from ``size`` to ``new_size``: the field of view stays the same."""
    return pixel_size_A * size / new_size


def _centre_phase(size: int, new_size: int) -> Float[Tensor, " frequencies"]:
    """Phase per frequency that carries pixel ``size // 2`` to pixel ``new_size // 2``."""
    frequency = torch.fft.fftfreq(new_size, 1.0 / new_size, dtype=torch.float64)
    shift_of_period = (size // 2) / size - (new_size // 2) / new_size
    phase: Tensor = 2.0 * torch.pi * frequency * shift_of_period
    return phase


def fourier_crop(images: Float[Tensor, "batch h w"], new_size: int) -> Float[Tensor, "batch m m"]:
    """Downsample (or, with zero padding, upsample) by cropping the Fourier transform; mean values are kept.

    Pixel ``n // 2`` stays the centre. The unpaired Nyquist frequency of an even size is left out, since half
    of it would be missing.

    Raises
    ------
    ValueError
        If the images are not square or ``new_size`` is not positive.
    """
    size = images.shape[-1]
    if images.shape[-2] != size or new_size < 1:
        raise ValueError(f"Expected square images and a positive size, got {tuple(images.shape)} and {new_size}.")
    if new_size == size:
        return images
    kept = (min(size, new_size) - 1) // 2
    spectrum = torch.fft.fft2(images, norm="forward")
    cropped = spectrum.new_zeros(*images.shape[:-2], new_size, new_size)
    low, high = slice(0, kept + 1), slice(-kept, None)
    for rows in (low, high) if kept else (low,):
        for columns in (low, high) if kept else (low,):
            cropped[..., rows, columns] = spectrum[..., rows, columns]
    phase = _centre_phase(size, new_size).to(images.device)
    ramp = torch.polar(torch.ones(1, dtype=torch.float64, device=images.device), phase).to(cropped.dtype)
    small: Tensor = torch.fft.ifft2(cropped * ramp[:, None] * ramp[None, :], norm="forward").real
    return small


def rotate(
    images: Float[Tensor, "batch h w"], psi_deg: Float[Tensor, " batch"], mode: str = "bicubic"
) -> Float[Tensor, "batch h w"]:
    """Turn each image in the plane about pixel ``(h // 2, w // 2)``, so that its psi grows by ``psi_deg``.

    ``out(x) = in(R(psi) x)`` with ``R`` as in :mod:`cryorbit.conventions`; zero where the turned image has no
    value.

    Raises
    ------
    ValueError
        If the images are not square.
    """
    size = images.shape[-1]
    if images.shape[-2] != size:
        raise ValueError(f"Expected square images, got {tuple(images.shape)}.")
    psi = torch.deg2rad(psi_deg)
    cos, sin = torch.cos(psi)[:, None, None], torch.sin(psi)[:, None, None]
    offset = torch.arange(size, device=images.device, dtype=images.dtype) - size // 2
    y, x = offset[:, None], offset[None, :]
    # grid_sample counts from the box's corners, images from pixel n // 2: half a pixel apart for even sizes.
    from_centre = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
    grid = (2.0 * (from_centre + size // 2) + 1.0) / size - 1.0
    return F.grid_sample(images.unsqueeze(1), grid, mode=mode, padding_mode="zeros", align_corners=False).squeeze(1)


def quarter_turn(images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
    """Each image turned by 90 degrees as :func:`rotate` does, without interpolation.

    About pixel ``n // 2`` of an even size the first row has no partner: it becomes zero.

    Raises
    ------
    ValueError
        If the images are not square.
    """
    size = images.shape[-1]
    if images.shape[-2] != size:
        raise ValueError(f"Expected square images, got {tuple(images.shape)}.")
    turned = images.transpose(-1, -2).flip(-2)
    if size % 2:
        return turned
    return F.pad(turned[..., :-1, :], (0, 0, 1, 0))


def equal_turns(images: Float[Tensor, "batch h w"], n_turns: int) -> Iterator[tuple[int, Float[Tensor, "batch h w"]]]:
    """Each ``k`` from 0 to ``n_turns - 1`` with the images turned by ``k * 360 / n_turns`` degrees, in any order.

    Only the turns within a quarter are interpolated, where ``n_turns`` has quarters: that costs most of an embedding.
    """
    quarters = 4 if n_turns % 4 == 0 else 1
    within = n_turns // quarters
    for first in range(within):
        psi = torch.full((len(images),), first * 360.0 / n_turns, device=images.device)
        turned = rotate(images, psi) if first else images
        for quarter in range(quarters):
            yield first + quarter * within, turned
            turned = quarter_turn(turned) if quarter + 1 < quarters else turned
