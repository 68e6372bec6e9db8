"""Drawn images are those of the simulator; what a guided training is told turns with the image; it learns from it."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from cryorbit import make_config
from cryorbit.conventions import wrap_deg
from cryorbit.estimation.lesson import Lesson
from cryorbit.estimation.orientation import cone_angle
from cryorbit.latent.embed import embed
from cryorbit.model.cone import Cone
from cryorbit.model.encoder import LatentPosterior
from cryorbit.model.losses import pose_ignorance
from cryorbit.preprocessing.normalise import disc_mask
from cryorbit.preprocessing.resample import rotate
from cryorbit.training.aligned import AlignedSet
from cryorbit.training.checkpoint import BEST, LAST, load_checkpoint
from cryorbit.training.drawing import ImageSampler, moved
from cryorbit.training.guidance import JUNK_SHARE, Guide
from cryorbit.training.loop import train
from cryorbit.training.metrics import read_metrics
from cryorbit.training.trainer import Trainer, split_rows

from .guided_sets import (
    BOX,
    SMALL,
    HeldImages,
    aligned,
    cached_set,
    draw_poses,
    small_images,
    true_average,
)

# How well a network learns is what this is about.
WHOLE_RUNS = True

GUIDED = {
    "preprocessing": {"box_size": SMALL},
    "model": {
        "n_blocks": 2, "base_width": 4, "discriminator_width": 4, "discriminator_blocks": 2, "hidden_width": 64,
        "hidden_layers": 2, "principal_images": 64,
    },
    "training": {"epochs": 10, "batch_size": 32, "precision": "32-true", "accelerator": "cpu"},
}  # fmt: skip


def guided(**training):
    return make_config("fast", {**GUIDED, "training": {**GUIDED["training"], **training}})


def correlation(one, other):
    one, other = ((x - x.mean(dim=(1, 2), keepdim=True)).flatten(1).double() for x in (one, other))
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))


def ring_of_pixels(size):
    k = torch.fft.fftfreq(size, 1.0 / size)
    return torch.hypot(k[:, None], k[None, :]).round().long().flatten()


def ring_powers(images):
    power = torch.fft.fft2(images).abs().square().mean(dim=0).flatten() / images.shape[-1] ** 2
    ring = ring_of_pixels(images.shape[-1])
    return torch.zeros(int(ring.max()) + 1).index_add_(0, ring, power) / torch.bincount(ring)


def low_passed(images, finest):
    size = images.shape[-1]
    inside = (ring_of_pixels(size).view(size, size) <= finest)[:, : size // 2 + 1]
    return torch.fft.irfft2(torch.fft.rfft2(images) * inside, s=(size, size))


def coloured(n, size, seed, fall_px):
    """Noise of variance about 1 whose power falls with the frequency; white where ``fall_px`` is 0."""
    noise = torch.randn(n, size, size, generator=torch.Generator().manual_seed(seed))
    k = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :])
    return torch.fft.irfft2(torch.fft.rfft2(noise) / (1 + fall_px * k), s=(size, size))


def as_tensors(poses):
    values = (np.radians(poses.psi_deg), poses.defocus_um, poses.shift_px)
    return [torch.from_numpy(value).float() for value in values]


@pytest.fixture(scope="module")
def poses():
    return draw_poses(400, seed=0)


@pytest.fixture(scope="module")
def clean(poses):
    return small_images(poses)


@pytest.fixture(scope="module")
def sampler(poses, clean):
    noise = float(clean.std()) * coloured(len(clean), SMALL, 0, 0.0)
    return ImageSampler(HeldImages(clean + noise), aligned(poses), seed=0)


def test_drawn_images_are_those_of_the_simulator(sampler, clean, poses):
    psi, defocus, shift = as_tensors(poses)
    right = correlation(sampler.clean(psi, defocus, shift), clean)
    assert right.min() > 0.99
    # Were a sign or a unit wrong, it would show.
    across = shift.flip(1)
    for wrong in ((-psi, defocus, shift), (psi, defocus + 0.6, shift), (psi, defocus, -shift), (psi, defocus, across)):
        assert (1 - correlation(sampler.clean(*wrong), clean)).median() > 4 * (1 - right).median()


@pytest.mark.parametrize("size", [BOX, SMALL, 17])
def test_the_size_of_the_average_does_not_matter(sampler, poses, clean, size):
    other = ImageSampler(HeldImages(clean), aligned(poses, average=true_average(size)), seed=0)
    psi, defocus, shift = (value[:50] for value in as_tensors(poses))
    # What a small average has of the corners of its Fourier transform leaves it when it turns.
    finest = min(size, SMALL) // 2 - 2
    one, two = (low_passed(which.clean(psi, defocus, shift), finest) for which in (sampler, other))
    # What the smallest lacks at fine frequencies, the measured surroundings take up in part, and leak.
    torch.testing.assert_close(one, two, rtol=0, atol=(0.05 if size >= SMALL else 0.08) * float(one.abs().max()))
    assert correlation(one, two).min() > 0.995


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fall_px", [0.0, 6.0])
def test_drawn_images_have_the_strength_and_the_noise_of_the_set(poses, clean, seed, fall_px):
    n = len(clean)
    noise = 2 * float(clean.std()) * coloured(n, SMALL, seed, fall_px)
    held = HeldImages.standardised(clean + noise)
    sampler = ImageSampler(held, aligned(poses), seed)
    torch.manual_seed(seed)
    drawn, true = sampler.draw(n).images, held.images
    outside = disc_mask(SMALL, sampler.particle_radius_px) == 0
    assert drawn[:, outside].mean(dim=1).abs().max() < 1e-3
    torch.testing.assert_close(drawn[:, outside].std(dim=1), torch.ones(n), rtol=1e-3, atol=0)
    # Two samples of a power, each over n images and half of the ring's pixels; particles differ by more than noise.
    error = 5 * np.sqrt(2) * torch.sqrt(2 / (n * torch.bincount(ring_of_pixels(SMALL)).float())) + 0.05
    ratio = ring_powers(drawn) / ring_powers(true)
    assert ((ratio - 1).abs()[: SMALL // 2] < error[: SMALL // 2]).all()
    assert np.isclose(sampler.noise_variance, float((true - images_of(sampler, poses)).var()), rtol=0.05)
    if fall_px:
        assert sampler.noise_amplitude[0, 1] > 1.4 * sampler.noise_amplitude[0, SMALL // 2 - 1]


def images_of(sampler, poses):
    return sampler.clean(*as_tensors(poses))


def test_what_an_alignment_knows_badly_of_its_average_is_measured(poses, clean):
    # Rings too strong or too weak, as the lowest ones are, which hardly pass the transfer function.
    size = 2 * SMALL
    wrong = torch.linspace(2.0, 0.6, size)[torch.clamp(ring_of_pixels(size).view(size, size), max=size - 1)]
    average = np.fft.ifft2(np.fft.fft2(true_average(size)) * wrong.numpy()).real
    held = HeldImages(clean)
    one, other = (ImageSampler(held, aligned(poses, average=image), seed=0) for image in (None, average))
    right, mended = images_of(one, poses), images_of(other, poses)
    assert float((mended - right).square().mean()) < 0.01 * float(right.square().mean())
    # The simulator's own images have that strength too.
    assert np.allclose(one.gain[1 : SMALL // 2 - 1], 1.0, atol=0.1)


@pytest.mark.parametrize("pedestal", [0.0, 0.3])
def test_what_surrounds_the_particles_is_drawn_with_them(poses, clean, pedestal):
    # A bright ring around every particle, stronger at high defocus, that no average of a small mask has.
    offset = torch.arange(float(SMALL)) - SMALL // 2
    around = ((torch.hypot(offset[:, None], offset[None, :]) - 8).abs() < 1.5).float() * float(clean.abs().max())
    strength = pedestal * torch.from_numpy(poses.defocus_um).float()[:, None, None]
    held = HeldImages(clean + strength * around)
    sampler = ImageSampler(held, aligned(poses), seed=0)
    miss = float((images_of(sampler, poses) - held.images).square().mean() / held.images.var())
    assert miss < 0.03


def test_a_loss_of_ignorance_rewards_knowing_nothing():
    nothing, something = (LatentPosterior(torch.full((4, 5), m), torch.full((4, 5), v)) for m, v in ((0, 0), (1, -4)))
    weight = torch.tensor([1.0, 0.5, 0.0, 0.0])
    assert float(pose_ignorance(nothing, weight)) == 0.0
    # 1/2 (m^2 + s^2 - 1 - log s^2) for each of the three axes that are told.
    assert np.isclose(float(pose_ignorance(something, weight)), 1.5 * (1 + math.exp(-4) - 1 + 4))
    assert float(pose_ignorance(something, torch.zeros(4))) == 0.0


def test_junk_has_no_part_in_what_is_drawn(poses, clean):
    n = len(clean)
    junk = draw_poses(100, seed=9, shift_px=20.0)
    junk = dataclasses.replace(junk, defocus_um=junk.defocus_um + 5, weight=np.zeros(100))
    more = dataclasses.replace(
        poses,
        **{f.name: np.concatenate([getattr(poses, f.name), getattr(junk, f.name)]) for f in dataclasses.fields(poses)},
    )
    images = torch.cat([clean, 1e3 * torch.randn(100, SMALL, SMALL)])
    one, other = (ImageSampler(HeldImages(i), aligned(p), seed=0) for i, p in ((clean, poses), (images, more)))
    assert len(images) == n + 100
    assert (one.gain.tolist(), one.low_um, one.high_um, one.shift_std_px) == (
        other.gain.tolist(), other.low_um, other.high_um, other.shift_std_px,
    )  # fmt: skip
    assert torch.equal(one.noise_amplitude, other.noise_amplitude)


def test_angles_and_defoci_are_drawn_evenly(sampler, poses):
    torch.manual_seed(3)
    n = 4000
    drawn = sampler.draw(n, noise=False)
    for harmonic in (1, 2, 3):
        # Rayleigh: of uniform angles, this happens once in ten million draws.
        assert torch.polar(torch.ones(n), harmonic * drawn.psi_rad).mean().abs() < 4 / np.sqrt(n)
    share = ((drawn.defocus_um - sampler.low_um) / (sampler.high_um - sampler.low_um)).sort().values
    # Kolmogorov's statistic, likewise.
    assert (share - (torch.arange(n) + 0.5) / n).abs().max() < 2.9 / np.sqrt(n)
    low, high = np.quantile(poses.defocus_um, [0.01, 0.99])
    assert sampler.low_um < low < high < sampler.high_um
    assert np.isclose(sampler.shift_std_px, 0.3, rtol=0.15)


def test_drawn_images_show_what_is_said_of_them(sampler):
    torch.manual_seed(4)
    still = copy.copy(sampler)
    still.shift_std_px = 0.0
    shown = still.draw(40, noise=False)
    expected = sampler.clean(shown.psi_rad, shown.defocus_um, torch.zeros(40, 2))
    assert correlation(shown.images, expected).min() > 0.9999


def test_an_aligned_set_is_read_as_it_was_written(poses, tmp_path):
    before = dataclasses.replace(aligned(poses, order=3), phase_shift_deg=90.0)
    before.save(tmp_path / "guide.npz")
    after = AlignedSet.load(tmp_path / "guide.npz")
    np.testing.assert_array_equal(after.average, before.average)
    assert (after.optics, after.isotropy_order, after.phase_shift_deg) == (before.optics, 3, 90.0)
    for field in dataclasses.fields(poses):
        np.testing.assert_array_equal(getattr(after.poses, field.name), getattr(poses, field.name))


@pytest.mark.parametrize("order", [1, 3])
def test_the_target_turns_with_the_image(sampler, poses, order):
    cone = Cone(sampler.low_um, sampler.high_um, order)
    guide, rows = Guide(poses, sampler, cone), np.array([3, 50, 7])
    turned_deg = torch.tensor([0.0, 40.0, 250.0])
    psi, defocus, shift = (value[rows] for value in as_tensors(poses))
    target, weight = guide.points(rows, turned_deg)
    torch.testing.assert_close(target, cone.points(psi + torch.deg2rad(turned_deg), defocus))
    assert (weight == 1).all()
    still = torch.zeros_like(shift)
    turned = rotate(sampler.clean(psi, defocus, still), turned_deg)
    looked_for = (psi[:, None] + torch.deg2rad(torch.arange(0.0, 360.0, 5.0))).flatten()
    candidates = sampler.clean(looked_for, defocus.repeat_interleave(72), torch.zeros(len(looked_for), 2))
    fit = correlation(turned.repeat_interleave(72, dim=0), candidates).view(3, 72)
    torch.testing.assert_close(5.0 * fit.argmax(dim=1).float(), turned_deg)


def test_drawn_junk_is_no_particle(sampler):
    torch.manual_seed(3)
    empty, far_off, broken, pair, _ = (part.var(dim=(1, 2)) for part in sampler.draw_junk(1000, noise=False).split(200))
    whole = sampler.draw(1000, noise=False).images.var(dim=(1, 2)).mean()
    assert float(empty.max()) == 0.0
    # A part of a particle far off is lost; one cut near its centre loses much; a neighbour adds what is in the box.
    assert 0.5 < float(far_off.mean() / whole) < 1.2
    assert float(broken.mean() / whole) < 0.8
    assert 1.1 < float(pair.mean() / whole) < 2.2


def test_junk_has_a_defocus_that_the_set_does_not_have(sampler):
    torch.manual_seed(5)
    still = copy.copy(sampler)
    still.shift_std_px = 0.0
    turns = torch.arange(0.0, 2 * math.pi, math.pi / 60)
    inside = torch.cat([
        sampler.clean(turns, torch.full_like(turns, float(defocus)), torch.zeros(len(turns), 2))
        for defocus in np.linspace(sampler.low_um, sampler.high_um, 40)
    ])  # fmt: skip
    beyond = still.draw_junk(200, noise=False)[-40:]
    fit = [
        torch.stack([correlation(image.expand_as(inside), inside).max() for image in images]).median()
        for images in (still.draw(40, noise=False).images, beyond)
    ]
    assert 1 - fit[1] > 2 * (1 - fit[0])


@pytest.mark.parametrize("far", [30.0, 1000.0])
def test_what_is_moved_out_of_the_box_does_not_come_in_again(clean, far):
    by = torch.tensor([[far, 0.0], [0.0, -far], [far, far], [0.0, 0.0]])
    out = moved(clean[:4], by)
    assert float(out[:3].abs().max()) < 0.02 * float(clean[:4].abs().max())
    middle = slice(SMALL // 4, -SMALL // 4)
    torch.testing.assert_close(out[3][middle, middle], clean[3][middle, middle], rtol=0, atol=1e-5)
    # Half a box to the right: what was in the middle lies at the edge.
    half = moved(clean[:1], torch.tensor([[SMALL / 2.0, 0.0]]))[0]
    torch.testing.assert_close(half[middle, -1], clean[0][middle, SMALL // 2 - 1], rtol=0, atol=1e-4)


def test_defoci_are_drawn_from_the_bulk_of_those_found(poses, clean):
    few = dataclasses.replace(poses, defocus_um=np.where(np.arange(len(clean)) < 10, 6.0, poses.defocus_um))
    one, other = (ImageSampler(HeldImages(clean), aligned(which), seed=0) for which in (poses, few))
    assert abs(other.high_um - one.high_um) < 0.1
    assert abs(other.low_um - one.low_um) < 0.1


def test_a_share_of_what_is_drawn_is_junk_without_a_place(poses, sampler):
    torch.manual_seed(4)
    guide = Guide(poses, sampler, Cone(sampler.low_um, sampler.high_um))
    images, points, is_particle = guide.draw(1000)
    assert len(images) == len(points) == len(is_particle) == 1000
    on_cone = ((points[:, :2].norm(dim=1) - points[:, 2]).abs() < 1e-5) & (points[:, 2] > 0)
    assert torch.equal(on_cone, is_particle == 1)
    assert int((is_particle == 0).sum()) == round(JUNK_SHARE * 1000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A guided training on easy images, and what it was told."""
    folder = tmp_path_factory.mktemp("guided")
    poses = draw_poses(900, seed=1)
    cache = cached_set(folder, poses)
    config = guided(validation_fraction=0.35)
    guide = Guide.of(cache, aligned(poses), config.seed)
    result = train(cache, config, folder / "c", folder / "m.jsonl", guide=guide)
    return cache, poses, guide, config, result


