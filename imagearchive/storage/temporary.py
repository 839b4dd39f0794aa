"""Temporary files and directories, each locked while its process lives.

When a process is killed, its temporary files remain, but the system releases its locks. So the next
process that writes the same target can tell what was left behind from what is in use, and removes
it. Locks are those of ``flock``, which Linux also provides on NFS. Where a file system has no
locks, nothing is removed. Where locks do not reach other machines, as on Lustre mounted with
``localflock``, two machines must not write the same target at once: one may remove the other's
temporary file, and that one then fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import Final

from imagearchive.errors import TargetExistsError
from imagearchive.errors.os_errors import name_in_os_errors
from imagearchive.storage.closing import Closable, release_at_exit

__all__ = [
    "LockedDirectory",
    "is_private",
    "is_temporary_name",
    "lock_new_file",
    "remove_stale_directories",
    "remove_stale_files",
    "resumable_directory",
    "temporary_name",
]

logger = logging.getLogger(__name__)

#: Marks a directory as one of ours; locked while it is in use.
LOCK_NAME: Final = ".imagearchive.lock"
# The longest name of a file on the file systems in use.
NAME_MAX: Final = 255

_SUFFIX: Final = re.compile(r"\.[0-9a-f]{16}\.part")
_SUFFIX_LENGTH: Final = len(".0123456789abcdef.part")
# Listing a folder may take at most this part of the time that passes.
_SCAN_SHARE: Final = 0.01

_OPEN_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# For each folder: when to list it again, and the temporary files in it, by the names before their
# suffixes. A process that writes thousands of files into one folder must not list it each time.
_found: dict[str, tuple[float, dict[str, list[str]]]] = {}
_MAX_FOLDERS: Final = 64


# ---------------------------------------------------------------- files


def temporary_name(path: str) -> str:
    """Return a random name in the folder of `path`, short enough for any file system."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_stem(name)}.{os.urandom(8).hex()}.part")


def is_temporary_name(name: str) -> bool:
    """Whether a name in a directory is that of an unfinished file or directory of this library."""
    return name.endswith(".part") and _SUFFIX.fullmatch(name[-_SUFFIX_LENGTH:]) is not None


