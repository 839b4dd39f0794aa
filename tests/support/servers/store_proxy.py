"""A proxy in front of an object store, which makes mistakes with uploads when told to."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

#: Takes method and target of a request; returns a status to answer with, or None to forward it.
Mistake = Callable[[str, str], "int | None"]


class StoreProxy:
    """Forwards the requests to a store, and remembers them.

    Attributes
    ----------
    url : str
    requests : list of (str, str)
        Method and target of each, in the order in which they came.
    mistake : callable, optional
        Called with each of them.
    """

    def __init__(self, target: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self.mistake: Mistake | None = None
        proxy, there = self, urlsplit(target)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests.append((self.command, self.path))
                status = proxy.mistake and proxy.mistake(self.command, self.path)
                if status:
                    self.answer(status, {}, b"")
                    return
                connection = http.client.HTTPConnection(there.hostname or "", there.port)
                with contextlib.closing(connection):
                    connection.request(self.command, self.path, body, dict(self.headers.items()))
                    found = connection.getresponse()
                    headers = dict(found.getheaders())
                    self.answer(found.status, headers, found.read())

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[StoreProxy]:
        """Serve in a thread until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
