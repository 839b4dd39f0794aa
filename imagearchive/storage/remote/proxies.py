"""Which proxy leads to an HTTP server, by the environment or by options."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from imagearchive.errors import OptionError

__all__ = ["Proxies", "Proxy"]


class Proxy(NamedTuple):
    """A proxy, and the value of ``Proxy-Authorization`` for it, if it has a password."""

    host: str
    port: int
    authorization: str

    @property
    def name(self) -> str:
        """How to call it in messages."""
        return f"{self.host}:{self.port}"


class Proxies:
    """The proxies that options name, else those of the environment when this was made.

    The variables are ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, and ``NO_PROXY``, also in
    small letters, which come first.

    Parameters
    ----------
    client : mapping
        ``proxy_url`` and ``proxy_excludes`` as obstore takes them.

    Raises
    ------
    OptionError
        A proxy has an address that cannot be used.
    """

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._proxies: dict[str, Proxy] = {}
        url = client.get("proxy_url")
        if url:
            self._excluded = str(client.get("proxy_excludes") or "")
            self._proxies = dict.fromkeys(("http", "https"), _parse("proxy_url", str(url)))
            return
        self._excluded = _variable("no_proxy")[1]
        for scheme in ("http", "https"):
            name, url = _variable(f"{scheme}_proxy")
            if not url:
                name, url = _variable("all_proxy")
            if url:
                self._proxies[scheme] = _parse(name, url)

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy that leads to a server; None if it is asked directly."""
        proxy = self._proxies.get(scheme)
        if proxy is None or _is_excluded(self._excluded, host.lower(), port):
            return None
        return proxy


def _variable(name: str) -> tuple[str, str]:
    """Return the name and the value of a variable; the value is empty if it is not set."""
    upper = name.upper()
    # Where a web server runs this program, a header Proxy of a request sets HTTP_PROXY.
    if upper == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
        return name, os.environ.get(name, "")
    found = name if name in os.environ else upper
    return found, os.environ.get(found, "")


def _parse(name: str, url: str) -> Proxy:
    # Not shown as a whole: it may contain a password.
    text = url if "://" in url else f"http://{url}"
    scheme = text.partition("://")[0].lower()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if scheme != "http" or not host:
        raise OptionError(
            f"{name} must be an address such as http://proxy.example.org:3128, got one that begins "
            f"with {scheme}://; for http:// and https:// URLs, only proxies that are asked "
            f"by HTTP can be used"
        )
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Proxy(host, port, authorization)


def _is_excluded(excluded: str, host: str, port: int) -> bool:
    """Whether a list of hosts, domains, addresses, and networks contains a host."""
    for one in excluded.lower().split(","):
        name = one.strip()
        if name == "*" or (name and name in (host, f"{host}:{port}", f"[{host}]")):
            return True
        domain = name.removeprefix("*").lstrip(".")
        # The end of an address is not a domain.
        if domain and host.endswith(f".{domain}") and not host[-1].isdigit():
            return True
        if "/" in name and _is_in_network(name, host):
            return True
    return False


def _is_in_network(network: str, host: str) -> bool:
    # Imported here, because few programs need it.
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
