"""An image judged against an average that it is in: as if it had been left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from cryorbit.alignment.refine import Batch, OwnPart, Poses, accumulate, compare, in_average_frame, in_frame, refine
from cryorbit.alignment.templates import AverageSums, Template

from .blobs import (
    GEOMETRY,
    GRID,
    RINGS,
    Truth,
    average_of,
    draw_truth,
    make_batch,
    seen,
    white_noise,
    wrapped,
)  # fmt: skip

NO_PRIOR_px = 1e3


@dataclass(frozen=True)
class Fit:
    """Log-likelihood over noise at given poses, and its gradient by turn and shift."""

    nats: Tensor
    gradient: Tensor


def images(kind: str, n: int, noise: float, seed: int) -> tuple[Batch, Poses]:
    truth = draw_truth(n, seed)
    samples = math.sqrt(noise) * white_noise(n, seed)
    if kind == "particles":
        samples = samples + seen(truth)
    return make_batch(samples, noise, NO_PRIOR_px), truth.poses()


def fit(batch: Batch, template: Template, at: Poses, own: OwnPart | None = None) -> Fit:
    harmonics = in_average_frame(batch, at, GRID, template.harmonics.shape[1])
    found = compare(harmonics, template, batch, own, at, GRID)
    weight = batch.ring_weight()
    amplitude = batch.transfer.amplitude(at.defocus_um) * weight
    norm = 0.5 * (batch.transfer.power(at.defocus_um) * found.energy * weight).sum(dim=1)
    nats = (amplitude * found.correlation).sum(dim=(1, 2)) - norm
    return Fit(nats, (amplitude[..., None] * found.gradient).sum(dim=(1, 2)))


def left_out(batch: Batch, entered: Poses, at: Poses, weight: Tensor) -> Fit:
    """Every image against the average of the others, made anew for each."""
    everything = accumulate(batch, entered, weight, GRID)
    fits = []
    for row in range(len(batch)):
        rows = torch.tensor([row])
        own = accumulate(batch.of_rows(rows), entered.of_rows(rows), weight[rows], GRID)
        others = AverageSums(
            everything.numerator - own.numerator, everything.power - own.power, everything.particles - own.particles
        )
        fits.append(fit(batch.of_rows(rows), GEOMETRY.template(others, batch.noise, RINGS), at.of_rows(rows)))
    return Fit(torch.cat([f.nats for f in fits]), torch.cat([f.gradient for f in fits]))


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize(("kind", "noise"), [("noise", 1.0), ("particles", 1.0), ("particles", 0.15)])
@pytest.mark.parametrize(("n", "seed"), [(30, 0), (60, 1)])
def test_the_correction_is_what_leaving_the_image_out_gives(kind, noise, n, seed):
    batch, poses = images(kind, n, noise, seed)
    ones = torch.ones(n)
    _, template = average_of(batch, poses)
    exact = left_out(batch, poses, poses, ones)
    raw, corrected = fit(batch, template, poses), fit(batch, template, poses, OwnPart(poses, ones))
    assert rms(corrected.nats - exact.nats) < 0.2 * rms(raw.nats - exact.nats)
    assert abs(float((corrected.nats - exact.nats).mean())) < 0.15 * rms(raw.nats - exact.nats)


@pytest.mark.parametrize(("kind", "noise"), [("noise", 1.0), ("particles", 0.5)])
@pytest.mark.parametrize("side", [-1, 1])
def test_away_from_its_pose_an_image_is_not_drawn_back_to_its_own_copy(kind, noise, side):
    n = 50
    batch, poses = images(kind, n, noise, 2)
    ones = torch.ones(n)
    _, template = average_of(batch, poses)
    move = torch.full((n, 2), 0.2 * side)
    at = Poses.at(poses.psi + 0.02 * side, poses.shift + in_frame(-poses.psi, move), poses.defocus_um)
    exact = left_out(batch, poses, at, ones)
    raw, corrected = fit(batch, template, at), fit(batch, template, at, OwnPart(poses, ones))
    for column in range(3):
        pulled = abs(float((raw.gradient - exact.gradient)[:, column].mean()))
        left = abs(float((corrected.gradient - exact.gradient)[:, column].mean()))
        assert left < 0.5 * pulled
    assert rms(corrected.nats - exact.nats) < 0.3 * rms(raw.nats - exact.nats)


@pytest.mark.parametrize("seed", range(4))
def test_noise_does_not_look_like_its_own_average(seed):
    n = 80
    batch, poses = images("noise", n, 1.0, seed)
    _, template = average_of(batch, poses)
    raw, corrected = fit(batch, template, poses), fit(batch, template, poses, OwnPart(poses, torch.ones(n)))
    error = float(corrected.nats.std()) / math.sqrt(n)
    assert float(raw.nats.mean()) > 10 * error
    # The filter of the average has seen the image too, for which a twentieth of its part remains.
    assert float(corrected.nats.mean()) < 0.05 * float(raw.nats.mean()) + 3 * error


def test_less_weight_leaves_less_to_take_out():
    n = 40
    batch, poses = images("noise", n, 1.0, 3)
    weight = torch.linspace(0.0, 1.0, n)
    template = GEOMETRY.template(accumulate(batch, poses, weight, GRID), batch.noise, RINGS)
    raw, corrected = fit(batch, template, poses), fit(batch, template, poses, OwnPart(poses, weight))
    part = raw.nats - corrected.nats
    assert abs(float(part[0])) < 1e-4
    assert np.corrcoef(part.numpy(), weight.numpy())[0, 1] > 0.9
    exact = left_out(batch, poses, poses, weight)
    assert rms(corrected.nats - exact.nats) < 0.25 * rms(raw.nats - exact.nats)


def test_what_is_taken_out_does_not_depend_on_the_company():
    batch, poses = images("particles", 20, 0.5, 4)
    _, template = average_of(batch, poses)
    own = OwnPart(poses, torch.ones(20))
    together = fit(batch, template, poses, own)
    rows = torch.tensor([7, 3])
    alone = fit(batch.of_rows(rows), template, poses.of_rows(rows), own.of_rows(rows))
    torch.testing.assert_close(alone.nats, together.nats[rows], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(alone.gradient, together.gradient[rows], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_errors_against_a_small_average_are_honest_only_without_the_own_part(seed):
    """Forty particles at their true poses: with its own part in it, the average draws each image back to the truth."""
    n, noise = 40, 0.3
    truth: Truth = draw_truth(n, seed)
    batch = make_batch(seen(truth) + math.sqrt(noise) * white_noise(n, seed), noise, NO_PRIOR_px)
    poses = truth.poses()
    _, template = average_of(batch, poses)
    honest = refine(batch, template, poses, GRID, 3, OwnPart(poses, torch.ones(n)))
    drawn = refine(batch, template, poses, GRID, 3)
    error, other = (wrapped(found.psi.numpy() - truth.psi) for found in (honest, drawn))
    z = error / honest.covariance[:, 0, 0].sqrt().numpy()
    assert 0.75 < z.std() < 1.6
    assert other.std() < 0.85 * error.std()
