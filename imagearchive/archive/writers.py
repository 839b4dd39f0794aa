"""Writers of archives that keep the index beside an archive right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from imagearchive.containers.archive_writer import open_packed_file
from imagearchive.containers.tar.writer import BareTarWriter
from imagearchive.containers.zip.writer import BareZipWriter
from imagearchive.errors import CorruptArchiveError, CorruptIndexError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.index.index_locations import cache_location, index_beside
from imagearchive.storage.closing import Abortable
from imagearchive.storage.location import locate
from imagearchive.storage.outputs import output_path

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.location import Location

__all__ = [
    "IndexedTarWriter",
    "IndexedZipWriter",
    "PackWriter",
    "TarWriter",
    "ZipWriter",
    "drop_index",
    "is_zip",
    "open_writer",
]

# Of a file that goes into a ZIP, this many bytes are read at a time.
_CHUNK: Final = 1 << 20


class TarWriter(Abortable):
    """Writes one TAR archive, which appears under its name only when it is whole.

    Until `close`, the bytes are in a temporary file beside the target; leaving the ``with`` block
    by an exception removes it. For a URL, that file is in the folder of temporary files, which
    ``TMPDIR`` names, and `close` uploads it, and then the index. The same members give the same
    bytes: owner, group and, unless given, time and permissions are constants. For one thread.

    Parameters
    ----------
    path : path-like
        The archive to write, or a URL.
    overwrite : bool
        Replace an archive of that name when the new one is whole.
    mtime : int
        Modification time of members that are added without one, in seconds since 1970.
    mode : int
        Permission bits of members that are added without any.
    index : bool
        Build the index table beside the archive as well.
    sync : bool
        Put the archive on disk before it gets its name. Without, a power failure can leave a name
        with missing content.
    storage_options, filesystem : optional
        How to reach a URL, as in `open`.

    Attributes
    ----------
    path : str

    Raises
    ------
    TargetExistsError
        `path` exists and `overwrite` was not given, or it is not a file.
    OptionError
        `path` is a URL of an HTTP server.
    RemoteError
        The server cannot be reached.
    OSError
        The directory cannot be written.

    Examples
    --------
    >>> with TarWriter("train.tar") as tar:
    ...     tar.add("cat/0001.txt", b"a cat")
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        mtime: int = 0,
        mode: int = 0o644,
        index: bool = True,
        sync: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        text = output_path("path", path, storage_options, filesystem)
        self._writer = IndexedTarWriter(
            text, overwrite=overwrite, mtime=mtime, mode=mode, index=index, sync=sync
        )
        self.path = self._writer.path

    def __len__(self) -> int:
        """Members written so far."""
        return len(self._writer)

    def add(
        self, name: str | bytes, data: Buffer, *, mtime: int | None = None, mode: int | None = None
    ) -> None:
        """Add a member from memory.

        Parameters
        ----------
        name : str or bytes
            Relative path; as `str` in UTF-8, with surrogates for other bytes.
        data : bytes-like
        mtime : int, optional
            Seconds since 1970.
        mode : int, optional
            Permission bits.

        Raises
        ------
        UnsafePathError
            The name is empty or absolute, leads out of the archive, or contains a NUL byte.
        OptionTypeError
            The data are not bytes.
        ClosedError
            The writer is closed.
        """
        self._writer.add(name, data, mtime=mtime, mode=mode)

    def add_chunks(
        self,
        name: str | bytes,
        chunks: Iterable[Buffer],
        size: int,
        *,
        mtime: int | None = None,
        mode: int | None = None,
    ) -> None:
        """Add a member whose data come in chunks.

        Parameters
        ----------
        name, mtime, mode
            As in `add`.
        chunks : iterable of bytes-like
        size : int
            Total size of the chunks in bytes; the header that precedes them needs it.

        Raises
        ------
        UnsafePathError, ClosedError
            As `add`.
        OptionError
            The chunks do not add up to `size` bytes. After this, and after any exception from
            `chunks`, the archive ends in half a member, so it is discarded.
        """
        self._writer.add_chunks(name, chunks, size, mtime=mtime, mode=mode)

    def add_file(
        self,
        path: str | bytes | os.PathLike[str],
        name: str | bytes,
        *,
        mtime: int | None = None,
        mode: int | None = None,
        keep_mtime: bool = False,
    ) -> None:
        """Add a member from a file.

        Parameters
        ----------
        path : path-like
            A regular file, or a symbolic link to one.
        name : str or bytes
            Its path in the archive.
        mtime, mode : int, optional
            As in `add`.
        keep_mtime : bool
            Take the time of the file instead.

        Raises
        ------
        UnsafePathError
            As `add`.
        UnsupportedMemberError
            `path` is a directory, device, FIFO or socket.
        CorruptArchiveError
            The file changed its size while it was read; the archive is discarded.
        OSError
            The file cannot be read.
        """
        self._writer.add_file(path, name, mtime=mtime, mode=mode, keep_mtime=keep_mtime)

    def close(self) -> None:
        """Complete the archive, give it its name and build its index; again does nothing.

        Raises
        ------
        ClosedError
            Adding a member failed, so the archive was discarded.
        TargetExistsError
            An archive of that name has appeared in the meantime.
        OSError
            The disk is full, for example; the temporary file is removed.
        """
        self._writer.close()

    def abort(self) -> None:
        """Remove the temporary file; an existing archive stays as it was."""
        self._writer.abort()


