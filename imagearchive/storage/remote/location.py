"""Locations that URLs name."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from imagearchive.errors import ArchiveNotFoundError, OptionError, UnsupportedArchiveError
from imagearchive.storage.answers import (
    answer_of,
    are_remembered,
    forget_answer,
    has_answer,
    note_answer,
)
from imagearchive.storage.local import MemoryStorage, open_storage, unknown_kind
from imagearchive.storage.location import Entry, Location, Status
from imagearchive.storage.path_options import (
    PathWithOptions,
    hide_credentials,
    options_of,
    server_of,
)
from imagearchive.storage.protocol import FileStorage, StorageKind
from imagearchive.storage.remote.client import Client, ObjectStatus, replaced
from imagearchive.storage.remote.clients import client_for
from imagearchive.storage.remote.local_copy import LocalCopy, make_copy
from imagearchive.storage.remote.storage import HEAD_BYTES, RemoteStorage

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
        status = answer_of(self._question("status"), self._ask_status)
        self._seen = (status, time.monotonic() + STATUS_LIFETIME)
        return status

    def _ask_status(self) -> Status:
        if not self._key and not self._can_list:
            raise UnsupportedArchiveError(
                f"{self.path}: this URL names a server, not an archive; add the path of an archive"
            )
        try:
            if self._key and not (self._key.endswith("/") and self._can_list):
                return _file_status(self._client().status(self._request_key))
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

        Where answers are remembered, it brings the first bytes as well, unless they may be cached.

        Parameters
        ----------
        kind : str
            "memory" reads all of it now. A remote object cannot be mapped, so all others read
            what is asked for when it is asked for.
        """
        if kind not in ("auto", "mmap", "pread", "memory"):
            raise unknown_kind(kind)
        try:
            found, head = self._find()
        except FileNotFoundError:
            raise self._not_found() from None
        storage = self._storage(found, head)
        if kind != "memory":
            return storage
        data = bytearray(storage.size)
        storage.prefetch(0, storage.size)
        with storage:
            storage.readinto(0, data)
        return MemoryStorage(data, self.path, storage.identity)

    def open_known(self, size: int, identity: str) -> RemoteStorage:
        """Open an object whose status is known, without a request if each read compares it.

        Raises
        ------
        ArchiveNotFoundError, StaleIndexError
            A file system of fsspec, whose reads compare nothing, has no such object, or another.
        """
        if self._options.filesystem is not None:
            try:
                found = self.status()
            except FileNotFoundError:
                raise self._not_found() from None
            if (found.size, found.identity) != (size, identity):
                raise replaced(self.path)
        return self._storage(ObjectStatus(size, identity))

    def _not_found(self) -> ArchiveNotFoundError:
        return ArchiveNotFoundError(f"{self.path}: no such object; is the URL right?")

    def _find(self) -> tuple[ObjectStatus, bytes]:
        """Return the status of the object, and its first bytes as far as they are known."""
        head = self._question("head")
        if has_answer(self._question("status")) and not has_answer(head):
            known = self.status()
            if known.is_file:
                return ObjectStatus(known.size, known.identity, known.mtime_ns), b""
        if are_remembered() and self._options.cache is None:
            return answer_of(head, self._ask_head)
        return self._client().status(self._request_key), b""

    def _ask_head(self) -> tuple[ObjectStatus, bytes]:
        found = self._client().read_start(self._request_key, HEAD_BYTES)
        # None is an answer to the question for another state only.
        assert found is not None
        status, head = found
        note_answer(self._question("status"), _file_status(status))
        return status, bytes(head)

    def _storage(self, status: ObjectStatus, head: bytes | None = None) -> RemoteStorage:
        return RemoteStorage(
            self.path, self._request_key, self._client, status, head, self._cached_blocks(status)
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
        entries += [Entry(name, _file_status(one), False) for name, one in found.objects]
        return sorted(entries, key=lambda entry: os.fsencode(entry.name))

    def open_copy(self) -> FileStorage:
        """Open a copy of the whole object; see `imagearchive.storage.remote.local_copy`."""
        made = answer_of(self._question("copy"), self._make_copy)
        try:
            return made.open()
        except FileNotFoundError:
            # Another process has made a copy of a newer state since.
            return self._make_copy().open()

    def _make_copy(self) -> LocalCopy:
        made = make_copy(self.path, self._request_key, self._client())
        note_answer(self._question("status"), _file_status(made.status))
        return made

    def is_file(self) -> bool:
        """Whether there is an object, and not only others below it, by one request."""
        try:
            self._client().status(self._request_key)
        except FileNotFoundError:
            return False
        return True

    def check_writable(self) -> None:
        """Raise OptionError for a URL of an HTTP server, or of a whole bucket."""
        if not self._can_list:
            raise OptionError(
                f"{self.path}: files cannot be written to an HTTP server; name a file, or a URL "
                f"that begins with s3://, gs://, or az://"
            )
        if not self._key:
            raise OptionError(f"{self.path}: this URL names no object in the bucket")

    def publish(self, path: str) -> None:
        """Upload a local file; it appears when it is complete, and replaces what there was."""
        found = self._client().put(self._request_key, path)
        self._forget_answers()
        self._seen = (_file_status(found), time.monotonic() + STATUS_LIFETIME)

    def remove(self) -> None:
        """Remove the object, if there is one; raises RemoteError."""
        self._forget_answers()
        with contextlib.suppress(FileNotFoundError):
            self._client().delete(self._request_key)

    def _forget_answers(self) -> None:
        self._seen = None
        for name in ("status", "head", "copy"):
            forget_answer(self._question(name))

    def with_copy(self, path: str) -> Location:
        """Return the location of an object that was just uploaded from a local file."""
        return _UploadedLocation(self, path)

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

    def _question(self, name: str) -> tuple[str, ...]:
        """Return what a question about this object is called in `imagearchive.storage.answers`."""
        return (name, self.path, self._request_key, self._options.key.hex())

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


class _UploadedLocation(RemoteLocation):
    """An object whose bytes are read from the local file that it was uploaded from."""

    def __init__(self, location: RemoteLocation, copy: str) -> None:
        super().__init__(location.path)
        self._copy = copy
        self._status = location.status()

    def status(self) -> Status:
        """Return the status of the object."""
        return self._status

    def open(self, kind: StorageKind = "auto") -> FileStorage:
        """Open the local file."""
        return open_storage(self._copy, "pread" if kind == "auto" else kind)


def _file_status(found: ObjectStatus) -> Status:
    return Status(found.size, found.identity, found.mtime_ns, stat.S_IFREG | 0o644)
