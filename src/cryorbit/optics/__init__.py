"""The physics of the microscope, shared by simulation and alignment."""

from cryorbit.optics.ctf import Optics, ctf_1d, ctf_2d, electron_wavelength_A
from cryorbit.optics.microscope import Microscope, envelope

__all__ = ["Microscope", "Optics", "ctf_1d", "ctf_2d", "electron_wavelength_A", "envelope"]
