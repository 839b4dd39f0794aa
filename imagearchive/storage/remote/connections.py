"""Connections to HTTP servers, directly or through a proxy, which are kept and used again."""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from imagearchive.errors import OptionError, RemoteAccessError, RemoteError
from imagearchive.storage.remote.http_response import HttpResponse
from imagearchive.storage.remote.proxies import Proxies, Proxy
from imagearchive.storage.remote.retries import TransientError, seconds_of

__all__ = ["Connections", "Origin", "describe_failure", "origin_of", "shown_url"]

# Idle connections to keep for each server.
MAX_IDLE: Final = 64
# What http.client says of a proxy that refuses to connect.
_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")


class Origin(NamedTuple):
    """A server; connections belong to one."""

    scheme: str
    host: str
    port: int


class Connections:
    """Sends requests on connections that stay open; safe for threads, not for processes.

    Parameters
    ----------
    client : mapping
        Timeouts, certificates, and proxies, as obstore calls them in ``client_options``.

    Attributes
    ----------
    timeout : float
        Seconds that a whole request may take.
    """

    def __init__(self, client: Mapping[str, Any]) -> None:
        self.timeout = seconds_of("timeout", client.get("timeout", 30.0))
        self._connect_timeout = seconds_of("connect_timeout", client.get("connect_timeout", 5.0))
        self._read_timeout = seconds_of("read_timeout", client.get("read_timeout", self.timeout))
        agent = str(client.get("user_agent", "imagearchive"))
        self._common = {"Accept-Encoding": "identity", "User-Agent": agent}
        self._tls = _TlsContext(client)
        self._proxies = Proxies(client)
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[HttpResponse]:
        """Send a request; the connection is kept if the body has been read at the end."""
        origin, target = _split(url)
        proxy = self._proxies.find(*origin)
        idle = self._idle.setdefault(origin, [])
        sent = {"Host": _host_header(origin), **self._common, **headers}
        if proxy is not None and origin.scheme == "http":
            target = f"http://{urlsplit(url).netloc.rpartition('@')[2]}{target}"
            sent |= _proxy_headers(proxy)
        try:
            connection, response = self._send(idle.pop(), url, target, sent, proxy)
        except (IndexError, TransientError):
            # There is no idle connection; or the server has closed it, and so probably all.
            _close_all(idle)
            connection = self._connect(origin, proxy)
            connection, response = self._send(connection, url, target, sent, proxy)
        try:
            yield response
        finally:
            if response.can_be_followed and len(idle) < MAX_IDLE:
                idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close the connections that are not in use."""
        for idle in self._idle.values():
            _close_all(idle)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        url: str,
        target: str,
        headers: dict[str, str],
        proxy: Proxy | None,
    ) -> tuple[http.client.HTTPConnection, HttpResponse]:
        """Send a request and wait for the headers of the answer."""
        try:
            request = _request(target, headers)
            if connection.sock is None:
                connection.connect()
            connected: socket.socket = connection.sock
            connected.settimeout(self._read_timeout)
            connected.sendall(request)
            return connection, HttpResponse(connected, time.monotonic() + self.timeout)
        except (ssl.SSLCertVerificationError, ssl.CertificateError) as error:
            connection.close()
            raise RemoteError(
                f"{shown_url(url)}: the certificate of the server is not trusted "
                f"({getattr(error, 'verify_message', error)})"
            ) from None
        except (http.client.InvalidURL, UnicodeError):
            # Their texts contain what was sent.
            connection.close()
            raise RemoteError(f"{shown_url(url)}: not a valid address of a server") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _failure(url, error, proxy) from None

    def _connect(self, origin: Origin, proxy: Proxy | None) -> http.client.HTTPConnection:
        scheme, host, port = origin
        at = (host, port) if proxy is None else (proxy.host, proxy.port)
        if scheme == "http":
            return http.client.HTTPConnection(*at, timeout=self._connect_timeout)
        connection = http.client.HTTPSConnection(
            *at, timeout=self._connect_timeout, context=self._tls.get()
        )
        if proxy is not None:
            connection.set_tunnel(host, port, _proxy_headers(proxy))
        return connection


class _TlsContext:
    """Made at the first use, which reads all certificates of the system."""

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._client = client
        self._context: ssl.SSLContext | None = None

    def get(self) -> ssl.SSLContext:
        if self._context is None:
            context = ssl.create_default_context()
            root = self._client.get("root_certificate")
            if root is not None:
                context.load_verify_locations(
                    cadata=root.decode() if isinstance(root, bytes) else str(root)
                )
            if _flag(self._client.get("allow_invalid_certificates", False)):
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._context = context
        return self._context


# What is not quoted in a URL: it is reserved, or quoted already.
_SAFE: Final = "/:@!$&'()*+,;=~%?[]"


def shown_url(url: str) -> str:
    """Return a URL without what may be a credential."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def origin_of(url: str) -> Origin:
    """Return the server of a URL."""
    return _split(url)[0]


