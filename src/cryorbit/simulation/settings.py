"""What is simulated: one frozen configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cryorbit.errors import ConfigurationError
from cryorbit.optics.ctf import Optics
from cryorbit.optics.microscope import Microscope

LARGEST_DEFOCUS_um = 20.0


@dataclass(frozen=True)
class DefocusRange:
    """Defocus uniform between two values, in micrometres; positive is underfocus."""

    low_um: float
    high_um: float

    def __post_init__(self) -> None:
        _check_defocus_um(self.low_um, self.high_um)
        if self.low_um > self.high_um:
            raise ConfigurationError(
                f"Defocus range is {self.low_um:g}:{self.high_um:g}; expected the lower value first: give "
                f"{self.high_um:g}:{self.low_um:g}."
            )


@dataclass(frozen=True)
class DefocusSeries:
    """Equally many particles at each of several defoci, in micrometres; positive is underfocus."""

    values_um: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values_um:
            raise ConfigurationError("Defocus series is empty; expected at least one value, such as 0.5,1.0,1.5.")
        _check_defocus_um(*self.values_um)


@dataclass(frozen=True)
class DefocusQuantiles:
    """Defocus of any distribution, given by its values at evenly spaced probabilities from 0 to 1, in micrometres."""

    values_um: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_defocus_um(*self.values_um)
        if len(self.values_um) < 2 or list(self.values_um) != sorted(self.values_um):
            raise ConfigurationError("Defocus quantiles must be at least two values, none below the one before it.")


Defocus = DefocusRange | DefocusSeries | DefocusQuantiles


def _check_defocus_um(*values_um: float) -> None:
    for value in values_um:
        if not math.isfinite(value) or not 0 < value <= LARGEST_DEFOCUS_um:
            raise ConfigurationError(
                f"Defocus is {value:g} um; expected above 0 and at most {LARGEST_DEFOCUS_um:g}: give "
                "micrometres of underfocus, not Angstrom."
            )


def parse_defocus(text: str) -> DefocusRange | DefocusSeries:
    """Read ``0.5:2.5`` as a range and ``0.5,1.0,1.5`` as a series, both in micrometres.

    Raises
    ------
    ConfigurationError
        If the text is neither, or a value is out of range.
    """
    try:
        if ":" in text:
            low, high = (float(part) for part in text.split(":"))
            return DefocusRange(low, high)
        values = tuple(float(part) for part in text.split(","))
    except ConfigurationError:
        raise
    except ValueError:
        raise ConfigurationError(
            f"Defocus {text!r} cannot be read; expected a range such as 0.5:2.5 or a series such as "
            "0.5,1.0,1.5 in micrometres."
        ) from None
    return DefocusSeries(values)


def _text_to_defocus(value: object) -> object:
    return parse_defocus(value) if isinstance(value, str) else value


class SimulationConfig(BaseModel):
    """Everything that decides a simulated set, apart from the specimen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field("demo", description="Name of the preset that the values came from.")
    images: int = Field(2000, ge=1, le=10_000_000, description="Number of particle images.")
    box: int = Field(128, ge=16, le=2048, description="Width of an image in pixels.")
    pixel_size_A: float = Field(3.0, gt=0, description="Pixel size in Angstrom.")
    particle_diameter_A: float = Field(270.0, gt=0, description="Diameter of the disc that holds the particle.")
    snr: float | None = Field(
        0.1, ge=0, description="Variance of the signal inside the disc over that of the noise; 0: no noise."
    )
    defocus_um: Annotated[Defocus, BeforeValidator(_text_to_defocus)] = Field(
        DefocusRange(0.5, 2.5), description="Range (0.5:2.5) or series (0.5,1.0,1.5) in micrometres."
    )
    astigmatism_A: float = Field(0.0, ge=0, description="Defocus U minus defocus V of every particle, in Angstrom.")
    shift_px: float = Field(1.0, ge=0, description="Standard deviation of the particle's offset along each axis.")
    outliers: float = Field(0.1, ge=0, lt=1, description="Fraction of junk, of five kinds in equal parts.")
    optics: Optics = Optics()
    b_factor_A2: float = Field(0.0, ge=0, description="B-factor of the images in square Angstrom.")
    microscope: Microscope | None = Field(
        None, description="Adds envelopes of partial coherence and the objective aperture."
    )
    noise_spectrum: tuple[float, ...] | None = Field(
        None, description="Relative power of the noise in each Fourier ring from 0 up; the last value holds "
        "for all rings above. Default: white."
    )  # fmt: skip
    particles_per_micrograph: int = Field(48, ge=1)
    views: int = Field(1, ge=1, le=1000, description="Directions that particles are seen from, evenly in a cone.")
    view_spread_deg: float = Field(
        0.0, ge=0, le=180, description="How far they lie from the view at most; 180 for all of the sphere."
    )
    snr_factor: float = Field(
        1.0,
        ge=1,
        le=100,
        description="Particles differ in contrast: the ratio of signal to noise is up to this factor higher or lower, "
        "log-uniform.",
    )
    sorting_scores: bool = Field(
        False, description="Whether the truth has a Z-score like that of RELION's particle sorting."
    )
    seed: int = Field(12345, ge=0, lt=2**32)

    @property
    def noise_free(self) -> bool:
        """Whether the images are made without noise."""
        return not self.snr

    @model_validator(mode="after")
    def _values_agree(self) -> SimulationConfig:
        if any(not math.isfinite(v) for v in (self.pixel_size_A, self.shift_px, self.snr or 0.0, self.b_factor_A2)):
            raise ValueError("pixel_size_A, shift_px, snr and b_factor_A2 must be finite numbers")
        if self.particle_diameter_A >= self.box * self.pixel_size_A:
            raise ValueError(
                f"particle_diameter_A is {self.particle_diameter_A:g} A but the box is "
                f"{self.box * self.pixel_size_A:g} A wide and leaves no background: give a smaller diameter "
                "or a larger box"
            )
        if self.microscope is not None and self.microscope.optics != self.optics:
            raise ValueError(
                f"optics is {self.optics} but the microscope has {self.microscope.optics}: give the same to both"
            )
        if self.noise_spectrum is not None:
            _check_spectrum(self.noise_spectrum)
        least_A = 1e4 * min(_values_um(self.defocus_um))
        if self.astigmatism_A >= 2 * least_A:
            raise ValueError(
                f"astigmatism_A is {self.astigmatism_A:g}, which turns the smallest defocus of {least_A:g} "
                "A into overfocus: give less"
            )
        return self


def _values_um(defocus: Defocus) -> tuple[float, ...]:
    return (defocus.low_um, defocus.high_um) if isinstance(defocus, DefocusRange) else defocus.values_um


def _check_spectrum(spectrum: tuple[float, ...]) -> None:
    good = all(math.isfinite(power) and power >= 0 for power in spectrum)
    if not spectrum or not good or not any(spectrum):
        raise ValueError("noise_spectrum must hold at least one value, none negative or infinite, and not only zeros")
