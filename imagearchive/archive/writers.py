"""Writers of archives that keep the index beside an archive right."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from imagearchive.containers.tar.writer import BareTarWriter
from imagearchive.containers.zip.writer import BareZipWriter
from imagearchive.errors import CorruptIndexError
from imagearchive.index.index_locations import cache_location, index_beside
from imagearchive.storage.location import local_path, locate

__all__ = ["TarWriter", "ZipWriter", "drop_index"]


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
            # Imports NumPy, which `pack` does in a thread while it packs.
            from imagearchive.index.table import IndexTable

            IndexTable.open(self.path, overwrite=True)


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
