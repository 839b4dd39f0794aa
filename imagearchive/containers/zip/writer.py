"""Write ZIP archives of stored members, visible only when whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from imagearchive.containers.archive_writer import ArchiveWriter
from imagearchive.containers.zip.stream import ZipStream
from imagearchive.errors import OptionTypeError, UnsafePathError
from imagearchive.errors.os_errors import os_errors_for

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.location import Location

__all__ = ["BareZipWriter", "stored_mtime"]

# What a ZIP can say: from the beginning of 1980 to the end of 2107, in seconds since 1970.
FIRST_SECOND: Final = 315_532_800
LAST_SECOND: Final = 4_354_819_199


class BareZipWriter(ArchiveWriter):
    """Writes one ZIP archive and no index; `imagearchive.ZipWriter` says what is promised.

    Parameters
    ----------
    path, overwrite, sync
        As in `imagearchive.ZipWriter`.
    before_replace, on_upload : callable, optional
        As in `ArchiveWriter`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        sync: bool = True,
        before_replace: Callable[[], object] | None = None,
        on_upload: Callable[[Location], object] | None = None,
    ) -> None:
        super().__init__(
            path,
            overwrite=overwrite,
            sync=sync,
            before_replace=before_replace,
            on_upload=on_upload,
        )
        self._zip = ZipStream(self._target.file)

    def add(self, name: str, data: Buffer, *, mtime: int = 0, mode: int = 0o644) -> None:
        """Add a member from memory; see `imagearchive.ZipWriter.add`."""
        try:
            view = memoryview(data).cast("B")
        except TypeError:
            raise OptionTypeError(
                f"{name!r}: the data must be bytes-like, got {type(data).__name__}; add_chunks "
                f"takes several pieces"
            ) from None
        self.add_chunks(name, [view], mtime=mtime, mode=mode)

    def add_chunks(
        self, name: str, chunks: Iterable[Buffer], *, mtime: int = 0, mode: int = 0o644
    ) -> None:
        """Add a member whose data come in chunks; see `imagearchive.ZipWriter.add_chunks`."""
        if self._finished or not self._target.part:
            raise self._closed_error()
        encoded = self._encode_name(name)
        try:
            with os_errors_for(self._written_path):
                self._zip.add(encoded, chunks, align=True, moment=_zip_time(mtime), mode=mode)
        except BaseException:
            self._fail()
            raise

    @staticmethod
    def _encode_name(name: str) -> bytes:
        try:
            encoded = name.encode()
        except UnicodeEncodeError:
            raise UnsafePathError(f"{name!r} is not UTF-8, which a ZIP needs; use TAR") from None
        if (
            not name
            or name.startswith("/")
            or name.endswith("/")
            or "\0" in name
            or ".." in name.split("/")
            or len(encoded) > 0xFFFF
        ):
            raise UnsafePathError(
                f"{name[:200]!r} cannot be the name of a member; it must be a relative path of a "
                f"file, without '..' and NUL, of at most 65535 bytes"
            )
        return encoded

    def _finish(self) -> None:
        self._zip.finish()


def stored_mtime(mtime: int) -> int:
    """Return the time that a ZIP keeps of a time in seconds since 1970."""
    return min(max(mtime, FIRST_SECOND), LAST_SECOND) // 2 * 2


def _zip_time(mtime: int) -> tuple[int, int]:
    """Return a time in seconds since 1970 as the date and time of a ZIP, in UTC."""
    t = time.gmtime(min(max(mtime, FIRST_SECOND), LAST_SECOND))
    date = t.tm_year - 1980 << 9 | t.tm_mon << 5 | t.tm_mday
    return date, t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec // 2
