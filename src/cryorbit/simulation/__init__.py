"""Simulated particles with known truth."""

from cryorbit.simulation.contaminants import KINDS
from cryorbit.simulation.micrograph_settings import MicrographConfig
from cryorbit.simulation.particle_sets import SimulationSummary, iter_images, simulate, simulate_paper
from cryorbit.simulation.presets import MICROGRAPH_PRESETS, PRESETS, make_simulation_config
from cryorbit.simulation.settings import DefocusQuantiles, DefocusRange, DefocusSeries, SimulationConfig, parse_defocus
from cryorbit.simulation.specimens import (
    Projection,
    choose_projection,
    map_projection,
    parse_view,
    phantom_projection,
    structure_projection,
)
from cryorbit.simulation.truth import TruthTable, draw_truth
from cryorbit.simulation.view_spread import choose_projections

__all__ = [
    "KINDS",
    "MICROGRAPH_PRESETS",
    "PRESETS",
    "DefocusQuantiles",
    "DefocusRange",
    "DefocusSeries",
    "MicrographConfig",
    "Projection",
    "SimulationConfig",
    "SimulationSummary",
    "TruthTable",
    "choose_projection",
    "choose_projections",
    "draw_truth",
    "iter_images",
    "make_simulation_config",
    "map_projection",
    "parse_defocus",
    "parse_view",
    "phantom_projection",
    "simulate",
    "simulate_paper",
    "structure_projection",
]
