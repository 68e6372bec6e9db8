"""The map of views: what it is made of, and what it does not depend on."""

from __future__ import annotations

import torch

from cryorbit.classification.view_map import ViewMap


def likeness(n=200, classes=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 30 * torch.randn(n, 2, generator=generator) @ torch.randn(2, classes, generator=generator)


def test_axes_are_orthonormal_and_hold_what_varies():
    values = likeness()
    found = ViewMap.of(values, torch.arange(9))
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(3), atol=1e-5, rtol=0)
    place = found.coordinates(values)
    spread = place.std(dim=0)
    assert spread[0] >= spread[1] >= spread[2]


def test_neither_brightness_nor_the_strength_of_an_image_moves_it():
    values = likeness()
    found = ViewMap.of(values, torch.arange(9))
    scale = 0.5 + torch.rand(len(values), 1, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found.coordinates(values), found.coordinates(scale * values + 7.0), atol=1e-4, rtol=0)


def test_classes_that_do_not_count_do_not_matter():
    values = likeness()
    counted = torch.tensor([0, 2, 3, 7])
    found = ViewMap.of(values, counted)
    other = values.clone()
    other[:, 1] = 1e4
    torch.testing.assert_close(found.coordinates(values), found.coordinates(other))


def test_there_may_be_fewer_axes_than_asked_for():
    for classes in (1, 2):
        found = ViewMap.of(likeness(classes=classes), torch.arange(classes))
        assert torch.isfinite(found.coordinates(likeness(classes=classes))).all()
