"""cryorbit beside RELION and ASPIRE on the same simulated images, as one table.

    python benchmarks/peers.py SET --out DIR [--images 2000] [--peers cryorbit,relion,aspire] [--seed 1]

SET holds particles.star, its stack, truth.star and, where a row's junk is told there, truth.csv, as `cryorbit simulate`
writes them. Where it also holds fine_projection_1A.npy, the noise-free projection at 1 A a pixel, class averages are
compared with that. RELION and ASPIRE cannot search the defocus: they are told the true one. cryorbit searches it and
ignores what particles.star says of it.

Outlier scores are rlnParticleSelectZScore of cryorbit, minus rlnLogLikeliContribution of RELION, and minus the
correlation with the average of ASPIRE, which has no score for that.

Every program gets one thread. CPU and memory are those of the whole command, reading and writing included. A peer that
is not installed is left out with one line that says how to install it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, optimize

from cryorbit import conventions
from cryorbit.conventions import ANGSTROM_PER_UM, IMAGE_NAME, FloatArray
from cryorbit.estimation.evaluation import align_angles, evaluate
from cryorbit.estimation.truth import Truth, read_truth
from cryorbit.io import read_particles, write_particles
from cryorbit.io.star import unquoted
from cryorbit.particles import ParticleTable

HEADER = (
    "| program and settings | angle rms / median (degrees) | within 5 degrees | defocus rms (um) | outlier AUC | "
    "CPU s | images per CPU s | peak MB | average against the true projection: FRC 0.5, 0.143 at (A) |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
NEAR_DEG = 5.0
FINE_PIXEL_A = 1.0
# Where the set's answers to RELION's questions would stand.
POSE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", conventions.PSI, conventions.ORIGIN_X, conventions.ORIGIN_Y)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# Linux hands a parent's peak memory on to the child that it starts, so a small process starts and measures it.
MEASURE = """
import json, os, sys
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
with open(sys.argv[1], "w") as report:
    json.dump([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024], report)
