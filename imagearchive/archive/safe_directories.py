"""Directories below the target of an extraction, none of which is a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from imagearchive.archive.name_tree import decode
from imagearchive.errors import UnsafePathError
from imagearchive.storage.closing import Closable
from imagearchive.storage.lru import LRUCache

__all__ = ["SafeDirectories"]

# How many are kept open.
OPEN_DIRECTORIES: Final = 32

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SafeDirectories(Closable):
    """Directories below the target, each opened step by step without following a link."""

    def __init__(self, root: int, path: str) -> None:
        self._root = root
        self._path = path
        self._open = LRUCache[bytes, int](OPEN_DIRECTORIES, os.close)

    def open(self, name: bytes) -> int:
        """Open a directory, making what is missing; the descriptor stays ours."""
        if not name:
            return self._root
        fd = self._open.get(name)
        if fd is not None:
            return fd
        parent, _, base = name.rpartition(b"/")
        above = self._open.get(parent)
        if above is not None or not parent:
            fd = self._step(self._root if above is None else above, base, name)
        else:
            fd = self._descend(name.split(b"/"))
        return self._open.setdefault(name, fd)

    def _descend(self, parts: list[bytes]) -> int:
        current = self._root
        for depth, part in enumerate(parts):
            try:
                below = self._step(current, part, b"/".join(parts[: depth + 1]))
            finally:
                if current != self._root:
                    os.close(current)
            current = below
        return current

    def _step(self, above: int, part: bytes, name: bytes) -> int:
        try:
            with contextlib.suppress(FileNotFoundError):
                return os.open(part, _DIRECTORY, dir_fd=above)
            # Another thread may be faster, or something else may have appeared there.
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=above)
            return os.open(part, _DIRECTORY, dir_fd=above)
        except OSError as error:
            # Relative to a descriptor, the name alone does not tell which directory it is.
            error.filename = os.path.join(self._path, decode(name))
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise UnsafePathError(
                    f"{error.filename}: a link or a file is where a directory is needed, and links "
                    f"are not followed; move it away"
                ) from error
            raise

    def close(self) -> None:
        """Close all directories but the root."""
        super().close()
        self._open.clear()
