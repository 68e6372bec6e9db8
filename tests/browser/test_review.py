"""`cryorbit review`: what is selected on the served page is written, and every particle can be looked at."""

from __future__ import annotations

import base64
import http.client
import json
import threading

import numpy as np
import pytest

from cryorbit import read_particles, run
from cryorbit.errors import RunFolderError
from cryorbit.review import HOST, Review, serve

from ..pipeline_sets import tiny_config, tiny_set


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that only aligned: it kept no copy of its images."""
    folder = tmp_path_factory.mktemp("review")
    star = tiny_set(folder / "set", images=80)
    return run(star, folder / "run", tiny_config(), latent=False)


@pytest.fixture
def served(finished, tmp_path):
    review = Review(finished.folder, tmp_path)
    one = serve(review)
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    yield one
    one.close()
    thread.join()


def ask(served, path, method="GET", host=None, body=None, kind="application/json"):
    port = served.server.server_address[1]
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request(method, path, body, {"Host": host or f"{HOST}:{port}", "Content-Type": kind})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_the_selection_is_written_with_one_button(open_page, served, finished, tmp_path):
    page = open_page(served.address, offline=False)
    page.click("[data-do=dropped]")
    page.fill("#export-name", "junk.star")
    page.click("#export-star")
    page.wait_for_function("() => document.getElementById('review-status').textContent.includes('particles:')")
    dropped = np.flatnonzero(~finished.estimates["kept"].to_numpy())
    written = read_particles(tmp_path / "junk.star", check_images=False)
    expected = finished.particles.take(dropped)
    assert 0 < len(dropped) < 80
    assert list(written.frame["rlnImageName"]) == list(expected.frame["rlnImageName"])
    # Every image of the selection, not a sample.
    page.click("#every-first")
    page.wait_for_selector("#every-image:not([hidden])")
    page.wait_for_function("() => document.getElementById('every-image').naturalWidth > 0")
    numbers = page.inner_text("#every-note").rsplit("numbers ", 1)[1].split(", ")
    assert [int(number) - 1 for number in numbers] == dropped.tolist()[:48]
    page.click("[data-do=all]")
    page.check("#every-aligned")
    page.click("#every-first")
    page.click("#every-next")
    page.wait_for_function(
        "() => document.getElementById('every-note').textContent.includes('Particles 49 to 80 of the 80')"
    )


def test_no_file_is_replaced(finished, tmp_path):
    (tmp_path / "mine.star").write_text("mine")
    one = serve(Review(finished.folder, tmp_path))
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    bits = base64.b64encode(bytes([255] * 10)).decode()
    selection = {"program": "cryorbit", "kind": "selection", "name": "a", "particles": 80, "selected": 80, "bits": bits}
    path = one.address.removeprefix(f"http://{HOST}:{one.server.server_address[1]}")
    for name, says in (
        ("mine.star", "exists already"), ("../b.star", "no name of a file"), ("/tmp/b.star", "no name of a file"),
        (".b.star", "no name of a file"), (f"{'ä' * 190}.star", "went wrong"),
        ("\ud800.star", "no name of a file"), ("a\nb.star", "no name of a file"),
        ("b.txt", "neither a .star nor"), ("b.cs", "ran on a STAR file"),
    ):  # fmt: skip
        status, said = ask(one, f"{path}export", "POST", body=json.dumps({"file": name, "selection": selection}))
        assert status == (500 if says == "went wrong" else 400)
        assert says in json.loads(said)["error"]
    status, said = ask(one, f"{path}images", "POST", body=json.dumps({"rows": [80]}))
    assert status == 400
    assert "between 0 and 79" in json.loads(said)["error"]
    one.close()
    thread.join()
    assert (tmp_path / "mine.star").read_text() == "mine"
    assert {entry.name for entry in tmp_path.iterdir()} == {"mine.star"}


def test_others_are_kept_out(served):
    port = served.server.server_address[1]
    path = served.address.removeprefix(f"http://{HOST}:{port}")
    assert ask(served, path)[0] == 200
    assert ask(served, "/")[0] == 404
    assert ask(served, "/guess/")[0] == 404
    # Another site's page that resolves its own name to this machine.
    assert ask(served, path, host="evil.example")[0] == 404
    # A form of another site cannot send JSON without being asked first.
    assert ask(served, f"{path}export", "POST", body="{}", kind="text/plain")[0] == 404
    # The near end of a tunnel may be another port.
    assert ask(served, path, host="localhost:9000")[0] == 200
    for body in (
        "",
        "[]",
        "{",
        "[" * 200_000,
        '{"file": "a.star"}',
        '{"file": "a.star", "selection": {"kind": "selection"}}',
    ):
        status, said = ask(served, f"{path}export", "POST", body=body)
        assert status == 400
        assert json.loads(said)["error"]


def test_a_run_without_a_page_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="has no report"):
        Review(tmp_path, tmp_path)
