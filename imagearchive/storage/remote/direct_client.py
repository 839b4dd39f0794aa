"""Makes clients that work in the process itself."""

from __future__ import annotations

from typing import Final

from imagearchive.storage.path_options import AccessOptions
from imagearchive.storage.remote.client import Client

__all__ = ["HTTP", "make_client"]

#: The schemes for which no package is needed.
HTTP: Final = ("http", "https")


def make_client(scheme: str, bucket: str, options: AccessOptions) -> Client:
    """Return a new client; see `imagearchive.storage.remote.clients.client_for`."""
    if scheme in HTTP:
        from imagearchive.storage.remote.http_client import HttpClient

        return HttpClient(options)
    from imagearchive.storage.remote.cloud_client import CloudClient

    return CloudClient(scheme, bucket, options)
