"""Simulated particles with known truth."""

from cryorbit.simulation.contaminants import KINDS
from cryorbit.simulation.micrographs import SimulationSummary, iter_images, simulate
from cryorbit.simulation.settings import (
    PRESETS,
    DefocusRange,
    DefocusSeries,
    SimulationConfig,
    make_simulation_config,
    parse_defocus,
)
from cryorbit.simulation.specimens import (
    Projection,
    choose_projection,
    map_projection,
    parse_view,
    phantom_projection,
    structure_projection,
)
from cryorbit.simulation.truth import TruthTable, draw_truth

__all__ = [
    "KINDS",
    "PRESETS",
    "DefocusRange",
    "DefocusSeries",
    "Projection",
    "SimulationConfig",
    "SimulationSummary",
    "TruthTable",
    "choose_projection",
    "draw_truth",
    "iter_images",
    "make_simulation_config",
    "map_projection",
    "parse_defocus",
    "parse_view",
    "phantom_projection",
    "simulate",
    "structure_projection",
]
