"""The page from the disk: what is drawn around, counted and saved is the same."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cryorbit.selection_file import read_selection

from ..browsing import downloaded, lasso
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


def test_it_begins_with_what_the_run_kept(page, run_folder):
    kept = pd.read_parquet(run_folder / "estimates.parquet")["kept"].to_numpy()
    np.testing.assert_array_equal(selected(page), np.flatnonzero(kept))
    assert count(page) == kept.sum()


def test_a_cluster_that_is_drawn_around_is_what_is_saved(page, tmp_path):
    lasso(page, around(page, CLUSTER))
    assert count(page) == len(CLUSTER)
    page.fill("#selection-name", "the middle")
    for button in ("#save-selection", "#selections button:has-text('Save again')"):
        file = downloaded(page, button)
        assert file.suggested_filename == "the_middle.json"
        file.save_as(tmp_path / "saved.json")
        np.testing.assert_array_equal(np.flatnonzero(read_selection(tmp_path / "saved.json").chosen), CLUSTER)
        page.click("[data-do=none]")
    page.click("#selections button:has-text('Show')")
    assert count(page) == len(CLUSTER)
    downloaded(page, "#download-ids").save_as(tmp_path / "numbers.txt")
    head, *numbers = (tmp_path / "numbers.txt").read_text().splitlines()
    assert head.startswith("#")
    assert [int(line) - 1 for line in numbers] == CLUSTER.tolist()
    # A later visit takes it up again; one of another run is refused.
    page.reload()
    page.wait_for_selector("#explorer[data-ready]")
    page.set_input_files("#selection-file", tmp_path / "saved.json")
    page.wait_for_selector("#selections b")
    np.testing.assert_array_equal(selected(page), CLUSTER)
    other = json.loads((tmp_path / "saved.json").read_text()) | {"rows": "another"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    page.set_input_files("#selection-file", tmp_path / "other.json")
    page.wait_for_selector("#selection-problem:not([hidden])")
    assert page.inner_text("#selection-problem") == "other.json: is a selection of another run."


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


def add_filter(page, name):
    page.select_option("#add-filter", name)
    page.click("[data-do=filter]")
    page.wait_for_function("(name) => cryorbitExplorer.filters.some((f) => f.column.name === name)", arg=name)


def filter_of(page, name):
    return page.locator("fieldset.filter", has=page.locator(f"legend:text-is('{name}')"))


def test_a_filter_takes_numbers_and_yes_or_no(page, run_folder):
    estimates = pd.read_parquet(run_folder / "estimates.parquet")
    page.click("[data-do=all]")
    field = filter_of(page, "defocus (µm)").get_by_label("to, as a number")
    field.fill("1.4")
    field.press("Enter")
    expected = estimates["defocus_um"].to_numpy() <= 1.4
    assert 0 < expected.sum() < N
    np.testing.assert_array_equal(selected(page), np.flatnonzero(expected))
    add_filter(page, "kept")
    menu = filter_of(page, "kept by the run").locator("select")
    for word, wanted in (("yes", True), ("no", False)):
        menu.select_option(word)
        np.testing.assert_array_equal(
            selected(page), np.flatnonzero(expected & (estimates["kept"].to_numpy() == wanted))
        )
    # A value that is no number changes nothing, and what was done is undone in turn, the added filter too.
    field.fill("")
    field.press("Enter")
    assert field.input_value() == "1.40"
    for _ in range(3):
        page.click("[data-do=undo]")
    assert filter_of(page, "kept by the run").count() == 0
    np.testing.assert_array_equal(selected(page), np.flatnonzero(expected))
    page.click("[data-do=undo]")
    assert count(page) == N


def test_what_follows_a_typed_number_still_happens(page, run_folder):
    """Leaving a field applies it; the button that was pressed meanwhile stays where it was."""
    page.click("[data-do=all]")
    field = filter_of(page, "defocus (µm)").get_by_label("to, as a number")
    field.fill("1.4")
    assert downloaded(page, "#save-selection").suggested_filename == "selection_1.json"
    assert count(page) < N
    field.focus()
    field.fill("1.2")
    field.press("Enter")
    assert page.evaluate("document.activeElement.type") == "number"
    # One end pushes the other along.
    least = filter_of(page, "defocus (µm)").get_by_label("from, as a number")
    least.fill("1.6")
    least.press("Enter")
    assert field.input_value() == "1.60"
    field.fill("2")
    field.press("Enter")
    defocus = pd.read_parquet(run_folder / "estimates.parquet")["defocus_um"].to_numpy()
    np.testing.assert_array_equal(selected(page), np.flatnonzero((defocus >= 1.6) & (defocus <= 2)))
    filter_of(page, "defocus (µm)").locator("button.remove").click()
    assert page.evaluate("document.activeElement.tagName") != "BODY"


def test_a_range_of_angles_goes_through_half_a_turn(page, run_folder):
    page.click("[data-do=all]")
    add_filter(page, "psi_deg")
    box = filter_of(page, "in-plane angle (°)")
    for name, value in (("from", "150"), ("to", "-160")):
        box.get_by_label(f"{name}, as a number").fill(value)
        box.get_by_label(f"{name}, as a number").press("Enter")
    psi = pd.read_parquet(run_folder / "estimates.parquet")["psi_deg"].to_numpy()
    psi = (psi + 180) % 360 - 180
    np.testing.assert_array_equal(selected(page), np.flatnonzero((psi >= 150) | (psi <= -160)))


def test_a_hand_that_trembles_draws_nothing(page):
    before = selected(page)
    page.locator("#map-overlay").scroll_into_view_if_needed()
    box = page.locator("#map-overlay").bounding_box()
    x, y = box["x"] + 200, box["y"] + 200
    page.mouse.move(x, y)
    page.mouse.down()
    for dx, dy in ((3, 2), (5, 5), (1, 4)):
        page.mouse.move(x + dx, y + dy)
    page.mouse.up()
    np.testing.assert_array_equal(selected(page), before)


def test_the_last_axis_that_was_asked_for_is_shown(page):
    page.evaluate(
        """() => { const menu = document.getElementById("axis-x");
        for (const name of ["defocus_um", "psi_deg", "pc2", "psi_std_deg"]) {
            menu.value = name; menu.dispatchEvent(new Event("change")); } }"""
    )
    page.wait_for_function("() => cryorbitExplorer.x.name === 'psi_std_deg'")
    page.wait_for_timeout(100)
    assert page.evaluate("[cryorbitExplorer.x.name, document.getElementById('axis-x').value]") == ["psi_std_deg"] * 2


def test_whole_numbers_are_chosen_as_such(page):
    page.click("[data-do=all]")
    add_filter(page, "rlnClassNumber")
    box = filter_of(page, "class, rlnClassNumber")
    classes = np.arange(N) % 7 + 1
    for name, value in (("from", 3), ("to", 5)):
        field = box.get_by_label(f"{name}, as a number")
        field.fill(str(value))
        field.press("Enter")
        assert field.input_value() == str(value)
    np.testing.assert_array_equal(selected(page), np.flatnonzero((classes >= 3) & (classes <= 5)))


def test_a_slider_that_comes_back_is_nothing_to_undo(page):
    before = selected(page)
    slider = filter_of(page, "defocus (µm)").locator("input[type=range]").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    at, y = box["x"] + 8, box["y"] + box["height"] / 2
    page.mouse.move(at, y)
    page.mouse.down()
    page.mouse.move(at + 60, y, steps=5)
    assert len(selected(page)) < len(before)
    page.mouse.move(at - 4, y, steps=5)
    page.mouse.up()
    assert page.evaluate("[cryorbitExplorer.done.length, cryorbitExplorer.before]") == [0, None]
    np.testing.assert_array_equal(selected(page), before)
    # Steps of one slider that follow each other at once are one thing to undo.
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert len(selected(page)) < len(before)
    page.click("[data-do=undo]")
    np.testing.assert_array_equal(selected(page), before)


def test_values_beyond_a_column_s_ends_are_not_shown_as_exact(page):
    # The ends of a column that levels tell apart, and those that it has.
    said = page.evaluate(
        """() => { const c = new cryorbitExplorer.columns[0].constructor({ kind: "number", low: 0, high: 6, least: 0,
        most: 300, whole: false }, 1); return [c.format(65534), c.format(0), c.format(32767), c.say(0.1832)]; }"""
    )
    assert said == ["≥ 6.00 (up to 300.00)", "0.00", "3.00", "0.18"]


def swipe(page, begin, step):
    """Fingers that begin at some places of the map, from its middle, and go on by as much as often."""
    page.locator("#map-overlay").scroll_into_view_if_needed()
    box = page.locator("#map-overlay").bounding_box()
    middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    client = page.context.new_cdp_session(page)
    for k in range(8):
        places = [middle + np.array(at) + k * np.array(by) for at, by in zip(begin, step, strict=True)]
        points = [{"x": float(x), "y": float(y), "id": number} for number, (x, y) in enumerate(places)]
        kind = "touchStart" if k == 0 else "touchMove"
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_fingers_scroll_tap_and_zoom_and_select_only_when_asked(open_page, run_folder):
    page = open_page(run_folder / "report.html", has_touch=True, is_mobile=True)
    before = selected(page)
    assert page.is_checked("input[name=tool][value=pan]")
    view = "[cryorbitExplorer.map.view.x1 - cryorbitExplorer.map.view.x0, cryorbitExplorer.map.view.y0]"
    shown = page.evaluate(view)
    swipe(page, [(0, 0)], [(0, -12)])
    assert page.evaluate(view) == shown
    page.focus("#map-overlay")
    swipe(page, [(0, 0)], [(0, -12)])
    assert page.evaluate(view)[1] < shown[1]
    swipe(page, [(-30, 0), (30, 0)], [(-9, 0), (9, 0)])
    assert page.evaluate(view)[0] < 0.7 * shown[0]
    np.testing.assert_array_equal(selected(page), before)
    # A shape by single taps, closed by its button.
    page.click("[data-do=reset]")
    page.check("input[name=tool][value=polygon]")
    for corner in around(page, CLUSTER, margin=14):
        page.touchscreen.tap(*corner)
    page.click("#close-shape")
    np.testing.assert_array_equal(selected(page), CLUSTER)
    assert not page.is_visible("#close-shape")


def test_the_page_scrolls_past_a_map_that_was_not_clicked(page):
    page.evaluate("window.scrollTo(0, 0)")
    page.locator("#map-overlay").scroll_into_view_if_needed()
    box = page.locator("#map-overlay").bounding_box()
    view, top = page.evaluate("[JSON.stringify(cryorbitExplorer.map.view), window.scrollY]")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, 200)
    page.wait_for_function("(top) => window.scrollY > top", arg=top)
    assert page.evaluate("JSON.stringify(cryorbitExplorer.map.view)") == view


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
    page.focus("#map-overlay")
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
    add_filter(page, "rlnMicrographName")
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
