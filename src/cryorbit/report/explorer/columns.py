"""Columns of a run as the page carries them: 16 bits for a value, compressed, the most useful ones first.

A value's place between the ends of its column's range is kept in 16 bits; what lies far beyond most of a column is put
at the nearer end, so that a few wild scores do not flatten all others. Bytes are split into a plane of low and a plane
of high ones, which compress better apart.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray
from cryorbit.report.record import RunRecord

LEVELS = 65534
MISSING = 65535
# Of a column's values, the share at each end that may lie outside the range that is told apart; and by how much of the
# range of the others the ends are moved outwards before.
TAIL, MARGIN = 0.001, 0.5
# Words of a column, beyond which it is not worth colours and filters.
MOST_WORDS = 60_000


@dataclass(frozen=True)
class Column:
    """A column of the page.

    Attributes
    ----------
    name
        As in ``estimates.parquet``, ``latent.parquet`` or the particle file.
    label
        What it is called on the page, with its unit.
    kind
        ``number``, ``angle`` (in degrees, on a circle), ``flag`` (0 or 1) or ``words``.
    values
        Shape (n,); places in ``words`` where it is of words.
    words
        Distinct texts, where it is of words.
    period
        Of an angle.
    """

    name: str
    label: str
    kind: str
    values: NDArray[Any]
    words: tuple[str, ...] = ()
    period: float = 360.0

    def header(self) -> dict[str, Any]:
        """What the page must know to read :meth:`data`."""
        low, high = self.ends
        known = self.values[np.isfinite(self.values)] if self.kind == "number" else np.empty(0)
        least, most = (float(known.min()), float(known.max())) if len(known) else (low, high)
        # Whole numbers that levels tell apart are shown, and chosen, as such.
        whole = len(known) > 0 and bool((known == np.round(known)).all()) and high - low < LEVELS / 2
        return {
            "name": self.name, "label": self.label, "kind": self.kind, "low": low, "high": high,
            "least": least, "most": most, "whole": whole, "period": self.period, "words": list(self.words),
            "missing": int(np.isnan(self.values).sum()),
        }  # fmt: skip

    @property
    def ends(self) -> tuple[float, float]:
        """Values at level 0 and at the highest level."""
        if self.kind == "flag":
            return 0.0, 1.0
        if self.kind == "angle":
            return -0.5 * self.period, 0.5 * self.period
        if self.kind == "words":
            return 0.0, float(LEVELS)  # a word's level is its place
        if self.name in _PROBABILITIES:
            return 0.0, 1.0
        known = self.values[np.isfinite(self.values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if len(known) > 2 / TAIL and self.name != "class":
            inner = np.quantile(known, [TAIL, 1.0 - TAIL])
            reach = MARGIN * float(inner[1] - inner[0])
            if reach > 0:
                low, high = max(low, float(inner[0]) - reach), min(high, float(inner[1]) + reach)
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def levels(self) -> NDArray[np.uint16]:
        """Places between the ends, shape (n,); 65535 where there is no value."""
        low, high = self.ends
        values = np.asarray(self.values, dtype=np.float64)
        if self.kind == "angle":
            values = (values - low) % self.period + low
        # Halves go up, as the page's own rounding has them.
        place = np.clip((values - low) / (high - low), 0.0, 1.0) * LEVELS
        return np.where(np.isfinite(values), np.floor(np.nan_to_num(place) + 0.5), MISSING).astype(np.uint16)

    def data(self) -> str:
        """The levels as text: low bytes, then high bytes, compressed, in base64."""
        return packed(self.levels().view(np.uint8).reshape(-1, 2).T.tobytes())


def packed(data: bytes) -> str:
    """Bytes as text that the page unpacks."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