def lock_new_file(descriptor: int, path: str) -> bool:
    """Lock a file that was just created under a temporary name.

    Returns
    -------
    bool
        False if another process took the file for a stale one before it was locked. The caller
        then creates another.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # The file system has no locks, so nobody removes the file.
        return True
    return _has_name(descriptor, path)


def remove_stale_files(path: str) -> None:
    """Remove the temporary files of a target that killed processes left."""
    folder, name = os.path.split(os.path.abspath(path))
    for part in _temporary_files(folder).pop(_stem(name), ()):
        _remove_stale_file(os.path.join(folder, part))


def _stem(name: str) -> str:
    """Return the beginning of the temporary names of a file or directory."""
    encoded = os.fsencode(name)
    if len(encoded) + _SUFFIX_LENGTH > NAME_MAX:
        return f".{hashlib.blake2b(encoded, digest_size=8).hexdigest()}"
    return name


def _temporary_files(folder: str) -> dict[str, list[str]]:
    start = time.monotonic()
    known = _found.get(folder)
    if known is not None and start < known[0]:
        return known[1]
    files: dict[str, list[str]] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return files
    for name in names:
        if is_temporary_name(name):
            files.setdefault(name[:-_SUFFIX_LENGTH], []).append(name)
    end = time.monotonic()
    if len(_found) >= _MAX_FOLDERS:
        _found.clear()
    _found[folder] = end + (end - start) / _SCAN_SHARE, files
    return files


def _remove_stale_file(path: str) -> None:
    # What cannot be opened or removed belongs to somebody else, or is gone.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, _OPEN_LOCK)
        try:
            if (
                stat.S_ISREG(os.fstat(descriptor).st_mode)
                and _try_lock(descriptor)
                and _has_name(descriptor, path)
            ):
                os.unlink(path)
                logger.info("%s: removed what an interrupted run left", path)
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Held by a process that lives, or the file system has no locks: leave it alone.
        return False
    return True


def _has_name(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- directories


class LockedDirectory(Closable):
    """A temporary directory that is removed when it is closed, or else with its object.

    Directories with the same prefix that killed processes left are removed first. A forked child
    leaves the directory to its parent.

    Parameters
    ----------
    folder : str
        Where to make it.
    prefix : str
        Beginning of its name.
    name : str
        The rest of it. If an earlier process of this user left a directory of that name, it is
        taken over with its files. By default, and if another process is using that one, the
        directory is a new one.

    Attributes
    ----------
    path : str
    """

    def __init__(self, folder: str, prefix: str, name: str = "") -> None:
        self.path = ""
        self._lock = -1
        self._pid = os.getpid()
        self._names: set[str] = set()
        release_at_exit(self)
        for path in _directories(folder, prefix):
            if not name or os.path.basename(path) != prefix + name:
                _remove_stale_directory(path)
        try:
            if name:
                self._take_over(os.path.join(folder, prefix + name))
            self._make(folder, prefix)
        except BaseException:
            self.close()
            raise

    def _make(self, folder: str, prefix: str) -> None:
        """Make and lock a directory, unless one is locked."""
        while self._lock < 0:
            self.path = os.path.join(folder, f"{prefix}{os.urandom(8).hex()}")
            os.mkdir(self.path, 0o700)
            self._lock = _lock_directory(self.path)

    def _take_over(self, path: str) -> None:
        """Lock a directory that may be there already, unless another process uses it."""
        is_new = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            is_new = True
        # The folder may be one in which others can write, too.
        if is_private(path):
            try:
                self._lock = _lock_directory(path)
            except BaseException:
                if is_new:
                    _remove_directory(path)
                raise
            if self._lock >= 0:
                # Only now, because what this names is removed after an interrupt.
                self.path = path

    def file(self, name: str) -> str:
        """Return the path of a file in the directory."""
        self._names.add(name)
        return os.path.join(self.path, name)

    def release(self) -> None:
        """Leave the directory with its files to the next process that asks for its name."""
        self.path = ""
        self.close()

    def close(self) -> None:
        """Remove the directory. Takes no descriptor unless there is something unexpected in it."""
        super().close()
        if self.path and self._pid == os.getpid():
            try:
                self._remove()
            except KeyboardInterrupt:
                # The object may live as long as the traceback.
                self._remove()
                raise
        self.path = ""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _remove(self) -> None:
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, name))
        _remove_directory(self.path)

    def __del__(self) -> None:
        # An interrupt may come before the block begins, or before `close` does anything.
        if getattr(self, "path", ""):
            self.close()


@contextlib.contextmanager
def resumable_directory(target: str, fingerprint: str) -> Iterator[tuple[str, bool]]:
    """Make a directory that gets its name at the end of the block, and can be continued before.

    If the block raises, or the process is killed, the files in it stay under the temporary name.
    The next call with the same target and fingerprint goes on with them. An empty directory is
    removed.

    Parameters
    ----------
    target : str
        The name that the directory gets; nothing may have it.
    fingerprint : str
        16 hexadecimal digits that identify the content.

    Yields
    ------
    path : str
        Its temporary name.
    resumed : bool
        Whether there is something in it.

    Raises
    ------
    BlockingIOError
        Another process is at work in it.
    """
    target = target.rstrip("/")
    folder, name = os.path.split(target)
    path = os.path.join(folder, f"{_stem(name)}.{fingerprint}.part")
    lock = -1
    try:
        with name_in_os_errors(target):
            os.makedirs(path, exist_ok=True)
            lock = _lock_directory(path)
        if lock < 0:
            raise TargetExistsError(f"{target}: another process is making this directory")
        yield path, len(os.listdir(path)) > 1
        with name_in_os_errors(target):
            os.unlink(os.path.join(path, LOCK_NAME))
            os.rename(path, target)
    finally:
        if lock >= 0:
            if not _has_files(path):
                _remove_directory(path)
            os.close(lock)
        else:
            # Empty unless another process has it.
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _has_files(path: str) -> bool:
    return any(set(files) - {LOCK_NAME} for _, _, files in os.walk(path))


def remove_stale_directories(target: str) -> None:
    """Remove what interrupted calls of `resumable_directory` left for a target."""
    folder, name = os.path.split(os.path.abspath(target))
    stem = _stem(name)
    for path in _directories(folder, f"{stem}."):
        if _SUFFIX.fullmatch(os.path.basename(path)[len(stem) :]):
            _remove_stale_directory(path)


def _directories(folder: str, prefix: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry.path
                for entry in entries
                if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def is_private(path: str) -> bool:
    """Whether a path is a directory of this user in which nobody else can write."""
    try:
        status = os.lstat(path)
    except OSError:
        # Another process may have removed it, because it was empty.
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def _lock_directory(path: str) -> int:
    """Return a descriptor that locks a directory, or -1 if another process has it or removes it."""
    try:
        directory = os.open(path, _OPEN_DIRECTORY)
    except FileNotFoundError:
        return -1
    try:
        lock = os.open(LOCK_NAME, _OPEN_LOCK | os.O_CREAT, 0o666, dir_fd=directory)
    except FileNotFoundError:
        return -1
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(directory)
    if lock_new_file(lock, os.path.join(path, LOCK_NAME)):
        return lock
    os.close(lock)
    return -1


def _remove_stale_directory(path: str) -> None:
    # What cannot be opened or removed belongs to somebody else, or is gone.
    with contextlib.suppress(OSError):
        directory = os.open(path, _OPEN_DIRECTORY)
        try:
            lock = os.open(LOCK_NAME, _OPEN_LOCK, dir_fd=directory)
        except FileNotFoundError:
            # Made just now or just before its process was killed; or it is not one of ours. In
            # either case nothing is lost if it is empty.
            os.rmdir(path)
            return
        finally:
            os.close(directory)
        try:
            if _try_lock(lock):
                _remove_directory(path)
                logger.info("%s: removed what an interrupted run left", path)
        finally:
            os.close(lock)


def _remove_directory(path: str) -> None:
    """Remove a directory, its lock last, so that the next process can go on if this one is killed.

    Follows no link, not even one that takes the place of a directory meanwhile.
    """
    # Descriptors may be used up; an empty directory needs none.
    with contextlib.suppress(OSError, RecursionError):
        directory = os.open(path, _OPEN_DIRECTORY)
        try:
            _remove_content(directory)
        finally:
            os.close(directory)
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, LOCK_NAME))
        os.rmdir(path)


def _remove_content(directory: int) -> None:
    for root, folders, files, fd in os.fwalk(".", topdown=False, dir_fd=directory):
        for name in files:
            if name != LOCK_NAME or root != ".":
                os.unlink(name, dir_fd=fd)
        for name in folders:
            try:
                os.rmdir(name, dir_fd=fd)
            except NotADirectoryError:
                # A link to a directory.
                os.unlink(name, dir_fd=fd)
