"""Presets of simulated sets, and configurations made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cryorbit.config import merge
from cryorbit.errors import ConfigurationError
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.settings import DefocusRange, DefocusSeries, SimulationConfig

PAPER_SERIES = DefocusSeries((0.5, 1.0, 1.5, 2.0, 2.5, 3.0))

PRESETS: dict[str, dict[str, Any]] = {
    # The simulated set of Miolane et al. 2020, section 5.2, particle by particle.
    "paper": {
        "images": 2544, "snr": 0.0, "shift_px": 0.0, "outliers": 0.0,
        "defocus_um": PAPER_SERIES,
    },
    "noisy": {"images": 5000, "snr": 0.1, "shift_px": 1.5, "outliers": 0.0},
    "junk": {"images": 5000, "snr": 0.1, "shift_px": 1.5, "outliers": 0.1},
    "demo": {"images": 2000, "snr": 0.1, "shift_px": 1.0, "outliers": 0.1},
    "low-snr": {"images": 5000, "snr": 0.02, "shift_px": 1.5, "outliers": 0.0},
}  # fmt: skip

# Particles boxed from whole micrographs.
MICROGRAPH_PRESETS: dict[str, dict[str, Any]] = {
    # Miolane et al. 2020, section 4.1: the defaults of MicrographConfig, in six steps of defocus, without noise.
    "paper-micrographs": {"images": 2544, "snr": 0.0, "shift_px": 0.0, "outliers": 0.0, "defocus_um": PAPER_SERIES},
    # An ordinary data collection: 40 electrons per square Angstrom, thin ice, a counting detector, an energy filter.
    "micrographs": {
        "images": 2400, "snr": None, "shift_px": 1.0, "outliers": 0.0, "defocus_um": DefocusRange(0.5, 2.5),
        "jitter": 1.0, "dose_per_nm2": 4000.0, "ice_nm": 40.0, "inelastic_mean_free_path_nm": 395.0,
        "detector": {"dqe_zero": 0.8, "mtf_nyquist": 0.637},
    },
}  # fmt: skip


def make_simulation_config(preset: str = "demo", changes: Mapping[str, Any] | None = None) -> SimulationConfig:
    """Build a configuration from a preset and single changes, the changes winning.

    Parameters
    ----------
    preset
        One of :data:`PRESETS`, or of :data:`MICROGRAPH_PRESETS` for whole micrographs.
    changes
        Values by field name, such as ``{"images": 500, "defocus_um": "0.5:2.5"}``.

    Raises
    ------
    ConfigurationError
        If the preset is unknown, or a name or value is not allowed.
    """
    known = {**PRESETS, **MICROGRAPH_PRESETS}
    if preset not in known:
        raise ConfigurationError(f"Preset {preset!r} is unknown: choose one of {', '.join(known)}.")
    kind = MicrographConfig if preset in MICROGRAPH_PRESETS else SimulationConfig
    foreign = sorted(set(changes or {}) & set(MicrographConfig.model_fields) - set(kind.model_fields))
    if foreign:
        raise ConfigurationError(
            f"{', '.join(foreign)}: belongs to whole micrographs, but preset {preset!r} makes single boxes: choose "
            f"{' or '.join(MICROGRAPH_PRESETS)}."
        )
    try:
        return kind(**{"preset": preset, **merge(known[preset], changes or {})})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'][:1])) or 'simulation'}: "
            f"{item['msg'].removeprefix('Value error, ').rstrip('.')}"
            for item in error.errors()
        )
        raise ConfigurationError(f"{problems}.") from error
