"""An HTTP proxy that leads every request to one server, and remembers them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_HEADERS_OF_PROXIES = ("proxy-authorization", "proxy-connection")


@dataclass
class Proxy:
    """A proxy that runs.

    Attributes
    ----------
    port : int
    requests : list of tuple of str
        Method and target of each request that was passed on.
    """

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)

    def url(self, user: str = "") -> str:
        """Return the address of the proxy."""
        return f"http://{user + '@' if user else ''}127.0.0.1:{self.port}"


@contextlib.contextmanager
def proxy(to: int, user: str = "") -> Iterator[Proxy]:
    """Run a proxy in threads of this process.

    Parameters
    ----------
    to : int
        The port of 127.0.0.1 to which it leads, whatever server was asked for. So what was asked
        for need not exist.
    user : str
        ``user:password`` that it asks for, if any.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def pass_on(self) -> None:
            if not self.is_allowed():
                return
            made.requests.append((self.command, self.path))
            size = int(self.headers.get("content-length", 0))
            sent = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _HEADERS_OF_PROXIES
            }
            upstream = http.client.HTTPConnection("127.0.0.1", to, timeout=30)
            try:
                _, _, rest = self.path.partition("://")
                target = "/" + rest.partition("/")[2]
                upstream.request(self.command, target, self.rfile.read(size) or None, sent)
                answer = upstream.getresponse()
                body = answer.read()
            finally:
                upstream.close()
            self.send_response(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = pass_on

        def do_CONNECT(self) -> None:
            if not self.is_allowed():
                return
            made.requests.append((self.command, self.path))
            with socket.create_connection(("127.0.0.1", to)) as upstream:
                self.send_response(200)
                self.end_headers()
                _copy_both_ways(self.connection, upstream)
            self.close_connection = True

        def is_allowed(self) -> bool:
            expected = f"Basic {base64.b64encode(user.encode()).decode()}"
            if not user or self.headers.get("proxy-authorization") == expected:
                return True
            self.send_response(407)
            self.send_header("proxy-authenticate", 'Basic realm="tests"')
            self.send_header("content-length", "0")
            self.end_headers()
            return False

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.block_on_close = False
        made = Proxy(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _copy_both_ways(one: socket.socket, other: socket.socket) -> None:
    targets = {one: other, other: one}
    while True:
        for ready in select.select([one, other], [], [])[0]:
            data = ready.recv(1 << 16)
            if not data:
                return
            targets[ready].sendall(data)
