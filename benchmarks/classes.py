"""How well classes of raw picks do against the truth: views within a class, angles within a class, junk.

``simulate`` makes the set (the human 80S ribosome seen from all sides, a fifth of junk), ``evaluate`` compares any STAR
file with rlnClassNumber and rlnAnglePsi, of cryorbit or of RELION, with the truth::

    python benchmarks/classes.py simulate MAP.mrc SET --images 20000 --seed 1
    cryorbit classify SET/particles.star --views 50 --out OUT
    python benchmarks/classes.py evaluate OUT/particles.star SET
    python benchmarks/classes.py evaluate RELION/run_it025_data.star SET --oracle

``averages`` makes a set of the best real class averages of a folder, turned, filtered and in noise; ``labelled``
compares the outlier score with a column of labels, such as those of real apoferritin::

    python benchmarks/classes.py averages ../shared/data/class_averages SET --seed 1
    python benchmarks/classes.py labelled OUT/particles.star gtKind particle background contamination
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import cryorbit as co
from cryorbit.io.mrc import read_images
from cryorbit.simulation import Projection, choose_projections, draw_truth, make_simulation_config
from cryorbit.simulation.specimens import view_matrix
from cryorbit.simulation.view_spread import Tips

FEWEST = 5
AVERAGES_PIXEL_A = 4.5
ROUNDS = 15


def simulate(args: argparse.Namespace) -> None:
    """The acceptance set: uniform directions and defoci, shifts of 1.5 px, five kinds of junk."""
    config = make_simulation_config("junk", {
        "images": args.images, "seed": args.seed, "box": 128, "pixel_size_A": 3.0, "snr": args.snr,
        "outliers": args.junk, "defocus_um": "0.5:2.5", "shift_px": 1.5, "views": args.directions,
        "view_spread_deg": 180.0,
    })  # fmt: skip
    co.simulate(args.out, choose_projections(args.map, None, False, (0.0, 0.0), config), config)


def averages(args: argparse.Namespace) -> None:
    """Particles that look like real class averages, those that a person has kept, so many of each."""
    table = pd.read_csv(args.folder / "averages.csv")
    flag = next(name for name in table if table[name].nunique() == 2)
    chosen = np.flatnonzero(table[flag].astype(str).isin(["1", "True", "yes"]))
    images = read_images(args.folder / "averages.mrcs")[chosen]
    box = images.shape[1]
    y, x = np.indices((box, box)) - box // 2
    inside = 1 / (1 + np.exp((np.hypot(x, y) - 0.42 * box) / 1.5))
    border = np.zeros((box, box), dtype=bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    seen = [
        Projection((image - np.median(image[border])) * inside, AVERAGES_PIXEL_A, 0.0, 0.0, volume_A3=3e6)
        for image in images
    ]
    config = make_simulation_config("noisy", {
        "images": args.each * len(seen), "seed": args.seed, "box": box, "pixel_size_A": AVERAGES_PIXEL_A, "snr": 0.05,
        "outliers": 0.0, "defocus_um": "0.5:2.5", "shift_px": 1.5, "views": len(seen),
    })  # fmt: skip
    co.simulate(args.out, seen, config)
    truth = pd.read_csv(args.out / "truth.csv")
    truth["view"] = draw_truth(config).view
    truth.to_csv(args.out / "truth.csv", index=False)


def labelled(args: argparse.Namespace) -> None:
    """Print how well the outlier score tells rows of some labels from good ones."""
    table = co.read_particles(args.result, check_images=False)
    label = table.frame[args.column].astype(str).str.strip("\"'").to_numpy()
    score, dropped = table.numbers("cryorbitOutlierScore", 0.0), table.numbers("cryorbitOutlierProbability", 0.0) > 0.5
    some = (label == args.good) | np.isin(label, args.bad)
    found = {"auc": float(roc_auc_score(label[some] != args.good, score[some]))}
    found |= {f"dropped_of_{name}": float(dropped[label == name].mean()) for name in np.unique(label)}
    print(json.dumps(found, indent=2))


def directions_of(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Rotation that brings the specimen into the view of each image, before its in-plane turn, shape (n, 3, 3)."""
    truth = pd.read_csv(folder / "truth.csv").iloc[rows]
    if "rot_deg" in truth:
        every = zip(truth["rot_deg"], truth["tilt_deg"], strict=True)
        return np.stack([view_matrix((rot, tilt)) for rot, tilt in every])
    view = json.loads((folder / "simulation.json").read_text())["view_deg"]
    tips = Tips(truth["tip_deg"].to_numpy(), truth["tip_direction_deg"].to_numpy())
    return tips.matrices() @ view_matrix((view[0], view[1]))


