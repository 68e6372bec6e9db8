"""Reflections: of images, of averages and of poses, held against each other."""

from __future__ import annotations

import math

import numpy as np
import torch

from cryorbit.alignment.defocus import DefocusRange
from cryorbit.alignment.polar import to_harmonics
from cryorbit.classification.bank import Bank, ClassSums
from cryorbit.classification.joint import Assignment
from cryorbit.classification.learn import learn_classes
from cryorbit.classification.mirror import (
    folded_sums,
    in_class_frame,
    reflected,
    reflected_harmonics,
    reflected_shift,
    with_reflections,
)

from ..alignment.blobs import (
    BOX,
    GEOMETRY,
    GRID,
    TRANSFORM,
    RADIUS_px,
    SEARCHED_um,
    Specimen,
    Truth,
    draw_truth,
    make_specimen,
    ring_images,
    seen,
    white_noise,
)
from .mixtures import QUICK

VIEW = make_specimen(3)
OTHER_SIDE = Specimen(VIEW.place_px * np.array([1.0, -1.0]), VIEW.height, VIEW.sigma_px)


def picture(specimen: Specimen, psi: float = 0.0, shift_px: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    return TRANSFORM(torch.from_numpy(specimen.image(BOX, psi, shift_px)).float()[None])


def test_harmonics_of_a_reflection_are_those_of_the_reflected_image():
    orders = GRID.orders
    once = to_harmonics(picture(VIEW), orders)
    torch.testing.assert_close(reflected_harmonics(once), to_harmonics(picture(OTHER_SIDE), orders), atol=0.02, rtol=0)
    torch.testing.assert_close(reflected_harmonics(reflected_harmonics(once)), once)


def test_samples_of_a_reflected_image_are_those_of_the_other_side_at_the_reflected_pose():
    images = ring_images(torch.cat([picture(VIEW, 0.7, (2.0, -1.0)), picture(VIEW, 0.7, (2.0, -1.0))]))
    turned = reflected(images, torch.tensor([True, False]))
    expected = picture(OTHER_SIDE, -0.7, (2.0, 1.0))
    torch.testing.assert_close(turned.samples[:1], expected, atol=0.02, rtol=0)
    torch.testing.assert_close(turned.samples[1:], images.samples[1:], rtol=0, atol=0)


def test_the_transfer_function_goes_along():
    truth = Truth(np.array([0.4]), np.array([[1.0, 0.5]]), np.array([1.3]))
    along = (torch.tensor([0.3]), torch.tensor([0.6]))
    other = Truth(-truth.psi, truth.shift_px * [1, -1], truth.defocus_um)
    images = ring_images(seen(truth, VIEW, along), astigmatism_um=along[0], astigmatism_rad=along[1])
    turned = reflected(images, torch.tensor([True]))
    torch.testing.assert_close(turned.samples, seen(other, OTHER_SIDE, (along[0], -along[1])), atol=0.02, rtol=0)
    torch.testing.assert_close(turned.astigmatism_rad, -along[1])


def test_sums_over_reflections_fold_into_those_of_the_classes():
    torch.manual_seed(1)
    sums = ClassSums(torch.randn(2, 3, 4, dtype=torch.complex64), torch.rand(2, 3), torch.tensor([5.0, 7.0]))
    both = ClassSums(
        torch.cat([sums.numerator, reflected_harmonics(sums.numerator)]), sums.power.repeat(2, 1),
        sums.particles.repeat(2),
    )  # fmt: skip
    folded = folded_sums(both)
    for name in ("numerator", "power", "particles"):
        torch.testing.assert_close(getattr(folded, name), 2 * getattr(sums, name))


def test_shares_of_a_class_and_its_reflection_add_up():
    bank = Bank(torch.randn(3, 4, 5, dtype=torch.complex64), torch.tensor([0.5, 0.3, 0.2]).log())
    both = with_reflections(bank)
    assert len(both) == 6
    torch.testing.assert_close(both.log_share.exp().sum(), torch.tensor(1.0))


def test_poses_in_the_frame_of_the_class():
    n = 4
    assigned = Assignment(
        torch.tensor([0, 2, 3, 1]), torch.ones(n), torch.ones(n), torch.tensor([0.1, 0.2, 0.3, 0.4]),
        torch.tensor([[1.0, 2.0]] * n), torch.zeros(n), torch.tensor([[1.0, 2.0, 3.0, 0.0]] * n),
    )  # fmt: skip
    found, which = in_class_frame(assigned, 2)
    assert which.tolist() == [False, True, True, False]
    assert found.number.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(found.psi, torch.tensor([0.1, -0.2, -0.3, 0.4]))
    torch.testing.assert_close(found.shift[:, 1], torch.tensor([2.0, -2.0, -2.0, 2.0]))
    torch.testing.assert_close(found.likeness[0], torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(reflected_shift(found.shift, which), assigned.shift)


def test_tied_classes_take_both_sides_of_a_view():
    """Half of the images are of the view, half of its reflection: one class holds both, and says which is which."""
    front, back = draw_truth(100, 1, shift_px=0.5), draw_truth(100, 2, shift_px=0.5)
    samples = torch.cat([seen(front, VIEW), seen(back, OTHER_SIDE)]) + math.sqrt(0.2) * white_noise(200, seed=3)
    fixed = torch.from_numpy(np.concatenate([front.defocus_um, back.defocus_um])).float()
    images = ring_images(samples, DefocusRange(SEARCHED_um, fixed_um=fixed))
    found = learn_classes(images, GEOMETRY, RADIUS_px, 1, 5, QUICK, tied=True)
    which = in_class_frame(found.assigned, 1)[1].float()
    assert len(found) == 1
    assert abs(float(which[:100].mean() - which[100:].mean())) > 0.9
