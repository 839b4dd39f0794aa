"""File systems with the interface of fsspec, as the caller passes them."""

from __future__ import annotations

import datetime
from typing import Any

from imagearchive.errors import ImageArchiveError, RemoteAccessError, RemoteError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.remote.client import Listing, ObjectStatus, replaced

__all__ = ["FilesystemClient"]

# What fsspec's file systems call the identity of a file.
_IDENTITIES = ("ETag", "etag", "generation", "VersionId", "checksum", "mtime", "LastModified")
# And when it was written.
_TIMES = ("mtime", "LastModified", "last_modified", "created")


class FilesystemClient:
    """Requests through a file system object.

    fsspec has no conditional requests, so an object that is replaced between two reads is noticed
    only when its archive is opened again. Whether the object may be used in threads and after a
    fork is up to its library.

    Parameters
    ----------
    scheme : str
        Of the URLs.
    filesystem : object
        Has ``info``, ``cat_file``, and ``ls`` of fsspec; to write, also ``put_file`` and
        ``rm_file``.
    """

    def __init__(self, scheme: str, filesystem: Any) -> None:
        self._scheme = scheme
        self._filesystem = filesystem

    def status(self, key: str) -> ObjectStatus:
        """Return size and identity."""
        return self._status(self._call(key, lambda: self._filesystem.info(key)), key)

    def read(self, key: str, offset: int, size: int, expected: ObjectStatus) -> memoryview:
        """Return a range."""
        data = self._call(
            key, lambda: self._filesystem.cat_file(key, start=offset, end=offset + size)
        )
        if len(data) != size:
            if self.status(key) != expected:
                raise replaced(self._show(key))
            raise RemoteError(
                f"{self._show(key)}: {pluralize(len(data), 'byte')} instead of {size} from "
                f"{offset} on"
            )
        return memoryview(data)

    def read_start(
        self, key: str, size: int, known: str = ""
    ) -> tuple[ObjectStatus, memoryview] | None:
        """Return the beginning of an object, unless it is the known one."""
        found = self.status(key)
        if known and found.identity == known:
            return None
        size = min(size, found.size)
        return found, self.read(key, 0, size, found) if size else memoryview(b"")

    def list(self, prefix: str) -> Listing:
        """List what is below a prefix."""
        found = self._call(prefix, lambda: self._filesystem.ls(prefix.rstrip("/"), detail=True))
        directories, objects = [], []
        for one in found:
            name = one["name"].rstrip("/").rpartition("/")[2]
            if one.get("type") == "directory":
                directories.append(name)
            else:
                objects.append((name, self._status(one, one["name"])))
        return Listing(directories, objects)

    def put(self, key: str, path: str) -> ObjectStatus:
        """Upload a local file."""
        self._call(key, lambda: self._filesystem.put_file(path, key))
        return self.status(key)

    def delete(self, key: str) -> None:
        """Remove a file."""
        self._call(key, lambda: self._filesystem.rm_file(key))

    def close(self) -> None:
        """Do nothing: the file system belongs to the caller."""

    def _status(self, info: Any, key: str) -> ObjectStatus:
        if info.get("type") == "directory":
            raise IsADirectoryError(self._show(key))
        names = [name for name in _IDENTITIES if info.get(name) is not None]
        identity = f"{names[0].lower()}={info[names[0]]}" if names else ""
        return ObjectStatus(int(info["size"]), identity, _mtime_ns(info))

    def _call(self, key: str, call: Any) -> Any:
        try:
            return call()
        except FileNotFoundError:
            raise FileNotFoundError(2, "No such file or directory", self._show(key)) from None
        except ImageArchiveError:
            raise
        except PermissionError as error:
            raise RemoteAccessError(f"{self._show(key)}: access is denied") from error
        except OSError as error:
            raise RemoteError(f"{self._show(key)}: {error}") from error

    def _show(self, key: str) -> str:
        return f"{self._scheme}://{key}"


def _mtime_ns(info: Any) -> int:
    """Return when a file was written, in nanoseconds since 1970, or 0 if that is not known."""
    for value in map(info.get, _TIMES):
        if isinstance(value, datetime.datetime):
            return int(value.timestamp()) * 10**9
        if isinstance(value, (int, float)):
            return int(value) * 10**9
    return 0
