"""The first average, from nothing: soft assignment on few rings from random turns, then the defocus by ring gains."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryorbit.alignment.average import BATCH, State, improved, recentre
from cryorbit.alignment.images import RingImages
from cryorbit.alignment.refine import Poses, in_average_frame
from cryorbit.alignment.search import CircleSearch, defocus_step_um, shift_grid, template_energy
from cryorbit.alignment.templates import AverageSums, Geometry, order_weight

FIRST_RINGS = 12
FIRST_IMAGES = 60
# Part of the box within which the first shifts are sought.
SHIFT_RANGE_OF_BOX = 6.0 / 128
SHIFT_STEP_px = 2.0
FIRST_SHIFT_SPREAD_OF_BOX = 3.0 / 128
GAIN_RINGS = (16, 24, 30, 36)
GAIN_STEP_um = 0.05
GAIN_ROUNDS = 60
SCREENING_ROUNDS = 20
FINALISTS = 8
HIGHEST_SYMMETRY = 6
# Mean difference in defocus that makes a solution another one.
DIFFERENT_um = 0.1
# Narrow and wide distributions of the defocus to start from, at centres this far apart.
START_SPREADS_um = (0.1, 0.4)
START_STEP_um = 0.2
SOFT_BATCH = 8


@dataclass(frozen=True)
class Start:
    """A first state, and what is known of it.

    Attributes
    ----------
    state
        Poses and noise.
    evidence
        Mean log-evidence of the soft assignment it came from.
    rival_nats
        Log-likelihood by which its defoci lead the best solution whose defoci differ by more than a tenth of a
        micrometre on average; infinite where none was found.
    agreement
        Mean resultant length of n times the difference between the angles of two starts, for the best n up to
        :data:`HIGHEST_SYMMETRY`: near 1 where starts find the same average, near 0 where each finds its own, as in
        images that have no angle.
    """

    state: State
    evidence: float
    rival_nats: float
    agreement: float


def soft_start(
    images: RingImages,
    geometry: Geometry,
    rounds: int,
    generator: torch.Generator,
    hint_psi: Float[Tensor, " n"] | None = None,
) -> tuple[State, float]:
    """Expectation-maximisation with whole posteriors on few rings, from random turns of a few images or from a hint."""
    grid, device = images.grid, images.device
    rings = min(FIRST_RINGS, grid.rings)
    spread = FIRST_SHIFT_SPREAD_OF_BOX * grid.box_size
    scale = grid.box_size / 128
    shifts = shift_grid(SHIFT_RANGE_OF_BOX * grid.box_size, SHIFT_STEP_px * scale)
    search = CircleSearch(grid, rings, shifts, defocus_step_um(images.transfers, rings), device)
    total_power = images.ring_power() / geometry.noise_power
    noise = total_power.clone()
    template = _first_average(images, search, generator, hint_psi)
    evidence = 0.0
    for number in range(rounds):
        energy = template_energy(template)
        sums = AverageSums(torch.zeros_like(template), torch.zeros(rings, device=device), 0.0)
        poses, order, logs, power = [], [], [], torch.zeros_like(noise[:, :rings])
        for rows, batch in images.batches(noise, spread, SOFT_BATCH, rings):
            scores = search.scores(batch, template, energy)
            part, log_p, mean_defocus = search.soft_sums(batch, scores)
            sums = sums + part
            logs.append(log_p)
            order.append(rows)
            best = search.modes(batch, scores, 1, 0.0)
            poses.append(Poses.at(best.psi, best.shift, mean_defocus))
            power[int(images.group[rows[0]])] += part.power
        template = sums.numerator / (sums.power + 1e-3)[:, None]
        evidence = float(torch.cat(logs).mean())
        if number >= 1:
            share = power / torch.bincount(images.group, minlength=len(noise)).clamp(min=1)[:, None]
            signal = share * template_energy(template) / geometry.noise_power
            noise[:, :rings] = torch.maximum(total_power[:, :rings] - signal, 0.02 * total_power[:, :rings])
    found = Poses.concatenate(poses).of_rows(torch.cat(order).argsort())
    return State(found, torch.ones(len(images), device=device), noise, spread), evidence


def _first_average(
    images: RingImages, search: CircleSearch, generator: torch.Generator, hint_psi: Tensor | None
) -> Tensor:
    """Average of a few images under random turns, or of all under those given, each with a usual defocus."""
    count = min(FIRST_IMAGES, len(images)) if hint_psi is None else len(images)
    few = images.of_rows(torch.arange(count, device=images.device))
    rings = search.rings
    numerator = torch.zeros(rings, search.orders, dtype=torch.complex64, device=images.device)
    power = torch.zeros(rings, device=images.device)
    ones = torch.ones(len(images.transfers), images.grid.rings, device=images.device)
    for rows, batch in few.batches(ones, 1.0, FIRST_IMAGES, rings):
        psi = (2 * torch.pi * torch.rand(len(batch), generator=generator)).to(images.device)
        psi = psi if hint_psi is None else hint_psi[rows]
        defocus = _guess_um(batch.defocus.values_um, batch.defocus.fixed_um, batch.defocus.centre_um, len(batch))
        poses = Poses.at(psi, torch.zeros(len(batch), 2, device=images.device), defocus)
        harmonics = in_average_frame(batch, poses, images.grid, search.orders)
        amplitude = batch.transfer.amplitude(defocus)
        numerator[:, : harmonics.shape[-1]] += torch.einsum("bqk,bqkm->km", amplitude.to(harmonics), harmonics)
        power += batch.transfer.power(defocus).sum(dim=0)
    return numerator / power.clamp(min=1e-3)[:, None]


def _guess_um(values_um: Tensor, fixed: Tensor | None, centre: Tensor | None, count: int) -> Tensor:
    """Defocus to begin with: what is known, or a value that most experiments are close to."""
    if fixed is not None:
        return fixed
    if centre is not None:
        return centre
    usual = values_um.new_tensor(1.5).clamp(values_um.min(), values_um.max())
    return usual.expand(count)


def ring_correlations(
    images: RingImages, state: State, rings: int
) -> tuple[Float[Tensor, "n channels rings"], Float[Tensor, " rings"]]:
    """Every image's amplitude along the common pattern of each ring, and the gain of each ring as it is now.

    Once turned and centred, the images are on each ring multiples of one pattern, whatever their defoci: its power
    iteration needs no transfer function.
    """
    weight = order_weight(images.grid.orders).to(images.device)
    parts, order, amplitudes = [], [], []
    for rows, batch in images.batches(state.noise, state.shift_spread_px, BATCH, rings):
        poses = state.poses.of_rows(rows)
        parts.append(in_average_frame(batch, poses, images.grid, images.grid.orders))
        amplitudes.append(batch.transfer.amplitude(poses.defocus_um))
        order.append(rows)
    back = torch.cat(order).argsort()
    harmonics, amplitude = torch.cat(parts)[back], torch.cat(amplitudes)[back]
    average = torch.einsum("nqk,nqkm->km", amplitude.to(harmonics), harmonics)
    average = average / amplitude.square().sum(dim=(0, 1)).clamp(min=1e-6)[:, None]
    norm = average.abs().square() @ weight
    pattern = average / norm.sqrt().clamp(min=1e-12)[:, None]

    def along(pattern: Tensor) -> Tensor:
        return torch.einsum("nqkm,km->nqk", harmonics, pattern.conj() * weight).real

    for _ in range(3):
        summed = torch.einsum("nqk,nqkm->km", along(pattern).to(harmonics), harmonics)
        pattern = summed / (summed.abs().square() @ weight).sqrt().clamp(min=1e-12)[:, None]
    sign = torch.sign((average * pattern.conj()).real @ weight)
    return along(pattern), norm.sqrt() * sign


@dataclass(frozen=True)
class _GainProblem:
    """The matrix of correlations, and the transfer functions on a grid of defoci, by image.

    Attributes
    ----------
    correlation
        Over the noise, shape (n, channels * rings).
    weight
        Of a squared difference on each ring, shape (n, rings).
    amplitude, power
        Shapes (groups, values, channels * rings) and (groups, values, rings).
    group
        Shape (n,).
    log_prior
        Shape (n or 1, values).
    """

    correlation: Float[Tensor, "n parts"]
    weight: Float[Tensor, "n rings"]
    amplitude: Float[Tensor, "groups values parts"]
    power: Float[Tensor, "groups values rings"]
    group: Tensor
    values_um: Float[Tensor, " values"]
    log_prior: Tensor

    @classmethod
    def of(cls, images: RingImages, correlation: Tensor, noise: Tensor) -> _GainProblem:
        """Problem of images whose correlations with the pattern of each ring are known."""
        rings, channels = correlation.shape[2], correlation.shape[1]
        k = torch.arange(1, rings + 1, device=noise.device)
        weight = (2 * torch.pi * k / (images.grid.box_size**2 * noise[:, :rings]))[images.group]
        defocus = images.defocus.coarser(GAIN_STEP_um)
        waves, squares = [], []
        mean_coherence = images.mean_coherence()
        for number, transfer in enumerate(images.transfers):
            inner = transfer.rings(rings)
            sine = inner.amplitude(defocus.values_um)
            waves.append(torch.cat([sine, inner.slope(defocus.values_um)], dim=1)[:, :channels].flatten(1))
            chi2 = 2 * inner.chi(defocus.values_um)
            squares.append(0.5 * (1 - mean_coherence[number, :rings] * torch.cos(chi2)))
        return cls(
            (correlation * weight[:, None]).flatten(1), weight, torch.stack(waves), torch.stack(squares),
            images.group, defocus.values_um, defocus.log_prior(),
        )  # fmt: skip

    def solve(self, gain: Float[Tensor, "starts rings"], rounds: int) -> _Solutions:
        """Alternate the gain of every ring and the posterior of every defocus, from several starts at once."""
        starts, rings = gain.shape
        channels = self.correlation.shape[1] // rings
        for _ in range(rounds):
            log_likelihood = torch.zeros(starts, device=gain.device)
            along, norm = torch.zeros_like(gain), torch.zeros_like(gain)
            defocus = torch.zeros(starts, len(self.group), device=gain.device)
            for number, (amplitude, power) in enumerate(zip(self.amplitude, self.power, strict=True)):
                members = torch.nonzero(self.group == number).flatten()
                here, weight = self.correlation[members], self.weight[members]
                scaled = here * gain.repeat(1, channels)[:, None]
                log_p = scaled @ amplitude.T - 0.5 * (gain.square()[:, None] * weight) @ power.T
                log_p = log_p + (self.log_prior[members] if len(self.log_prior) > 1 else self.log_prior)
                top = log_p.amax(dim=2, keepdim=True)
                posterior = torch.exp(log_p - top)
                total = posterior.sum(dim=2, keepdim=True)
                posterior = posterior / total
                log_likelihood = log_likelihood + (top + torch.log(total)).sum(dim=(1, 2))
                along += (here * (posterior @ amplitude)).sum(dim=1).reshape(starts, channels, rings).sum(dim=1)
                norm += (weight * (posterior @ power)).sum(dim=1)
                defocus[:, members] = posterior @ self.values_um
            gain = along / norm.clamp(min=1e-12)
        return _Solutions(gain, defocus, log_likelihood)

    def gains_at(self, defocus_um: Float[Tensor, "starts n"]) -> Float[Tensor, "starts rings"]:
        """Gains that fit best where the defoci are known."""
        step = self.values_um[1] - self.values_um[0]
        at = ((defocus_um - self.values_um[0]) / step).round().long().clamp(0, len(self.values_um) - 1)
        rings = self.weight.shape[1]
        amplitude = self.amplitude[self.group, at].reshape(*at.shape, -1, rings)
        along = (self.correlation.reshape(len(self.group), -1, rings) * amplitude).sum(dim=(1, 2))
        gains: Tensor = along / (self.power[self.group, at] * self.weight).sum(dim=1).clamp(min=1e-12)
        return gains


@dataclass(frozen=True)
class _Solutions:
    gain: Float[Tensor, "starts rings"]
    defocus_um: Float[Tensor, "starts n"]
    log_likelihood: Float[Tensor, " starts"]


def defocus_by_gains(
    images: RingImages, state: State, rings: int, generator: torch.Generator, from_afar: bool
) -> tuple[Float[Tensor, " n"], float]:
    """Defocus of every image from the gains of the rings, and how far the best other solution is behind in nats.

    A set of gains and defoci has wrong neighbours, all defoci moved together, which a single start can end in.
    """
    correlation, gain = ring_correlations(images, state, rings)
    problem = _GainProblem.of(images, correlation, state.noise)
    starts = gain[None]
    if from_afar:
        low, high = float(problem.values_um[0]), float(problem.values_um[-1])
        centres = torch.arange(low + START_STEP_um, high, START_STEP_um)
        guesses = torch.cat(
            [
                centres[:, None] + spread * torch.randn(1, len(images), generator=generator)
                for spread in START_SPREADS_um
            ]
        )
        first = problem.gains_at(guesses.clamp(low, high).to(images.device))
        tried = problem.solve(torch.cat([starts, first]), SCREENING_ROUNDS)
        starts = tried.gain[tried.log_likelihood.topk(min(FINALISTS, len(first))).indices]
    found = problem.solve(starts, GAIN_ROUNDS)
    best = int(found.log_likelihood.argmax())
    apart = (found.defocus_um - found.defocus_um[best]).mean(dim=1).abs() > DIFFERENT_um
    behind = found.log_likelihood[best] - found.log_likelihood[apart]
    return found.defocus_um[best], float(behind.min()) if len(behind) else float("inf")


def first_state(
    images: RingImages,
    geometry: Geometry,
    rounds: int,
    starts: int,
    seed: int,
    hint_psi: Float[Tensor, " n"] | None = None,
) -> Start:
    """A state from random turns: the best of several soft starts, then defoci by ring gains on more and more rings."""
    generator = torch.Generator().manual_seed(seed)
    hints = [None] * starts if hint_psi is None else [hint_psi, *[None] * (starts - 1)]
    found = [soft_start(images, geometry, rounds, generator, hint) for hint in hints]
    found.sort(key=lambda pair: -pair[1])
    state, evidence = found[0]
    agreement = max((_agreement(state.poses, other.poses) for other, _ in found[1:]), default=1.0)
    searched = images.defocus.fixed_um is None
    rival = float("inf")
    for count in GAIN_RINGS:
        rings = min(count, images.grid.rings)
        state = replace(state, poses=recentre(state.poses, state.weight))
        if searched:
            blind = images.defocus.centre_um is None
            defocus, rival = defocus_by_gains(images, state, rings, generator, blind and count >= GAIN_RINGS[1])
            state = replace(state, poses=replace(state.poses, defocus_um=defocus))
        state, _, _ = improved(images, state, geometry, rings, steps=2)
    return Start(state, evidence, rival, agreement)


def _agreement(first: Poses, second: Poses) -> float:
    """How well the angles of two starts agree up to one turn and a symmetry, 0 to 1."""
    order = torch.arange(1, HIGHEST_SYMMETRY + 1, device=first.psi.device)
    angle = order[:, None] * (first.psi - second.psi)
    return float(torch.hypot(torch.cos(angle).mean(dim=1), torch.sin(angle).mean(dim=1)).max())
