"""HTTP and HTTPS, by the standard library alone; works after a fork."""

from __future__ import annotations

import base64
import calendar
import contextlib
import email.utils
import errno
import functools
import http.client
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from imagearchive.errors import (
    OptionError,
    RemoteAccessError,
    RemoteError,
    UnsupportedArchiveError,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.path_options import AccessOptions
from imagearchive.storage.remote.client import Listing, ObjectStatus, replaced
from imagearchive.storage.remote.connections import (
    Connections,
    describe_failure,
    origin_of,
    shown_url,
)
from imagearchive.storage.remote.http_response import HttpResponse
from imagearchive.storage.remote.retries import RetryPolicy, TransientError

__all__ = ["HttpClient"]

MAX_REDIRECTS: Final = 10
# Seconds for which the target of a redirect is asked directly. Signed targets last longer.
REDIRECT_LIFETIME: Final = 240.0
# Bytes that one call reads, between two looks at the clock.
_CHUNK: Final = 1 << 18
# A body of this size at most is read to the end, so that its connection can be used again.
_MAX_DRAINED: Final = 1 << 16
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TOKEN: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_CLIENT_OPTIONS: Final = (
    "allow_invalid_certificates", "connect_timeout", "default_headers", "proxy_excludes",
    "proxy_url", "read_timeout", "root_certificate", "timeout", "user_agent",
)  # fmt: skip


class _Answer(NamedTuple):
    """A response whose headers were accepted."""

    status: int
    object: ObjectStatus
    start: int
    body: memoryview


class HttpClient:
    """Requests to HTTP servers; a key is a whole URL.

    Goes through the proxies that the environment names.

    Parameters
    ----------
    options : AccessOptions
        ``client_options`` and ``retry_config`` as obstore takes them, as far as they apply here.
        The headers are sent to the host of the URL only, never to where it redirects.
    """

    def __init__(self, options: AccessOptions) -> None:
        client = _client_options(options.values)
        self._retries = RetryPolicy.from_config(options.values.get("retry_config"))
        self._connections = Connections(client)
        self._headers = _headers(client.get("default_headers") or {})
        if options.user:
            user = base64.b64encode(unquote(options.user).encode()).decode()
            self._headers["Authorization"] = f"Basic {user}"
        self._targets: dict[str, tuple[str, float]] = {}
        self._lost = options.lost

    def status(self, key: str) -> ObjectStatus:
        """Return size and identity, from the answer to a request for the first byte.

        A signed URL is often signed for GET alone, so HEAD is not used.
        """
        answer = self._ask(key, {"Range": "bytes=0-0"}, limit=1)
        return answer.object

    def read(self, key: str, offset: int, size: int, expected: ObjectStatus) -> memoryview:
        """Return a range, by one request; see `Client.read`."""
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", **_condition(expected)}
        answer = self._ask(key, headers, limit=size, expected=expected, start=offset)
        if answer.status != 206:
            # The body was not read.
            raise _ignores_range(key)
        return answer.body

    def read_start(
        self, key: str, size: int, known: str = ""
    ) -> tuple[ObjectStatus, memoryview] | None:
        """Return the beginning of an object, unless it is the known one."""
        headers = {"Range": f"bytes=0-{size - 1}", **_none_match(known)}
        answer = self._ask(key, headers, limit=size)
        if answer.status == 304 or (known and answer.object.identity == known):
            return None
        if answer.status == 200 and answer.object.size > size:
            raise _ignores_range(key)
        return answer.object, answer.body

    def list(self, prefix: str) -> Listing:
        """Raise: HTTP has no way to list files."""
        raise UnsupportedArchiveError(
            f"{shown_url(prefix)}: files on an HTTP server cannot be listed; name them, for "
            f"example with {{000..099}} in place of a wildcard"
        )

    def put(self, key: str, path: str) -> ObjectStatus:
        """Raise: HTTP has no common way to upload files."""
        raise RemoteError(f"{shown_url(key)}: files cannot be uploaded to an HTTP server")

    def delete(self, key: str) -> None:
        """Raise: HTTP has no common way to remove files."""
        raise RemoteError(f"{shown_url(key)}: files on an HTTP server cannot be removed")

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._connections.close()

    def _ask(
        self,
        key: str,
        headers: dict[str, str],
        limit: int,
        expected: ObjectStatus | None = None,
        start: int = 0,
    ) -> _Answer:
        """Send a request until it is answered; return up to `limit` bytes of the body.

        The body of a part is exactly the `limit` bytes from `start` on, as far as the object goes.
        """

        def fail(reason: str) -> Exception:
            return RemoteError(f"{shown_url(key)}: {reason}")

        def attempt() -> _Answer:
            answer = self._follow(key, headers, limit, expected)
            if answer.status == 206:
                found, wanted = len(answer.body), min(limit, answer.object.size - start)
                if (answer.start, found) != (start, wanted):
                    raise TransientError(
                        f"the server sent {found} bytes from {answer.start} on instead of {wanted} "
                        f"from {start} on"
                    )
            return answer

        return self._retries.run(attempt, fail)

    def _follow(
        self, key: str, headers: dict[str, str], limit: int, expected: ObjectStatus | None
    ) -> _Answer:
        """Send a request, follow redirects, and read the answer."""
        url, until = self._targets.get(key, (key, 0.0))
        if until < time.monotonic():
            url = key
        is_remembered = url != key
        deadline = time.monotonic() + self._connections.timeout
        for _ in range(MAX_REDIRECTS + 1):
            own = url == key or origin_of(url) == origin_of(key)
            sent = {**headers, **(self._headers if own else {})}
            with self._connections.get(url, sent) as response:
                code = response.status
                if code in _REDIRECTS:
                    url = _redirected(key, url, response)
                    self._finish(response)
                    continue
                if is_remembered and code in (401, 403, 404, 410):
                    # A signed target has expired: ask for a new one. Other threads may do so, too.
                    self._targets.pop(key, None)
                    raise TransientError(f"the server answered {code}", 0)
                answer = self._accept(key, response, limit, expected, deadline)
            if url != key:
                self._targets[key] = (url, time.monotonic() + REDIRECT_LIFETIME)
            return answer
        raise RemoteError(f"{shown_url(key)}: more than {MAX_REDIRECTS} redirects; is it a loop?")

    def _accept(
        self,
        key: str,
        response: HttpResponse,
        limit: int,
        expected: ObjectStatus | None,
        deadline: float,
    ) -> _Answer:
        """Check a final response, and read its body."""
        code = response.status
        if code in _TRANSIENT:
            self._finish(response)
            raise TransientError(f"the server answered {code} {response.reason}", _wait(response))
        if code == 304:
            self._finish(response)
            return _Answer(code, ObjectStatus(0, ""), 0, memoryview(b""))
        if code == 412 and expected is not None:
            self._finish(response)
            raise replaced(shown_url(key))
        size = _size_of_empty(response)
        if code == 416 and size is not None:
            self._finish(response)
            if expected is not None and expected.size != size:
                raise replaced(shown_url(key))
            return _Answer(code, ObjectStatus(size, _identity(response)), 0, memoryview(b""))
        if code not in (200, 206):
            self._finish(response)
            raise _refusal(key, code, response.reason, self._lost)
        if "html" in (response.getheader("Content-Type") or "") and not _is_page(key):
            raise RemoteAccessError(
                f"{shown_url(key)}: the server sent a web page instead of data; is a login needed, "
                f"or is this the address of a page about the file?"
            )
        found, start, length = _describe_body(key, response)
        if expected is not None and (
            found.size != expected.size
            or (expected.identity and found.identity != expected.identity)
        ):
            raise replaced(shown_url(key))
        if length > limit:
            # Not read, and no memory is allocated for what the headers claim.
            if code == 200:
                return _Answer(code, found, 0, memoryview(b""))
            raise TransientError(f"the server sends {pluralize(length, 'byte')} instead of {limit}")
        body = bytearray(length)
        self._fill(response, memoryview(body), deadline)
        return _Answer(code, found, start, memoryview(body).toreadonly())

    def _fill(self, response: HttpResponse, body: memoryview, deadline: float) -> None:
        """Read the body."""
        done = 0
        try:
            while done < len(body):
                received = response.readinto(body[done : done + _CHUNK])
                if not received:
                    raise TransientError(f"the body ended after {done} of {len(body)} bytes")
                done += received
                if done < len(body) and time.monotonic() > deadline:
                    raise TransientError(
                        f"only {done} of {len(body)} bytes arrived in "
                        f"{self._connections.timeout:g} s"
                    )
            response.finish()
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(
                f"{describe_failure(error)} after {done} of {len(body)} bytes"
            ) from None

    def _finish(self, response: HttpResponse) -> None:
        """Read a short body that nobody wants, so that the connection can be used again."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            response.finish(_MAX_DRAINED)


def _client_options(values: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(set(values) - {"client_options", "retry_config"})
    if unknown:
        raise OptionError(
            f"storage_options of an HTTP server: there is no {unknown[0]!r}; it has "
            f"client_options (such as default_headers, timeout) and retry_config"
        )
    found: Mapping[str, Any] = values.get("client_options") or {}
    unknown = sorted(set(found) - {*_CLIENT_OPTIONS, "allow_http"})
    if unknown:
        raise OptionError(
            f"storage_options of an HTTP server: client_options has no {unknown[0]!r}; it has "
            f"{', '.join(_CLIENT_OPTIONS)}"
        )
    return found


def _headers(given: Mapping[str, Any]) -> dict[str, str]:
    """Return headers as text; what cannot be sent is an error, which does not show it."""
    headers = {}
    for name, value in given.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if not text.isprintable() or not text.isascii() or not _TOKEN.fullmatch(name):
            raise OptionError(
                f"storage_options: the header {name!r} in default_headers must be one line of "
                f"ASCII characters"
            )
        headers[name] = text
    return headers


def _redirected(key: str, url: str, response: HttpResponse) -> str:
    """Return where a response redirects to."""
    try:
        target = urljoin(url, response.getheader("Location") or "")
        origin = origin_of(target)
        is_http = origin.scheme in ("http", "https") and bool(origin.host)
    except ValueError:
        is_http = False
    if not is_http:
        raise RemoteError(f"{shown_url(key)}: the server redirects to something that is not HTTP")
    if origin.scheme == "http" and origin_of(url).scheme == "https":
        raise RemoteError(
            f"{shown_url(key)}: the server redirects to {origin.host} without encryption"
        )
    return target


def _ignores_range(key: str) -> Exception:
    return UnsupportedArchiveError(
        f"{shown_url(key)}: the server ignores the header Range, so parts of the file cannot be "
        f"read; use a server that supports byte ranges, or download the file"
    )


def _refusal(key: str, code: int, reason: str, lost: bool) -> Exception:
    """Return the error for an answer that will not change."""
    shown = shown_url(key)
    if code in (404, 410):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown)
    if code == 407:
        return RemoteAccessError(
            f"{shown}: access is denied by the proxy (407 {reason}); check the user and the "
            f"password in its address"
        )
    if code in (401, 403):
        why = (
            "its credentials were pickled by another program; pass storage_options again"
            if lost
            else "check the credentials, and whether they have expired"
        )
        return RemoteAccessError(f"{shown}: access is denied ({code} {reason}); {why}")
    return RemoteError(f"{shown}: the server answered {code} {reason}")


def _describe_body(key: str, response: HttpResponse) -> tuple[ObjectStatus, int, int]:
    """Return what the headers say: the object, and offset and length of the body."""
    modified = response.getheader("Last-Modified")
    mtime_ns = _nanoseconds(modified) if modified else 0
    identity = _identity(response)
    if (response.getheader("Content-Encoding") or "identity") != "identity":
        raise UnsupportedArchiveError(
            f"{shown_url(key)}: the server compresses the file while it sends it, so parts of it "
            f"cannot be read"
        )
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range") or "")
        if match is None or match[1] is None:
            raise RemoteError(f"{shown_url(key)}: the server does not say which range it sends")
        start, stop, size = int(match[1]), int(match[2]) + 1, int(match[3])
        if not start < stop <= size or response.length not in (None, stop - start):
            raise RemoteError(
                f"{shown_url(key)}: the server sends a body of {response.length} bytes as the "
                f"bytes from {start} to {stop} of {size}"
            )
        return ObjectStatus(size, identity, mtime_ns), start, stop - start
    if response.length is None:
        raise UnsupportedArchiveError(
            f"{shown_url(key)}: the server does not say how large the file is"
        )
    return ObjectStatus(response.length, identity, mtime_ns), 0, response.length


# The answers to requests for one object say the same.
@functools.lru_cache(maxsize=256)
def _nanoseconds(date: str) -> int:
    parsed = email.utils.parsedate(date)
    return calendar.timegm(parsed) * 10**9 if parsed else 0


def _identity(response: HttpResponse) -> str:
    etag = response.getheader("ETag")
    if etag:
        return f"etag={etag}"
    modified = response.getheader("Last-Modified")
    return f"modified={modified}" if modified else ""


def _size_of_empty(response: HttpResponse) -> int | None:
    match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range") or "")
    return int(match[3]) if match and match[1] is None else None


def _condition(expected: ObjectStatus) -> dict[str, str]:
    """Return the header that makes a server refuse another object.

    A weak ETag matches none, by the rules of HTTP; then only the answer is compared.
    """
    name, _, value = expected.identity.partition("=")
    if name == "etag" and not value.startswith("W/"):
        return {"If-Match": value}
    return {"If-Unmodified-Since": value} if name == "modified" else {}


def _none_match(known: str) -> dict[str, str]:
    name, _, value = known.partition("=")
    if name == "etag":
        return {"If-None-Match": value}
    return {"If-Modified-Since": value} if name == "modified" else {}


def _wait(response: HttpResponse) -> float | None:
    """Return how long a server asks to wait, in seconds."""
    try:
        return max(0.0, float(response.getheader("Retry-After") or ""))
    except ValueError:
        return None


def _is_page(url: str) -> bool:
    return urlsplit(url).path.lower().endswith((".html", ".htm"))
