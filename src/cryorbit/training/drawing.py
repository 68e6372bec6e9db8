"""Particle images drawn from a class average, as the cache would hold them, and images of junk.

Angle and defocus of a drawn image are known exactly, and no two are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.optics.ctf import ctf_2d
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.normalise import IntensityScale, disc_mask, radius_px, standardise
from cryorbit.preprocessing.resample import fourier_crop, rotate
from cryorbit.training.aligned import AlignedSet, KnownPoses

# Turns of the average that are kept ready: a quarter of a degree apart, so that a label is never wrong by rounding.
N_TURNS = 1440
TURNS_AT_ONCE = 120
SAMPLE, BATCH = 1000, 256
# The average is weighted anew, ring by ring, by what the images have of it; noise alone never doubles a ring.
MOST_GAIN = 2.0
# Drawn defoci are those of the bulk, and a little beyond, or the ends would be learnt from one side only.
BULK, MARGIN = 0.96, 0.05
LEAST_RANGE_um = 0.1
LEAST_DEFOCUS_um = 0.05
# Junk: how far off the centre a particle lies, in shares of the box; where a broken one is cut, likewise; the nearest
# neighbour; and how far beyond the range a defocus is, in shares of it.
FAR_OFF, BROKEN, NEAREST = (0.06, 0.4), 0.15, 0.2
FAR_DEFOCUS, LEAST_GAP_um = (0.2, 1.0), 0.4
JUNK_KINDS = 5


@dataclass(frozen=True)
class DrawnImages:
    """Images drawn from the average, and what they show.

    Attributes
    ----------
    images
        Shape (batch, h, w).
    psi_rad, defocus_um
        Their angle and defocus, shape (batch,).
    """

    images: Float[Tensor, "batch h w"]
    psi_rad: Float[Tensor, " batch"]
    defocus_um: Float[Tensor, " batch"]


class ImageSampler:
    """Draws particle images as the cache would hold them: average, turn, shift, defocus, noise, standardised.

    Parameters
    ----------
    cache, aligned
        Images and what is known of them: strength of the average and noise are measured on a sample.
    seed
        For the sample.

    Attributes
    ----------
    low_um, high_um
        Range of the defoci drawn.
    shift_std_px
        Spread of the shifts along each axis.
    gain
        Strength of the average in the images, by ring of spatial frequency.
    surroundings
        What the images have at each distance from the particle beyond the average, coefficients of a parabola of the
        defocus, shape (3, radii).
    noise_amplitude
        Factor of each ``rfft2`` coefficient of white noise, shape (h, w // 2 + 1).
    """

    def __init__(self, cache: ParticleCache, aligned: AlignedSet, seed: int) -> None:
        self.box_size, self.pixel_size_A, self.optics = cache.box_size, cache.info.pixel_size_A, aligned.optics
        self.phase_shift_deg = aligned.phase_shift_deg
        self.particle_radius_px, self.noise_free = cache.info.particle_radius_px, cache.info.noise_free
        poses = aligned.poses
        good = np.flatnonzero(poses.weight > 0.5) if (poses.weight > 0.5).any() else np.arange(len(cache))
        low, high = _bulk(poses.defocus_um[good])
        margin = max(MARGIN * (high - low), LEAST_RANGE_um)
        self.low_um, self.high_um = max(low - margin, LEAST_DEFOCUS_um), high + margin
        self.shift_std_px = float(np.sqrt(np.mean(_inner(poses.shift_px[good]) ** 2)))
        self._turned = _turned_spectra(torch.from_numpy(aligned.average).float(), self.box_size)
        self._radius_px = radius_px(self.box_size).round().long()
        self.surroundings = torch.zeros(3, int(self._radius_px.max()) + 1)
        rows = np.random.default_rng(seed).permutation(good)[:SAMPLE].astype(np.int64)
        self.gain, self.noise_amplitude = self._measure(cache, poses, rows)

    @property
    def noise_variance(self) -> float:
        """Of one pixel."""
        return float(self.noise_amplitude.square().mean())

    def clean(
        self,
        psi_rad: Float[Tensor, " batch"],
        defocus_um: Float[Tensor, " batch"],
        shift_px: Float[Tensor, "batch 2"],
    ) -> Float[Tensor, "batch h w"]:
        """The average as it looks in the microscope, without noise, as strong as in the images."""
        turn = torch.round(psi_rad * N_TURNS / (2.0 * math.pi)).long() % N_TURNS
        defocus_A = defocus_um * ANGSTROM_PER_UM
        transfer = ctf_2d(
            self.box_size, self.pixel_size_A, defocus_A, defocus_A, torch.zeros_like(defocus_A), self.optics,
            self.phase_shift_deg,
        )  # fmt: skip
        spectra = self._turned[turn] * transfer * _shift_phases(self.box_size, shift_px)
        return _images(spectra, self.box_size) + self._surroundings(defocus_um)

    def _powers(self, defocus_um: Float[Tensor, " batch"]) -> Float[Tensor, "batch powers"]:
        """Powers of the defocus, from -1 to 1 over the range."""
        place = 2.0 * (defocus_um - self.low_um) / (self.high_um - self.low_um) - 1.0
        return torch.stack([place**power for power in range(len(self.surroundings))], dim=1)

    def _surroundings(self, defocus_um: Float[Tensor, " batch"]) -> Float[Tensor, "batch h w"]:
        return (self._powers(defocus_um.clamp(self.low_um, self.high_um)) @ self.surroundings)[:, self._radius_px]

    def _noise(self, n_images: int) -> Float[Tensor, "batch h w"]:
        white = torch.fft.rfft2(torch.randn(n_images, self.box_size, self.box_size))
        return _images(white * self.noise_amplitude, self.box_size)

    def _standardised(self, images: Float[Tensor, "batch h w"], noise: bool) -> Float[Tensor, "batch h w"]:
        """What the cache makes of every image: a bright neighbour dims the particle."""
        scale = IntensityScale(noise_free=self.noise_free or not noise, set_std=1.0, sign=1)
        return standardise(images, self.particle_radius_px, scale)

    def _measure(
        self, cache: ParticleCache, poses: KnownPoses, rows: NDArray[np.int64]
    ) -> tuple[Float[Tensor, " rings"], Float[Tensor, "h half"]]:
        """Strength of the average in the images and spectrum of what it leaves, by ring; sets the first right here.

        An alignment sees the images through a mask, and hardly anything at the lowest frequencies, where its average
        is a guess: twice too strong there for the human 80S ribosome.
        """
        images = cache.read(rows)
        ring = _rings(self.box_size)
        mask = disc_mask(self.box_size, 0.5 * self.box_size - 1.0, soft_px=2.0)
        clean = self._clean_at(poses, rows)
        here, there = torch.fft.fft2(clean * mask), torch.fft.fft2(images * mask)
        product, power = (
            _ring_sums(values, ring).sum(dim=0) for values in ((here.conj() * there).real, here.abs().square())
        )
        overall = product.sum() / power.sum().clamp(min=1e-12)
        gain = (product / power.clamp(min=1e-12)).clamp(min=0.0).minimum(MOST_GAIN * overall)
        half = self.box_size // 2 + 1
        self._turned = self._turned * gain[ring][:, :half]
        self.surroundings = self._measure_surroundings(images - self._clean_at(poses, rows), poses.defocus_um[rows])
        noise = images - self._clean_at(poses, rows)
        power = _ring_sums(torch.fft.fft2(noise).abs().square(), ring).sum(dim=0)
        count = len(rows) * torch.bincount(ring.flatten()).clamp(min=1) * self.box_size**2
        return gain, (power / count)[ring].sqrt()[:, :half]

    def _measure_surroundings(
        self, rest: Float[Tensor, "batch h w"], defocus_um: FloatArray
    ) -> Float[Tensor, "powers radii"]:
        """What the images have at each distance from the particle beyond the average, a parabola of the defocus.

        The transfer function spreads the lowest frequencies far around a particle: out of the box, where drawn images
        are periodic, and into the background, whose mean the cache takes away.
        """
        at_radius = _ring_sums(rest, self._radius_px) / torch.bincount(self._radius_px.flatten())
        powers = self._powers(torch.from_numpy(defocus_um).float())
        solution: Tensor = torch.linalg.lstsq(powers, at_radius, driver="gelsd").solution
        return solution

    def _clean_at(self, poses: KnownPoses, rows: NDArray[np.int64]) -> Float[Tensor, "batch h w"]:
        psi, defocus, shift = (
            torch.from_numpy(values[rows]).float()
            for values in (np.radians(poses.psi_deg), poses.defocus_um, poses.shift_px)
        )
        parts = (slice(start, start + BATCH) for start in range(0, len(rows), BATCH))
        images = torch.cat([self.clean(psi[part], defocus[part], shift[part]) for part in parts])
        return self._standardised(images, noise=False)

    def _particles(self, n_images: int) -> DrawnImages:
        turn = torch.randint(N_TURNS, (n_images,))
        defocus = self.low_um + (self.high_um - self.low_um) * torch.rand(n_images)
        psi = turn * (2.0 * math.pi / N_TURNS)
        return DrawnImages(self.clean(psi, defocus, self.shift_std_px * torch.randn(n_images, 2)), psi, defocus)

    def draw(self, n_images: int, noise: bool = True) -> DrawnImages:
        """Draw images with angles and defoci uniform, and shifts and noise as in the set."""
        drawn = self._particles(n_images)
        images = drawn.images + self._noise(n_images) if noise else drawn.images
        return replace(drawn, images=self._standardised(images, noise))

    def draw_junk(self, n_images: int, noise: bool = True) -> Float[Tensor, "batch h w"]:
        """Images that are no particle of the set, of five kinds in equal parts, one after the other.

        An empty image, a particle far off the centre, a part of one, one with a neighbour that reaches into its box,
        and one of a defocus that the set does not have.
        """
        if n_images == 0:
            return torch.zeros(0, self.box_size, self.box_size)
        each, box = math.ceil(n_images / JUNK_KINDS), self.box_size
        whole, off_centre, broken, beside = (self._particles(each).images for _ in range(4))
        farthest = 0.5 + self.particle_radius_px / box
        images = torch.cat([
            torch.zeros(each, box, box),
            moved(off_centre, _anywhere(each, box, FAR_OFF)),
            self._broken(broken),
            whole + moved(beside, _anywhere(each, box, (NEAREST, farthest))),
            self._beyond(each),
        ])  # fmt: skip
        images = images[torch.randperm(len(images))[:n_images].sort().values]
        if noise:
            images = images + self._noise(n_images)
        return self._standardised(images, noise)

    def _broken(self, images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
        """Images cut along a straight line, at any angle, near the centre."""
        middle = torch.arange(self.box_size) - self.box_size // 2
        across = torch.nn.functional.normalize(torch.randn(len(images), 2))[:, :, None, None]
        height = across[:, 0] * middle[None, None, :] + across[:, 1] * middle[None, :, None]
        return images * torch.sigmoid(height - BROKEN * self.box_size * torch.rand(len(images), 1, 1))

    def _beyond(self, n_images: int) -> Float[Tensor, "batch h w"]:
        """Particles of a higher defocus than any of the set."""
        span = self.high_um - self.low_um
        low = max(FAR_DEFOCUS[0] * span, LEAST_GAP_um)
        defocus = self.high_um + low + (FAR_DEFOCUS[1] - FAR_DEFOCUS[0]) * span * torch.rand(n_images)
        turn = torch.randint(N_TURNS, (n_images,)) * (2.0 * math.pi / N_TURNS)
        return self.clean(turn, defocus, self.shift_std_px * torch.randn(n_images, 2))


def moved(images: Float[Tensor, "batch h w"], by_px: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch h w"]:
    """Images moved along x and y; what leaves the box is lost, and does not come back on the other side."""
    n = images.shape[-1]
    margin = n // 2
    # Farther than this, all is lost.
    by_px = by_px.clamp(-n - margin, n + margin)
    inside = images * disc_mask(n, 0.5 * n - 1.0, soft_px=4.0)
    padded = torch.nn.functional.pad(inside, (n, n, n, n))
    shifted = _images(torch.fft.rfft2(padded) * _shift_phases(3 * n, by_px), 3 * n)
    return shifted[:, n : 2 * n, n : 2 * n]


def _images(spectra: Tensor, size: int) -> Float[Tensor, "batch h w"]:
    images: Tensor = torch.fft.irfft2(spectra, s=(size, size))
    return images


def _rings(box_size: int) -> Tensor:
    """Number of the ring of spatial frequency of every ``fft2`` coefficient."""
    frequency = torch.fft.fftfreq(box_size, 1.0 / box_size)
    return torch.hypot(frequency[:, None], frequency[None, :]).round().long()


def _ring_sums(values: Float[Tensor, "batch h w"], ring: Tensor) -> Float[Tensor, "batch rings"]:
    sums = torch.zeros(len(values), int(ring.max()) + 1)
    return sums.index_add_(1, ring.flatten(), values.flatten(1))


def _bulk(values: FloatArray) -> tuple[float, float]:
    """The shortest interval that holds nearly all values: a few far ones do not widen it, as they would quantiles."""
    ordered = np.sort(values)
    held = max(1, math.ceil(BULK * len(ordered)))
    start = int(np.argmin(ordered[held - 1 :] - ordered[: len(ordered) - held + 1]))
    return float(ordered[start]), float(ordered[start + held - 1])


def _shift_phases(box_size: int, shift_px: Float[Tensor, "batch 2"]) -> Tensor:
    """Factors of the ``rfft2`` coefficients that move images along x and y, shape (batch, h, w // 2 + 1)."""
    ky = torch.fft.fftfreq(box_size)[None, :, None]
    kx = torch.fft.rfftfreq(box_size)[None, None, :]
    phase = -2.0 * math.pi * (kx * shift_px[:, 0, None, None] + ky * shift_px[:, 1, None, None])
    return torch.polar(torch.ones_like(phase), phase)


def _anywhere(n: int, box_size: int, share: tuple[float, float]) -> Float[Tensor, "batch 2"]:
    """Places in all directions, at distances in pixels uniform between two shares of the box."""
    distance = box_size * (share[0] + (share[1] - share[0]) * torch.rand(n, 1))
    direction = 2.0 * math.pi * torch.rand(n)
    return distance * torch.stack([torch.cos(direction), torch.sin(direction)], dim=1)


def _inner(shift_px: FloatArray) -> FloatArray:
    """Shifts without the few that are far out: those of junk that nobody noticed."""
    radius = np.hypot(*shift_px.T)
    inner: FloatArray = shift_px[radius <= np.quantile(radius, 0.98)]
    return inner


def _turned_spectra(average: Float[Tensor, "m m"], box_size: int) -> Tensor:
    """Fourier transforms of the average under all turns, at the cache's size, shape (turns, h, w // 2 + 1)."""
    fine = fourier_crop(average[None], 2 * max(len(average), box_size))
    spectra = []
    for start in range(0, N_TURNS, TURNS_AT_ONCE):
        psi_deg = torch.arange(start, start + TURNS_AT_ONCE) * (360.0 / N_TURNS)
        turned = rotate(fine.expand(TURNS_AT_ONCE, -1, -1), psi_deg)
        spectra.append(torch.fft.rfft2(fourier_crop(turned, box_size)))
    return torch.cat(spectra)
