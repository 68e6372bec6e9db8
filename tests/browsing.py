"""A browser without a network, and pages in it; the tests skip where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the page's tests are skipped")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Opens a page from the disk, with networking off; whatever the console complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_it(path: Path | str, offline: bool = True, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **options)
        contexts.append(context)
        if offline:
            context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda asked: complaints.append(asked.url) if offline and asked.url.startswith("http") else None
        )
        page.goto(path if isinstance(path, str) else path.resolve().as_uri())
        page.wait_for_selector("#explorer[data-ready]", timeout=30_000)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


def lasso(page, corners, key=None):
    """Draw around places of the screen with the mouse."""
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
    """What clicking a button saves."""
    with page.expect_download() as found:
        page.click(button)
    return found.value
