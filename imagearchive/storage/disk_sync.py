"""Put files and folders on disk, so that they survive a power failure."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from imagearchive.errors.os_errors import os_errors_for

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["sync_files", "sync_folder"]

SYNC_THREADS: Final = 16

# How file systems say that they cannot sync a folder, or that we may not open it for that.
_CANNOT_SYNC: Final = frozenset(
    {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
)


def sync_files(paths: Iterable[str]) -> None:
    """Put files on disk.

    Raises
    ------
    OSError
        One of them cannot be written; the error names it.
    """
    # Imported here, since every reader of an index imports this module and hardly any syncs files.
    from imagearchive.storage.task_threads import TaskThreads

    # Side by side: a file system writes one journal entry for all that wait for it.
    with TaskThreads(SYNC_THREADS) as threads:
        for task in [threads.submit(_sync, path) for path in paths]:
            task.result()


def sync_folder(path: str) -> None:
    """Put the names in a folder on disk, where the file system can do that.

    Raises
    ------
    OSError
        The disk has failed.
    """
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with os_errors_for(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
