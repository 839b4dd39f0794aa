"""Files that appear under their names only when they are whole.

A file is written under a temporary name beside its target, put on disk, and renamed. Readers see
the old file or the new one, and a failure or an interrupt leaves the old one. A process that is
killed leaves the temporary file, which nothing takes for the target, and which the next writer of
the target removes; see `imagearchive.storage.temporary`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from imagearchive.errors import ClosedError, TargetExistsError
from imagearchive.errors.arguments import check_flag
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import name_in_os_errors, os_errors_for
from imagearchive.storage.closing import Abortable, release_at_exit
from imagearchive.storage.disk_sync import sync_folder
from imagearchive.storage.temporary import lock_new_file, remove_stale_files, temporary_name
from imagearchive.storage.writeback import begin_writeback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "AtomicFile",
    "check_target",
    "create_file",
    "file_kind",
    "publish_together",
    "write_all",
]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_all(descriptor: int, data: memoryview) -> None:
    """Write data to a descriptor, however little of it the system takes at a time."""
    while len(data):
        data = data[os.write(descriptor, data) :]


class AtomicFile(Abortable):
    """A file that appears under its name when it is whole, or not at all.

    Write to `file`, then call `publish`. As a context manager it publishes at the end of the
    block, or removes the temporary file if the block raises. For one thread; a forked child
    leaves the file to its parent.

    Parameters
    ----------
    path : path-like
        The target.
    overwrite : bool
        Replace a file, or a symbolic link itself, that has the name.
    check : bool
        Refuse a target that must not be replaced. Without, `publish` replaces whatever
        `os.replace` can replace, and `overwrite` means nothing.
    sync : bool
        Put the file on disk before it gets its name, and then the name. Without, a power failure
        can leave the name with missing content.
    before_replace : callable, optional
        Called just before another file is replaced.
    buffering : int
        As in `open`.

    Attributes
    ----------
    path : str
    part : str
        The temporary name; empty when the file is published or given up.
    published : bool
        Whether the file has its name.
    file : BinaryIO
        Open for reading and writing, until the file is complete or given up.

    Raises
    ------
    TargetExistsError
        The target exists and `overwrite` is false, or it is not a file.
    FileNotFoundError
        The directory does not exist.
    OSError
        The temporary file cannot be created.
    """

    # Of the temporary file, before the umask.
    _mode: int = 0o666

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        check: bool = True,
        sync: bool = True,
        before_replace: Callable[[], object] | None = None,
        buffering: int = -1,
    ) -> None:
        self.path = os.fspath(path)
        self._file: BinaryIO | None = None
        self.published = False
        self._overwrite = check_flag("overwrite", overwrite)
        self._check = check
        self._sync = sync
        self._before_replace = before_replace
        self._replaced = False
        self._pid = os.getpid()
        self._check_target()
        remove_stale_files(self.written_path)
        self.part = ""
        release_at_exit(self)
        self._file = self._open(buffering)
        self._status = os.fstat(self._file.fileno())

    @property
    def written_path(self) -> str:
        """What errors of writing are about; the temporary file is beside it."""
        return self.path

    @property
    def file(self) -> BinaryIO:
        """The temporary file."""
        if self._file is None:
            raise ClosedError(f"{self.path}: {'complete' if self.part else 'closed'} already")
        return self._file

    def _open(self, buffering: int) -> BinaryIO:
        path = self.written_path
        try:
            while True:
                # Set before the file exists, since an interrupt may come at any moment.
                self.part = temporary_name(path)
                file = open(  # noqa: SIM115 - closed by `_close`
                    self.part, "x+b", buffering, opener=self._opener
                )
                if lock_new_file(file.fileno(), self.part):
                    return file
                file.close()
        except OSError as error:
            folder = os.path.dirname(path) or "."
            if isinstance(error, FileNotFoundError) and not os.path.exists(folder):
                name = os.path.basename(path)
                what = f"no such directory to write {name!r} to"
                raise FileNotFoundError(errno.ENOENT, what, folder) from None
            error.filename = path
            raise

    def _opener(self, path: str, flags: int) -> int:
        return os.open(path, flags, self._mode)

    def _check_target(self) -> None:
        if self._check:
            check_target(self.path, self._overwrite)

    def begin_sync(self) -> None:
        """Have the system begin to put on disk what was written, so that `complete` waits less.

        Raises
        ------
        OSError
            The disk is full, for example.
        """
        if self._sync:
            with os_errors_for(self.written_path):
                self.file.flush()
                begin_writeback(self.file.fileno())

    def complete(self) -> None:
        """Flush the temporary file, put it on disk and close it; a second call does nothing.

        From then on it is not locked, so that many files can wait to be published together.

        Raises
        ------
        OSError
            The disk is full, for example. The temporary file is removed.
        """
        if self._file is None:
            return
        try:
            with os_errors_for(self.written_path):
                self._file.flush()
                if self._sync:
                    os.fsync(self._file.fileno())
                self._file.close()
                self._file = None
        except BaseException:
            self.abort()
            raise

    def publish(self) -> None:
        """Complete the file and give it its name; a second call does nothing.

        Raises
        ------
        ClosedError
            The file was given up, or another process has removed the temporary file.
        TargetExistsError
            A file of that name has appeared in the meantime.
        OSError
            The disk is full, for example. The temporary file is removed.
        """
        if self.published:
            return
        if not self.part:
            raise ClosedError(f"{self.path}: the file was given up")
        with self._locked():
            self.complete()
            try:
                # Renaming would replace what has appeared since the first check.
                self._check_target()
                self._replaced = self._is_taken()
                if self._replaced and self._before_replace is not None:
                    self._before_replace()
                self._rename()
                self.part = ""
                self.published = True
            except BaseException:
                self.abort()
                raise
        if self._sync:
            sync_folder(os.path.dirname(self.written_path) or ".")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the lock of the file when the file is closed."""
        lock = -1
        if self._file is not None:
            # If no descriptor is left, the file is not locked between closing and renaming.
            with contextlib.suppress(OSError):
                lock = os.dup(self._file.fileno())
        try:
            yield
        finally:
            if lock >= 0:
                os.close(lock)

    def _is_taken(self) -> bool:
        """Whether there is something that has the name."""
        return os.path.lexists(self.path)

    def _rename(self) -> None:
        """Give the temporary file its name."""
        try:
            with name_in_os_errors(self.path):
                os.replace(self.part, self.path)
        except FileNotFoundError:
            if os.path.lexists(self.part):
                raise
            raise ClosedError(
                f"{self.path}: another process that writes this file has removed the temporary "
                f"file; let one process write it"
            ) from None

    def abort(self) -> None:
        """Remove the temporary file; what has the name of the target stays as it was."""
        part, self.part = self.part, ""
        ours = part and self._pid == os.getpid()
        self._close()
        if ours:
            # What cannot be removed was never made, or is where nothing can be written.
            with contextlib.suppress(OSError):
                os.unlink(part)

    def withdraw(self) -> None:
        """Remove the file even after `publish`, unless it has replaced another one."""
        self.abort()
        # Identified by its inode: an interrupt may have come right after the renaming.
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            if not self._replaced and os.path.samestat(status, self._status):
                os.unlink(self.path)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            # What is still buffered is not needed. It may not fit on the disk, and a forked child
            # must not write what its parent is going to write.
            with contextlib.suppress(OSError):
                cast("BinaryIO", getattr(file, "raw", file)).close()

    def close(self) -> None:
        """Publish the file, as the end of a ``with`` block does."""
        self.publish()

    def __del__(self) -> None:
        if getattr(self, "part", ""):
            self.abort()


