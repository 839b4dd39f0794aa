"""The directory that an extraction writes into, and how a file appears there when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from imagearchive.archive.name_tree import decode
from imagearchive.archive.threads import Chunks
from imagearchive.errors import TargetExistsError
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import set_file_name
from imagearchive.storage.atomic import write_all

__all__ = ["Destination", "Existing", "base_of", "folder_of", "temporary_name", "write_content"]

Existing = Literal["error", "skip", "replace"]


@dataclass(frozen=True)
class Destination:
    """Where an extraction writes.

    Attributes
    ----------
    path : str
        The directory, as errors name it.
    fd : int
        Its descriptor.
    is_new : bool
        The directory has no name yet, so its files need no temporary ones.
    existing : {"error", "skip", "replace"}
        What happens where a file of a member's name is there.
    """

    path: str
    fd: int
    is_new: bool
    existing: Existing

    def write(
        self,
        directory: int,
        name: bytes,
        create: Callable[..., None],
        part: bytes,
        staging: int | None,
    ) -> bool:
        """Write one file, whole or not at all; return whether it was written.

        Parameters
        ----------
        directory : int
            The descriptor of its directory.
        name : bytes
            The name of the member.
        create : callable
            Makes the file under its own name, or with ``part=`` under that one first.
        part : bytes
            The temporary name.
        staging : int or None
            The descriptor of the directory of temporary files, where there is one.
        """
        base = base_of(name)
        try:
            if self.is_new:
                with contextlib.suppress(FileExistsError):
                    create()
                    return True
            if self.existing != "replace" and _is_there(base, directory):
                if self.existing == "skip":
                    return False
                raise TargetExistsError(
                    f"{self._path(name)} exists",
                    hints=[
                        Hint("existing='replace'", "to replace it"),
                        Hint("existing='skip'", "to keep it"),
                    ],
                )
            try:
                create(part=part, staging=staging)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Another file system is mounted below the target.
                create(part=part)
        except OSError as error:
            # Errors of reading name the archive.
            if error.errno and error.filename in (None, base, part):
                set_file_name(error, self._path(name))
            raise
        return True

    def _path(self, name: bytes) -> str:
        return os.path.join(self.path, decode(name))


def folder_of(name: bytes) -> bytes:
    """Return the directory in the name of a member, empty for the top."""
    return name[: max(name.rfind(b"/"), 0)]


def base_of(name: bytes) -> bytes:
    """Return the name of a member without its directory."""
    return name[name.rfind(b"/") + 1 :]


def temporary_name() -> bytes:
    """Return a new name for a file that is not complete."""
    return f".{os.urandom(8).hex()}.part".encode()


def write_content(
    content: Iterable[tuple[int, bytes | memoryview]],
    size: int,
    chunks: Chunks,
    mtime: int,
    descriptor: int,
) -> None:
    """Write the content of a file, with holes where it has no data, and its modification time."""
    end = 0
    for offset, data in content:
        chunks.check()
        if offset > end:
            os.lseek(descriptor, offset, os.SEEK_SET)
        write_all(descriptor, memoryview(data))
        end = offset + len(data)
    if end < size:
        os.ftruncate(descriptor, size)
    if mtime:
        os.utime(descriptor, ns=(mtime, mtime))


def _is_there(name: bytes, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
