"""Remote files that are read as a whole: copies on this machine, compared before each use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from typing import Any, Final, NamedTuple

import platformdirs

from imagearchive.errors import StaleIndexError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.atomic import AtomicFile
from imagearchive.storage.local import MemoryStorage, MmapStorage
from imagearchive.storage.protocol import FileStorage
from imagearchive.storage.remote.client import Client, ObjectStatus
from imagearchive.storage.remote.ranges import MAX_REQUEST
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["LocalCopy", "make_copy"]

_THREADS: Final = 16


class LocalCopy(NamedTuple):
    """A copy of a remote object.

    Attributes
    ----------
    status : ObjectStatus
        Of the object.
    path : str
        The file, or the URL if the copy is in memory.
    data : bytearray or None
        The copy, if it is in memory.
    """

    status: ObjectStatus
    path: str
    data: bytearray | None = None

    def open(self) -> FileStorage:
        """Open the copy; raises FileNotFoundError if the file was removed."""
        if self.data is None:
            return MmapStorage(self.path)
        return MemoryStorage(self.data, self.path, self.status.identity)


def make_copy(path: str, key: str, client: Client) -> LocalCopy:
    """Return a copy of a remote object, which is downloaded unless the last copy is still good.

    One request asks for the object if it is not the one of the copy, and brings its first
    `MAX_REQUEST` bytes; longer ones take further requests, several at a time. Copies are in the
    user's cache directory, or in memory if there is none.

    Parameters
    ----------
    path : str
        The URL.
    key : str
        What the client calls it.
    client : Client

    Raises
    ------
    FileNotFoundError
        There is no such object.
    """
    folder = _folder()
    name = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    described = folder and _read_description(os.path.join(folder, f"{name}.json"))
    if folder and described:
        copy = os.path.join(folder, described["copy"])
        if not _has_size(copy, described["size"]):
            described = None
    found = client.read_start(key, MAX_REQUEST, described["identity"] if described else "")
    if found is None:
        assert described
        return LocalCopy(ObjectStatus(described["size"], described["identity"]), copy)
    status, start = found
    if folder is not None:
        with contextlib.suppress(OSError):
            return LocalCopy(status, _keep(folder, name, key, client, status, start))
    data = bytearray(status.size)
    data[: len(start)] = start
    for offset in range(len(start), status.size, MAX_REQUEST):
        size = min(MAX_REQUEST, status.size - offset)
        data[offset : offset + size] = client.read(key, offset, size, status)
    return LocalCopy(status, path, data)


def _folder() -> str | None:
    try:
        folder = platformdirs.user_cache_dir("imagearchive", appauthor=False)
    except RuntimeError:
        return None
    return os.path.join(folder, "remote")


def _read_description(path: str) -> dict[str, Any] | None:
    """Return what is known about a copy: its file, size, and the identity of the object."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
        if (
            isinstance(found["copy"], str)
            and os.path.basename(found["copy"]) == found["copy"]
            and isinstance(found["size"], int)
            and isinstance(found["identity"], str)
            and found["identity"]
        ):
            return {name: found[name] for name in ("copy", "size", "identity")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _has_size(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def _keep(
    folder: str, name: str, key: str, client: Client, status: ObjectStatus, start: memoryview
) -> str:
    """Save an object, and then its description, which replaces that of an older copy.

    Returns the path of the copy.
    """
    os.makedirs(folder, exist_ok=True)
    text = f"{status.size} {status.identity}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    copy = f"{name}-{digest}"
    path = os.path.join(folder, copy)
    with AtomicFile(path, check=False, sync=False) as target, os_errors_for(path):
        target.file.write(start)
        with TaskThreads(_THREADS) as threads:
            tasks = deque(
                threads.submit(
                    client.read, key, offset, min(MAX_REQUEST, status.size - offset), status
                )
                for offset in range(len(start), status.size, MAX_REQUEST)
            )
            for _ in range(len(tasks)):
                # Dropped one by one, so that the parts do not pile up in memory.
                target.file.write(tasks.popleft().result())
    if not _has_size(path, status.size):
        raise StaleIndexError(f"{path}: changed while it was written")
    described = os.path.join(folder, f"{name}.json")
    before = _read_description(described)
    with AtomicFile(described, check=False, sync=False) as target:
        text = json.dumps({"copy": copy, "size": status.size, "identity": status.identity})
        target.file.write(text.encode())
    if before is not None and before["copy"] != copy:
        # Who has it mapped keeps it.
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, before["copy"]))
    return path
