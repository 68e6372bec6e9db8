"""Which rows a run takes: conditions mean what they say, a preview is random and drawn once, reruns know of both."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cryorbit import ParticleDataError, read_particles, run, write_particles
from cryorbit.conditions import Condition
from cryorbit.errors import ConfigurationError
from cryorbit.estimation.truth import read_truth
from cryorbit.io.star import write_star
from cryorbit.pipeline import rerun
from cryorbit.rows import Rows

from .cli.test_cli import FAST, call
from .io.conftest import OPTICS, PARTICLES, write_stack
from .pipeline_sets import tiny_config, tiny_set

N = 12
SCORE = [0.1, -2.5, 3, 2, -2, 0, 1, 2.1, -9, 0.5, 0, 1.9]


@pytest.fixture
def table(tmp_path):
    columns = {
        "rlnImageName": [f"{i + 1}@a.mrcs" for i in range(N)],
        "rlnClassNumber": [1, 2, 3] * 4,
        "rlnParticleSelectZScore": SCORE,
        "rlnGroupName": ["one", "'the other'"] * 6,
        "rlnImagePixelSize": [2.0] * N,
    }
    write_star(tmp_path / "a.star", {"particles": pd.DataFrame(columns)})
    return read_particles(tmp_path / "a.star", check_images=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rlnClassNumber=2", [i % 3 == 1 for i in range(N)]),
        ("_rlnClassNumber = 3, 1.0", [i % 3 != 1 for i in range(N)]),
        ("rlnClassNumber!=3,1", [i % 3 == 1 for i in range(N)]),
        ("rlnClassNumber", [True] * N),
        ("rlnParticleSelectZScore", [score != 0 for score in SCORE]),
        ("rlnParticleSelectZScore>2", [score > 2 for score in SCORE]),
        ("rlnParticleSelectZScore<=-2", [score <= -2 for score in SCORE]),
        ("|rlnParticleSelectZScore|>2", [abs(score) > 2 for score in SCORE]),
        ("|rlnParticleSelectZScore| < 2", [abs(score) < 2 for score in SCORE]),
        ("|rlnParticleSelectZScore|=2", [abs(score) == 2 for score in SCORE]),
        ("rlnGroupName=one", [i % 2 == 0 for i in range(N)]),
        ("rlnGroupName!=one", [i % 2 == 1 for i in range(N)]),
    ],
)
def test_conditions(table, text, expected):
    assert Condition.parse(text, "--select").holds(table).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=3",
        "rlnX>",
        "rlnX>a",
        "rlnX>1,2",
        "|rlnX>2",
        "rlnX|>2",
        "rlnX=1,,2",
        "|rlnX|=a",
        "rln X=1",
        "rlnX==1",
        "rlnX=>1",
        "rlnX!==1",
    ],
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ConfigurationError, match="expected a condition"):
        Condition.parse(text, "--select")


def test_a_column_that_is_not_there_is_named(table):
    with pytest.raises(ParticleDataError, match=r"no column _rlnX .* it has rlnImageName"):
        Condition.parse("rlnX=1", "--select").holds(table)


def test_all_conditions_hold_and_the_order_stays(table):
    chosen = Rows(("rlnClassNumber=1,2", "|rlnParticleSelectZScore|<=2")).of(table)
    assert chosen.ids.tolist() == [i for i in range(N) if i % 3 < 2 and abs(SCORE[i]) <= 2]
    with pytest.raises(ParticleDataError, match="none of its 12 particles"):
        Rows(("rlnClassNumber=9",)).of(table)
    assert Rows().of(table) is table


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_preview_is_random_and_drawn_once(table, seed):
    rows = Rows(("rlnClassNumber=1,2",), 5, seed)
    chosen = rows.of(table)
    assert len(set(chosen.ids.tolist())) == 5
    assert (np.diff(chosen.ids) > 0).all()
    assert (chosen.ids % 3 < 2).all()
    assert rows.of(table).ids.tolist() == chosen.ids.tolist()
    # Given what it has drawn already, it takes that.
    assert rows.of(chosen) is chosen
    assert Rows((), 500, seed).of(table) is table


def test_every_row_is_drawn_as_often(table):
    drawn = np.concatenate([Rows((), 3, seed).of(table).ids for seed in range(400)])
    counts = np.bincount(drawn, minlength=N)
    # 100 each, with a standard deviation of 8.7.
    assert counts.min() > 60
    assert counts.max() < 140


def test_a_preview_is_done_again_on_the_same_rows(tmp_path):
    star = tiny_set(tmp_path / "set", images=60)
    rows = Rows((), 40, 3)
    first = run(star, tmp_path / "run", tiny_config(), rows=rows, until="estimate", latent=False)
    assert len(first.particles) == 40
    expected = rows.of(read_particles(star)).frame["rlnImageName"]
    assert list(first.particles.frame["rlnImageName"]) == list(expected)
    again = rerun(tmp_path / "run", "estimate")
    np.testing.assert_array_equal(again.particles.psi_deg, first.particles.psi_deg)


def test_parts_of_a_file_with_boxes_of_two_sizes_are_run_by_themselves(tmp_path):
    random = np.random.default_rng(0)
    for name, box in (("a", 16), ("b", 24)):
        write_stack(tmp_path / f"{name}.mrcs", random.normal(size=(30, box, box)).astype(np.float32))
    rows = [f"{i + 1:06d}@{name}.mrcs m.mrc 15000 14500 0 {n}" for n, name in ((1, "a"), (2, "b")) for i in range(30)]
    optics = OPTICS.rstrip() + "\n2 opticsGroup2 200.000000 1.400000 0.100000 2.000000\n"
    star = tmp_path / "two.star"
    star.write_text(optics + PARTICLES + "\n".join(rows) + "\n")
    code, _, err = call("inspect", star)
    assert code == 2
    assert "--select rlnOpticsGroup=1" in err
    out = tmp_path / "run"
    assert call("estimate", star, "--out", out, "--select", "rlnOpticsGroup=2", "-q")[0] == 0
    result = read_particles(out / "particles.star")
    assert len(result) == 30
    assert (result.imaging.voltage_kV == 200).all()
    assert (result.imaging.pixel_size_A == 2).all()


def test_the_papers_protocol_on_an_experimental_file(tmp_path):
    """Classes by number, outliers by RELION's score, every detector and equation 8 against the file's own values."""
    star = tiny_set(tmp_path / "set", images=200, outliers=0.2)
    truth = read_particles(star.with_name("truth.star"), check_images=False)
    junk = truth.numbers("cryorbitTruthOutlier") != 0
    given = read_particles(star, check_images=False).with_columns(
        {
            "rlnClassNumber": np.arange(200) % 2 + 39,
            "rlnParticleSelectZScore": np.where(junk, -3.0, 0.5),
            "rlnAnglePsi": truth.psi_deg,
            "rlnDefocusU": truth.defocus_u_A,
            "rlnDefocusV": truth.defocus_v_A,
        }
    )
    write_particles(star, given)
    out, rule = tmp_path / "run", "|rlnParticleSelectZScore|>2"
    code, _, err = call(
        "run", star, "--out", out, "--select", "rlnClassNumber=39", "--truth", star, "--outlier-column", rule,
        "--defocus-prior", "blind", *FAST,
    )  # fmt: skip
    assert (code, err) == (0, "")
    code, said, _ = call("evaluate", out / "particles.star", star, "--outlier-column", rule, "--json")
    assert code == 0
    metrics = json.loads(said)
    assert metrics["particles"] == 100
    assert metrics["inliers"] == int((~junk[::2]).sum())
    for name in ("isolation_forest", "robust_covariance", "local_outlier_factor", "evidence"):
        assert 0 <= metrics[f"outlier_auc_{name}"] <= 1
    assert metrics["outlier_auc_evidence"] == metrics["outlier_auc"] > 0.8
    assert metrics["angle_rmse_weighted_deg"] < 10
    page = (out / "report.html").read_text()
    assert "Area under the ROC curve" in page
    # The page drawn again remembers what the outliers are.
    code, _, err = call("report", out, "-q")
    assert (code, err) == (0, "")
    assert json.loads((out / "run.json").read_text())["outlier_column"] == rule
    # All the other way round is all the worse.
    code, said, _ = call(
        "evaluate", out / "particles.star", star, "--outlier-column", "rlnParticleSelectZScore>-2", "--json"
    )
    assert json.loads(said)["outlier_auc"] == pytest.approx(1 - metrics["outlier_auc"])


def test_images_multiplied_by_their_ctf_are_refused_in_parts_too(tmp_path):
    """Of a file with both kinds of images, the others can be run."""
    star = tiny_set(tmp_path / "set", images=40)
    table = read_particles(star).with_columns({"rlnCtfDataAreCtfPremultiplied": np.arange(40) % 2})
    write_particles(star, table)
    with pytest.raises(ParticleDataError, match="extract them again"):
        Rows((), 10).read(star)
    assert len(Rows(("rlnCtfDataAreCtfPremultiplied=0",)).read(star)) == 20


def test_one_of_two_rows_of_an_image_is_not_compared_with_either(tmp_path):
    star = tiny_set(tmp_path / "set", images=40)
    table = read_particles(star)
    twice = table.take(np.r_[np.arange(40), np.arange(40)]).with_columns({"rlnClassNumber": np.repeat([1, 2], 40)})
    write_particles(star.with_name("twice.star"), twice)
    both = read_particles(star.with_name("twice.star"))
    with pytest.raises(ParticleDataError, match="which is which cannot be told"):
        read_truth(star.with_name("twice.star"), both.where(np.arange(80) >= 40))
    assert read_truth(star.with_name("twice.star"), both) is not None


@pytest.mark.parametrize("content", ["", 'outlier\n"1\n', "outlier\n" + "junk\n" * 40])
def test_a_stray_table_beside_a_truth_is_named(tmp_path, content):
    star = tiny_set(tmp_path / "set", images=40)
    table = read_particles(star)
    star.with_name("truth.csv").write_text(content)
    with pytest.raises(ParticleDataError, match=r"truth\.csv"):
        read_truth(star, table)


def test_a_rule_without_a_truth_is_refused(tmp_path):
    star = tiny_set(tmp_path / "set", images=30)
    code, _, err = call("run", star, "--out", tmp_path / "run", "--outlier-column", "rlnX")
    assert code == 2
    assert "Give --truth" in err


def test_what_is_wrong_with_other_rows_does_not_matter(tmp_path):
    star = tiny_set(tmp_path / "set", images=30)
    defocus = np.where(np.arange(30) < 5, -200.0, 15000.0)
    write_particles(star, read_particles(star).with_columns({"rlnDefocusU": defocus, "rlnClassNumber": defocus // 1e4}))
    with pytest.raises(ParticleDataError, match="underfocus is a positive number"):
        read_particles(star)
    sound = Rows(("rlnDefocusU>0",))
    assert len(sound.read(star)) == 25
    # What is wrong with the rows that were chosen is said, by their number in the file.
    text = star.read_text().splitlines()
    row = next(i for i, line in enumerate(text) if line.startswith("000012@"))
    text[row] = text[row].replace(" 15000.000000 ", " 15000.0000e9 ", 1)
    star.write_text("\n".join(text) + "\n")
    with pytest.raises(ParticleDataError, match=r"particle 12: _rlnDefocusU is 1\.5e"):
        sound.read(star)
    assert len(Rows(("rlnDefocusU>0", "rlnDefocusU<1e6")).read(star)) == 24
    result = run(
        star, tmp_path / "run", tiny_config(), rows=Rows(("rlnClassNumber=1", "rlnDefocusU<1e6")), latent=False
    )
    assert len(rerun(result.folder, "estimate").particles) == 24


@pytest.mark.parametrize(
    ("rule", "says"), [("rlnDefocusU>1", "every one of the 30"), ("rlnDefocusU<1", "none of the 30")]
)
def test_a_rule_that_tells_no_outliers_apart_is_named(tmp_path, rule, says):
    star = tiny_set(tmp_path / "set", images=30)
    write_particles(
        star.with_name("result.star"), read_particles(star).with_columns({"cryorbitOutlierScore": np.arange(30.0)})
    )
    code, _, err = call("evaluate", star.with_name("result.star"), star, "--outlier-column", rule)
    assert code == 0
    assert says in err


def test_a_row_that_spoils_the_whole_file_is_left_out(tmp_path):
    star = tiny_set(tmp_path / "set", images=30)
    text = star.read_text()
    optics = text[text.index("data_optics") : text.index("data_particles")]
    group = next(line for line in optics.splitlines() if line.startswith("1 "))
    assert text.count(group) == 1
    # A second group that only the last row has, and a third that no one has, with a voltage that is no number.
    lines = (
        text.replace(group, group + "\n" + group.replace("1 ", "2 ", 1).replace("300.0", "abc", 1))
        .rstrip("\n")
        .split("\n")
    )
    row = max(k for k, line in enumerate(lines) if "@" in line)
    head = [line.split()[0] for line in lines[lines.index("data_particles") :] if line.startswith("_")]
    values = lines[row].split()
    for number, good in (("2", 29), ("7", 29)):
        values[head.index("_rlnOpticsGroup")] = number
        lines[row] = " ".join(values)
        (star.parent / "other.star").write_text("\n".join(lines) + "\n")
        with pytest.raises(ParticleDataError):
            read_particles(star.parent / "other.star")
        chosen = Rows(("rlnOpticsGroup=1",)).read(star.parent / "other.star")
        assert len(chosen) == good
        assert np.isfinite(chosen.imaging.pixel_size_A).all()
