"""What the page carries is what the run found, to the width of a level; and what it saves is read again."""

from __future__ import annotations

import base64
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorbit.errors import ParticleDataError
from cryorbit.report.explorer import explorer_section
from cryorbit.report.explorer.columns import LEVELS, MISSING, Column, run_columns
from cryorbit.report.explorer.sheets import decoder_map, sampled_rows
from cryorbit.report.pictures import Pictures
from cryorbit.report.record import read_run
from cryorbit.selection_file import read_selection


def levels_of(text: str) -> np.ndarray:
    """What the page unpacks."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype=np.uint8)
    low, high = planes.reshape(2, -1).astype(np.uint16)
    return low | high << 8


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_values_come_back_to_half_a_level(values):
    column = Column("x", "x", "number", np.array(values))
    low, high = column.ends
    levels = levels_of(column.data())
    back = low + levels / LEVELS * (high - low)
    known = np.isfinite(values)
    np.testing.assert_array_equal(levels == MISSING, ~known)
    assert (np.abs(back - values)[known] <= (high - low) / LEVELS * 0.51).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([360.0, 180.0, 120.0]))
@settings(max_examples=30, deadline=None)
def test_angles_are_on_their_circle(seed, period):
    angles = np.random.default_rng(seed).uniform(-720, 720, 40)
    column = Column("psi_deg", "angle", "angle", angles, period=period)
    back = -period / 2 + column.levels() / LEVELS * period
    off = (back - angles + period / 2) % period - period / 2
    assert np.abs(off).max() <= period / LEVELS


@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_wild_values_do_not_flatten_the_others(seed):
    values = np.random.default_rng(seed).normal(size=20_000)
    values[:5] = [1e9, -1e12, 1e5, 3e4, -1e4]
    column = Column("score", "score", "number", values)
    levels = column.levels().astype(float)
    inner = np.abs(values) < 3
    assert np.ptp(levels[inner]) > 0.3 * LEVELS
    assert (levels[[0, 2, 3]] == LEVELS).all()
    assert (levels[[1, 4]] == 0).all()
    header = column.header()
    assert header["least"] == -1e12 < header["low"] < header["high"] < header["most"] == 1e9
    assert not header["whole"]
    assert Column("class", "class", "number", np.arange(50.0)).header()["whole"]


@pytest.mark.parametrize("n", [2, 5, 29, 53, 60_000])
def test_a_word_s_level_is_its_place(n):
    column = Column("rlnMicrographName", "micrograph", "words", np.arange(float(n)), tuple(map(str, range(n))))
    np.testing.assert_array_equal(column.levels(), np.arange(n))


def test_halves_go_up_as_in_the_page():
    quarters = Column("x", "x", "number", np.array([0, 0.25, 0.5, 0.75, 1.0]))
    expected = np.floor(np.array([0, 0.25, 0.5, 0.75, 1.0]) * LEVELS + 0.5)
    np.testing.assert_array_equal(quarters.levels(), expected)


def test_the_threshold_of_a_clean_set_lies_within_the_probability_s_range():
    values = np.full(20_000, 1e-6)
    values[:3] = 0.9
    assert Column("outlier_probability", "outlier probability", "number", values).ends == (0.0, 1.0)


def test_order_is_kept(make_run):
    folder, _ = make_run(200)
    for column in run_columns(read_run(folder)):
        if column.kind == "number":
            order = np.argsort(column.values, kind="stable")
            assert (np.diff(column.levels()[order].astype(int)) >= 0).all()


def test_the_page_holds_the_columns_of_the_run(make_run):
    folder, _ = make_run(80)
    section = explorer_section(read_run(folder))
    data = json.loads(re.search(r'id="explorer-data">(.*?)</script>', section, re.DOTALL)[1])
    estimates = pd.read_parquet(folder / "estimates.parquet")
    for place, header in enumerate(data["columns"]):
        if header["name"] in estimates and header["kind"] == "number":
            text = re.search(f'id="column-{place}">(.*?)</script>', section)[1]
            back = header["low"] + levels_of(text) / LEVELS * (header["high"] - header["low"])
            np.testing.assert_allclose(back, estimates[header["name"]], atol=(header["high"] - header["low"]) / LEVELS)
    names = [header["name"] for header in data["columns"]]
    assert {"pc1", "pc2", "psi_deg", "defocus_um", "outlier_probability", "kept"} <= set(names)
    assert data["particles"] == 80
    assert data["sample"]["rows"] == sampled_rows(read_run(folder)).tolist()


def test_a_page_too_large_leaves_out_what_is_least_used(make_run):
    folder, _ = make_run(500)
    run = read_run(folder)
    whole = explorer_section(run)
    small = explorer_section(run, most_bytes=9_000)
    assert len(small) < len(whole) - 10_000
    headers = json.loads(re.search(r'id="explorer-data">(.*?)</script>', small, re.DOTALL)[1])["columns"]
    assert [header["name"] for header in headers][:2] == ["pc1", "pc2"]
    assert "Left out" in small
    assert "Left out" not in whole


def test_rows_that_are_not_all_of_the_file_keep_their_numbers(make_run):
    folder, _ = make_run(50)
    estimates = pd.read_parquet(folder / "estimates.parquet")
    ids = np.arange(50) * 3 + 7
    estimates.assign(id=ids).to_parquet(folder / "estimates.parquet", index=False)
    section = explorer_section(read_run(folder))
    data = json.loads(re.search(r'id="explorer-data">(.*?)</script>', section, re.DOTALL)[1])
    np.testing.assert_array_equal(np.frombuffer(gzip.decompress(base64.b64decode(data["ids"])), "<i4"), ids)


def saved(path, chosen, **changes):
    """A selection as the page writes it."""
    bits = base64.b64encode(np.packbits(chosen, bitorder="little").tobytes()).decode()
    content = {
        "program": "cryorbit", "kind": "selection", "version": 1, "name": "a", "input": None,
        "particles": len(chosen), "selected": int(chosen.sum()), "bits": bits,
    } | changes  # fmt: skip
    path.write_text(json.dumps(content))
    return path


@given(st.lists(st.booleans(), min_size=1, max_size=70))
@settings(max_examples=40, deadline=None)
def test_a_selection_is_read_as_it_was_saved(tmp_path_factory, chosen):
    path = saved(tmp_path_factory.mktemp("s") / "a.json", np.array(chosen))
    assert read_selection(path).chosen.tolist() == chosen


@pytest.mark.parametrize(
    "changes",
    [{"kind": "x"}, {"particles": 0}, {"particles": 41}, {"particles": 10**9}, {"particles": "40"}, {"selected": 3},
     {"bits": "!!"}, {"bits": None}, {"particles": True}],
)  # fmt: skip
def test_a_selection_that_is_none_is_refused(tmp_path, changes):
    path = saved(tmp_path / "a.json", np.arange(40) % 3 == 0, **changes)
    with pytest.raises(ParticleDataError, match=r"a\.json"):
        read_selection(path)
    path.write_text("[1, 2")
    with pytest.raises(ParticleDataError, match="cannot be read as a selection"):
        read_selection(path)


def test_the_decoder_draws_where_particles_are(make_run):
    """Each cell of the map has the image of the mean latent point of its own particles."""
    folder, _ = make_run(300)
    asked = []

    def drawn(points):
        asked.append(points)
        return np.ones((len(points), 32, 32)) * np.arange(32)

    run = read_run(folder, Pictures(drawn=drawn))
    columns = {column.name: column for column in run_columns(run)}
    ends = columns["pc1"].ends, columns["pc2"].ends
    found = decoder_map(run, ends)
    cells, places = found["cells"], np.array(found["places"])
    levels = [columns[name].levels() / LEVELS * cells for name in ("pc1", "pc2")]
    column, row = (np.minimum(values.astype(int), cells - 1) for values in levels)
    place = places[row * cells + column]
    # A particle on the border of two cells may be in either, as its place is rounded to a level.
    assert (place >= 0).mean() > 0.99
    inner = [(values % 1 > 0.01) & (values % 1 < 0.99) for values in levels]
    clear = inner[0] & inner[1]
    latent = run.latent[["z1", "z2", "z3"]].to_numpy()
    for one in np.unique(place[place >= 0])[:20]:
        members = place == one
        if clear[members].all():
            np.testing.assert_allclose(asked[0][one], latent[members].mean(axis=0), atol=1e-6)
    assert sorted(places[places >= 0]) == list(range((places >= 0).sum()))
    assert decoder_map(read_run(folder, Pictures()), ends) is None
