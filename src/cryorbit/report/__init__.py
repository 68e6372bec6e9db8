"""The report of a run: figures, and one self-contained page that explains them."""

from cryorbit.report.page import write_report

__all__ = ["write_report"]
