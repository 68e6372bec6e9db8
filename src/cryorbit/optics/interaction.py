"""How strongly electrons feel a specimen: the phase that a potential gives them, and the loss in thick ice."""

from __future__ import annotations

import math

from cryorbit.optics.ctf import (
    ANGSTROM_PER_M,
    ELECTRON_MASS_KG,
    ELEMENTARY_CHARGE_C,
    LIGHT_SPEED_M_S,
    PLANCK_J_S,
    electron_wavelength_A,
)

# h^2 / (2 pi m e): the volume integral of an atom's potential is this times its electron scattering factor at
# zero angle (in Angstrom).
POTENTIAL_PER_SCATTERING_V_A2 = (
    PLANCK_J_S**2 / (2.0 * math.pi * ELECTRON_MASS_KG * ELEMENTARY_CHARGE_C) * ANGSTROM_PER_M**2
)


def phase_per_potential_rad(voltage_kV: float) -> float:
    """Phase in radians for one volt over one Angstrom, ``2 pi m e lambda / h^2`` with the relativistic mass.

    Parameters
    ----------
    voltage_kV
        Acceleration voltage in kV.

    References
    ----------
    Kirkland 2010, Advanced Computing in Electron Microscopy, 2nd edition, equation 2.16 (the interaction parameter
    sigma); constants of CODATA 2018.
    """
    wavelength_m = electron_wavelength_A(voltage_kV) / ANGSTROM_PER_M
    kinetic_J = ELEMENTARY_CHARGE_C * voltage_kV * 1e3
    mass_kg = ELECTRON_MASS_KG + kinetic_J / LIGHT_SPEED_M_S**2
    return 2.0 * math.pi * mass_kg * ELEMENTARY_CHARGE_C * wavelength_m / PLANCK_J_S**2 / ANGSTROM_PER_M


def elastic_fraction(thickness_nm: float, mean_free_path_nm: float | None) -> float:
    """Part of the electrons that lose no energy in a layer, ``exp(-thickness / mean free path)``.

    Parameters
    ----------
    thickness_nm
        Thickness of the layer in nm.
    mean_free_path_nm
        Mean free path for inelastic scattering in nm; None: no electron loses energy.

    References
    ----------
    Egerton 2011, Electron Energy-Loss Spectroscopy in the Electron Microscope, 3rd edition, section 5.1; Rice et al.
    2018, J. Struct. Biol. 204, 38, who measured 395 nm for vitreous ice at 300 kV.
    """
    return 1.0 if mean_free_path_nm is None else math.exp(-thickness_nm / mean_free_path_nm)
