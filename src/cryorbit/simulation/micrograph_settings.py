"""What is simulated where whole micrographs are: detector, dose, ice, and how particles lie."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from cryorbit.conventions import pixel_size_from_magnification_A
from cryorbit.optics.detector import Detector
from cryorbit.optics.microscope import Microscope
from cryorbit.simulation.settings import SimulationConfig


class MicrographConfig(SimulationConfig):
    """Everything that decides a set of particles that are boxed from simulated micrographs, apart from the specimen.

    ``box`` and ``pixel_size_A`` are those of the images that are written; the latter follows from magnification and
    boxes. The defaults are the paper's.
    """

    detector_px: tuple[int, int] = Field((5760, 4092), description="Width and height of a micrograph in pixels.")
    detector_pixel_um: float = Field(5.0, gt=0, le=1000, description="Width of the detector's pixels in um.")
    magnification: float = Field(81000.0, gt=0, le=1e8, description="From specimen to detector.")
    extracted_px: int = Field(648, ge=16, le=4096, description="Width of a box before it is brought down to `box`.")
    jitter: float = Field(
        0.0, ge=0, le=1, description="How far particles are off the grid: 0 not at all, 1 anywhere in their cell."
    )
    dose_per_nm2: float = Field(100.0, gt=0, description="Electrons per square nanometre of the specimen.")
    ice_nm: float = Field(100.0, ge=0, description="Thickness of the ice in nm; 0 for none.")
    inelastic_mean_free_path_nm: float | None = Field(
        None, gt=0, description="Electrons that lose energy are filtered out; 395 for ice. Default: none does."
    )
    detector: Detector = Detector()
    contrast_potential_V: float = Field(
        3.5, gt=0, description="Mean potential of the particle above that of ice, in volts; 3.5 protein, 4.8 RNA."
    )
    mass_kDa: float | None = Field(
        None, gt=0, description="Mass of the particle, which sets its volume. Default: as the specimen has it."
    )
    microscope: Microscope | None = Microscope()
    snr: float | None = Field(
        None,
        ge=0,
        description="0: no noise of counting, and even ice. Above: the particles' contrast is scaled until the images "
        "have this ratio. Default: what dose, ice and potential give.",
    )

    @property
    def noise_free(self) -> bool:
        """Whether neither the electrons' number nor the ice is random."""
        return self.snr == 0

    @property
    def micrograph_pixel_A(self) -> float:
        """Pixel size of the micrograph in Angstrom."""
        return float(pixel_size_from_magnification_A(self.detector_pixel_um, self.magnification))

    @property
    def extracted_over_box(self) -> float:
        """Width of an image's pixel in pixels of the micrograph."""
        return self.extracted_px / self.box

    @model_validator(mode="before")
    @classmethod
    def _derive_pixel_size(cls, values: Any) -> Any:
        def value(name: str) -> Any:
            return values.get(name, cls.model_fields[name].default)

        if not isinstance(values, dict):
            return values
        try:
            micrograph_A = value("detector_pixel_um") * 1e4 / value("magnification")
            derived_A = micrograph_A * value("extracted_px") / value("box")
        except (TypeError, ZeroDivisionError):
            return values  # one of them is not a number, which its own field will say
        return {"pixel_size_A": derived_A, **values}

    @model_validator(mode="after")
    def _boxes_fit(self) -> MicrographConfig:
        width, height = self.detector_px
        if self.extracted_px > min(width, height):
            raise ValueError(
                f"boxes of {self.extracted_px} px are larger than the micrograph of {width} x {height} px: give a "
                "smaller extracted_px or a larger detector_px"
            )
        if self.extracted_px < self.box:
            raise ValueError(
                f"box is {self.box} px but only {self.extracted_px} px are cut out: give a smaller box or a larger "
                "extracted_px"
            )
        columns, rows = grid_shape(self.particles_per_micrograph, width, height)
        if columns * self.extracted_px > width or rows * self.extracted_px > height:
            raise ValueError(
                f"{self.particles_per_micrograph} boxes of {self.extracted_px} px do not fit beside each other in a "
                f"micrograph of {width} x {height} px: lower particles_per_micrograph"
            )
        return self

    @model_validator(mode="after")
    def _physics_agrees(self) -> MicrographConfig:
        derived_A = self.micrograph_pixel_A * self.extracted_over_box
        if not math.isclose(self.pixel_size_A, derived_A, rel_tol=1e-6):
            raise ValueError(
                f"pixel_size_A is {self.pixel_size_A:g} but the magnification and the boxes make it {derived_A:.5g}: "
                "leave it out, or change magnification or extracted_px"
            )
        if not all(map(math.isfinite, (self.dose_per_nm2, self.ice_nm, self.contrast_potential_V))):
            raise ValueError("dose_per_nm2, ice_nm and contrast_potential_V must be finite numbers")
        if self.optics.amplitude_contrast == 1:
            raise ValueError("amplitude contrast is 1, which leaves no phase: give 0.07 to 0.1")
        if self.views > 1 or self.snr_factor > 1:
            raise ValueError("views and snr_factor are for single boxes: leave them out for whole micrographs")
        if self.noise_spectrum is not None:
            raise ValueError("noise_spectrum is for single boxes: a micrograph's noise follows from dose and ice_nm")
        return self


def grid_shape(count: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the grid with at least ``count`` cells whose cells leave most room for a square."""
    shapes = [(columns, math.ceil(count / columns)) for columns in range(1, count + 1)]
    return max(shapes, key=lambda shape: min(width / shape[0], height / shape[1]))