# Most requests are for few URLs, again and again.
@functools.lru_cache(maxsize=4096)
def _split(url: str) -> tuple[Origin, str]:
    """Return the server of a URL, and what is requested from it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        server = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        raise OptionError(f"{server}: not a valid host") from None
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    try:
        port = parts.port or (443 if scheme == "https" else 80)
    except ValueError:
        raise OptionError(f"{scheme}://{host}: not a valid port") from None
    if not host.isprintable() or " " in host or not _can_be_encoded(host):
        raise OptionError(f"{scheme}://{host}: not a valid host")
    target = quote(parts.path or "/", safe=_SAFE)
    target += "?" + quote(parts.query, safe=_SAFE) if parts.query else ""
    return Origin(scheme, host, port), target


def _can_be_encoded(host: str) -> bool:
    try:
        _encode_host(host)
    except UnicodeError:
        return False
    return True


def _encode_host(host: str) -> str:
    """Return a host as it is sent; raises `UnicodeError` for one that cannot exist."""
    return host if host.isascii() else host.encode("idna").decode()


def describe_failure(error: Exception) -> str:
    """Return what went wrong on a connection."""
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)):
        return "the connection was closed"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _failure(url: str, error: Exception, proxy: Proxy | None) -> Exception:
    """Return the error to raise for one of a connection."""
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        what = "there is no such host"
        if proxy is not None:
            what = f"there is no such proxy as {proxy.name}"
        return RemoteError(f"{shown_url(url)}: {what}")
    refused = _TUNNEL.search(str(error))
    if refused and proxy is not None:
        if refused[1] in ("401", "403", "407"):
            return RemoteAccessError(
                f"{shown_url(url)}: the proxy {proxy.name} denies access ({refused[1]}); check "
                f"the user and the password in its address"
            )
        return TransientError(f"the proxy {proxy.name} answered {refused[1]}")
    via = "" if proxy is None else f" (through the proxy {proxy.name})"
    return TransientError(describe_failure(error) + via)


def _host_header(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else _encode_host(origin.host)
    standard = 443 if origin.scheme == "https" else 80
    return host if origin.port == standard else f"{host}:{origin.port}"


def _request(target: str, headers: Mapping[str, str]) -> bytes:
    """Return what is sent; raises `UnicodeError` for what is not one line of Latin-1 each."""
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if not all(map(str.isprintable, lines)):
        # Such as an identity in an index that somebody else wrote.
        raise UnicodeError
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _proxy_headers(proxy: Proxy) -> dict[str, str]:
    return {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}


def _close_all(idle: list[http.client.HTTPConnection]) -> None:
    """Close connections; other threads may take some of the list."""
    with contextlib.suppress(IndexError):
        while True:
            idle.pop().close()


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("1", "true", "yes", "on")
