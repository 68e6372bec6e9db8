"""What the microscope takes away at high resolution: coherence envelopes, B-factor and objective aperture.

Conventions of spread: ``aperture_angle_mrad`` is the half-angle at which the Gaussian illumination has
fallen to 1/e of its intensity (the square root of two times its standard deviation); ``energy_spread_eV`` is
a standard deviation (for a full width at half maximum, divide by 2.355).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.errors import ConfigurationError
from cryorbit.optics.ctf import Optics, electron_wavelength_A

ANGSTROM_PER_MM = 1.0e7


@dataclass(frozen=True)
class Microscope:
    """A microscope with partial coherence; the defaults are the simulated one of the paper.

    Attributes
    ----------
    optics
        Voltage, spherical aberration and amplitude contrast.
    cc_mm
        Chromatic aberration in mm, as the factor of energy spread / energy; a coefficient without the
        relativistic factor (1 + E/E0) / (1 + E/2E0) must be multiplied with it first.
    energy_spread_eV
        Standard deviation of the electrons' energy in eV.
    aperture_angle_mrad
        Half-angle of illumination in mrad at 1/e of the intensity.
    b_factor_A2
        B-factor in square Angstrom for all that is not modelled: movement, detector, ice.
    objective_aperture_um
        Diameter of the objective aperture in micrometres; 0 for none.
    focal_length_mm
        Focal length of the objective lens in mm.

    Raises
    ------
    ConfigurationError
        If a value is negative or not a number.
    """

    optics: Optics = field(default_factory=Optics)
    cc_mm: float = 2.7
    energy_spread_eV: float = 1.3
    aperture_angle_mrad: float = 0.1
    b_factor_A2: float = 0.0
    objective_aperture_um: float = 50.0
    focal_length_mm: float = 3.5

    def __post_init__(self) -> None:
        for name in (
            "cc_mm", "energy_spread_eV", "aperture_angle_mrad", "b_factor_A2", "objective_aperture_um",
        ):  # fmt: skip
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ConfigurationError(
                    f"{name} is {value}; expected a number of at least 0: give 0 to leave that effect out."
                )
        if not math.isfinite(self.focal_length_mm) or self.focal_length_mm <= 0:
            raise ConfigurationError(
                f"focal_length_mm is {self.focal_length_mm}; expected a number above 0: give the objective "
                "lens's, about 3.5."
            )


def spatial_coherence_envelope(
    microscope: Microscope, spatial_frequency_per_A: Float[Tensor, "*k"], defocus_A: Float[Tensor, "*df"]
) -> Float[Tensor, "*out"]:
    """Compute the envelope of the finite angle of illumination.

    It is ``exp(-(pi a / lambda)^2 (Cs lambda^3 k^3 - df lambda k)^2)``.

    Parameters
    ----------
    microscope
        Its wavelength, spherical aberration Cs and half-angle a count.
    spatial_frequency_per_A
        Spatial frequency k in 1/Angstrom.
    defocus_A
        Defocus in Angstrom, positive is underfocus; broadcast against the frequencies.

    Returns
    -------
    Tensor
        Values in [0, 1]; 1 where the slope of the wave aberration vanishes.

    References
    ----------
    Frank 2006, Three-Dimensional Electron Microscopy of Macromolecular Assemblies, 2nd edition, section
    2.3.3, with the source size q0 = a / lambda; Wade 1992, Ultramicroscopy 46, 145.
    """
    wavelength_A = electron_wavelength_A(microscope.optics.voltage_kV)
    cs_A = microscope.optics.cs_mm * ANGSTROM_PER_MM
    k = spatial_frequency_per_A
    slope = cs_A * wavelength_A**3 * k**3 - defocus_A * wavelength_A * k
    return torch.exp(-((math.pi * microscope.aperture_angle_mrad * 1e-3 / wavelength_A * slope) ** 2))


def temporal_coherence_envelope(
    microscope: Microscope, spatial_frequency_per_A: Float[Tensor, "*k"]
) -> Float[Tensor, "*k"]:
    """Envelope of the electrons' spread in energy, ``exp(-(pi lambda d k^2)^2 / 2)``.

    ``d = Cc dE / E`` is the standard deviation of the defocus that the energy spread dE causes.

    Parameters
    ----------
    microscope
        Its wavelength, chromatic aberration Cc and energy spread count.
    spatial_frequency_per_A
        Spatial frequency k in 1/Angstrom.

    References
    ----------
    Wade 1992, Ultramicroscopy 46, 145; Reimer and Kohl 2008, section 6.4.2. High tension and lens current are
    taken as steady.
    """
    wavelength_A = electron_wavelength_A(microscope.optics.voltage_kV)
    energy_eV = microscope.optics.voltage_kV * 1e3
    spread_A = microscope.cc_mm * ANGSTROM_PER_MM * microscope.energy_spread_eV / energy_eV
    return torch.exp(-0.5 * (math.pi * wavelength_A * spread_A * spatial_frequency_per_A**2) ** 2)


def b_factor_envelope(b_factor_A2: float, spatial_frequency_per_A: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Gaussian envelope ``exp(-B k^2 / 4)``.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721.
    """
    return torch.exp(-0.25 * b_factor_A2 * spatial_frequency_per_A**2)


def aperture_cutoff_per_A(microscope: Microscope) -> float:
    """Highest spatial frequency in 1/Angstrom that passes the objective aperture; infinite without aperture.

    A beam diffracted to ``k`` crosses the back focal plane at ``f lambda k`` from the axis (small angles).

    References
    ----------
    Reimer and Kohl 2008, section 6.3.
    """
    if microscope.objective_aperture_um == 0:
        return math.inf
    radius_over_focal_length = 0.5e-3 * microscope.objective_aperture_um / microscope.focal_length_mm
    return radius_over_focal_length / electron_wavelength_A(microscope.optics.voltage_kV)


def envelope(
    microscope: Microscope, spatial_frequency_per_A: Float[Tensor, "*k"], defocus_A: Float[Tensor, "*df"]
) -> Float[Tensor, "*out"]:
    """All of the microscope's envelopes multiplied: spatial and temporal coherence, B-factor, aperture.

    Parameters
    ----------
    microscope
        The microscope.
    spatial_frequency_per_A
        Spatial frequency in 1/Angstrom.
    defocus_A
        Defocus in Angstrom, broadcast against the frequencies.

    Returns
    -------
    Tensor
        Factor of the contrast transfer function, in [0, 1].
    """
    k = spatial_frequency_per_A
    passes = (k <= aperture_cutoff_per_A(microscope)).to(k.dtype)
    return (
        spatial_coherence_envelope(microscope, k, defocus_A)
        * temporal_coherence_envelope(microscope, k)
        * b_factor_envelope(microscope.b_factor_A2, k)
        * passes
    )
