"""Locations that URLs name."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from imagearchive.errors import ArchiveNotFoundError, OptionError
from imagearchive.storage.local import MemoryStorage, unknown_kind
from imagearchive.storage.location import Entry, Location, Status
from imagearchive.storage.path_options import (
    PathWithOptions,
    hide_credentials,
    options_of,
    server_of,
)
from imagearchive.storage.protocol import FileStorage, StorageKind
from imagearchive.storage.remote.client import Client, ObjectStatus
from imagearchive.storage.remote.clients import client_for
from imagearchive.storage.remote.local_copy import open_copy
from imagearchive.storage.remote.storage import RemoteStorage

if TYPE_CHECKING:
    from imagearchive.storage.remote.block_cache import ObjectBlocks

__all__ = ["RemoteLocation", "locate_url"]

_HTTP: Final = ("http", "https")
#: Seconds for which one location object remembers its status: for what is done with it in a row.
STATUS_LIFETIME: Final = 1.0


def locate_url(url: str) -> RemoteLocation:
    """Return the location of a URL, which may be a `PathWithOptions`."""
    return RemoteLocation(url)


class RemoteLocation:
    """An object in a bucket or on an HTTP server, or a directory in a bucket.

    What looks like a directory in a bucket is the common beginning of keys. HTTP has no
    directories that could be listed.

    Parameters
    ----------
    url : str
        May carry options. Credentials in the URL itself, such as those of a signed URL, become
        options, so `path` does not contain them.
    """

    local_path = None

    def __init__(self, url: str) -> None:
        url = hide_credentials(url)
        self._options = options_of(url)
        scheme, _, rest = str(url).partition("://")
        self._scheme = scheme.lower()
        host, _, key = rest.partition("/")
        if not host:
            raise OptionError(f"{url}: this URL names no {self._what_is_missing}")
        self._host = host
        self._key, _, self._query = key.partition("?") if self._scheme in _HTTP else (key, "", "")
        text = f"{self._scheme}://{host}/{key}"
        self._seen: tuple[Status, float] | None = None
        self.path: str = PathWithOptions(text, self._options)

    @property
    def _what_is_missing(self) -> str:
        return "server" if self._scheme in _HTTP else "bucket"

    @property
    def name(self) -> str:
        """The last component of the path."""
        name = posixpath.basename(self._key.rstrip("/"))
        return unquote(name) if self._scheme in _HTTP else name

    @property
    def pattern(self) -> str:
        """The part of the path in which wildcards have a meaning."""
        return f"{self._scheme}://{self._host}/{self._key}"

    @property
    def parent(self) -> RemoteLocation:
        """The directory that holds it; that of a bucket is the bucket."""
        folder = posixpath.dirname(self._key.rstrip("/"))
        return self._below(folder + "/" if folder else "")

    def join(self, name: str) -> RemoteLocation:
        """Return the location of a relative path below this directory."""
        if self._scheme in _HTTP:
            name = quote(name, safe="/:@!$&'()*+,;=~{}[]")
        key = posixpath.normpath(posixpath.join("/" + self._key, name)).lstrip("/")
        return self._below(key)

    def relative(self, other: str) -> str:
        """Return the path of another location relative to this directory."""
        there = RemoteLocation(other)
        if (there._scheme, there._host) != (self._scheme, self._host):
            raise OptionError(
                f"{other}: not in the same bucket or on the same server as {self.path}"
            )
        found = posixpath.relpath("/" + there._key, "/" + self._key)
        return unquote(found) if self._scheme in _HTTP else found

    def is_same(self, other: Location) -> bool:
        """Whether another location has the same URL."""
        return other.path == self.path

    def make_directory(self) -> None:
        """Do nothing: a bucket has no directories that would have to be made."""

    def status(self) -> Status:
        """Return size, identity, and type.

        Raises
        ------
        FileNotFoundError
            There is no such object, and no object below it.
        RemoteError
            The server cannot be asked.
        """
        seen = self._seen
        if seen is not None and time.monotonic() < seen[1]:
            return seen[0]
        status = self._ask_status()
        self._seen = (status, time.monotonic() + STATUS_LIFETIME)
        return status

    def _ask_status(self) -> Status:
        try:
            if self._key and not (self._key.endswith("/") and self._can_list):
                found = self._client().status(self._request_key)
                return Status(found.size, found.identity, found.mtime_ns, stat.S_IFREG | 0o644)
        except FileNotFoundError:
            if not self._can_list:
                raise
        if self._is_directory():
            return Status(0, "", 0, stat.S_IFDIR | 0o755)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))

    def exists(self) -> bool:
        """Whether there is anything at the location; raises RemoteError."""
        try:
            self.status()
        except FileNotFoundError:
            return False
        return True

    def open(self, kind: StorageKind = "auto") -> FileStorage:
        """Open the object; one request, which asks for its status.

        Parameters
        ----------
        kind : str
            "memory" reads all of it now. A remote object cannot be mapped, so all others read
            what is asked for when it is asked for.
        """
        if kind not in ("auto", "mmap", "pread", "memory"):
            raise unknown_kind(kind)
        try:
            found = self._client().status(self._request_key)
        except FileNotFoundError:
            raise ArchiveNotFoundError(f"{self.path}: no such object; is the URL right?") from None
        storage = self._storage(found, blocks=True)
        if kind != "memory":
            return storage
        data = bytearray(storage.size)
        storage.prefetch(0, storage.size)
        with storage:
            storage.readinto(0, data)
        return MemoryStorage(data, self.path, storage.identity)

    def open_known(self, size: int, identity: str) -> RemoteStorage:
        """Open an object whose status is known, without a request."""
        return self._storage(ObjectStatus(size, identity))

    def _storage(self, status: ObjectStatus, blocks: bool = False) -> RemoteStorage:
        return RemoteStorage(
            self.path, self._request_key, self._client, status, blocks, self._cached_blocks(status)
        )

    def _cached_blocks(self, status: ObjectStatus) -> ObjectBlocks | None:
        """Return the blocks of the object in the cache; None without one or without an identity."""
        options = self._options
        if options.cache is None or not status.identity:
            return None
        # Imported here, because few programs need it.
        from imagearchive.storage.remote.block_cache import open_blocks

        query = f"?{self._query}" if self._query else ""
        name = f"{self.path}{query} {server_of(options)}"
        return open_blocks(options.cache, name, status.identity, status.size)

    def list(self) -> list[Entry]:
        """Return the objects and directories directly below, sorted by the bytes of their names.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        UnsupportedArchiveError
            It is on an HTTP server.
        """
        found = self._client().list(self._prefix if self._can_list else self._request_key)
        if not found.directories and not found.objects:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        entries = [
            Entry(name, Status(0, "", 0, stat.S_IFDIR | 0o755), False) for name in found.directories
        ]
        entries += [
            Entry(name, Status(one.size, one.identity, one.mtime_ns, stat.S_IFREG | 0o644), False)
            for name, one in found.objects
        ]
        return sorted(entries, key=lambda entry: os.fsencode(entry.name))

    def open_copy(self) -> FileStorage:
        """Open a copy of the whole object; see `imagearchive.storage.remote.local_copy`."""
        return open_copy(self.path, self._request_key, self._client())

    def publish(self, path: str) -> None:
        """Upload a local file; it appears when it is complete, and replaces what there was."""
        self._client().put(self._request_key, path)

    @property
    def _can_list(self) -> bool:
        return self._scheme not in _HTTP or self._options.filesystem is not None

    @property
    def _prefix(self) -> str:
        if self._options.filesystem is not None:
            return self._request_key.rstrip("/") + "/"
        return self._key.rstrip("/") + "/" if self._key else ""

    @property
    def _request_key(self) -> str:
        """What a client calls the object."""
        if self._options.filesystem is not None:
            url = f"{self._host}/{self._key}"
            return f"{self._scheme}://{url}" if self._scheme in _HTTP else url
        if self._scheme not in _HTTP:
            return self._key
        query = "&".join(part for part in (self._query, self._options.query) if part)
        path = quote(self._key, safe="/:@!$&'()*+,;=~%")
        return f"{self._scheme}://{self._host}/{path}" + ("?" + query if query else "")

    def _client(self) -> Client:
        bucket = "" if self._scheme in _HTTP else self._host
        return client_for(self._scheme, bucket, self._options)

    def _is_directory(self) -> bool:
        try:
            found = self._client().list(self._prefix)
        except FileNotFoundError:
            return False
        return bool(found.directories or found.objects)

    def _below(self, key: str) -> RemoteLocation:
        """Return another location in the same bucket or on the same server."""
        return RemoteLocation(
            PathWithOptions(f"{self._scheme}://{self._host}/{key}", self._options)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteLocation) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"RemoteLocation({str(self.path)!r})"
