"""Locations that are only in memory: what a URL would be to everything above `storage`."""

import errno
import os
import posixpath
import stat

from imagearchive.errors import ArchiveNotFoundError, UnsupportedArchiveError
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.location import Entry, Status

SCHEME = "memory"
#: Path to content. A directory is what other paths begin with.
FILES = {}
#: What was opened, in order.
OPENED = []


class MemoryLocation:
    """``memory://a/b``: the bytes that ``FILES["a/b"]`` holds."""

    local_path = None

    def __init__(self, url):
        key = posixpath.normpath(url.partition("://")[2]).strip("/")
        self.key = "" if key == "." else key
        self.path = f"{SCHEME}://{self.key}"

    @property
    def name(self):
        return posixpath.basename(self.key)

    @property
    def parent(self):
        return MemoryLocation(f"{SCHEME}://{posixpath.dirname(self.key)}")

    def join(self, name):
        return MemoryLocation(f"{SCHEME}://{self.key}/{name}")

    def relative(self, other):
        return posixpath.relpath(MemoryLocation(other).key or ".", self.key or ".")

    def is_same(self, other):
        return self.path == other.path

    def make_directory(self):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path)

    def status(self):
        data = FILES.get(self.key)
        if data is not None:
            return Status(len(data), f"version={hash(data)}", 0, stat.S_IFREG | 0o644)
        if any(key.startswith(self.key + "/") for key in FILES):
            return Status(0, "", 0, stat.S_IFDIR | 0o755)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)

    def exists(self):
        try:
            return bool(self.status())
        except FileNotFoundError:
            return False

    def open(self, kind="auto"):
        OPENED.append((self.path, kind))
        data = FILES.get(self.key)
        if data is None:
            if self.exists():
                raise UnsupportedArchiveError(f"{self.path}: not a regular file")
            raise ArchiveNotFoundError(f"{self.path}: no such file; is the path right?")
        return MemoryStorage(data, self.path, self.status().identity)

    def list(self):
        prefix = self.key + "/" if self.key else ""
        below = [key[len(prefix) :] for key in FILES if key.startswith(prefix)]
        names = sorted({name.split("/")[0] for name in below}, key=os.fsencode)
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        return [Entry(name, self.join(name).status(), False) for name in names]
