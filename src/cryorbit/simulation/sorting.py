"""A score like that by which RELION's particle sorting marks junk, with its mistakes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryorbit.conventions import FloatArray

# Mean and standard deviation. With the usual limit of |Z| > 2, 2.6 % of the particles are called junk, and 11.5 % of
# the junk is missed: an assumption, for nobody knows the truth of an experiment.
PARTICLE_Z = (0.0, 0.9)
JUNK_Z = (3.2, 1.0)
Z_STREAM = 7


def sorting_z_scores(outlier: NDArray[np.bool_], seed: int) -> FloatArray:
    """Normal scores of particles and junk, of different means; they do not look at the images.

    Parameters
    ----------
    outlier
        Whether each image is junk, shape (n,).
    seed
        The same seed gives the same scores.

    Returns
    -------
    FloatArray
        Shape (n,).
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(Z_STREAM,)))
    normal = rng.standard_normal(len(outlier))
    mean, std = (np.where(outlier, junk, good) for good, junk in zip(PARTICLE_Z, JUNK_Z, strict=True))
    return np.asarray(mean + std * normal)