"""

RELION_COMMON = (
    "--K 1 --tau2_fudge 2 --oversampling 1 --maxsig 50 --ctf --norm --scale --flatten_solvent --zero_mask "
    "--dont_check_norm --dont_combine_weights_via_disc --preread_images --pool 30 --j 1"
)
RELION_GLOBAL = "--iter 7 --psi_step 6 --offset_range 6 --offset_step 2"
# Oversampling halves the steps: half a degree and half a pixel, about the poses of the stage before.
RELION_LOCAL = "--iter 2 --psi_step 1 --sigma_psi 1.5 --offset_range 3 --offset_step 1 --ctf_corrected_ref"

ASPIRE_BOX = 64
ASPIRE_STARTS = 5
ASPIRE_RADIUS_PX = 3


class PeerError(Exception):
    """A program is absent or failed; the table goes on without it."""


@dataclass(frozen=True)
class Images:
    """What every program works on.

    Attributes
    ----------
    blind, informed
        STAR file of an experimenter, and the same with the true defocus.
    names
        Image names in both, in the order of ``truth``.
    truth, true_psi_deg
        What is known of them.
    projection
        Noise-free specimen, ``FINE_PIXEL_A`` a pixel, or None.
    diameter_A, seed
        Of the particle, and of everything random.
    """

    blind: Path
    informed: Path
    names: pd.Index
    truth: Truth
    true_psi_deg: FloatArray
    projection: FloatArray | None
    diameter_A: float
    seed: int


@dataclass(frozen=True)
class Cost:
    """What a command used."""

    cpu_s: float = 0.0
    peak_MB: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu_s + other.cpu_s, max(self.peak_MB, other.peak_MB))


@dataclass(frozen=True)
class Outcome:
    """What a program found: arrays of shape (n,) in the order of the images.

    Attributes
    ----------
    score
        Higher for likelier outliers.
    average
        MRC file with the class average.
    defocus_um
        None where it was given.
    """

    settings: str
    psi_deg: FloatArray
    score: FloatArray
    average: Path
    cost: Cost
    defocus_um: FloatArray | None = None


@dataclass
class Commands:
    """Runs programs one after the other and remembers how they were called."""

    said: list[str] = field(default_factory=list)

    def run(self, command: list[str], log: Path) -> Cost:
        """Run to the end.

        Raises
        ------
        PeerError
            If the program fails.
        """
        self.said.append(shlex.join(command))
        report = log.with_suffix(".json")
        with log.open("w") as output:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", MEASURE, str(report), *command],
                stdout=output, stderr=subprocess.STDOUT, env=os.environ | ONE_THREAD, check=True,
            )  # fmt: skip
        status, cpu_s, peak_MB = json.loads(report.read_text())
        if status != 0:
            raise PeerError(f"{command[0]} failed with status {status}; its messages are in {log}.")
        return Cost(cpu_s, peak_MB)


def choose_images(folder: Path, count: int, out: Path, diameter_A: float, seed: int) -> Images:
    """Write the STAR files of the first images of a set, with paths that hold from any folder."""
    tables = [read_particles(folder / name) for name in ("particles.star", "truth.star")]
    blind, known = (table.take(np.arange(min(count, len(table)))) for table in tables)
    truth = read_truth(folder / "truth.star", blind)
    if not blind.frame[IMAGE_NAME].equals(known.frame[IMAGE_NAME]):
        raise SystemExit(f"{folder}: particles.star and truth.star do not list the same images in the same order.")
    if truth.psi_deg is None or truth.defocus_um is None:
        raise SystemExit(f"{folder}: truth.star must give {conventions.PSI} and {conventions.DEFOCUS_U}.")
    names = _absolute_names(blind)
    # Answers must not be in the file; nor can RELION read columns that it does not know.
    secret = [c for c in known.frame if c in POSE_COLUMNS or not str(c).startswith("rln")]
    informed = replace(known, frame=known.frame.drop(columns=secret))
    paths = (out / "blind.star", out / "informed.star")
    for path, table in zip(paths, (blind, informed), strict=True):
        write_particles(path, table.with_columns({IMAGE_NAME: names}))
    fine = folder / "fine_projection_1A.npy"
    projection = np.load(fine).astype(np.float64) if fine.is_file() else None
    return Images(*paths, pd.Index(names), truth, truth.psi_deg, projection, diameter_A, seed)


def _absolute_names(table: ParticleTable) -> NDArray[np.str_]:
    places = table.locations
    stacks = [path.resolve() for path in places.stacks]
    return np.array([f"{i + 1:06d}@{stacks[s]}" for s, i in zip(places.stack, places.slice_index, strict=True)])


def read_found(path: Path, images: Images) -> ParticleTable:
    """The rows of a program's output in the order of the images; programs may sort them."""
    table = read_particles(path, check_images=False)
    rows = pd.Index(unquoted(table.frame[IMAGE_NAME]).astype(str)).get_indexer(images.names)
    if (rows < 0).any():
        raise PeerError(f"{path} lacks {(rows < 0).sum()} of {len(rows)} images.")
    return table.take(rows)


def run_cryorbit(images: Images, out: Path, commands: Commands) -> list[Outcome]:
    """Angle, shift, defocus and outliers together, told nothing of them."""
    command = [sys.executable, "-m", "cryorbit.cli", "estimate", str(images.blind), "--method", "orbit"]
    command += ["--defocus-prior", "blind", "--seed", str(images.seed), "--out", str(out / "cryorbit")]
    return [read_cryorbit(images, out / "cryorbit", commands.run(command, out / "cryorbit.log"))]


def read_cryorbit(images: Images, folder: Path, cost: Cost) -> Outcome:
    """What a run folder holds."""
    table = read_found(folder / "particles.star", images)
    score = table.numbers(conventions.SELECT_ZSCORE)
    settings = f"cryorbit {version('cryorbit')}, method orbit, defocus blind"
    defocus_um = table.defocus_A / ANGSTROM_PER_UM
    return Outcome(settings, table.psi_deg, score, folder / "average.mrc", cost, defocus_um)


def run_relion(images: Images, out: Path, commands: Commands) -> list[Outcome]:
    """2D classification with one class, then again about the poses that it found."""
    if shutil.which("relion_refine") is None:
        raise PeerError("relion_refine is not on the PATH (apt-get install relion).")
    said = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=True).stdout
    name = f"RELION {said.split('version:')[-1].split()[0]}, 2D classification K = 1, true defocus"
    folder = out / "relion"
    folder.mkdir()
    common = [*RELION_COMMON.split(), "--particle_diameter", f"{images.diameter_A:g}", "--random_seed"]
    common += [str(images.seed)]

    def stage(source: Path, root: str, options: list[str]) -> Cost:
        command = ["relion_refine", "--i", str(source), "--o", str(folder / root), *options, *common]
        return commands.run(command, out / f"relion_{root}.log")

    wide, near = (str(folder / f"{root}_it{last:03d}") for root, last in (("global", 7), ("local", 2)))
    first = stage(images.informed, "global", RELION_GLOBAL.split())
    again = ["--ref", f"{wide}_classes.mrcs", *RELION_LOCAL.split()]
    both = first + stage(Path(f"{wide}_data.star"), "local", again)
    return [
        _relion_outcome(f"{name}, 3 degree grid", wide, images, first),
        _relion_outcome("the same, then local search on a 0.5 degree grid", near, images, both),
    ]


