"""Estimates and their judges: outliers, angle, defocus, and the comparison with a truth."""
