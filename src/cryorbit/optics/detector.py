"""The detector: what it loses of the contrast, and how much noise it adds.

It is a counting one. Each electron is found with the probability DQE(0) and entered in one pixel, not quite where it
arrived. Contrast is thus multiplied by the modulation transfer function (MTF), the noise of counting stays white, and
the detective quantum efficiency is ``DQE(0) MTF^2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cryorbit.errors import ConfigurationError


@dataclass(frozen=True)
class Detector:
    """A counting detector; the defaults are a perfect one.

    Attributes
    ----------
    dqe_zero
        Detective quantum efficiency at zero frequency, above 0 and at most 1.
    mtf_nyquist
        Modulation transfer function at the Nyquist frequency, above 0 and at most 1. With 2 / pi the detector is
        within 0.01 of square pixels that lose nothing, whose function is a sinc.

    Raises
    ------
    ConfigurationError
        If a value is not in its range.
    """

    dqe_zero: float = 1.0
    mtf_nyquist: float = 1.0

    def __post_init__(self) -> None:
        for name in ("dqe_zero", "mtf_nyquist"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 < value <= 1.0):
                raise ConfigurationError(
                    f"{name} is {value}; expected a fraction above 0 and at most 1: give 1 for a perfect detector."
                )


def modulation_transfer(detector: Detector, fraction_of_nyquist: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Factor of the contrast at a frequency, ``m ** (k / k_Nyquist)^2``: a Gaussian that is m at Nyquist.

    Parameters
    ----------
    detector
        Its ``mtf_nyquist`` m counts.
    fraction_of_nyquist
        Spatial frequency over the Nyquist frequency of the detector's pixels.

    References
    ----------
    McMullan, Chen, Henderson and Faruqi 2009, Ultramicroscopy 109, 1126, for the definitions and the sinc of square
    pixels; the Gaussian is the simplest curve with one number.
    """
    squared: Tensor = fraction_of_nyquist**2
    return (math.log(detector.mtf_nyquist) * squared).exp()


def detective_quantum_efficiency(detector: Detector, fraction_of_nyquist: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Squared signal-to-noise ratio after the detector over that before, ``DQE(0) MTF^2``.

    Parameters
    ----------
    detector
        The detector.
    fraction_of_nyquist
        Spatial frequency over the Nyquist frequency of the detector's pixels.

    References
    ----------
    McMullan et al. 2009, Ultramicroscopy 109, 1126: ``DQE = DQE(0) MTF^2 / NNPS``, with a normalised noise power
    spectrum NNPS of 1 where each electron fills one pixel.
    """
    return detector.dqe_zero * modulation_transfer(detector, fraction_of_nyquist) ** 2
