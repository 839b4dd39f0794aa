"""The bytes of a ZIP archive in the order in which they are written: members, then the directory.

Every local header has a ZIP64 field for the sizes, even small ones. So its length, and with it the
offset of the data, is known before the data are.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

__all__ = [
    "ALIGNMENT",
    "END_SIZE",
    "FIRST_DAY",
    "ZIP64_LIMIT",
    "MemberHeader",
    "ZipStream",
    "deflater",
    "padding",
]

#: Data of stored members start at multiples of this, so that arrays can be used where they are.
ALIGNMENT: Final = 64
#: 1980-01-01, 00:00, the first moment that ZIP knows, as it stores it: date, time.
FIRST_DAY: Final = (33, 0)
#: Sizes and offsets from here on go into ZIP64 fields.
ZIP64_LIMIT = 0xFFFFFFFF

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END64: Final = struct.Struct("<4sQ2H2L4Q4sLQL")
_END: Final = struct.Struct("<4s4H2LH")
_EXTRA: Final = struct.Struct("<2H")
_ZIP64_SIZES: Final = struct.Struct("<2H2Q")
_STORED: Final = 0
_DEFLATED: Final = 8
# A 32-bit field that says: look into the ZIP64 field.
_FULL: Final = 0xFFFFFFFF
# The version that knows ZIP64, and the system whose permission bits are recorded.
_VERSION: Final = 45
_UNIX: Final = 3
_REGULAR_FILE: Final = 0o100000
_UTF8: Final = 0x800
# The id under which Android's zipalign pads local headers; readers skip what they do not know.
_PADDING_ID: Final = 0xD935


#: What ends a ZIP: its last records, with those of ZIP64.
END_SIZE: Final = _END64.size + _END.size


class MemberHeader:
    """The two headers of a member: one before its data, one in the directory.

    Parameters
    ----------
    name : bytes
        UTF-8.
    offset : int
        Where the local header starts.
    deflated : bool
        Whether the data are deflated; otherwise they are stored.
    moment : tuple of int
        Modification date and time as ZIP stores them.
    mode : int
        Permission bits.

    Attributes
    ----------
    crc, size, stored_size : int
        CRC-32 and length of the data, and their length as stored. Set them before
        building the final headers.
    """

    def __init__(
        self,
        name: bytes,
        offset: int,
        deflated: bool,
        moment: tuple[int, int] = FIRST_DAY,
        mode: int = 0o644,
    ) -> None:
        self.name = name
        self.offset = offset
        self.crc = self.size = self.stored_size = 0
        self._date, self._time = moment
        self._method = _DEFLATED if deflated else _STORED
        self._flags = 0 if name.isascii() else _UTF8
        self._mode = mode

    @staticmethod
    def local_size(name_size: int) -> int:
        """Return the length of a local header without extra fields."""
        return _LOCAL.size + name_size + _ZIP64_SIZES.size

    @staticmethod
    def largest_size(name_size: int) -> int:
        """Return how many bytes a member takes at most in addition to its data."""
        local = _LOCAL.size + name_size + _ZIP64_SIZES.size + _EXTRA.size + ALIGNMENT - 1
        return local + _CENTRAL.size + name_size + _ZIP64_SIZES.size + 8

    def local(self, before: bytes = b"", after: bytes = b"") -> bytes:
        """Build the header that precedes the data.

        Parameters
        ----------
        before, after : bytes
            Extra fields on either side of the ZIP64 field.
        """
        sizes = _ZIP64_SIZES.pack(1, 16, self.size, self.stored_size)
        extra = before + sizes + after
        return (
            _LOCAL.pack(
                b"PK\x03\x04", _VERSION, self._flags, self._method, self._time, self._date,
                self.crc, _FULL, _FULL, len(self.name), len(extra),
            )
            + self.name
            + extra
        )  # fmt: skip

    def central(self) -> bytes:
        """Build the header in the directory."""
        large = [v for v in (self.size, self.stored_size, self.offset) if v >= ZIP64_LIMIT]
        extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        return (
            _CENTRAL.pack(
                b"PK\x01\x02", _UNIX << 8 | _VERSION, _VERSION, self._flags, self._method,
                self._time, self._date, self.crc, _field(self.stored_size), _field(self.size),
                len(self.name), len(extra), 0, 0, 0, (_REGULAR_FILE | self._mode & 0o777) << 16,
                _field(self.offset),
            )
            + self.name
            + extra
        )  # fmt: skip


class ZipStream:
    """Writes members to the end of a file, then the directory.

    Parameters
    ----------
    file : binary file
        Seekable; the archive starts at its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._directory: list[bytes] = []

    def add(
        self,
        name: bytes,
        chunks: Iterable[Buffer],
        *,
        level: int | None = None,
        align: bool = False,
        moment: tuple[int, int] = FIRST_DAY,
        mode: int = 0o644,
    ) -> None:
        """Write a member.

        Parameters
        ----------
        name : bytes
            UTF-8.
        chunks : iterable of bytes-like
            The data. When the first chunk is asked for, the file is at their start.
        level : int, optional
            Deflate them at this level, from 1 to 9.
        align : bool
            Let the data start at a multiple of `ALIGNMENT`.
        moment, mode
            As in `MemberHeader`.
        """
        file = self.file
        header = MemberHeader(name, file.tell(), level is not None, moment, mode)
        before = b""
        if align:
            start = header.offset + MemberHeader.local_size(len(name))
            before = padding(-(start + _EXTRA.size) % ALIGNMENT)
        file.write(header.local(before))
        start = file.tell()
        compressor = deflater(level)
        for chunk in chunks:
            header.crc = zlib.crc32(chunk, header.crc)
            header.size += memoryview(chunk).nbytes
            file.write(compressor.compress(chunk) if compressor else chunk)
        if compressor:
            file.write(compressor.flush())
        end = file.tell()
        header.stored_size = end - start
        file.seek(header.offset)
        file.write(header.local(before))
        file.seek(end)
        self.add_record(header)

    def add_record(self, header: MemberHeader) -> None:
        """Add a member to the directory whose header and data were written otherwise."""
        self._directory.append(header.central())

    def finish(self) -> None:
        """Write the directory, which ends the archive."""
        file = self.file
        start = file.seek(0, os.SEEK_END)
        for record in self._directory:
            file.write(record)
        size = file.tell() - start
        count = len(self._directory)
        if count >= 0xFFFF or start >= ZIP64_LIMIT or size >= ZIP64_LIMIT:
            end64 = (44, _UNIX << 8 | _VERSION, _VERSION, 0, 0, count, count, size, start)
            file.write(_END64.pack(b"PK\x06\x06", *end64, b"PK\x06\x07", 0, start + size, 1))
        count = min(count, 0xFFFF)
        file.write(_END.pack(b"PK\x05\x06", 0, 0, count, count, _field(size), _field(start), 0))


def padding(size: int) -> bytes:
    """Return an extra field with `size` bytes of padding."""
    return _EXTRA.pack(_PADDING_ID, size) + bytes(size)


def deflater(level: int | None) -> zlib._Compress | None:
    """Return a compressor of raw deflate streams, or None to store."""
    return None if level is None else zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)


def _field(value: int) -> int:
    return _FULL if value >= ZIP64_LIMIT else value