def _relion_outcome(settings: str, root: str, images: Images, cost: Cost) -> Outcome:
    table = read_found(Path(f"{root}_data.star"), images)
    score = -table.numbers("rlnLogLikeliContribution")
    return Outcome(settings, table.psi_deg, score, Path(f"{root}_classes.mrcs"), cost)


def run_aspire(images: Images, out: Path, commands: Commands) -> list[Outcome]:
    """Class averaging by brute-force translations, iterated on its own average."""
    if find_spec("aspire") is None:
        raise PeerError("aspire cannot be imported (pip install aspire==0.14.3).")
    folder = out / "aspire"
    folder.mkdir()
    command = [sys.executable, __file__, "aspire", str(images.informed), str(folder), str(images.seed)]
    cost = commands.run(command, out / "aspire.log")
    psi_deg, score = np.load(folder / "found.npy")
    settings = f"ASPIRE {version('aspire')}, BFTAverager2D, {ASPIRE_BOX} px, phases flipped by the true defocus"
    return [Outcome(settings, psi_deg, score, folder / "average.mrc", cost)]


def align_with_aspire(star: Path, folder: Path, seed: int) -> None:
    """What the child process does: align all images to one, then twice to their average, last on a finer grid."""
    source, basis, averagers = (import_module(f"aspire.{name}") for name in ("source", "basis", "classification"))
    # Each step is finished before the next: 0.14.3 flips by a wrongly scaled frequency where downsampling is pending
    # (ComputationalCryoEM/ASPIRE-Python, issue 1395).
    images = source.RelionSource(star, dtype=np.float32).phase_flip().cache().downsample(ASPIRE_BOX).cache()
    polar = basis.FFBBasis2D(ASPIRE_BOX, dtype=np.float32)

    def average(of: object, classes: NDArray[np.int64], fine: int) -> tuple[NDArray[np.float32], FloatArray]:
        # A batch is of shifts: each needs all images' rings in memory.
        averager = averagers.BFTAverager2D(
            polar, of, n_angles=360 * fine, radius=ASPIRE_RADIUS_PX, sub_pixel=fine, batch_size=1
        )
        picture = averager.average(classes, np.zeros(classes.shape, dtype=bool)).asnumpy()
        base = classes[0, 0]
        return picture, np.stack([np.rad2deg(averager.rotations[base]), averager.dot_products[base]])

    count = images.n
    pixel_size_A = float(images.pixel_size)
    particles = images.images[:].asnumpy()
    # A single image may be junk: start from several, and keep the average with the most contrast, as ASPIRE ranks them.
    bases = np.random.default_rng(seed).choice(count, ASPIRE_STARTS, replace=False)
    starts = np.concatenate([average(images, np.roll(np.arange(count), -b)[None], 1)[0] for b in bases])
    picture = starts[[starts.var(axis=(1, 2)).argmax()]]
    for fine in (1, 1, 2):
        together = np.concatenate([picture, particles]).astype(np.float32)
        stack = source.ArrayImageSource(together, pixel_size=pixel_size_A)
        picture, found = average(stack, np.arange(count + 1)[None], fine)
    # ASPIRE does not divide its products by the images' norms: bright junk would pass for the best of particles.
    psi_deg, product = found[:, 1:]
    np.save(folder / "found.npy", [psi_deg, -product / np.linalg.norm(particles, axis=(1, 2))])
    with mrcfile.new(folder / "average.mrc") as mrc:
        mrc.set_data(picture[0].astype(np.float32))
        mrc.voxel_size = pixel_size_A


