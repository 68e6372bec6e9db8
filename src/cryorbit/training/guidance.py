"""Guided training: what the encoder is told of angle and defocus, and images drawn from the average to learn on.

The alignment finds angle and defocus of the training particles, and their average. The encoder learns from both: from
the particles as they are, under new turns, and from images drawn from the average at any angle, shift and defocus,
of which the truth is known exactly and no two are alike (the sleep phase of the wake-sleep algorithm: Hinton,
Dayan, Frey & Neal 1995). No label of the user's enters. A particle is judged by the encoder alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorbit.conventions import ANGSTROM_PER_UM, FloatArray
from cryorbit.io.runs import write_arrays
from cryorbit.model.cone import Cone
from cryorbit.optics.ctf import Optics, ctf_2d
from cryorbit.preprocessing.dataset import ParticleCache
from cryorbit.preprocessing.normalise import disc_mask
from cryorbit.preprocessing.resample import fourier_crop, rotate

# Beside the images of a cache: what the alignment leaves for the trainings on them.
GUIDE_FILE = "guide.npz"
# Turns of the average that are kept ready: a quarter of a degree apart, so that a label is never wrong by rounding.
N_TURNS = 1440
TURNS_AT_ONCE = 120
SAMPLE, BATCH = 1000, 256
# Drawn defoci go a little beyond those found, or the ends would be learnt from one side only.
QUANTILES, MARGIN = (0.002, 0.998), 0.05
LEAST_RANGE_um = 0.1
LEAST_DEFOCUS_um = 0.05
# Of drawn images, this many show junk: how far off, in shares of the box, a particle or its neighbour may lie, and how
# far off the centre a broken one is cut.
JUNK_SHARE = 0.15
FAR_OFF, NEIGHBOUR, BROKEN = (0.06, 0.4), (0.2, 0.65), 0.15


@dataclass(frozen=True)
class KnownPoses:
    """What an alignment found for every image of a cache.

    Attributes
    ----------
    psi_deg, defocus_um
        Shape (n,).
    shift_px
        In pixels of the cache, shape (n, 2).
    weight
        Probability of each to be a particle, shape (n,).
    """

    psi_deg: FloatArray
    defocus_um: FloatArray
    shift_px: FloatArray
    weight: FloatArray


@dataclass(frozen=True)
class AlignedSet:
    """What an alignment leaves for a training.

    Attributes
    ----------
    poses
        Of the images of the cache.
    average
        Class average without the contrast transfer function, shape (m, m), of the same field of view.
    optics, phase_shift_deg
        Of the microscope, and of its phase plate.
    isotropy_order
        n where the average looks the same after a turn of 360 / n degrees.
    """

    poses: KnownPoses
    average: FloatArray
    optics: Optics
    isotropy_order: int
    phase_shift_deg: float = 0.0

    def save(self, path: Path) -> None:
        """Write everything into an ``.npz`` file."""
        numbers = np.array([*astuple(self.optics), self.isotropy_order, self.phase_shift_deg])
        write_arrays(path, **asdict(self.poses), average=self.average, numbers=numbers)

    @classmethod
    def load(cls, path: Path) -> AlignedSet:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            poses = KnownPoses(**{field.name: arrays[field.name] for field in fields(KnownPoses)})
            *optics, order, phase_shift_deg = arrays["numbers"].tolist()
            return cls(poses, arrays["average"], Optics(*optics), int(order), phase_shift_deg)


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
    """Draws particle images as the cache would hold them: average, turn, shift, defocus, noise.

    Parameters
    ----------
    cache, aligned
        Images and what is known of them: amplitude and noise are measured on a sample.
    seed
        For the sample.

    Attributes
    ----------
    low_um, high_um
        Range of the defoci drawn.
    shift_std_px
        Spread of the shifts along each axis.
    noise_amplitude
        Factor of each ``rfft2`` coefficient of white noise, shape (h, w // 2 + 1).
    """

    def __init__(self, cache: ParticleCache, aligned: AlignedSet, seed: int) -> None:
        self.box_size, self.pixel_size_A, self.optics = cache.box_size, cache.info.pixel_size_A, aligned.optics
        self.phase_shift_deg = aligned.phase_shift_deg
        poses = aligned.poses
        good = np.flatnonzero(poses.weight > 0.5) if (poses.weight > 0.5).any() else np.arange(len(cache))
        low, high = np.quantile(poses.defocus_um[good], QUANTILES)
        margin = max(MARGIN * (high - low), LEAST_RANGE_um)
        self.low_um, self.high_um = max(float(low - margin), LEAST_DEFOCUS_um), float(high + margin)
        self.shift_std_px = float(np.sqrt(np.mean(_inner(poses.shift_px[good]) ** 2)))
        self._turned = _turned_spectra(torch.from_numpy(aligned.average).float(), self.box_size)
        rows = np.random.default_rng(seed).permutation(good)[:SAMPLE].astype(np.int64)
        self.amplitude, self.noise_amplitude = self._measure(cache, poses, rows)

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
        """The average as it looks in the microscope, without noise."""
        turn = torch.round(psi_rad * N_TURNS / (2.0 * math.pi)).long() % N_TURNS
        size = (self.box_size, self.box_size)
        images: Tensor = torch.fft.irfft2(self._spectra(turn, defocus_um, shift_px), s=size)
        return images

    def _spectra(self, turn: Tensor, defocus_um: Tensor, shift_px: Tensor) -> Tensor:
        defocus_A = defocus_um * ANGSTROM_PER_UM
        transfer = ctf_2d(
            self.box_size, self.pixel_size_A, defocus_A, defocus_A, torch.zeros_like(defocus_A), self.optics,
            self.phase_shift_deg,
        )  # fmt: skip
        spectra: Tensor = self._turned[turn] * transfer * _shift_phases(self.box_size, shift_px)
        return spectra

    def _noise_spectra(self, n_images: int) -> Tensor:
        white: Tensor = torch.fft.rfft2(torch.randn(n_images, self.box_size, self.box_size))
        return white * self.noise_amplitude

    def _measure(
        self, cache: ParticleCache, poses: KnownPoses, rows: NDArray[np.int64]
    ) -> tuple[float, Float[Tensor, "h half"]]:
        """Strength of the average in the images, and the ring spectrum of what it leaves."""
        images = cache.read(rows)
        psi, defocus, shift = (
            torch.from_numpy(values[rows]).float()
            for values in (np.radians(poses.psi_deg), poses.defocus_um, poses.shift_px)
        )
        clean = torch.cat([
            self.clean(psi[part], defocus[part], shift[part])
            for part in (slice(start, start + BATCH) for start in range(0, len(rows), BATCH))
        ])  # fmt: skip
        mask = disc_mask(self.box_size, 0.5 * self.box_size - 1.0, soft_px=2.0)
        amplitude = float((images * clean * mask).sum() / (clean.square() * mask).sum().clamp(min=1e-12))
        power = torch.fft.fft2(images - amplitude * clean).abs().square().mean(dim=0) / self.box_size**2
        frequency = torch.fft.fftfreq(self.box_size, 1.0 / self.box_size)
        ring = torch.hypot(frequency[:, None], frequency[None, :]).round().long()
        count = torch.bincount(ring.flatten()).clamp(min=1)
        by_ring = torch.zeros(len(count)).index_add_(0, ring.flatten(), power.flatten()) / count
        return amplitude, by_ring[ring].sqrt()[:, : self.box_size // 2 + 1]

    def draw(self, n_images: int, noise: bool = True) -> DrawnImages:
        """Draw images with angles and defoci uniform, and shifts and noise as in the set."""
        turn = torch.randint(N_TURNS, (n_images,))
        defocus = self.low_um + (self.high_um - self.low_um) * torch.rand(n_images)
        shift = self.shift_std_px * torch.randn(n_images, 2)
        spectra = self.amplitude * self._spectra(turn, defocus, shift)
        size = (self.box_size, self.box_size)
        if noise:
            spectra = spectra + self._noise_spectra(n_images)
        return DrawnImages(torch.fft.irfft2(spectra, s=size), turn * (2.0 * math.pi / N_TURNS), defocus)

    def draw_junk(self, n_images: int, noise: bool = True) -> Float[Tensor, "batch h w"]:
        """Images that are no particle: empty, far off the centre, a part of one, or with a neighbour in the box."""
        each = [len(part) for part in torch.arange(n_images).tensor_split(4)]
        particle = torch.split(self.draw(n_images, noise=False).images, each)
        far_off = self._moved(particle[1], _anywhere(each[1], self.box_size, FAR_OFF))
        neighbour = self.draw(each[3], noise=False).images
        pair = particle[3] + self._moved(neighbour, _anywhere(each[3], self.box_size, NEIGHBOUR))
        images = torch.cat([torch.zeros_like(particle[0]), far_off, self._broken(particle[2]), pair])
        if noise:
            images = images + torch.fft.irfft2(self._noise_spectra(n_images), s=images.shape[1:])
        return images

    def _broken(self, images: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
        """Images cut along a straight line, at any angle, near the centre."""
        middle = torch.arange(self.box_size) - self.box_size // 2
        across = torch.nn.functional.normalize(torch.randn(len(images), 2))[:, :, None, None]
        height = across[:, 0] * middle[None, None, :] + across[:, 1] * middle[None, :, None]
        return images * torch.sigmoid(height - BROKEN * self.box_size * torch.rand(len(images), 1, 1))

    def _moved(self, images: Float[Tensor, "batch h w"], by_px: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch h w"]:
        spectra = torch.fft.rfft2(images) * _shift_phases(self.box_size, by_px)
        moved: Tensor = torch.fft.irfft2(spectra, s=images.shape[1:])
        return moved


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


@dataclass(frozen=True)
class Guide:
    """All that a guided training is told.

    Attributes
    ----------
    poses
        Of the images of the cache.
    sampler
        Draws further ones.
    cone
        Where on the cone an image belongs.
    """

    poses: KnownPoses
    sampler: ImageSampler
    cone: Cone

    @classmethod
    def of(cls, cache: ParticleCache, aligned: AlignedSet, seed: int) -> Guide:
        """Measure what is drawn, and lay the cone over its range of defoci."""
        sampler = ImageSampler(cache, aligned, seed)
        return cls(aligned.poses, sampler, Cone(sampler.low_um, sampler.high_um, aligned.isotropy_order))

    def points(
        self, rows: NDArray[np.int64], turned_deg: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Where images of the cache belong after further turns, and their weights."""
        psi_deg = torch.from_numpy(self.poses.psi_deg[rows]).float() + turned_deg.cpu()
        defocus, weight = (
            torch.from_numpy(values[rows]).float() for values in (self.poses.defocus_um, self.poses.weight)
        )
        return self.cone.points(torch.deg2rad(psi_deg), defocus), weight

    def draw(self, n_images: int) -> tuple[Float[Tensor, "batch h w"], Float[Tensor, "batch 3"]]:
        """Images from the average, and where they belong; some show junk, whose place is drawn from the prior.

        So the encoder learns to say of junk that nothing is known: its latent points lie far from the cone and its
        variances are large, by which outliers are found.
        """
        n_junk = round(JUNK_SHARE * n_images)
        drawn = self.sampler.draw(n_images - n_junk)
        images = torch.cat([drawn.images, self.sampler.draw_junk(n_junk)])
        points = torch.cat([self.cone.points(drawn.psi_rad, drawn.defocus_um), torch.randn(n_junk, 3)])
        return images, points