class ZipWriter(Abortable):
    """Writes one ZIP archive without compression, so that any member can be read in place.

    The data of each member start at a multiple of 64 bytes, which lets arrays be used where they
    are mapped; an NPZ is such an archive, too. Until `close`, the bytes are in a temporary file
    beside the target; leaving the ``with`` block by an exception removes it. The same members
    give the same bytes. For one thread.

    Parameters
    ----------
    path : path-like
        The archive to write, or a URL.
    overwrite : bool
        Replace an archive of that name when the new one is whole.
    sync : bool
        Put the archive on disk before it gets its name.
    storage_options, filesystem : optional
        How to reach a URL, as in `open`.

    Attributes
    ----------
    path : str

    Raises
    ------
    TargetExistsError
        `path` exists and `overwrite` was not given, or it is not a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        sync: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        text = output_path("path", path, storage_options, filesystem)
        self._writer = IndexedZipWriter(text, overwrite=overwrite, index=False, sync=sync)
        self.path = self._writer.path

    def add(self, name: str, data: Buffer, *, mtime: int = 0, mode: int = 0o644) -> None:
        """Add a member from memory.

        Parameters
        ----------
        name : str
            Relative path; it must be text, since ZIP has no other names.
        data : bytes-like
        mtime : int
            Seconds since 1970, in UTC; kept to two seconds, and from 1980 to 2107.
        mode : int
            Permission bits.

        Raises
        ------
        UnsafePathError
            The name is empty or absolute, leads out of the archive, or is not UTF-8.
        OptionTypeError
            The data are not bytes.
        ClosedError
            The writer is closed.
        """
        self._writer.add(name, data, mtime=mtime, mode=mode)

    def add_chunks(
        self, name: str, chunks: Iterable[Buffer], *, mtime: int = 0, mode: int = 0o644
    ) -> None:
        """Add a member whose data come in chunks.

        Parameters
        ----------
        name, mtime, mode
            As in `add`.
        chunks : iterable of bytes-like

        Raises
        ------
        UnsafePathError, ClosedError
            As `add`. Any exception from `chunks` leaves half a member behind, so the archive is
            discarded.
        """
        self._writer.add_chunks(name, chunks, mtime=mtime, mode=mode)

    def close(self) -> None:
        """Complete the archive and give it its name; again does nothing.

        Raises
        ------
        ClosedError, TargetExistsError, OSError
            As `TarWriter.close`.
        """
        self._writer.close()

    def abort(self) -> None:
        """Remove the temporary file; an existing archive stays as it was."""
        self._writer.abort()


class IndexedTarWriter(BareTarWriter):
    """The writer inside `TarWriter`, which several archives that appear together also need.

    Parameters
    ----------
    path, overwrite, mtime, mode, index, sync
        As in `TarWriter`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        mtime: int = 0,
        mode: int = 0o644,
        index: bool = True,
        sync: bool = True,
    ) -> None:
        text = output_path("path", path)
        super().__init__(
            text,
            overwrite=overwrite,
            mtime=mtime,
            mode=mode,
            sync=sync,
            before_replace=partial(drop_index, text),
            on_upload=_upload_index if index else None,
        )
        self._index = index

    def close(self) -> None:
        """Complete the archive, give it its name and build its index; again does nothing."""
        super().close()
        if self.published and self._index:
            # Once only.
            self._index = False
            _build_index(self.path)


