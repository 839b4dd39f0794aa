"""Hard links to files that an extraction has written."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from imagearchive.errors.os_errors import set_file_name

__all__ = ["CannotLinkError", "link_file"]

# What a file system says that has no hard links, or no more of them for one file.
_NO_LINK: Final = frozenset(
    [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV]
)


class CannotLinkError(Exception):
    """A file cannot be linked, so it is copied."""


def link_file(
    source_directory: int,
    source: bytes,
    status: os.stat_result,
    directory: int,
    name: bytes,
    part: bytes = b"",
    staging: int | None = None,
) -> None:
    """Make a hard link to a file, if it is still that of `status`.

    `part` and `staging` are as for `create_file`.

    Raises
    ------
    CannotLinkError
        The file is gone or another one, or the file system cannot link it.
    OSError
        The link cannot be made for another reason.
    """
    path = part or name
    place = directory if staging is None else staging
    try:
        os.link(
            source,
            path,
            src_dir_fd=source_directory,
            dst_dir_fd=place,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno in _NO_LINK or isinstance(error, FileNotFoundError):
            raise CannotLinkError from error
        set_file_name(error, path)
        raise
    remove = path
    try:
        # Another process may have put something else there, which may get the same inode number.
        found = os.stat(path, dir_fd=place, follow_symlinks=False)
        same = os.path.samestat(status, found) and status.st_size == found.st_size
        if not (same and stat.S_ISREG(found.st_mode)):
            raise CannotLinkError
        if part:
            os.rename(part, name, src_dir_fd=place, dst_dir_fd=directory)
        else:
            remove = b""
    finally:
        # Renaming a link to another link of the same file does nothing.
        if remove:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(remove, dir_fd=place)
