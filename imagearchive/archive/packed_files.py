"""The files to pack: those below a directory, or those of a list."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from imagearchive.errors import (
    ArchiveNotFoundError,
    OptionError,
    UnsafePathError,
    UnsupportedMemberError,
)
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import os_errors_for

__all__ = [
    "SourceFile",
    "check_outside",
    "listed_file",
    "name_path_in_errors",
    "sample_key",
    "shuffle_list",
    "shuffle_tree",
    "walk_tree",
]

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class SourceFile(NamedTuple):
    """A file to pack: its name in the archive, and where to open it."""

    name: bytes
    path: bytes
    dir_fd: int | None


@contextmanager
def name_path_in_errors(top: str, item: SourceFile) -> Iterator[None]:
    """Name a file by its whole path in errors, and say so if it is a dangling link."""
    try:
        yield
    except OSError as error:
        # Errors of writing name the archive.
        if error.filename in (item.path, os.fsdecode(item.path), os.fsdecode(item.name)):
            path = os.fsdecode(item.path if item.dir_fd is None else item.name)
            path = os.path.join(top, path)
            error.filename = path
            if isinstance(error, FileNotFoundError) and os.path.islink(path):
                error.strerror = (
                    f"a symbolic link to {os.readlink(path)!r}, which does not exist; remove it, "
                    f"or pack a list of files without it"
                )
        raise


def listed_file(path: bytes, root: bytes) -> SourceFile:
    """Return a file of a list, whose name in the archive is relative to `root`."""
    name = os.path.relpath(os.path.abspath(os.path.join(root, path)), os.path.abspath(root))
    if name in (b".", b"..") or name.startswith(b"../"):
        raise UnsafePathError(
            f"{os.fsdecode(path)} is outside {os.fsdecode(root)}",
            hints=[Hint("root", "to name the directory that the paths are relative to")],
        )
    return SourceFile(name, os.path.join(root, path), None)


def sample_key(name: bytes) -> tuple[bytes, bytes]:
    """Return what the names of the files of one sample share: directory, and base to its first dot.

    Of consecutive files, those with the same key are one sample.
    """
    folder, _, base = name.rpartition(b"/")
    return folder, base.partition(b".")[0]


def shuffle_list(files: list[SourceFile], seed: int) -> list[SourceFile]:
    """Return files in an order that depends on their names and the seed alone.

    All files of a sample are together, sorted by name.
    """
    rank = _rank_of(seed)
    return sorted(files, key=lambda item: rank(item.name))


def shuffle_tree(top: str, seed: int, held: ExitStack) -> Callable[[], Iterator[SourceFile]]:
    """Return a function that yields the files below a directory, as `shuffle_list` orders them.

    Their paths start from a descriptor that `held` closes.
    """
    with ExitStack() as walk:
        names = [item.name for item in walk_tree(top, walk)]
    names.sort(key=_rank_of(seed))
    folder = os.open(top, _OPEN_DIRECTORY)
    held.callback(os.close, folder)
    return lambda: (SourceFile(name, name, folder) for name in names)


def _rank_of(seed: int) -> Callable[[bytes], bytes]:
    # Imported here, because few calls need it, and it loads OpenSSL.
    from hashlib import blake2b

    # Any integer makes a key of the size that BLAKE2 takes.
    key = blake2b(str(seed).encode()).digest()

    def rank(name: bytes) -> bytes:
        # No name of a file contains NUL, so different keys hash different bytes.
        return blake2b(b"\0".join(sample_key(name)), key=key, digest_size=16).digest() + name

    return rank


def check_outside(directory: str, target: str) -> None:
    """Raise unless there is such a directory, and the target, if there is one, is outside."""
    if not os.path.isdir(directory):
        what = "not a directory" if os.path.exists(directory) else "no such directory"
        raise ArchiveNotFoundError(f"{directory}: {what}; name the directory to pack")
    if not target:
        return
    top = os.path.realpath(directory)
    folder = os.path.realpath(os.path.dirname(target) or ".")
    if os.path.commonpath([top, folder]) == top:
        raise OptionError(
            f"{target} is inside {directory}, the directory to pack; write it elsewhere"
        )


_Level = tuple[int, bytes, Iterator[tuple[bytes, bool]]]


def walk_tree(top: str, held: ExitStack) -> Iterator[SourceFile]:
    """All files below a directory, in bytewise order of their names.

    The descriptor of a file's directory stays open until the second next file is asked for, as
    grouping looks one file ahead; that of the last file is left to `held`.
    """
    # Open directories from the top to the current one: descriptor, name with slash, what is left.
    levels: list[_Level] = [(os.open(top, _OPEN_DIRECTORY), b"", iter(()))]
    latest = retired = -1
    try:
        levels[0] = (levels[0][0], b"", iter(_entries(levels[0][0], top, b"")))
        while levels:
            fd, prefix, entries = levels[-1]
            for name, is_directory in entries:
                if not is_directory:
                    latest = fd
                    yield SourceFile(prefix + name, name, fd)
                    if retired >= 0:
                        # In this order: an interrupt must not make it close twice.
                        done, retired = retired, -1
                        os.close(done)
                    continue
                # Sorting put the slash behind the name of a directory.
                with name_path_in_errors(top, SourceFile(prefix + name[:-1], name[:-1], fd)):
                    below = os.open(name[:-1], _OPEN_DIRECTORY, dir_fd=fd)
                levels.append((below, prefix + name, iter(())))
                _check_loop(levels, top)
                levels[-1] = (below, prefix + name, iter(_entries(below, top, prefix + name)))
                break
            else:
                levels.pop()
                if fd == latest:
                    retired, latest = fd, -1
                else:
                    os.close(fd)
    finally:
        for fd, _, _ in levels:
            os.close(fd)
        if retired >= 0:
            held.callback(os.close, retired)


def _entries(fd: int, top: str, prefix: bytes) -> list[tuple[bytes, bool]]:
    """Names in a directory, those of directories with a slash, in order; True for directories."""
    found: list[tuple[bytes, bool]] = []
    with os_errors_for(os.path.join(top, os.fsdecode(prefix))), os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_file(follow_symlinks=False):
                found.append((name, False))
            elif entry.is_dir(follow_symlinks=False):
                found.append((name + b"/", True))
            else:
                # A link, or something that add_file refuses.
                with name_path_in_errors(top, SourceFile(prefix + name, name, fd)):
                    is_directory = stat.S_ISDIR(os.stat(name, dir_fd=fd).st_mode)
                found.append((name + b"/" if is_directory else name, is_directory))
    found.sort()
    return found


def _check_loop(levels: list[_Level], top: str) -> None:
    nodes = [os.fstat(fd) for fd, _, _ in levels]
    for node in nodes[:-1]:
        if os.path.samestat(node, nodes[-1]):
            raise UnsupportedMemberError(
                f"{os.path.join(top, os.fsdecode(levels[-1][1]))}: a link to a directory above it"
            )
