"""Law: poses against a turned and moved average, said against the first one, are the first one's poses."""

from __future__ import annotations

import numpy as np
import pytest

from cryorbit.classification.frames import in_frame_of
from cryorbit.conventions import wrap_deg


def turned(vectors, angle_deg):
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.stack([c * vectors[:, 0] - s * vectors[:, 1], s * vectors[:, 0] + c * vectors[:, 1]], axis=1)


@pytest.mark.parametrize(("turn", "fold"), [(0.1, 1), (-161.0, 1), (179.9, 1), (75.0, 3)])
def test_poses_come_back_whatever_the_turn_the_move_and_the_symmetry(turn, fold):
    rng = np.random.default_rng(3)
    psi, shift = rng.uniform(0, 360, 200), rng.normal(size=(200, 2))
    move = np.array([3.0, -2.0]) if fold == 1 else np.zeros(2)
    # avg_first(y) = avg_second(R(turn) (y - move)), so that image(x) is of (psi + turn, shift + R(-psi) move).
    second_psi = psi + turn + 360 / fold * rng.integers(0, fold, 200)
    second_shift = shift + turned(np.tile(move, (200, 1)), -psi)
    rough_psi, rough_shift = psi + rng.normal(size=200), shift + 0.2 * rng.normal(size=(200, 2))
    rough_psi[:20] = rng.uniform(0, 360, 20)  # wrong ones
    found_psi, found_shift = in_frame_of(second_psi, second_shift, rough_psi, rough_shift)
    apart = wrap_deg(fold * (found_psi - psi)) / fold
    assert abs(np.median(apart)) < 0.3
    assert np.ptp(apart) < 1e-6
    if fold == 1:
        np.testing.assert_allclose(found_shift, shift, atol=0.15)