def about_z(angle_deg: np.ndarray) -> np.ndarray:
    """Turns in the image, shape (n, 3, 3)."""
    return Rotation.from_euler("z", angle_deg[:, None], degrees=True).as_matrix()


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotation nearest to a matrix."""
    u, _, v = np.linalg.svd(matrix)
    u[:, 2] *= np.sign(np.linalg.det(u @ v))
    return u @ v


def within_classes(
    number: np.ndarray, psi_deg: np.ndarray, true_deg: np.ndarray, views: np.ndarray
) -> dict[str, float]:
    """Angles between viewing directions and that of the class, and errors of the in-plane angles, over good particles.

    Every image turned back by its estimated angle shows the specimen in some orientation. The orientation of a class is
    the one that most of its images are near to (a robust mean over rotations); how far an image's is from it is split
    into a tilt of the direction and a turn about it.
    """
    shown = about_z(psi_deg - true_deg) @ views
    tilts, turns, classes = [], [], 0
    for one in np.unique(number):
        members = shown[number == one]
        if len(members) < FEWEST:
            continue
        classes += 1
        centre = nearest_rotation(members.mean(axis=0))
        for _ in range(ROUNDS):
            weight = 1 / (0.2 + np.linalg.norm(members - centre, axis=(1, 2))) ** 2
            centre = nearest_rotation((weight[:, None, None] * members).sum(axis=0))
        tilts.append(np.degrees(np.arccos(np.clip(members[:, 2] @ centre[2], -1, 1))))
        apart = members @ centre.T
        turns.append(np.degrees(np.arctan2(apart[:, 1, 0] - apart[:, 0, 1], apart[:, 0, 0] + apart[:, 1, 1])))
    tilt, turn = np.concatenate(tilts), np.concatenate(turns)
    return {
        "particles": len(tilt), "classes": classes, "spread_median_deg": float(np.median(tilt)),
        "within_20_deg": float((tilt < 20).mean()), "in_plane_rmse_deg": float(np.sqrt((turn**2).mean())),
        "in_plane_median_deg": float(np.median(np.abs(turn))),
    }  # fmt: skip


def found_at(score: np.ndarray, junk: np.ndarray, rejected: float = 0.02) -> float:
    """Share of the junk above a score that this share of the particles exceeds; ties count half."""
    threshold = np.quantile(score[~junk], 1 - rejected)
    return float((score[junk] > threshold).mean())


def best_classes(number: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """A score by whole classes, as a person who knows the truth would drop them: those with most junk first."""
    share = pd.Series(junk.astype(float)).groupby(number).mean()
    return share.loc[number].to_numpy()


def evaluate(args: argparse.Namespace) -> None:
    """Print figures of a classification as JSON."""
    table = co.read_particles(args.result, check_images=False)
    rows = np.array([int(str(name).split("@")[0]) - 1 for name in table.frame["rlnImageName"]])
    truth = pd.read_csv(args.folder / "truth.csv").iloc[rows].reset_index(drop=True)
    number = table.numbers("rlnClassNumber", 0.0).astype(int)
    junk = truth["outlier"].to_numpy(dtype=bool)
    if "view" in truth:
        print(json.dumps({"adjusted_rand_index": float(adjusted_rand_score(truth["view"][~junk], number[~junk]))}))
        return
    views = directions_of(args.folder, rows)
    psi, true = table.numbers("rlnAnglePsi", 0.0), truth["psi_deg"].to_numpy()
    found = within_classes(number[~junk], psi[~junk], true[~junk], views[~junk])
    if junk.any():
        score = best_classes(number, junk) if args.oracle else table.numbers("cryorbitOutlierScore", np.nan)
        found |= {"junk_auc": float(roc_auc_score(junk, score)), "junk_found_at_2_percent": found_at(score, junk)}
        if not args.oracle:
            dropped = table.numbers("cryorbitOutlierProbability", 0.0) > 0.5
            found |= {
                "dropped_of_particles": float(dropped[~junk].mean()),
                "kept_of_junk": float((~dropped[junk]).mean()),
            }
        for kind in np.unique(truth["kind"][junk]):
            some = ~junk | (truth["kind"] == kind).to_numpy()
            found[f"auc_{kind}"] = float(roc_auc_score(junk[some], score[some]))
    print(json.dumps(found, indent=2))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser("simulate")
    made.add_argument("map", type=Path)
    made.add_argument("out", type=Path)
    made.add_argument("--images", type=int, default=20_000)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--snr", type=float, default=0.05)
    made.add_argument("--junk", type=float, default=0.2)
    made.add_argument("--directions", type=int, default=1000)
    made.set_defaults(do=simulate)
    real = commands.add_parser("averages")
    real.add_argument("folder", type=Path)
    real.add_argument("out", type=Path)
    real.add_argument("--each", type=int, default=500)
    real.add_argument("--seed", type=int, default=1)
    real.set_defaults(do=averages)
    marked = commands.add_parser("labelled")
    marked.add_argument("result", type=Path)
    marked.add_argument("column")
    marked.add_argument("good")
    marked.add_argument("bad", nargs="+")
    marked.set_defaults(do=labelled)
    judged = commands.add_parser("evaluate")
    judged.add_argument("result", type=Path)
    judged.add_argument("folder", type=Path)
    judged.add_argument("--oracle", action="store_true", help="score junk by the true share of it in each class")
    judged.set_defaults(do=evaluate)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