# Names that everyone understands, for the columns that a run may have, in the order of their use to people.
_KNOWN: Sequence[tuple[str, str, str]] = (
    ("view1", "map of views, first axis", "number"),
    ("view2", "map of views, second axis", "number"),
    ("class", "class", "number"),
    ("pc1", "latent, first principal axis", "number"),
    ("pc2", "latent, second principal axis", "number"),
    ("psi_deg", "in-plane angle (°)", "angle"),
    ("defocus_um", "defocus (µm)", "number"),
    ("outlier_probability", "outlier probability", "number"),
    ("kept", "kept by the run", "flag"),
    ("orbit_log_likelihood_ratio", "evidence of the average in the image (nats)", "number"),
    ("class_probability", "probability of the class", "number"),
    ("pose_probability", "probability of class and angle", "number"),
    ("view3", "map of views, third axis", "number"),
    ("pc3", "latent, third principal axis", "number"),
    ("outlier_z", "outlier Z-score", "number"),
    ("psi_std_deg", "angle, standard deviation (°)", "number"),
    ("rlnMicrographName", "micrograph", "words"),
    ("origin_x_A", "origin x, to be added (Å)", "number"),
    ("origin_y_A", "origin y, to be added (Å)", "number"),
    ("defocus_std_um", "defocus, standard deviation (µm)", "number"),
    ("orbit_residual", "power that the average leaves (of the noise's)", "number"),
    ("orbit_amplitude", "strength of the average in the image", "number"),
    ("latent_psi_deg", "angle, from the latent orbit (°)", "angle"),
    ("latent_defocus_um", "defocus, from the latent orbit (µm)", "number"),
    ("robust_covariance", "outlier score: robust covariance", "number"),
    ("isolation_forest", "outlier score: isolation forest", "number"),
    ("local_outlier_factor", "outlier score: local outlier factor", "number"),
    ("evidence", "outlier score: evidence", "number"),
    ("file_psi_deg", "angle in the input file (°)", "angle"),
    ("file_defocus_um", "defocus in the input file (µm)", "number"),
    ("orbit_origin_std_A", "origin, standard deviation (Å)", "number"),
    ("orbit_mode_probability", "probability of the angle's mode", "number"),
    ("plane_psi_deg", "angle, from the paper's plane (°)", "angle"),
    ("orbit_radius", "radius of the latent orbit", "number"),
    ("plane_angle_deg", "angle around the paper's plane, as it is (°)", "angle"),
    ("plane_radius", "radius in the paper's plane", "number"),
    ("plane_defocus_um", "defocus, from the paper's plane (µm)", "number"),
)
# What programs write into particle files, in words.
_OF_FILES = {
    "rlnCoordinateX": "place in the micrograph, x (px)", "rlnCoordinateY": "place in the micrograph, y (px)",
    "rlnClassNumber": "class", "rlnOpticsGroup": "optics group", "rlnGroupNumber": "group", "rlnGroupName": "group",
    "rlnDefocusAngle": "direction of the astigmatism (°)", "rlnCtfMaxResolution": "resolution of the CTF's fit (Å)",
    "rlnCtfFigureOfMerit": "figure of merit of the CTF", "rlnPhaseShift": "phase shift (°)",
    "rlnAutopickFigureOfMerit": "figure of merit of the picking", "rlnAngleRot": "rotation (°)",
    "rlnAngleTilt": "tilt (°)", "rlnRandomSubset": "random half", "rlnHelicalTubeID": "helical tube",
    "rlnMaxValueProbDistribution": "probability of the best pose", "rlnNormCorrection": "correction of the scale",
    "rlnLogLikeliContribution": "log likelihood", "rlnNrOfSignificantSamples": "significant samples",
}  # fmt: skip
# Where one in a thousand is another is of use: they are not cut at what most have.
_PROBABILITIES = (
    "outlier_probability", "orbit_mode_probability", "rlnMaxValueProbDistribution", "class_probability",
    "pose_probability",
)  # fmt: skip
# What says the same as another column, or is of no use for looking at particles.
_LEFT_OUT = (
    "id", "image", "outlier_score", "weight", "origin_std_A", "orbit_psi_deg", "orbit_defocus_um", "orbit_psi_std_deg",
    "orbit_defocus_std_um", "orbit_origin_x_A", "orbit_origin_y_A", "limit_psi_deg", "limit_defocus_um",
    "limit_origin_A",
)  # fmt: skip


def run_columns(run: RunRecord) -> Iterator[Column]:
    """All columns of a run that people may want to see, the most useful ones first; constant ones are left out."""
    tables = [run.estimates, *(table for table in (run.latent, run.file_columns) if table is not None)]
    where = {str(name): table for table in reversed(tables) for name in table.columns}
    known = [name for name, _, _ in _KNOWN if name in where]
    others = [name for name in where if name not in known and name not in _LEFT_OUT and "log_variance" not in name]
    described = {name: (label, kind) for name, label, kind in _KNOWN}
    for name in (*known, *sorted(others, key=lambda name: name not in run.estimates)):
        label, kind = described.get(name, (_words(name), ""))
        column = _column(name, label, kind, where[name][name], 360.0 / run.isotropy_order)
        if column is not None:
            yield column


def _words(name: str) -> str:
    """What a column is called that only some runs have: in words as far as they are known."""
    if name in _OF_FILES:
        return f"{_OF_FILES[name]}, {name}"
    for start, called in (("pc", "latent, principal axis"), ("z", "latent, coordinate")):
        number = name.removeprefix(start)
        if number != name and number.isdigit():
            return f"{called} {int(number)}"
    return name


def _column(name: str, label: str, kind: str, values: pd.Series, period: float) -> Column | None:
    """A column; None where all its values are the same, or they are neither numbers nor a few words."""
    if values.dtype == bool:
        return Column(name, label, "flag", values.to_numpy(dtype=np.float64))
    numbers: FloatArray = np.empty(0)
    if kind != "words" and not isinstance(values.dtype, pd.CategoricalDtype):
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    if not len(numbers) or np.isnan(numbers).all():
        codes, words = pd.factorize(values.astype(str), sort=True)
        if not 1 < len(words) <= MOST_WORDS:
            return None
        return Column(name, label, "words", codes.astype(np.float64), tuple(map(str, words)))
    known = numbers[~np.isnan(numbers)]
    if not len(known) or (known[0] == known).all():
        return None
    return Column(name, label, kind or "number", numbers, period=period if kind == "angle" else 360.0)
