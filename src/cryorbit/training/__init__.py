"""Optimisation: the loop, its checkpoints, its guard."""
