"""The page of a run served on this machine alone, where selections are exported and every particle can be looked at."""

from __future__ import annotations

import json
import re
import secrets
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from cryorbit.config import make_config
from cryorbit.errors import CryorbitError, ParticleDataError, RunFolderError
from cryorbit.io import read_written
from cryorbit.io.runs import has_report, report_path
from cryorbit.report.explorer.fragment import explorer_section
from cryorbit.report.explorer.sheets import images_of
from cryorbit.report.page import with_explorer
from cryorbit.report.record import RunRecord, read_run
from cryorbit.selection import Choice, export
from cryorbit.selection_file import parse_selection
from cryorbit.thumbnails import pictures_of

HOST = "127.0.0.1"
MOST_REQUEST_BYTES = 64_000_000
MOST_IMAGES = 200
# A page from the own machine opens at once, whatever its size.
MOST_PAGE_BYTES = 400_000_000
_PLAIN_NAME = re.compile(r"[^/\\]{1,200}")


class Review:
    """What the page of a run asks for, without the network.

    Parameters
    ----------
    folder
        Of a run with a report.
    into
        Folder that exports are written to.

    Raises
    ------
    RunFolderError
        If there is no report, or no such folder for exports.
    """

    def __init__(self, folder: Path, into: Path) -> None:
        if not has_report(folder):
            raise RunFolderError(
                f"{folder}: has no report of a finished run; let the run end first, or do 'cryorbit report {folder}'."
            )
        if not into.is_dir():
            raise RunFolderError(f"{into}: is no folder that exports could be written to; make it first.")
        page = report_path(folder)
        self.folder, self.into = folder, into
        self._run = _with_pictures(folder)
        section = explorer_section(self._run, {"served": True}, MOST_PAGE_BYTES)
        self.page = with_explorer(page.read_text(encoding="utf-8"), section, page)
        self._writing = threading.Lock()

    def export(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write the particles of a selection as a file of its own.

        Raises
        ------
        CryorbitError
            If the selection or the name will not do, or the file exists.
        """
        name = str(asked.get("file", "")).strip()
        if not _PLAIN_NAME.fullmatch(name) or not name.isprintable() or name.startswith("."):
            raise ParticleDataError(f"{name!r} is no name of a file: give one such as selected.star, without a folder.")
        saved = parse_selection(asked.get("selection"), "the selection")
        with self._writing:
            if (self.into / name).exists():
                raise ParticleDataError(f"{self.into / name} exists already, and is kept: give another name.")
            done = export(self.folder, self.into / name, Choice("all", selection=saved))
        return {"path": str(done.path), "written": done.written}

    def images(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A sheet of the images of some rows.

        Raises
        ------
        CryorbitError
            If there are no images, or no such rows.
        """
        rows = asked.get("rows")
        n = len(self._run)
        sound = isinstance(rows, list) and 0 < len(rows) <= MOST_IMAGES
        if not sound or not all(isinstance(row, int) and 0 <= row < n for row in rows or []):
            raise ParticleDataError(f"Expected 1 to {MOST_IMAGES} rows between 0 and {n - 1}.")
        if self._run.pictures.images is None:
            raise ParticleDataError("The run's copy of the images is gone, and so are their stacks.")
        sheet = images_of(self._run, np.array(rows, dtype=np.int64), bool(asked.get("aligned")))
        return {"sheet": sheet.address}


def _with_pictures(folder: Path) -> RunRecord:
    """A run, with its images from wherever they still are."""
    run = read_run(folder)
    saved = run.fact("configuration")
    if not isinstance(saved, dict):
        return run
    config = make_config(str(saved.get("preset", "fast")), saved)
    return read_run(folder, pictures_of(folder, config, read_written(folder)))


@dataclass(frozen=True)
class Served:
    """A server that runs until it is told to stop.

    Attributes
    ----------
    server
        Of the page.
    address
        Of the page; the part that cannot be guessed keeps other users of the machine, and pages of others, out.
    """

    server: ThreadingHTTPServer
    address: str

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()


def serve(review: Review, port: int = 0) -> Served:
    """Make a server on 127.0.0.1; ``served.server.serve_forever()`` runs it.

    Parameters
    ----------
    review
        What answers.
    port
        To listen on; any free one for 0.

    Raises
    ------
    CryorbitError
        If the port is taken.
    """
    token = secrets.token_urlsafe(16)
    handler = type("Handler", (_Handler,), {"review": review, "token": token})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        raise CryorbitError(f"Port {port} cannot be used ({error.strerror}): give another --port.") from error
    return Served(server, f"http://{HOST}:{server.server_address[1]}/{token}/")


class _Server(ThreadingHTTPServer):
    """A server that says nothing of clients that hang up."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore what no one waits for any more."""


class _Handler(BaseHTTPRequestHandler):
    """The page, and two questions that it asks."""

    review: Review
    token: str
    server_version = "cryorbit"
    timeout = 60.0  # of a client that sends nothing more
    sys_version = ""

    def do_GET(self) -> None:
        """The page."""
        if self._allowed() and self.path == f"/{self.token}/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.review.page.encode())
        else:
            self._nothing_here()

    def do_POST(self) -> None:
        """An export, or images."""
        questions = {f"/{self.token}/export": self.review.export, f"/{self.token}/images": self.review.images}
        question = questions.get(self.path)
        if question is None or not self._allowed() or self.headers.get_content_type() != "application/json":
            self._nothing_here()
            return
        try:
            self._tell(HTTPStatus.OK, question(self._asked()))
        except CryorbitError as error:
            self._tell(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except Exception as error:  # a full disk, or a name that no disk takes: the page must hear of it
            said = f"{type(error).__name__}: {error}"
            self._tell(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"This went wrong, and nothing was kept: {said}."})

    def _nothing_here(self) -> None:
        text = "Nothing is here: open the whole address that cryorbit review wrote into the terminal.\n"
        self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", text.encode())

    def _allowed(self) -> bool:
        """Whether the request names this machine: a page of others may send a browser here under its own name.

        The port may be another one: that of a tunnel's other end.
        """
        name, _, port = (self.headers.get("Host") or "").rpartition(":")
        return name in (HOST, "localhost") and port.isdigit()

    def _asked(self) -> dict[str, Any]:
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= MOST_REQUEST_BYTES:
                raise ValueError
            asked = json.loads(self.rfile.read(length))
        except (ValueError, RecursionError) as error:
            raise ParticleDataError("The question cannot be read.") from error
        if not isinstance(asked, dict):
            raise ParticleDataError("The question cannot be read.")
        return asked

    def _tell(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(content).encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Say nothing: the page says what happened."""
