"""The HTTP server of the viewer: who may ask, and which function answers.

It listens on 127.0.0.1 only. Each run has a random token, which the URL of the page contains; the
page then has it as a cookie. A request with another host, as from a page whose name was rebound
to this machine, or from another page, is refused, whatever it contains.
"""

from __future__ import annotations

import http
import http.cookies
import http.server
import importlib.resources
import json
import secrets
import socketserver
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from imagearchive.archive.archive import Archive
from imagearchive.archive.checked_read import iter_chunks
from imagearchive.cli.output import escape_message
from imagearchive.cli.viewer.classes import Classes, SiblingClasses
from imagearchive.cli.viewer.members import describe_content, describe_member, describe_row
from imagearchive.cli.viewer.pictures import Pictures
from imagearchive.cli.viewer.queries import Queries, Query, folder_text
from imagearchive.cli.viewer.samples import FieldSamples
from imagearchive.errors import ImageArchiveError, OptionError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ViewerServer"]

_ADDRESS: Final = "127.0.0.1"
LARGEST_PAGE: Final = 500
MOST_FOLDERS: Final = 2000
_SECONDS_IDLE: Final = 60
# How soon the command notices that it was interrupted.
_SECONDS_PER_WAIT: Final = 0.2
_STATIC: Final = {
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/grid.js": ("grid.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
# Where the page has what it would ask for first.
_FIRST: Final = b'id="first">null<'
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class _RequestError(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ViewerServer(http.server.ThreadingHTTPServer):
    """Serves the page of an archive.

    Parameters
    ----------
    archive : Archive
        It stays open.
    port : int
        By default, any free one.
    samples : FieldSamples, optional
        Which members belong to one sample; by default those of the same name up to the first dot.
    classes : Classes, optional
        By default, those that labels beside the images tell.

    Attributes
    ----------
    url : str
        The page, with the token.
    """

    daemon_threads = True
    block_on_close = False
    timeout = _SECONDS_PER_WAIT

    def __init__(
        self,
        archive: Archive,
        port: int = 0,
        samples: FieldSamples | None = None,
        classes: Classes | None = None,
    ) -> None:
        # If the port is taken, the base class closes what it has not begun.
        self.classes = classes or SiblingClasses(archive, samples)
        with os_errors_for(f"port {port} of {_ADDRESS}"):
            super().__init__((_ADDRESS, port), _Handler)
        self.archive = archive
        self.samples = samples
        self.queries = Queries(archive, self.classes)
        self.pictures = Pictures(archive)
        self.token = secrets.token_urlsafe(24)
        number = self.server_address[1]
        self.hosts = (f"{_ADDRESS}:{number}", f"localhost:{number}")
        # Cookies are shared by all ports of a host.
        self.cookie = f"imagearchive-{number}"
        self.url = f"http://{self.hosts[0]}/?token={self.token}"

    def server_bind(self) -> None:
        """Bind to the address, without the look-up of a name for it."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def server_close(self) -> None:
        """Stop what reads the archive, and close the socket."""
        self.classes.close()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up; report anything else."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: ViewerServer
    protocol_version = "HTTP/1.1"
    server_version = "imagearchive"
    sys_version = ""
    timeout = _SECONDS_IDLE
    # Headers and a body are two writes, and the second would wait for the client's receipt.
    disable_nagle_algorithm = True
    wbufsize = 64 << 10

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the requests of a page are of no interest to who reads the terminal."""

    def do_GET(self) -> None:
        """Answer a request."""
        try:
            self._answer()
        except _RequestError as error:
            self._send_error(error.status, str(error))
        except OptionError as error:
            self._send_error(400, error.message)
        except ImageArchiveError as error:
            self._send_error(422, error.message)
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            self._send_error(500, str(error))

    def _answer(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        given = dict(urllib.parse.parse_qsl(parts.query, errors="surrogateescape"))
        self._check_sender(parts.path, given)
        if parts.path == "/":
            cookie = f"{self.server.cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Strict"
            self._send(self._page(), "text/html; charset=utf-8", {"Set-Cookie": cookie})
            return
        if parts.path in _STATIC:
            name, media_type = _STATIC[parts.path]
            self._send(_static(name), media_type)
            return
        kind, _, rest = parts.path[1:].partition("/")
        answer = _ANSWERS.get(kind)
        if answer is None:
            raise _RequestError(404, "there is no such page")
        answer(self, rest, given)

    def _check_sender(self, path: str, given: dict[str, str]) -> None:
        """Refuse requests of other sites, and those without the token."""
        server = self.server
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0] not in server.hosts:
            raise _RequestError(403, "this server answers requests to 127.0.0.1 only")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in server.hosts]:
            raise _RequestError(403, "this server does not answer other pages")
        if path != "/" and self.headers.get("Sec-Fetch-Site", "none") not in (
            "none",
            "same-origin",
        ):
            raise _RequestError(403, "this server does not answer other pages")
        known = [given.get("token", "")] if path == "/" else []
        try:
            cookies = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
            known += [cookies[server.cookie].value] if server.cookie in cookies else []
        except http.cookies.CookieError:
            pass
        token = server.token.encode()
        if not any(secrets.compare_digest(one.encode("utf-8", "replace"), token) for one in known):
            raise _RequestError(403, "open the URL that the command has printed")

    # --- answers ----------------------------------------------------------------------------

    def _page(self) -> bytes:
        """Return the page, with what it would ask for first."""
        first = json.dumps(
            {
                "overview": self._overview(),
                "folders": self._folders({}),
                "members": self._members({}),
            }
        )
        # A name must not end the element that contains it.
        escaped = first.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
        return _static("index.html").replace(_FIRST, _FIRST.replace(b"null", escaped.encode()))

    def _overview(self) -> dict[str, Any]:
        archive = self.server.archive
        return {
            "archives": [escape_message(path) for path in archive.paths[:100]],
            "count": len(archive),
            "version": archive.table.fingerprint(),
            "left_out": len(archive.left_out),
        }

    def _folders(self, given: dict[str, str]) -> dict[str, Any]:
        folders, count = self.server.queries.folders(given.get("folder", ""), MOST_FOLDERS)
        found = [
            {"name": folder_text(name), "shown": escape_message(name), "count": n}
            for name, n in folders
        ]
        return {"folders": found, "count": count}

    def _members(self, given: dict[str, str]) -> dict[str, Any]:
        start = _number(given.get("start", "0"), "start")
        count = _number(given.get("count", "100"), "count")
        if count > LARGEST_PAGE:
            raise OptionError(f"count must be at most {LARGEST_PAGE}, got {count}")
        positions = self.server.queries.positions(Query.parse(given))
        chosen = list(map(int, positions[start : start + count]))
        rows = [describe_row(self.server.archive, position) for position in chosen]
        return {"total": len(positions), "start": start, "members": rows}

    def _send_folders(self, rest: str, given: dict[str, str]) -> None:
        self._send_json(self._folders(given))

    def _send_members(self, rest: str, given: dict[str, str]) -> None:
        self._send_json(self._members(given))

    def _member(self, rest: str, given: dict[str, str]) -> None:
        position = self._position(rest)
        query = Query.parse(given)
        positions = self.server.queries.positions(query)
        index = self.server.queries.index_of(query, position)
        around: dict[str, Any] = {"index": index, "total": len(positions)}
        if index is not None:
            around["previous"] = int(positions[index - 1]) if index else None
            around["next"] = int(positions[index + 1]) if index + 1 < len(positions) else None
        server = self.server
        described = describe_member(server.archive, position, server.samples)
        name = server.classes.of(position)
        around["class"] = name and escape_message(name)
        self._send_json({**described, **around})

    def _classes(self, rest: str, given: dict[str, str]) -> None:
        self._send_json(self.server.classes.describe(MOST_FOLDERS, read="read" in given))

    def _content(self, rest: str, given: dict[str, str]) -> None:
        self._send_json(describe_content(self.server.archive, self._position(rest)))

    def _thumbnail(self, rest: str, given: dict[str, str]) -> None:
        data = self.server.pictures.thumbnail(self._position(rest))
        # The URL contains a digest of the index.
        self._send(data, "image/jpeg", {"Cache-Control": "private, max-age=3600"})

    def _picture(self, rest: str, given: dict[str, str]) -> None:
        media_type, data = self.server.pictures.large(self._position(rest))
        self._send(data, media_type)

    def _drawn(self, rest: str, given: dict[str, str]) -> None:
        samples, number = self.server.samples, _number(rest, "the sample")
        if samples is None or number >= len(samples):
            raise _RequestError(404, "there is no such sample")
        self._send(samples.draw(number), "image/jpeg")

    def _download(self, rest: str, given: dict[str, str]) -> None:
        archive, position = self.server.archive, self._position(rest)
        info = archive.info(position)
        base = info.name.rpartition("/")[2].encode("utf-8", "surrogateescape")
        name = urllib.parse.quote(base, safe="")
        chunks: Iterator[Buffer] = iter_chunks(archive, position)
        # Its errors come before the status is sent, those of later chunks end the connection.
        first = next(chunks, b"")
        self._send_head(
            200,
            info.size,
            "application/octet-stream",
            {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"},
        )
        self.wfile.write(first)
        try:
            for chunk in chunks:
                self.wfile.write(chunk)
        except ImageArchiveError:
            self.close_connection = True

    def _position(self, text: str) -> int:
        position = _number(text, "the position")
        if position >= len(self.server.archive):
            raise _RequestError(404, f"there are {pluralize(len(self.server.archive), 'member')}")
        return position

    # --- sending ----------------------------------------------------------------------------

    def _send_json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status=status)

    def _send_error(self, status: int, message: str) -> None:
        self._send_json({"error": escape_message(message)}, status)

    def _send(
        self,
        body: bytes,
        media_type: str,
        headers: dict[str, str] | None = None,
        status: int = 200,
    ) -> None:
        self._send_head(status, len(body), media_type, headers or {})
        self.wfile.write(body)

    def _send_head(self, status: int, size: int, media_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        own = {"Content-Type": media_type, "Content-Length": str(size), "Cache-Control": "no-store"}
        for name, value in (_HEADERS | own | headers).items():
            self.send_header(name, value)
        self.end_headers()


_ANSWERS: Final[dict[str, Callable[[_Handler, str, dict[str, str]], None]]] = {
    "folders": _Handler._send_folders,
    "members": _Handler._send_members,
    "member": _Handler._member,
    "classes": _Handler._classes,
    "content": _Handler._content,
    "thumbnail": _Handler._thumbnail,
    "picture": _Handler._picture,
    "drawn": _Handler._drawn,
    "download": _Handler._download,
}


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise OptionError(f"{what} must be a number, got {text[:40]!r}")
    return int(text)


def _static(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath("page", name).read_bytes()
