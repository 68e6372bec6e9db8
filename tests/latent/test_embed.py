"""Embedding: orbits that stay in their file are those in memory, and what is left half is not taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryorbit.config import ModelConfig
from cryorbit.errors import RunFolderError
from cryorbit.estimation.orientation import orbit_angle, plane_angle
from cryorbit.latent import embed as embed_module
from cryorbit.latent.embed import ORBITS, POINTS, embed, load_embedding, save_points
from cryorbit.latent.harmonics import fit_harmonics
from cryorbit.latent.orbits import fit_plane, orbit_invariants, orbit_radius
from cryorbit.model.vaegan import build_networks

N, BOX, TURNS = 70, 16, 12


class Images:
    """A cache of random images."""

    def __init__(self, seed: int = 0) -> None:
        self.images = torch.randn(N, BOX, BOX, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return N

    def read(self, rows):
        return self.images[torch.from_numpy(rows)]


@pytest.fixture
def autoencoder():
    torch.manual_seed(1)
    config = ModelConfig(base_width=4, n_blocks=2, discriminator_width=4, discriminator_blocks=2)
    return build_networks(BOX, config)[0].eval()


def test_orbits_in_a_file_say_the_same(autoencoder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_module, "BATCH", 32)
    monkeypatch.setattr(embed_module, "PART", 16)
    kept = embed(autoencoder, Images(), TURNS)
    save_points(tmp_path, embed(autoencoder, Images(), TURNS, store=tmp_path / ORBITS))
    stored = load_embedding(tmp_path)
    assert stored is not None
    assert stored.orbit.shape == kept.orbit.shape == (N, TURNS, 4)
    np.testing.assert_array_equal(stored.orbit[:], kept.orbit[:])
    np.testing.assert_array_equal(stored.orbit[np.array([60, 3])], kept.orbit[np.array([60, 3])])
    np.testing.assert_array_equal(kept.orbit[:, 0], kept.mean)
    use = np.arange(N) % 5 > 0
    for found in (orbit_invariants, orbit_radius):
        np.testing.assert_array_equal(found(stored), found(kept))
    for one, other in (
        (orbit_angle(stored, fit_harmonics(stored, use)), orbit_angle(kept, fit_harmonics(kept, use))),
        (plane_angle(stored, fit_plane(stored, use)), plane_angle(kept, fit_plane(kept, use))),
    ):
        np.testing.assert_array_equal(one.psi_deg, other.psi_deg)
        np.testing.assert_array_equal(one.std_deg, other.std_deg)


@pytest.mark.parametrize("name", [ORBITS, POINTS])
def test_what_is_not_whole_is_not_taken(autoencoder, tmp_path, name):
    save_points(tmp_path, embed(autoencoder, Images(), TURNS, store=tmp_path / ORBITS))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert load_embedding(tmp_path) is None
    (tmp_path / name).unlink()
    assert load_embedding(tmp_path) is None


def test_a_place_that_cannot_be_written_is_named(autoencoder, tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        embed(autoencoder, Images(), TURNS, store=tmp_path / "no" / ORBITS)