def create_file(
    directory: int,
    name: bytes,
    write: Callable[[int], object],
    mode: int,
    part: bytes = b"",
    staging: int | None = None,
) -> None:
    """Make a file in a directory, whole or not at all, as fast as many small files need it.

    Parameters
    ----------
    directory : int
        Descriptor of the directory.
    name : bytes
    write : callable
        Called with the descriptor of the new file.
    mode : int
        Permission bits, to which the umask is applied.
    part : bytes
        Temporary name, which no other thread uses. The file then replaces what has its name, a
        symbolic link itself included. Without, it is made under its own name, where others can
        see it before it is whole, and replaces nothing.
    staging : int, optional
        Descriptor of the directory of the temporary name, by default `directory`.

    Raises
    ------
    OSError
        The file cannot be made or written; nothing is left of it.
    """
    path = part or name
    place = directory if staging is None else staging
    descriptor = -1
    try:
        descriptor = os.open(path, _CREATE, mode, dir_fd=place)
        try:
            write(descriptor)
        finally:
            os.close(descriptor)
        if part:
            os.rename(part, name, src_dir_fd=place, dst_dir_fd=directory)
    except BaseException as error:
        # An interrupt may come when the file exists and its descriptor is not known yet.
        if descriptor >= 0 or not isinstance(error, OSError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path, dir_fd=place)
        raise


def check_target(path: str, overwrite: bool) -> None:
    """Refuse to write where something is that must not be replaced.

    Raises
    ------
    TargetExistsError
        A file is there and `overwrite` is false, or what is there is neither a file nor a link.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise TargetExistsError(f"{path} is {file_kind(mode)}; refusing to overwrite it")
    if not overwrite:
        raise TargetExistsError(f"{path} exists", hints=[Hint("overwrite=True", "to replace it")])


def file_kind(mode: int) -> str:
    """Describe what is not a regular file: ``a directory``."""
    for test, what in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return what
    return "a device"


# ---------------------------------------------------------------- several files


class Publishable(Protocol):
    """An `AtomicFile`, or a writer of one."""

    def complete(self) -> None:
        """Complete the temporary file, without giving it its name."""

    def publish(self) -> None:
        """Give it its name."""

    def withdraw(self) -> None:
        """Remove the temporary file, or what was published unless it replaced another one."""


def publish_together(files: Sequence[Publishable]) -> None:
    """Publish several files, or none of them.

    Each is completed before the first gets its name. If one fails, those that have their names
    already are removed again, but for those that replaced another file.
    """
    try:
        for file in files:
            file.complete()
        for file in files:
            file.publish()
    except BaseException:
        for file in files:
            file.withdraw()
        raise
