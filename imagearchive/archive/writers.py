"""Writers of archives that keep the index beside an archive right."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from typing import Final

from imagearchive.containers.archive_writer import open_packed_file
from imagearchive.containers.tar.writer import BareTarWriter
from imagearchive.containers.zip.writer import BareZipWriter
from imagearchive.errors import CorruptArchiveError, CorruptIndexError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.index.index_locations import cache_location, index_beside
from imagearchive.storage.location import local_path, locate

__all__ = [
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


class TarWriter(BareTarWriter):
    """Writes one TAR archive, which appears under its name only when it is whole.

    Until `close`, the bytes are in a temporary file beside the target; leaving the ``with`` block
    by an exception removes it. The same members give the same bytes: owner, group and, unless
    given, time and permissions are constants. For one thread.

    Parameters
    ----------
    path : path-like
        The archive to write.
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

    Raises
    ------
    TargetExistsError
        `path` exists and `overwrite` was not given, or it is not a file.
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
    ) -> None:
        super().__init__(
            path,
            overwrite=overwrite,
            mtime=mtime,
            mode=mode,
            sync=sync,
            before_replace=partial(drop_index, local_path("path", path)),
        )
        self._index = index

    def close(self) -> None:
        """Complete the archive, give it its name and build its index; again does nothing.

        Raises
        ------
        ClosedError, TargetExistsError, OSError
            As `publish`.
        """
        super().close()
        if self.published and self._index:
            # Once only.
            self._index = False
            _build_index(self.path)


class ZipWriter(BareZipWriter):
    """Writes one ZIP archive without compression, so that any member can be read in place.

    The data of each member start at a multiple of 64 bytes, which lets arrays be used where they
    are mapped; an NPZ is such an archive, too. Until `close`, the bytes are in a temporary file
    beside the target; leaving the ``with`` block by an exception removes it. The same members
    give the same bytes. For one thread.

    Parameters
    ----------
    path : path-like
        The archive to write.
    overwrite : bool
        Replace an archive of that name when the new one is whole.
    sync : bool
        Put the archive on disk before it gets its name.

    Raises
    ------
    TargetExistsError
        `path` exists and `overwrite` was not given, or it is not a file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, sync: bool = True
    ) -> None:
        super().__init__(
            path,
            overwrite=overwrite,
            sync=sync,
            before_replace=partial(drop_index, local_path("path", path)),
        )


class IndexedZipWriter(ZipWriter):
    """Writes files to a ZIP archive and builds its index; the ZIP that `pack` writes.

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
        super().__init__(path, overwrite=overwrite, sync=sync)
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
            self.add(
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


PackWriter = TarWriter | IndexedZipWriter


def open_writer(
    path: str, *, overwrite: bool, mtime: int | None, index: bool, sync: bool
) -> PackWriter:
    """Return the writer of an archive that `pack` writes: a ZIP for ``.zip``, otherwise a TAR."""
    kind = IndexedZipWriter if is_zip(path) else TarWriter
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
                f"{path_shown}: the file changed its size while it was packed; it had {size} bytes"
            )
        if not data:
            return
        yield data


def _build_index(path: str) -> None:
    # Imports NumPy, which `pack` does in a thread while it packs.
    from imagearchive.index.table import IndexTable

    IndexTable.open(path, overwrite=True)


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
    place = index_beside(archive).path
    if not os.path.lexists(place):
        return
    from imagearchive.index.table import IndexTable

    try:
        if IndexTable.load(place).files == [archive.path]:
            os.unlink(place)
    except (FileNotFoundError, CorruptIndexError):
        # A damaged one is built again at the next open.
        pass
