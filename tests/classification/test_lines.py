"""Law: views of one object share lines, whatever their centres; another object, and noise, do not."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryorbit.alignment.polar import to_harmonics
from cryorbit.classification.bank import Bank
from cryorbit.classification.lines import agreement, common_lines

from ..alignment.blobs import BOX, GRID, RADIUS_px, Specimen, white_noise

FEW = 14


def object_of_blobs(seed: int, blobs: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Places in three dimensions, strewn over a ball, and heights."""
    random = np.random.default_rng(seed)
    direction = random.standard_normal((blobs, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = (RADIUS_px - 4) * random.uniform(0, 1, (blobs, 1)) ** (1 / 3)
    return radius * direction, random.uniform(0.4, 1.0, blobs)


def views(seed: int, count: int, shift_px: float = 0.0) -> torch.Tensor:
    """Harmonics of projections from directions of chance, shape (count, rings, orders)."""
    place, height = object_of_blobs(seed)
    random = np.random.default_rng(seed + 1)
    found = []
    for turn in Rotation.random(count, random_state=seed):
        seen = Specimen(turn.apply(place)[:, :2], height, 1.3)
        shift = shift_px * random.uniform(-1, 1, (1, 2))
        found.append(to_harmonics(seen.samples(GRID, np.zeros(1), shift)[0], GRID.orders))
    return torch.stack(found).to(torch.complex64)[:, :FEW]


def bank_of_views(*parts: torch.Tensor) -> Bank:
    harmonics = torch.cat(parts)
    return Bank(harmonics, torch.zeros(len(harmonics)))


def test_two_projections_of_one_object_have_a_line_in_common():
    lines = common_lines(bank_of_views(views(5, 6)), BOX, RADIUS_px)
    apart = ~torch.eye(6, dtype=torch.bool)
    assert float(lines[apart].min()) > 0.98
    assert torch.isnan(lines.diagonal()).all()
    torch.testing.assert_close(lines[apart], lines.T[apart], atol=0.02, rtol=0)


def test_averages_need_not_be_centred():
    lines = common_lines(bank_of_views(views(5, 6, shift_px=0.7)), BOX, RADIUS_px)
    assert float(lines[~torch.eye(6, dtype=torch.bool)].min()) > 0.95


def test_another_object_and_noise_agree_with_nobody():
    noise = to_harmonics(white_noise(1, 4), GRID.orders)[:, :FEW]
    bank = bank_of_views(views(5, 8), views(9, 1), noise)
    found = agreement(common_lines(bank, BOX, RADIUS_px), torch.ones(10))
    assert float(found[:8].min()) > float(found[8:].max()) + 0.05


def test_classes_count_by_their_particles():
    lines = torch.tensor([[0.0, 0.9, 0.2, 0.3], [0.9, 0.0, 0.5, 0.5], [0.2, 0.5, 0.0, 0.1], [0.3, 0.5, 0.1, 0.0]])
    lines.fill_diagonal_(torch.nan)
    assert float(agreement(lines, torch.tensor([1.0, 1.0, 1.0, 1.0]))[0]) == np.float32(0.3)
    assert float(agreement(lines, torch.tensor([1.0, 100.0, 1.0, 1.0]))[0]) == np.float32(0.9)
    assert torch.isnan(agreement(torch.tensor([[torch.nan]]), torch.ones(1))).all()
