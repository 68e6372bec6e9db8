"""Orbit alignment: angle, shift and defocus of every particle against the set's own average, in polar Fourier space."""
