"""Tiny simulated sets for the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

from cryorbit import make_config, simulate
from cryorbit.simulation import choose_projections, make_simulation_config, phantom_projection

TINY_RUN = {
    "preprocessing": {"box_size": 32},
    "model": {
        "base_width": 4, "n_blocks": 3, "discriminator_width": 4, "discriminator_blocks": 3, "principal_images": 64,
        "hidden_width": 128,
    },
    "training": {"epochs": 2, "precision": "32-true", "accelerator": "cpu"},
    "estimation": {"defocus_prior": "blind"},
}  # fmt: skip


def tiny_config(**changes):
    return make_config("fast", {**TINY_RUN, **changes})


def tiny_set(folder: Path, images: int = 60, seed: int = 1, **changes) -> Path:
    """A simulated set of 48 px images; gives the path of its STAR file."""
    config = make_simulation_config(
        "demo", {"images": images, "seed": seed, "box": 48, "pixel_size_A": 8.0, "snr": 0.5, **changes}
    )
    simulate(folder, phantom_projection(), config)
    return folder / "particles.star"


def many_views(folder: Path, images: int = 260, seed: int = 3, **changes) -> Path:
    """A simulated set of three very different views, with junk; gives the path of its STAR file."""
    config = make_simulation_config("junk", {
        "images": images, "seed": seed, "box": 48, "pixel_size_A": 8.0, "snr": 0.5, "views": 3,
        "view_spread_deg": 180.0, "defocus_um": "1.0:2.5", **changes,
    })  # fmt: skip
    simulate(folder, choose_projections(None, None, False, (20.0, 40.0), config), config)
    return folder / "particles.star"


def class_config(views: int = 6, **changes):
    """Of a classification of such a set."""
    classification = {"views": views, "box_size": 48, **changes.pop("classification", {})}
    return make_config("fast", {"training": {"accelerator": "cpu"}, **changes, "classification": classification})
