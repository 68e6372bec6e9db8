"""Micrographs that are quick to make: 2 A pixels, boxes of 192 px brought down to 128 px of 3 A."""

from __future__ import annotations

from cryorbit.simulation import make_simulation_config

SMALL = {
    "detector_px": (840, 620), "magnification": 25000.0, "extracted_px": 192, "particles_per_micrograph": 12,
    "images": 12,
}  # fmt: skip


def small_config(preset="paper-micrographs", **changes):
    return make_simulation_config(preset, {**SMALL, **changes})