def test_a_guided_training_knows_the_angles_of_particles_that_it_never_saw(trained):
    cache, poses, guide, config, result = trained
    _, held_out = split_rows(len(cache), config.training.validation_fraction, config.seed)
    embedding = embed(result.autoencoder, cache)
    asked, unseen = held_out[::2], held_out[1::2]
    estimate = cone_angle(embedding, Lesson(guide.cone, asked, poses.psi_deg[asked], poses.defocus_um[asked]))
    errors = wrap_deg(estimate.psi_deg[unseen] - poses.psi_deg[unseen])
    assert np.median(np.abs(errors)) < 15  # a guess has 90
    calibration = np.median(np.abs(errors) / estimate.std_deg[unseen]) / 0.6745
    assert 0.5 < calibration < 2


def test_only_a_guided_training_has_a_pose_term(trained, tmp_path):
    cache, _poses, guide, _, _ = trained
    for name, config, told in (
        ("none", guided(epochs=1), None),
        ("zero", make_config("fast", {**GUIDED, "model": {**GUIDED["model"], "lambda_pose": 0.0}}), guide),
        ("told", guided(epochs=1), guide),
    ):
        config = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})})
        train(cache, config, tmp_path / name, tmp_path / f"{name}.jsonl", guide=told)
        (record,) = read_metrics(tmp_path / f"{name}.jsonl")
        for part in ("train", "validation"):
            assert (record[f"{part}_pose"] != 0) == (name == "told")
            weighted = sum(record[f"{part}_{term}"] for term in ("reconstruction", "kl"))
            weighted += 0.01 * record[f"{part}_adversarial"] + 10 * record[f"{part}_pose"]
            assert np.isclose(record[f"{part}_total"], weighted, rtol=1e-4)