class IndexedZipWriter(BareZipWriter):
    """Writes a ZIP archive and builds its index; the ZIP that `pack` and `convert` write.

    Parameters
    ----------
    path, overwrite, mtime, index, sync
        As in `TarWriter`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        mtime: int = 0,
        index: bool = True,
        sync: bool = True,
    ) -> None:
        text = output_path("path", path)
        super().__init__(
            text,
            overwrite=overwrite,
            sync=sync,
            before_replace=partial(drop_index, text),
            on_upload=_upload_index if index else None,
        )
        self._mtime = mtime
        self._index = index

    def add_file(
        self,
        path: str | bytes | os.PathLike[str],
        name: bytes,
        *,
        keep_mtime: bool = False,
        dir_fd: int | None = None,
    ) -> None:
        """Add a member from a file; arguments and errors as of `TarWriter.add_file`."""
        path_shown = os.fsdecode(path if dir_fd is None else name)
        fd, status = open_packed_file(path, path_shown, dir_fd)
        try:
            self.add_chunks(
                name.decode("utf-8", "surrogateescape"),
                _content(fd, status.st_size, path_shown),
                mtime=status.st_mtime_ns // 1_000_000_000 if keep_mtime else self._mtime,
            )
        finally:
            os.close(fd)

    def close(self) -> None:
        """Complete the archive, give it its name and build its index; again does nothing."""
        super().close()
        if self.published and self._index:
            self._index = False
            _build_index(self.path)


PackWriter = IndexedTarWriter | IndexedZipWriter


def open_writer(
    path: str, *, overwrite: bool, mtime: int | None, index: bool, sync: bool
) -> PackWriter:
    """Return the writer of an archive that `pack` writes: a ZIP for ``.zip``, otherwise a TAR."""
    kind = IndexedZipWriter if is_zip(path) else IndexedTarWriter
    return kind(path, overwrite=overwrite, mtime=mtime or 0, index=index, sync=sync)


def is_zip(path: str) -> bool:
    """Whether the name of an archive to pack says that it is a ZIP."""
    return os.path.splitext(path)[1].lower() == ".zip"


def _content(fd: int, size: int, path_shown: str) -> Iterator[bytes]:
    """Yield the bytes of a file that must have `size` of them."""
    left = size
    while True:
        with os_errors_for(path_shown):
            # One byte more than the file should have shows one that grows.
            data = os.read(fd, min(left + 1, _CHUNK))
        left -= len(data)
        if left < 0 or (left and not data):
            raise CorruptArchiveError(
                f"{path_shown}: the file changed its size while it was packed; it had "
                f"{pluralize(size, 'byte')}"
            )
        if not data:
            return
        yield data


def _build_index(path: str) -> None:
    if locate(path).local_path is None:
        # Done by `_upload_index`, while there was a copy on this machine.
        return
    # Imports NumPy, which `pack` does in a thread while it packs.
    from imagearchive.index.table import IndexTable

    IndexTable.open(path, overwrite=True)


def _upload_index(location: Location) -> None:
    """Save the index of an archive that was uploaded beside it."""
    from imagearchive.index.table import IndexTable
    from imagearchive.index.upload import upload_index

    upload_index(IndexTable.build(location), False)


def drop_index(path: str) -> None:
    """Remove the index of an archive that is about to be replaced.

    An index that fits the new archive by chance would give the bytes of other members. The index
    of another archive, as of ``data.zip`` beside ``data.tar``, stays; so does what is not an
    index.
    """
    archive = locate(path)
    cached = cache_location([archive.path], archive)
    if cached is not None:
        with contextlib.suppress(OSError):
            os.unlink(cached.path)
    beside = index_beside(archive)
    if not beside.exists():
        return
    from imagearchive.index.table import IndexTable

    try:
        if IndexTable.load(beside.path).files == [archive.path]:
            beside.remove()
    except (FileNotFoundError, CorruptIndexError):
        # A damaged one is built again at the next open.
        pass
