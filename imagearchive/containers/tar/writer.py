"""Write TAR archives: streamed, deterministic, and visible only when whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from imagearchive.containers.archive_writer import ArchiveWriter, StreamTarget, open_packed_file
from imagearchive.containers.tar.ustar import BLOCK, header
from imagearchive.errors import (
    CorruptArchiveError,
    OptionError,
    OptionTypeError,
    UnsafePathError,
)
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.atomic import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from imagearchive.storage.location import Location

__all__ = ["RECORD", "BareTarWriter"]

# The two zero blocks at the end, then up to a whole record, as every tar program writes it.
RECORD: Final = 20 * BLOCK
BUFFER: Final = 1 << 20


class BareTarWriter(ArchiveWriter):
    """Writes one TAR archive and no index; `imagearchive.TarWriter` says what is promised.

    Parameters
    ----------
    path, overwrite, mtime, mode, sync
        As in `imagearchive.TarWriter`.
    before_replace, on_upload : callable, optional
        As in `ArchiveWriter`.
    stream : StreamTarget, optional
        Write to this instead of a file; `path` is what errors call it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        mtime: int = 0,
        mode: int = 0o644,
        sync: bool = True,
        before_replace: Callable[[], object] | None = None,
        on_upload: Callable[[Location], object] | None = None,
        stream: StreamTarget | None = None,
    ) -> None:
        super().__init__(
            path,
            overwrite=overwrite,
            sync=sync,
            before_replace=before_replace,
            on_upload=on_upload,
            buffering=0,
            stream=stream,
        )
        self._mtime = mtime
        self._mode = mode
        self._buffer = memoryview(bytearray(BUFFER))
        self._used = 0
        self._flushed = 0
        self._count = 0
        self._fd = self._target.file.fileno()

    def __len__(self) -> int:
        """Members written so far."""
        return self._count

    # --- members ----------------------------------------------------------------------------

    def add(
        self, name: str | bytes, data: Buffer, *, mtime: int | None = None, mode: int | None = None
    ) -> None:
        """Add a member from memory; see `imagearchive.TarWriter.add`."""
        try:
            view = memoryview(data).cast("B")
        except TypeError:
            raise OptionTypeError(
                f"{name!r}: the data must be bytes-like, got {type(data).__name__}"
            ) from None
        self.add_chunks(name, [view], len(view), mtime=mtime, mode=mode)

    def add_chunks(
        self,
        name: str | bytes,
        chunks: Iterable[Buffer],
        size: int,
        *,
        mtime: int | None = None,
        mode: int | None = None,
    ) -> None:
        """Add a member whose data come in chunks; see `imagearchive.TarWriter.add_chunks`."""
        self._write(header(self._encode_name(name), size, *self._metadata(mtime, mode)))
        try:
            total = 0
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                total += len(view)
                self._write(view)
            self._pad(size)
        except BaseException:
            self._fail()
            raise
        if total != size:
            self._fail()
            raise OptionError(
                f"{name!r}: the chunks have {pluralize(total, 'byte')}, but size is {size}"
            )
        self._count += 1

    def add_file(
        self,
        path: str | bytes | os.PathLike[str],
        name: str | bytes,
        *,
        mtime: int | None = None,
        mode: int | None = None,
        keep_mtime: bool = False,
        dir_fd: int | None = None,
    ) -> None:
        """Add a member from a file; see `imagearchive.TarWriter.add_file`.

        Parameters
        ----------
        path, name, mtime, mode, keep_mtime
            As there.
        dir_fd : int, optional
            Directory that a relative `path` starts from.
        """
        stored = self._encode_name(name)
        # Relative to a descriptor, the path alone does not tell which file it is.
        path_shown = os.fsdecode(path if dir_fd is None else name)
        fd, status = open_packed_file(path, path_shown, dir_fd)
        try:
            size = status.st_size
            if keep_mtime:
                mtime = status.st_mtime_ns // 1_000_000_000
            head = header(stored, size, *self._metadata(mtime, mode))
            try:
                self._add_content(fd, head, size, path_shown)
            except BaseException:
                self._fail()
                raise
        finally:
            os.close(fd)
        self._count += 1

    def _add_content(self, fd: int, head: bytes, size: int, path_shown: str) -> None:
        if self._fd < 0:
            raise self._closed_error()
        # Asking for one byte more than the file should have detects a file that grows.
        if len(head) + size + BLOCK > BUFFER - self._used:
            self._flush()
        if len(head) + size + BLOCK <= BUFFER:
            start = self._used + len(head)
            self._buffer[self._used : start] = head
            self._used = start
            with os_errors_for(path_shown):
                count = os.readv(fd, [self._buffer[start : start + size + 1]])
            self._used += min(count, size)
            if count < size:
                count += self._copy(fd, size - count, path_shown)
        else:
            self._write(head)
            count = self._copy(fd, size, path_shown)
        if count != size:
            raise CorruptArchiveError(
                f"{path_shown}: the file changed its size while it was packed; it had "
                f"{pluralize(size, 'byte')}"
            )
        self._pad(size)

    def template(self) -> bytes:
        """Return the header of an empty file without a name and with a blank checksum.

        Empty if the modification time needs more than one block.
        """
        head = header(b"", 0, self._mtime, self._mode)
        return head[:148] + b" " * 8 + head[156:] if len(head) == BLOCK else b""

    def add_members(self, members: Buffer, count: int) -> None:
        """Add complete members: headers, data and padding.

        Parameters
        ----------
        members : bytes-like
            As `small_files.fill` returns them.
        count : int
            Number of members.
        """
        self._write(members)
        self._count += count

    def _copy(self, fd: int, size: int, path_shown: str) -> int:
        """Copy the rest of a file through the buffer; return the number of bytes copied."""
        done = 0
        while done < size:
            if self._used == BUFFER:
                self._flush()
            room = min(BUFFER - self._used, size - done)
            with os_errors_for(path_shown):
                count = os.readv(fd, [self._buffer[self._used : self._used + room]])
            if not count:
                return done
            self._used += count
            done += count
        with os_errors_for(path_shown):
            return done + len(os.read(fd, 1))

    def _metadata(self, mtime: int | None, mode: int | None) -> tuple[int, int]:
        return (
            self._mtime if mtime is None else int(mtime),
            self._mode if mode is None else mode,
        )

    @staticmethod
    def _encode_name(name: str | bytes) -> bytes:
        stored = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
        if (
            not stored
            or stored[0] == 0x2F
            or stored[-1] == 0x2F
            or b"\0" in stored
            or (b".." in stored and b".." in stored.split(b"/"))
        ):
            raise UnsafePathError(
                f"{stored[:200]!r} cannot be the name of a member; it must be a relative path of a "
                f"file, without '..' and NUL"
            )
        return stored

    # --- bytes ------------------------------------------------------------------------------

    def _write(self, data: Buffer) -> None:
        if self._fd < 0:
            raise self._closed_error()
        view = memoryview(data)
        if len(view) > BUFFER - self._used:
            self._flush()
        if len(view) > BUFFER // 4:
            self._flush()
            self._flushed += len(view)
            self._write_out(view)
            return
        end = self._used + len(view)
        self._buffer[self._used : end] = view
        self._used = end

    def _pad(self, size: int) -> None:
        pad = -size % BLOCK
        if pad:
            self._write(bytes(pad))

    def _flush(self) -> None:
        used, self._used = self._used, 0
        self._flushed += used
        self._write_out(self._buffer[:used])

    def _write_out(self, view: memoryview) -> None:
        if self._fd < 0:
            raise self._closed_error()
        try:
            with os_errors_for(self._written_path):
                write_all(self._fd, view)
        except BaseException:
            self._fail()
            raise

    # --- the end ----------------------------------------------------------------------------

    def _finish(self) -> None:
        end = 2 * BLOCK
        self._write(bytes(end + -(self._flushed + self._used + end) % RECORD))
        self._flush()

    def complete(self) -> None:
        """Complete the temporary file without giving it its name yet."""
        super().complete()
        self._fd = -1

    def withdraw(self) -> None:
        """Remove the archive even after `publish`, unless it has replaced another one.

        For several archives that appear together or not at all.
        """
        self._fd = -1
        super().withdraw()

    def abort(self) -> None:
        """Remove the temporary file; an existing archive stays as it was."""
        self._fd = -1
        super().abort()
