"""Amorphous ice: not an even slab but molecules in random places, which add a phase of their own."""

from __future__ import annotations

import gemmi
import numpy as np

from cryorbit.conventions import FloatArray
from cryorbit.optics.interaction import POTENTIAL_PER_SCATTERING_V_A2, phase_per_potential_rad

# 0.94 g/ml.
MOLECULES_PER_A3 = 0.0314
OXYGEN_HYDROGEN_A = 0.957
# The structure factor: its limit at low frequency is n k T kappa of water at 298 K, where ice is frozen from; the
# peak at 1 / (3.7 A) is the water ring of micrographs, as high and wide as that of low-density amorphous ice.
LOW_FREQUENCY_LIMIT = 0.062
PEAK_PER_A = 1.0 / 3.7
PEAK_HEIGHT = 1.5
PEAK_SIGMA_PER_A = 0.025


def water_scattering_A(spatial_frequency_per_A: FloatArray) -> FloatArray:
    """Electron scattering factor of a water molecule in Angstrom, averaged over its directions.

    Parameters
    ----------
    spatial_frequency_per_A
        Spatial frequency in 1/Angstrom.

    References
    ----------
    International Tables for Crystallography C, table 4.3.2.2, through gemmi: free atoms; Debye's formula about oxygen.
    """
    k = np.asarray(spatial_frequency_per_A, dtype=np.float64)
    oxygen, hydrogen = (_atom_scattering_A(name, k) for name in "OH")
    # numpy's sinc(x) is sin(pi x) / (pi x).
    molecule: FloatArray = oxygen + 2.0 * hydrogen * np.sinc(2.0 * k * OXYGEN_HYDROGEN_A)
    return molecule


def structure_factor(spatial_frequency_per_A: FloatArray) -> FloatArray:
    """How much stronger than for molecules without order the fluctuations of the ice's density are.

    It rises from the compressibility limit as ``1 - (1 - S0) exp(-(k / k1)^4)`` and has a Gaussian peak at ``k1``.

    Parameters
    ----------
    spatial_frequency_per_A
        Spatial frequency in 1/Angstrom.

    References
    ----------
    Bowron et al. 2006, J. Chem. Phys. 125, 194502, for amorphous ices; McMullan, Vinothkumar and Henderson 2015,
    Ultramicroscopy 158, 26, for the ring in micrographs. The formula is a drawing of these curves, not a theory; the
    second ring, at 2.1 A, is left out.
    """
    relative = np.asarray(spatial_frequency_per_A, dtype=np.float64) / PEAK_PER_A
    rise = 1.0 - (1.0 - LOW_FREQUENCY_LIMIT) * np.exp(-(relative**4))
    peak = PEAK_HEIGHT * np.exp(-0.5 * ((relative - 1.0) * PEAK_PER_A / PEAK_SIGMA_PER_A) ** 2)
    factor: FloatArray = rise + peak
    return factor


def ice_phase_spectrum_A2(spatial_frequency_per_A: FloatArray, ice_nm: float, voltage_kV: float) -> FloatArray:
    """Power spectrum of the phase that a layer of ice gives, in radians squared times square Angstrom.

    It is ``n t (sigma h^2 / (2 pi m e) f)^2 S`` for n molecules a volume, a layer of thickness t, the interaction
    constant sigma, the scattering factor f of a molecule and the structure factor S.

    Parameters
    ----------
    spatial_frequency_per_A
        Spatial frequency in 1/Angstrom.
    ice_nm
        Thickness of the layer in nm.
    voltage_kV
        Acceleration voltage in kV.
    """
    per_molecule_rad_A2 = (
        phase_per_potential_rad(voltage_kV)
        * POTENTIAL_PER_SCATTERING_V_A2
        * water_scattering_A(spatial_frequency_per_A)
    )
    per_area = MOLECULES_PER_A3 * 10.0 * ice_nm
    spectrum: FloatArray = per_area * per_molecule_rad_A2**2 * structure_factor(spatial_frequency_per_A)
    return spectrum


def mean_potential_V() -> float:
    """Mean potential of ice in volts, of free atoms."""
    return MOLECULES_PER_A3 * POTENTIAL_PER_SCATTERING_V_A2 * float(water_scattering_A(np.zeros(1))[0])


def _atom_scattering_A(element: str, k: FloatArray) -> FloatArray:
    coefficients = gemmi.Element(element).c4322
    s_squared = (0.5 * k) ** 2
    terms = (a * np.exp(-b * s_squared) for a, b in zip(coefficients.a, coefficients.b, strict=True))
    total: FloatArray = sum(terms, start=np.zeros_like(k))
    return total
