"""What a guided training is told of its particles."""

from __future__ import annotations

import math

import numpy as np

from cryorbit import stages
from cryorbit.estimation.outliers import ImageEvidence


def test_without_noise_evidence_says_nothing_of_a_particle():
    n = 100
    level = np.repeat([1e6, 1e9], n // 2)
    # Half of the set fits its average a little less well, which without noise is an enormous misfit.
    second = np.where(np.arange(n) < n // 2, 1e5, 0.0)
    evidence = ImageEvidence(level, level, second, np.zeros(n), np.ones(n), np.zeros(n))
    assert (stages._weights(evidence, math.inf) == 1).all()
    assert (stages._weights(evidence, 0.1)[: n // 2] < 0.5).all()