def test_a_resumed_guided_training_equals_an_uninterrupted_one(trained, tmp_path):
    cache, _, guide, _, _ = trained
    config = guided(epochs=2)
    train(cache, config, tmp_path / "whole", tmp_path / "whole.jsonl", guide=guide)

    class Interrupt(Exception):
        pass

    def stop(*_):
        raise Interrupt

    with pytest.raises(Interrupt):
        train(cache, config, tmp_path / "parts", tmp_path / "parts.jsonl", stop, guide)
    train(cache, config, tmp_path / "parts", tmp_path / "parts.jsonl", guide=guide)
    for name in (LAST, BEST):
        one, other = (load_checkpoint(tmp_path / folder / name) for folder in ("whole", "parts"))
        for part in ("autoencoder", "discriminator"):
            assert one[part].keys() == other[part].keys()
            assert all(torch.equal(one[part][key], other[part][key]) for key in one[part])


@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_told_alone_moves_the_told_axes(trained, tmp_path, is_told):
    cache, poses, guide, _, _ = trained
    model = {**GUIDED["model"], "lambda_reg": 0.0, "lambda_GAN": 0.0}
    training = {**GUIDED["training"], "drawn_per_image": 0.0}
    config = make_config("fast", {**GUIDED, "model": model, "training": training})
    # Of images that are surely no particles nothing is told.
    silent = dataclasses.replace(guide, poses=dataclasses.replace(poses, weight=np.zeros(len(cache))))
    trainer = Trainer(cache, config, tmp_path, silent if is_told else None)
    head = trainer.raw_autoencoder.encoder.mean
    before = head.weight.detach().clone()
    trainer.generator_step(next(trainer.batches(0)))
    moved = (head.weight - before).abs().sum(dim=1) > 0
    assert moved.tolist() == [not is_told] * 3 + [True]
