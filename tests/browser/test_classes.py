"""The page of a classification: a class that is clicked on is what is counted, and what is saved."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cryorbit.classified import classify
from cryorbit.selection import Choice, export
from cryorbit.selection_file import read_selection

from ..browsing import downloaded
from ..pipeline_sets import class_config, many_views


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    return classify(many_views(folder / "set", images=150), folder / "out", class_config(5))


@pytest.fixture
def page(open_page, classes):
    page = open_page(classes.folder / "report.html")
    page.wait_for_function("() => document.getElementById('cards').dataset.ready === 'true'")
    return page


def selected(page) -> np.ndarray:
    """Rows that the page has selected now."""
    return np.flatnonzero(page.evaluate("Array.from(cryorbitExplorer.selected())"))


def pressed(page) -> list[int]:
    cards = page.locator(".class-cards button[aria-pressed=true]")
    return [int(card.get_attribute("data-class")) for card in cards.all()]


def test_it_begins_with_the_kept_classes(page, classes):
    np.testing.assert_array_equal(selected(page), np.flatnonzero(classes.estimates["kept"]))
    assert pressed(page) == classes.classes.loc[classes.classes["kept"], "class"].tolist()


def test_classes_are_taken_in_and_out(page, classes):
    number, kept = classes.estimates["class"].to_numpy(), classes.estimates["kept"].to_numpy()
    page.click("[data-classes=none]")
    assert len(selected(page)) == 0
    page.click(".class-cards button[data-class='2']")
    np.testing.assert_array_equal(selected(page), np.flatnonzero((number == 2) & kept))
    page.click(".class-cards button[data-class='1']")
    np.testing.assert_array_equal(selected(page), np.flatnonzero((number <= 2) & kept))
    page.click(".class-cards button[data-class='2']")
    np.testing.assert_array_equal(selected(page), np.flatnonzero((number == 1) & kept))
    page.uncheck("#classes-clean")
    np.testing.assert_array_equal(selected(page), np.flatnonzero(number == 1))


def test_a_rejected_class_can_be_had_all_the_same(page, classes):
    rejected = classes.classes.loc[~classes.classes["kept"], "class"].tolist()
    if not rejected:
        pytest.skip("this set has no rejected class")
    page.click("[data-classes=none]")
    page.click(f".class-cards button[data-class='{rejected[0]}']")
    expected = np.flatnonzero(classes.estimates["class"] == rejected[0])
    np.testing.assert_array_equal(selected(page), expected)


def test_the_cards_follow_what_is_selected_elsewhere(page):
    page.click("[data-do=none]")
    assert pressed(page) == []
    page.click("[data-do=undo]")
    assert pressed(page) != []


def test_what_is_saved_is_exported(page, classes, tmp_path):
    page.click("[data-classes=none]")
    page.click(".class-cards button[data-class='1']")
    rows = selected(page)
    downloaded(page, "#save-selection").save_as(tmp_path / "saved.json")
    np.testing.assert_array_equal(np.flatnonzero(read_selection(tmp_path / "saved.json").chosen), rows)
    done = export(classes.folder, tmp_path / "one.star", Choice(selection=tmp_path / "saved.json"))
    assert done.written == len(rows)
    assert pd.read_parquet(classes.folder / "estimates.parquet")["class"].to_numpy()[rows].tolist() == [1] * len(rows)
