"""The page from the disk: what is drawn around, counted and saved is the same."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cryorbit.selection_file import read_selection

from .conftest import CLUSTER, HOSTILE_COLUMN, HOSTILE_NAMES, N


@pytest.fixture
def page(open_page, run_folder):
    return open_page(run_folder / "report.html")


def selected(page) -> np.ndarray:
    """Rows that the page has selected now."""
    return np.flatnonzero(page.evaluate("Array.from(cryorbitExplorer.selected())"))


def count(page) -> int:
    return int(page.inner_text("#count-selected").replace(",", ""))


def around(page, rows, margin=9.0):
    """Corners of a polygon on the screen around the points of some rows."""
    page.locator("#map-overlay").scroll_into_view_if_needed()
    points = page.evaluate(
        """(rows) => rows.map((i) => cryorbitExplorer.map.toScreen(
            cryorbitExplorer.x.levels[i], cryorbitExplorer.y.levels[i]))""",
        rows.tolist(),
    )
    box = page.locator("#map-overlay").bounding_box()
    (left, top), (right, bottom) = np.min(points, axis=0) - margin, np.max(points, axis=0) + margin
    return [(box["x"] + x, box["y"] + y) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]


def lasso(page, corners, key=None):
    if key:
        page.keyboard.down(key)
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in (*corners[1:], corners[0]):
        page.mouse.move(*corner, steps=6)
    page.mouse.up()
    if key:
        page.keyboard.up(key)


def downloaded(page, button):
    with page.expect_download() as found:
        page.click(button)
    return found.value


def test_it_begins_with_what_the_run_kept(page, run_folder):
    kept = pd.read_parquet(run_folder / "estimates.parquet")["kept"].to_numpy()
    np.testing.assert_array_equal(selected(page), np.flatnonzero(kept))
    assert count(page) == kept.sum()


def test_a_cluster_that_is_drawn_around_is_what_is_saved(page, tmp_path):
    lasso(page, around(page, CLUSTER))
    assert count(page) == len(CLUSTER)
    page.fill("#selection-name", "the middle")
    page.click("#save-selection")
    file = downloaded(page, "#selections button:has-text('Download')")
    assert file.suggested_filename == "the_middle.json"
    file.save_as(tmp_path / "saved.json")
    np.testing.assert_array_equal(np.flatnonzero(read_selection(tmp_path / "saved.json").chosen), CLUSTER)
    downloaded(page, "#download-ids").save_as(tmp_path / "numbers.txt")
    assert [int(line) - 1 for line in (tmp_path / "numbers.txt").read_text().split()] == CLUSTER.tolist()


def test_more_is_added_and_taken_away_and_undone(page):
    before = selected(page)
    corners = around(page, CLUSTER)
    lasso(page, corners, "Alt")
    np.testing.assert_array_equal(selected(page), np.setdiff1d(before, CLUSTER))
    lasso(page, corners, "Shift")
    np.testing.assert_array_equal(selected(page), np.union1d(before, CLUSTER))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    np.testing.assert_array_equal(selected(page), before)
    page.keyboard.press("Control+y")
    np.testing.assert_array_equal(selected(page), np.setdiff1d(before, CLUSTER))
    page.click("[data-do=invert]")
    np.testing.assert_array_equal(selected(page), np.setdiff1d(np.arange(N), np.setdiff1d(before, CLUSTER)))


def test_a_filter_narrows_what_is_counted_and_saved(page, run_folder):
    """From the keyboard, too; a lasso takes only what the filters let through."""
    page.click("[data-do=all]")
    slider = page.locator("fieldset.filter", has_text="defocus").locator("input[type=range]").first
    slider.focus()
    for _ in range(80):
        page.keyboard.press("ArrowRight")
    at = page.evaluate("cryorbitExplorer.filters.find((f) => f.column.name === 'defocus_um').low")
    column = page.evaluate("(({low, high}) => [low, high])(cryorbitExplorer.column('defocus_um'))")
    least = column[0] + at / 65534 * (column[1] - column[0])
    defocus = pd.read_parquet(run_folder / "estimates.parquet")["defocus_um"].to_numpy()
    inside = np.flatnonzero(defocus >= least)
    # A level is as wide as this: a value so near to the end may fall on either side of it.
    clear = np.abs(defocus - least) > (column[1] - column[0]) / 65534
    found = selected(page)
    assert 0 < len(inside) < N
    np.testing.assert_array_equal(np.isin(np.arange(N), found)[clear], np.isin(np.arange(N), inside)[clear])
    assert count(page) == len(found)
    lasso(page, around(page, CLUSTER))
    np.testing.assert_array_equal(selected(page), np.intersect1d(CLUSTER, found))
    page.click("[data-do=undo]")
    page.click("[data-do=undo]")
    assert count(page) > len(found)


def test_every_column_can_be_an_axis_and_a_colour(page):
    names = page.evaluate("cryorbitExplorer.columns.map((c) => [c.name, c.isWords])")
    assert len(names) > 15
    chosen = selected(page)
    for name, words in names:
        page.select_option("#axis-colour", name)
        page.wait_for_function("(name) => cryorbitExplorer.colour && cryorbitExplorer.colour.name === name", arg=name)
        assert page.inner_text("#legend").strip() or page.locator("#legend canvas").count()
        if not words:
            page.select_option("#axis-x", name)
            page.wait_for_function("(name) => cryorbitExplorer.x.name === name", arg=name)
    page.select_option("#axis-colour", "")
    np.testing.assert_array_equal(selected(page), chosen)


def test_a_polygon_is_drawn_with_the_keyboard_alone(page):
    corners = around(page, CLUSTER, margin=14)
    box = page.locator("#map-overlay").bounding_box()
    page.check("input[name=tool][value=polygon]")
    page.focus("#map-overlay")
    # The cross begins in the middle of the axes, and goes 8 pixels with each arrow.
    frame = page.evaluate("cryorbitExplorer.map.frame")
    x, y = frame["x"] + frame["w"] / 2, frame["y"] + frame["h"] / 2
    for corner in corners:
        for now, wanted, keys in (
            (x, corner[0] - box["x"], ("ArrowLeft", "ArrowRight")),
            (y, corner[1] - box["y"], ("ArrowUp", "ArrowDown")),
        ):
            steps = round((wanted - now) / 8)
            for _ in range(abs(steps)):
                page.keyboard.press(keys[steps > 0])
            if keys[0] == "ArrowLeft":
                x += 8 * steps
            else:
                y += 8 * steps
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    np.testing.assert_array_equal(selected(page), CLUSTER)


def test_zooming_and_moving_keeps_the_place_of_points(page):
    page.locator("#map-overlay").scroll_into_view_if_needed()
    box = page.locator("#map-overlay").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.check("input[name=tool][value=pan]")
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] - 30, steps=4)
    page.mouse.up()
    page.check("input[name=tool][value=lasso]")
    lasso(page, around(page, CLUSTER))
    np.testing.assert_array_equal(selected(page), CLUSTER)
    before = page.evaluate("[cryorbitExplorer.map.view.x1 - cryorbitExplorer.map.view.x0]")[0]
    page.click("[data-do=reset]")
    assert page.evaluate("cryorbitExplorer.map.view.x1 - cryorbitExplorer.map.view.x0") > before


def test_particles_of_the_selection_and_of_the_rest_are_shown(page):
    page.click("[data-do=kept]")
    page.wait_for_function("() => document.getElementById('gallery-others-note').textContent.includes('of the')")
    for name in ("selected", "others"):
        spread = page.evaluate(
            """(name) => { const c = document.getElementById(`gallery-${name}`);
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let low = 255, high = 0;
            for (let i = 0; i < d.length; i += 4) { low = Math.min(low, d[i]); high = Math.max(high, d[i]); }
            return high - low; }""",
            name,
        )
        assert spread > 100
    assert page.locator("input[name=gallery]").count() == 3
    # At the pointer: the particle nearest to it.
    page.locator("#map-overlay").scroll_into_view_if_needed()
    box = page.locator("#map-overlay").bounding_box()
    row = page.evaluate("cryorbitExplorer.data.sample.rows[5]")
    x, y = page.evaluate(
        "(i) => cryorbitExplorer.map.toScreen(cryorbitExplorer.x.levels[i], cryorbitExplorer.y.levels[i])", row
    )
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_function("() => document.getElementById('pointed-facts').textContent.includes('particle ')")


def test_names_of_files_are_text(page):
    labels = page.locator("#axis-colour option").all_text_contents()
    assert HOSTILE_COLUMN in labels
    page.select_option("#axis-colour", "rlnMicrographName")
    page.wait_for_function("() => cryorbitExplorer.colour.name === 'rlnMicrographName'")
    legend = page.locator("#legend").inner_text()
    for name in HOSTILE_NAMES:
        assert name in legend
    page.select_option("#add-filter", "rlnMicrographName")
    field = page.locator("fieldset.filter input[type=text]")
    field.fill("日本")
    field.press("Enter")
    page.click("[data-do=all]")
    assert count(page) == sum(k % len(HOSTILE_NAMES) == 2 for k in range(N))
    page.fill("#selection-name", "<img src=x onerror=alert(4)>")
    page.click("#save-selection")
    assert page.locator("#selections b").inner_text() == "<img src=x onerror=alert(4)>"
    assert page.locator("#explorer img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_phones_and_desks_in_both_themes(open_page, run_folder, scheme, width):
    page = open_page(run_folder / "report.html", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ink, paper = (
        np.array(
            json.loads("[" + page.evaluate(f"getComputedStyle(document.body).{name}").split("(")[1].rstrip(")") + "]")[
                :3
            ]
        )
        for name in ("color", "backgroundColor")
    )
    assert abs(ink.mean() - paper.mean()) > 150
    assert (paper.mean() < 60) == (scheme == "dark")


def test_a_polygon_stays_in_its_place_while_the_map_moves(page):
    corners = around(page, CLUSTER, margin=14)
    page.check("input[name=tool][value=polygon]")
    page.locator("#map-overlay").scroll_into_view_if_needed()
    page.mouse.click(*corners[0])
    page.mouse.click(*corners[1])
    page.mouse.wheel(0, 300)
    page.wait_for_function("() => cryorbitExplorer.map.path.length === 2")
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    page.mouse.click(*corners[2])
    page.mouse.dblclick(*corners[3])
    np.testing.assert_array_equal(selected(page), CLUSTER)
    # Begun on one pair of axes, it is nothing on another.
    page.mouse.click(*corners[0])
    page.select_option("#axis-x", "defocus_um")
    page.wait_for_function("() => cryorbitExplorer.x.name === 'defocus_um' && cryorbitExplorer.map.path === null")
