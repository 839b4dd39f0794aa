"""A file that several processes need, and one of them makes; and the lock for that."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.atomic import AtomicFile

__all__ = ["lock_beside", "make_once"]

logger = logging.getLogger(__name__)

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def make_once(path: str, write: Callable[[BinaryIO], object]) -> bool:
    """Make a file unless it exists; of several processes and threads, one does it.

    The others wait. If the one fails or is killed, another begins anew. The file appears when it is
    whole. Its directory must exist.

    Parameters
    ----------
    path : str
    write : callable
        Writes the content.

    Returns
    -------
    bool
        Whether it was made by this call.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    if os.path.exists(path):
        return False
    with lock_beside(path):
        if os.path.exists(path):
            return False
        with AtomicFile(path, check=False) as made, os_errors_for(path):
            write(made.file)
    return True


@contextlib.contextmanager
def lock_beside(path: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is a hidden file beside it while somebody holds it.

    Where the file system has no locks, nothing is held.

    Parameters
    ----------
    path : str
        The file, which need not exist; its directory must.
    wait : bool
        Whether to wait for others.

    Raises
    ------
    BlockingIOError
        Another process or thread holds it, and `wait` is false.
    OSError
        The hidden file cannot be made.
    """
    folder, name = os.path.split(path)
    lock = os.path.join(folder, f".{name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _lock(descriptor, path, wait)
            if not _is_named(descriptor, lock):
                # Whoever held it has removed it, and a newcomer has made another.
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(lock)
                with contextlib.suppress(OSError):
                    # A child that was forked meanwhile has the descriptor too.
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: str, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        logger.info("%s: waiting for another process that makes it", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Without locks, two may make the file, and the last replaces it by its equal.
        if error.errno not in _NO_LOCKS:
            raise


def _is_named(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