def ring_correlation(first: FloatArray, second: FloatArray) -> FloatArray:
    """Correlation of two square pictures on each Fourier ring of one pixel's width, shape (n // 2,), from radius 0."""
    n = len(first)
    k = np.fft.fftfreq(n, 1 / n)
    ring = np.rint(np.hypot(k[:, None], k)).astype(np.int64).ravel()
    a, b = np.fft.fft2(first).ravel(), np.fft.fft2(second).ravel()
    cross, power_a, power_b = (
        np.bincount(ring, values)[: n // 2] for values in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    )
    return np.asarray(cross / np.sqrt(np.maximum(power_a * power_b, np.finfo(float).tiny)))


def crossing_A(frc: FloatArray, threshold: float, box_A: float) -> str:
    """Resolution at which a correlation first falls below a threshold, between rings by a straight line.

    0.5 against the truth is what 0.143 between two halves of the images stands for.
    """
    below = np.flatnonzero(frc[1:] < threshold) + 1
    if not len(below):
        return f"beyond {box_A / len(frc):.2f}"
    k = int(below[0])
    before = max(frc[k - 1], threshold) if k > 1 else 1.0
    return f"{box_A / (k - (threshold - frc[k]) / (before - frc[k])):.2f}"


class TrueProjection:
    """The noise-free specimen, drawn at any turn and shift on the grid of an average.

    Not the average but the specimen is turned: it is known on a fine grid, where interpolation loses nothing.

    Parameters
    ----------
    fine
        Noise-free projection, ``FINE_PIXEL_A`` a pixel.
    n, pixel_size_A
        Grid of the average.
    diameter_A
        Of the disc outside which nothing counts.
    """

    def __init__(self, fine: FloatArray, n: int, pixel_size_A: float, diameter_A: float) -> None:
        # What the average's grid cannot hold would come back at low frequency when the specimen is drawn on it.
        k = np.hypot(np.fft.fftfreq(len(fine), FINE_PIXEL_A)[:, None], np.fft.fftfreq(len(fine), FINE_PIXEL_A))
        smooth = np.fft.ifft2(np.where(k < 0.5 / pixel_size_A, np.fft.fft2(fine), 0)).real
        self._spline = ndimage.spline_filter(smooth, order=3)
        self._scale, self._centre = pixel_size_A / FINE_PIXEL_A, len(fine) // 2
        self._y, self._x = np.mgrid[:n, :n] - n // 2
        radius_A = diameter_A / 2
        inward = np.clip((radius_A - np.hypot(self._y, self._x) * pixel_size_A) / (0.1 * radius_A), 0, 1)
        self._disc = 0.5 - 0.5 * np.cos(np.pi * inward)

    def masked(self, picture: FloatArray) -> FloatArray:
        """A picture inside a soft disc, without its mean there: its edge would correlate with any other edge."""
        return np.asarray((picture - (picture * self._disc).sum() / self._disc.sum()) * self._disc)

    def drawn(self, psi_deg: float, shift_px: tuple[float, float]) -> FloatArray:
        """The specimen turned and shifted as :mod:`cryorbit.conventions` has it, masked."""
        cos, sin = np.cos(np.deg2rad(psi_deg)), np.sin(np.deg2rad(psi_deg))
        x, y = self._x - shift_px[0], self._y - shift_px[1]
        at = np.array([sin * x + cos * y, cos * x - sin * y]) * self._scale + self._centre
        return self.masked(ndimage.map_coordinates(self._spline, at, order=3, prefilter=False))

    def place(self, picture: FloatArray) -> tuple[float, tuple[float, float]]:
        """Turn and shift (x, y) of a masked picture, to a degree and a pixel, of either contrast."""
        n = len(picture)
        k = np.fft.fftfreq(n, self._scale * FINE_PIXEL_A)
        # Coarse features alone, all rings alike: the lowest would decide by themselves, and tell little of the angle.
        coarse = np.hypot(k[:, None], k)
        band = (coarse > 0) & (coarse < 1 / 20)
        weight = band / np.maximum(np.abs(np.fft.fft2(picture)), np.finfo(float).tiny)
        found = []
        for psi_deg in np.arange(0.0, 360.0, 2.0):
            drawn = np.fft.fft2(self.drawn(psi_deg, (0.0, 0.0)))
            match = np.abs(np.fft.ifft2(np.fft.fft2(picture) * weight * drawn.conj()).real)
            row, column = np.unravel_index(match.argmax(), match.shape)
            shift = [float((index + n // 2) % n - n // 2) for index in (column, row)]
            found.append((match.max() / np.linalg.norm(drawn[band]), psi_deg, (shift[0], shift[1])))
        _, psi_deg, shift_px = max(found)
        return psi_deg, shift_px

    def correlation(self, average: FloatArray) -> FloatArray:
        """Ring correlation with an average, at the turn and shift and of the contrast that agree best."""
        picture = self.masked(average)
        rings = np.arange(len(picture) // 2)

        def frc(pose: FloatArray) -> FloatArray:
            return ring_correlation(picture, self.drawn(pose[0], (pose[1], pose[2])))

        def misfit(pose: FloatArray) -> float:
            # Likelihood of the pose where each ring has a gain and a noise of its own.
            return float((rings * np.log1p(-np.minimum(frc(pose) ** 2, 1 - 1e-9)))[1:].sum())

        psi_deg, shift_px = self.place(picture)
        start = np.array([psi_deg, *shift_px])
        simplex = start + np.vstack([np.zeros(3), np.diag([1.0, 0.5, 0.5])])
        best = optimize.minimize(
            misfit, start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-3}
        ).x
        found = frc(best)
        return np.asarray(found * np.sign((rings * found).sum()))


def describe_average(path: Path, images: Images) -> str:
    """Resolution of a class average against the truth."""
    if images.projection is None or not path.is_file():
        return "-"
    with mrcfile.open(path, permissive=True) as mrc:
        picture = np.squeeze(mrc.data).astype(np.float64)
        pixel_size_A = float(mrc.voxel_size.x)
    truth = TrueProjection(images.projection, len(picture), pixel_size_A, images.diameter_A)
    frc = truth.correlation(picture)
    np.savetxt(path.with_name(f"{path.stem}_frc_truth.csv"), frc)
    return ", ".join(crossing_A(frc, threshold, len(picture) * pixel_size_A) for threshold in (0.5, 0.143))


def describe(outcome: Outcome, images: Images) -> str:
    """One row of the table."""
    truth = images.truth
    found = evaluate(
        outcome.psi_deg, images.true_psi_deg, outcome.defocus_um, truth.defocus_um,
        outlier_score=outcome.score, is_outlier=truth.is_outlier,
    )  # fmt: skip
    good = np.ones(len(images.names), dtype=bool) if truth.is_outlier is None else ~truth.is_outlier
    near = np.abs(align_angles(outcome.psi_deg[good], images.true_psi_deg[good]).residual_deg) < NEAR_DEG
    defocus = "-" if found.defocus_rmse_um is None else f"{found.defocus_rmse_um:.3f}"
    auc = "-" if found.outlier_auc is None else f"{found.outlier_auc:.4f}"
    return (
        f"| {outcome.settings} | {found.angle_rmse_deg:.3f} / {found.angle_median_deg:.3f} | {near.mean():.2%} | "
        f"{defocus} | {auc} | {outcome.cost.cpu_s:.0f} | {len(good) / outcome.cost.cpu_s:.1f} | "
        f"{outcome.cost.peak_MB:.0f} | {describe_average(outcome.average, images)} |"
    )


def hardware() -> str:
    """Processor and number of cores."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, one thread used; Python {platform.python_version()}"


PEERS: dict[str, Callable[[Images, Path, Commands], list[Outcome]]] = {
    "cryorbit": run_cryorbit,
    "relion": run_relion,
    "aspire": run_aspire,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="SET")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, for everything the programs write")
    parser.add_argument("--images", type=int, default=2000, help="the first ones of the set")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--diameter", type=float, default=300.0, help="of the particle, in Angstrom")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    names = asked.peers.split(",")
    if unknown := sorted({*names} - {*PEERS}):
        parser.error(f"--peers: {', '.join(unknown)} is none of {', '.join(PEERS)}")
    if asked.out.exists() and any(asked.out.iterdir()):
        parser.error(f"--out: {asked.out} is not empty")
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    images = choose_images(asked.folder, asked.images, out, asked.diameter, asked.seed)
    commands, absent = Commands(), []
    print(f"{hardware()}; {len(images.names)} images of {asked.folder}\n\n{HEADER}", flush=True)
    for name in names:
        try:
            for outcome in PEERS[name](images, out, commands):
                print(describe(outcome, images), flush=True)
        except PeerError as error:
            absent.append(f"Left out: {name}. {error}")
    print("\n".join(["", *absent, "Commands:", *(f"    {said}" for said in commands.said)]))


if __name__ == "__main__":
    # ASPIRE has no command for this; to be measured like the others it runs in a process of its own: this script's.
    if sys.argv[1:2] == ["aspire"] and len(sys.argv) == 5:
        align_with_aspire(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
