"""The part of the page that people explore: a map of all particles, filters, selections, and particles to look at."""

from cryorbit.report.explorer.fragment import explorer_section

__all__ = ["explorer_section"]
