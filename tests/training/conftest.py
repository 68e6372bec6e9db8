"""A tiny cache of turned spots, and settings to train on it in a blink."""

from __future__ import annotations

import numpy as np
import pytest

from cryorbit import make_config
from cryorbit.config import PreprocessingConfig
from cryorbit.io.mrc import ImageStack
from cryorbit.particles import ImageLocations
from cryorbit.preprocessing.dataset import build_cache

from ..io.conftest import write_stack

TINY = {
    "preprocessing": {"box_size": 16},
    "model": {"base_width": 4, "n_blocks": 2, "discriminator_width": 4, "discriminator_blocks": 2, "latent_dim": 3},
    "training": {"epochs": 3, "batch_size": 16, "precision": "32-true", "accelerator": "cpu"},
}


def tiny(**training):
    return make_config("fast", {**TINY, "training": {**TINY["training"], **training}})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    y, x = np.mgrid[:16, :16] - 8
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 96)[:, None, None]
    images = np.exp(-((x - 3 * np.cos(angle)) ** 2 + (y - 3 * np.sin(angle)) ** 2) / 8)
    images = (images + np.random.default_rng(1).normal(0, 0.3, images.shape)).astype(np.float32)
    path = write_stack(folder / "a.mrcs", images)
    rows = np.arange(len(images))
    stack = ImageStack(ImageLocations((path,), np.zeros_like(rows), rows))
    names = np.array([f"{i}@a.mrcs" for i in rows], dtype=object)
    return build_cache(stack, 3.0, folder / "shards", PreprocessingConfig(box_size=16), names)
