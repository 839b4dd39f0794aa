"""What the writers of archives share: an archive that appears when it is whole."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from imagearchive.errors import ClosedError, UnsupportedMemberError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.atomic import AtomicFile, file_kind
from imagearchive.storage.closing import Abortable
from imagearchive.storage.outputs import open_output, output_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagearchive.storage.location import Location

__all__ = ["ArchiveWriter", "StreamTarget", "open_packed_file"]

_OPEN_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def open_packed_file(
    path: str | bytes | os.PathLike[str], path_shown: str, dir_fd: int | None
) -> tuple[int, os.stat_result]:
    """Open a file that becomes a member; return its descriptor and its status.

    Parameters
    ----------
    path : path-like
    path_shown : str
        What errors call it.
    dir_fd : int or None
        Directory that a relative `path` starts from.

    Raises
    ------
    UnsupportedMemberError
        It is not a regular file.
    OSError
        It cannot be opened.
    """
    try:
        fd = os.open(path, _OPEN_READ, dir_fd=dir_fd)
    except OSError as error:
        error.filename = path_shown
        raise
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return fd, status
    os.close(fd)
    raise UnsupportedMemberError(
        f"{path_shown}: cannot pack {file_kind(status.st_mode)}, only regular files"
    )


class StreamTarget:
    """A pipe or another stream in place of a file that appears when it is whole.

    What was written to it stays, so an archive that fails lacks its end. It is not closed.

    Parameters
    ----------
    file : binary file
        It must have a descriptor.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.written_path = ""
        self.part = "stream"
        self.published = False

    def complete(self) -> None:
        """Do nothing; all bytes are written."""

    def publish(self) -> None:
        """End the writing."""
        self.part = ""
        self.published = True

    def abort(self) -> None:
        """End the writing before the archive is whole."""
        self.part = ""

    withdraw = abort


class ArchiveWriter(Abortable):
    """Base of writers of one archive; a subclass writes members to the file of ``_target``.

    Parameters
    ----------
    path, overwrite, sync
        As in `imagearchive.TarWriter`. A path may carry how to reach it.
    before_replace : callable, optional
        Called just before another archive is replaced.
    on_upload : callable, optional
        Called with the location of an archive that was uploaded, which is read from this machine.
    buffering : int
        As in `open`.
    stream : StreamTarget, optional
        Write to this instead of a file; `path` is what errors call it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        sync: bool = True,
        before_replace: Callable[[], object] | None = None,
        on_upload: Callable[[Location], object] | None = None,
        buffering: int = -1,
        stream: StreamTarget | None = None,
    ) -> None:
        self.path = output_path("path", path)
        self._failed = False
        self._finished = False
        self._target: AtomicFile | StreamTarget = stream or open_output(
            self.path,
            overwrite=overwrite,
            sync=sync,
            before_replace=before_replace,
            on_upload=on_upload,
            buffering=buffering,
        )
        self._written_path = self._target.written_path or self.path

    @property
    def published(self) -> bool:
        """Whether the archive has its name."""
        return self._target.published

    def _finish(self) -> None:
        """Write the end of the archive."""
        raise NotImplementedError

    def _fail(self) -> None:
        """Discard the archive: nothing can follow half a member."""
        if self._target.part:
            self.abort()
            self._failed = True

    def _closed_error(self) -> ClosedError:
        why = (
            "a member failed, so the archive was discarded"
            if self._failed
            else "the writer is closed"
        )
        return ClosedError(f"{self.path}: {why}")

    def complete(self) -> None:
        """Complete the temporary file without giving it its name yet."""
        if self._finished or not self._target.part:
            return
        try:
            with os_errors_for(self._written_path):
                self._finish()
            self._target.complete()
        except BaseException:
            self.abort()
            raise
        self._finished = True

    def publish(self) -> None:
        """Complete the archive and give it its name; a second call does nothing.

        Raises
        ------
        ClosedError
            Adding a member failed, so the archive was discarded.
        TargetExistsError
            An archive of that name has appeared in the meantime.
        OSError
            The disk is full, for example; the temporary file is removed.
        """
        if self._failed:
            raise self._closed_error()
        if self._target.part:
            self.complete()
            self._target.publish()

    def withdraw(self) -> None:
        """Remove the archive even after `publish`, unless it has replaced another one.

        For several archives that appear together or not at all.
        """
        self._target.withdraw()

    def close(self) -> None:
        """Complete the archive and give it its name; a second call does nothing.

        Raises
        ------
        ClosedError, TargetExistsError, OSError
            As `publish`.
        """
        self.publish()

    def abort(self) -> None:
        """Remove the temporary file; an existing archive stays as it was."""
        self._target.abort()
