"""What `FaultyServer` can do wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Response:
    """What the server is about to send; faults change it.

    Attributes
    ----------
    status : int
    headers : dict
        `content-length` is added when the response is sent, unless it is there.
    body : bytes-like
    whole : bytes-like
        All bytes of the object.
    delay : float
        Seconds to wait first, in addition to the latency of the server.
    keep : int, optional
        How many bytes of the body to send before the connection is closed.
    reset : bool
        Whether the connection is then reset, instead of closed properly.
    silent : bool
        Whether not even the headers are sent.
    chunk : int, optional
        How many bytes to send at a time,
    interval : float
        and how many seconds to wait between them.
    """

    status: int
    headers: dict[str, str]
    body: Any
    whole: Any
    delay: float = 0.0
    keep: int | None = None
    reset: bool = False
    silent: bool = False
    chunk: int | None = None
    interval: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that the server does wrong, and for which requests.

    Attributes
    ----------
    path : str, optional
        Only for this object.
    method : str, optional
        Only for these requests, such as `"GET"`.
    header : tuple of str, optional
        Only for requests with this header and this value; an expired token, for example.
    skip : int
        How many of these requests are answered properly first.
    times : int, optional
        How many are answered wrongly then; by default all.
    """

    path: str | None = None
    method: str | None = None
    header: tuple[str, str] | None = None
    skip: int = 0
    times: int | None = None

    def replacement(self) -> bytes | None:
        """Return the bytes that replace the object before the request is answered, or None."""
        return None

    def change(self, response: Response) -> None:
        """Change the response."""


@dataclass(frozen=True)
class Status(Fault):
    """Answer with another status; `503` with `retry-after`, `429`, `403`, a page to log in."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def change(self, response):
        response.status = self.status
        response.headers = {"content-type": "text/plain", **self.headers}
        response.body = self.body


@dataclass(frozen=True)
class Cut(Fault):
    """End the connection after some bytes of the body: by a reset, or as if all was sent."""

    after: int
    reset: bool = False

    def change(self, response):
        response.keep, response.reset = self.after, self.reset


@dataclass(frozen=True)
class Drop(Fault):
    """End the connection without a response."""

    reset: bool = True

    def change(self, response):
        response.keep, response.reset, response.silent = 0, self.reset, True


@dataclass(frozen=True)
class Shorten(Fault):
    """Send fewer bytes than were asked for, with a length and a range that say so."""

    missing: int

    def change(self, response):
        response.body = response.body[: max(0, len(response.body) - self.missing)]
        spelled = response.headers.get("content-range")
        if spelled and len(response.body):
            unit_start, _, size = spelled.partition("/")
            start = int(unit_start.split()[1].split("-")[0])
            last = start + len(response.body) - 1
            response.headers["content-range"] = f"bytes {start}-{last}/{size}"


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """Send the whole object where a range was asked for."""

    def change(self, response):
        if response.status == 206:
            response.status, response.body = 200, response.whole
            del response.headers["content-range"]
            response.headers.pop("accept-ranges", None)


@dataclass(frozen=True)
class Header(Fault):
    """Send another value of a header, or leave it out."""

    name: str
    value: str | None

    def change(self, response):
        response.headers.pop(self.name, None)
        if self.value is not None:
            response.headers[self.name] = self.value


@dataclass(frozen=True)
class Redirect(Fault):
    """Send the client elsewhere."""

    location: str
    status: int = 302

    def change(self, response):
        response.status, response.body = self.status, b""
        response.headers = {"location": self.location}


@dataclass(frozen=True)
class Delay(Fault):
    """Answer late."""

    seconds: float

    def change(self, response):
        response.delay += self.seconds


@dataclass(frozen=True)
class Drip(Fault):
    """Send the body a few bytes at a time."""

    chunk: int
    interval: float

    def change(self, response):
        response.chunk, response.interval = self.chunk, self.interval


@dataclass(frozen=True)
class Replace(Fault):
    """Replace the object, which changes its ETag, before the request is answered."""

    data: bytes

    def replacement(self):
        return self.data
