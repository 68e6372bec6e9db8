"""Sets that take the place of the paper's experimental ones: simulated, with ingredients of real data.

What is simulated, what is measured and what is missing stands in docs/decisions/0011-experimental-like.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import gamma

from cryorbit.conventions import FloatArray
from cryorbit.simulation.presets import make_simulation_config
from cryorbit.simulation.settings import DefocusQuantiles, SimulationConfig
from cryorbit.simulation.specimens import Projection, View
from cryorbit.simulation.view_spread import Specimen, cone_tips, nearly_symmetric, spread_projections

# Images of 180 px of 2.052 A, brought down to 128 px (paper, section 4.2).
BOX_PX, PIXEL_SIZE_A = 128, 2.052 * 180 / 128
VIEWS, VIEW_SPREAD_deg = 40, 10.0
# Log-uniform from 0.03 to 0.1.
MEAN_SNR, SNR_FACTOR = 0.055, 1.83
SHIFT_px = 1.5
JUNK = 0.12
# Mean, deviation and range in micrometres of a gamma distribution that is within 0.04 um of the quantiles of a real
# data set of 80S ribosomes (EMPIAR-10028) from the 1st to the 99th percentile.
USUAL_DEFOCUS_um = (2.03, 0.444, 0.8, 3.9)
QUANTILES = 201
# Ice and background: five times the power at the lowest frequencies, falling to that of counting.
COLOUR, COLOUR_RINGS = 4.0, 8.0


@dataclass(frozen=True)
class LikeClass:
    """One of the paper's 2D classes, and what takes its place.

    Attributes
    ----------
    images
        Particles in the paper's class.
    view
        Rot and tilt in degrees; None for that of the simulated set, to which the paper likens it.
    symmetry_order
        n of the C_n that it nearly has.
    asymmetry
        Share of the projection that is not symmetrised.
    """

    images: int
    view: View | None
    symmetry_order: int = 1
    asymmetry: float = 1.0


LIKE_CLASSES = {
    "view_39": LikeClass(5119, None),
    "view_93": LikeClass(8278, (140.0, 110.0)),
    # Five per cent of its own shape: what tells the three turns apart is then below the noise of a particle.
    "view_30": LikeClass(4917, (0.0, 30.0), symmetry_order=3, asymmetry=0.05),
}


def experimental_like_config(defocus: DefocusQuantiles, seed: int, images: int) -> SimulationConfig:
    """What is simulated in the place of a class.

    Parameters
    ----------
    defocus
        Distribution of the defoci.
    seed
        Of all random numbers.
    images
        Number of images.
    """
    return make_simulation_config(
        "junk",
        {
            "preset": "experimental-like", "images": images, "seed": seed, "box": BOX_PX, "pixel_size_A": PIXEL_SIZE_A,
            "snr": MEAN_SNR, "snr_factor": SNR_FACTOR, "shift_px": SHIFT_px, "outliers": JUNK, "defocus_um": defocus,
            "views": VIEWS, "view_spread_deg": VIEW_SPREAD_deg, "noise_spectrum": coloured_spectrum(BOX_PX),
            "sorting_scores": True,
        },
    )  # fmt: skip


def experimental_like_projections(like: LikeClass, specimen: Specimen, view: View) -> list[Projection]:
    """The specimen as the particles of a class see it.

    Parameters
    ----------
    like
        The class.
    specimen
        From :func:`cryorbit.simulation.view_spread.choose_specimen`.
    view
        Rot and tilt in degrees for a class that has none of its own.
    """
    seen = spread_projections(specimen, like.view or view, cone_tips(VIEWS, VIEW_SPREAD_deg))
    if like.symmetry_order == 1:
        return seen
    return [nearly_symmetric(one, like.symmetry_order, like.asymmetry) for one in seen]


def coloured_spectrum(box: int) -> tuple[float, ...]:
    """Relative power of the noise in each Fourier ring of a box."""
    rings = np.arange(box // 2 + 1)
    return tuple(float(power) for power in 1.0 + COLOUR / (1.0 + (rings / COLOUR_RINGS) ** 2))


def measured_defocus(defocus_um: FloatArray) -> DefocusQuantiles:
    """The distribution of measured defoci in micrometres, shape (n,)."""
    quantiles = np.quantile(defocus_um, np.linspace(0.0, 1.0, QUANTILES))
    return DefocusQuantiles(tuple(float(value) for value in quantiles))


def usual_defocus() -> DefocusQuantiles:
    """A distribution of defoci drawn after that of a real data set, for who has none measured."""
    mean, std, low, high = USUAL_DEFOCUS_um
    shape = (mean / std) ** 2
    within = gamma.cdf([low, high], shape, scale=mean / shape)
    quantiles = gamma.ppf(np.linspace(within[0], within[1], QUANTILES), shape, scale=mean / shape)
    return DefocusQuantiles(tuple(float(value) for value in quantiles.clip(low, high)))
