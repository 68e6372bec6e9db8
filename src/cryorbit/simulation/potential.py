"""How strong a specimen's contrast is: its projection as the phase that electrons receive from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cryorbit.errors import ParticleDataError
from cryorbit.optics.interaction import phase_per_potential_rad
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.specimens import PROTEIN_VOLUME_A3_PER_DA, Projection


def phase_projection(projection: Projection, config: MicrographConfig) -> Projection:
    """Projection in radians: the phase by which the particle advances the electrons more than the ice it displaces.

    Maps come in arbitrary units, so only the projection's shape is used. Its scale is that of a particle of the same
    volume whose mean potential exceeds that of ice by ``contrast_potential_V``: the integral of the phase, where it is
    positive, is ``sigma V volume``. Where a signal-to-noise ratio is asked for, the scale does not matter: it may make
    the brightest value 1 where no volume is known.

    Parameters
    ----------
    projection
        The specimen in any units.
    config
        Its voltage, potential and, where given, mass count.

    Raises
    ------
    ParticleDataError
        If the projection's scale cannot be found: it is darker than its surroundings, or has no volume.
    """
    volume_A3 = projection.volume_A3
    if config.mass_kDa is not None:
        volume_A3 = 1e3 * config.mass_kDa * PROTEIN_VOLUME_A3_PER_DA
    # Around particles of experimental maps is a dark rim, since such maps lack the lowest frequencies.
    integral = float(np.maximum(projection.image, 0.0).sum()) * projection.pixel_size_A**2
    if volume_A3 is not None and integral > 0:
        per_volt_rad = phase_per_potential_rad(config.optics.voltage_kV)
        scale = per_volt_rad * config.contrast_potential_V * volume_A3 / integral
    elif config.snr is not None:
        scale = 1.0 / float(np.abs(projection.image).max())
    elif integral <= 0:
        raise ParticleDataError(
            "The projected specimen is not brighter than its surroundings, so its contrast cannot be put into volts: "
            "give a map of white protein, or a signal-to-noise ratio (--snr)."
        )
    else:
        raise ParticleDataError(
            "The projected specimen has no volume, so its contrast cannot be put into volts: give mass_kDa, or a "
            "signal-to-noise ratio (--snr)."
        )
    return replace(projection, image=projection.image * scale, volume_A3=volume_A3)
