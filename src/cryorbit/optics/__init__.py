"""The physics of microscope and detector, shared by simulation and alignment."""

from cryorbit.optics.ctf import Optics, ctf_1d, ctf_2d, ctf_at, electron_wavelength_A
from cryorbit.optics.detector import Detector, detective_quantum_efficiency, modulation_transfer
from cryorbit.optics.interaction import elastic_fraction, phase_per_potential_rad
from cryorbit.optics.microscope import Microscope, envelope

__all__ = [
    "Detector",
    "Microscope",
    "Optics",
    "ctf_1d",
    "ctf_2d",
    "ctf_at",
    "detective_quantum_efficiency",
    "elastic_fraction",
    "electron_wavelength_A",
    "envelope",
    "modulation_transfer",
    "phase_per_potential_rad",
]
