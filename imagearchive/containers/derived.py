"""What an archive reads that is not a file as it is stored: views of files and of members."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from imagearchive.errors import LimitError
from imagearchive.errors.hints import Hint, shell_command
from imagearchive.storage.limits import RATIO_FLOOR

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.compressed import CompressedStorage, CompressedStream
    from imagearchive.storage.location import Location
    from imagearchive.storage.protocol import FileStorage, Storage
    from imagearchive.storage.stream_format import StreamFormat

__all__ = [
    "DECOMPRESS",
    "HEAD_BYTES",
    "MAX_COMPRESSION",
    "DerivedFile",
    "check_expansion",
    "find_stream_format",
    "stream_format_named",
    "stream_format_of",
]

#: The hint for a file that cannot be read at random.
DECOMPRESS: Final = Hint("decompress_to=DIR", "to keep a decompressed copy in a directory")

#: How much of the beginning of a file tells its format.
HEAD_BYTES: Final = 512

#: Largest ratio of output to stored size of a file that is compressed as a whole, above 64 MiB. Its
#: first opening decompresses all of it. Deflate reaches 1,032, Zstandard 32,000, bzip2 over 10^6.
MAX_COMPRESSION: Final = 1000

# How the files of each format begin, so that its module is imported only for them.
_BEGINNINGS: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_SKIPPABLE_FRAME: Final = b"\x2a\x4d\x18"


@functools.cache
def _formats() -> list[StreamFormat]:
    from imagearchive.storage.bzip2 import Bzip2Format
    from imagearchive.storage.deflate import DeflateFormat
    from imagearchive.storage.gzip import GzipFormat
    from imagearchive.storage.xz import XzFormat
    from imagearchive.storage.zstd import ZstdFormat

    return [GzipFormat(), Bzip2Format(), XzFormat(), ZstdFormat(), DeflateFormat()]


def find_stream_format(head: bytes) -> StreamFormat | None:
    """Return the compression format of a file that begins with `head`, or None."""
    if not head.startswith(_BEGINNINGS) and head[1:4] != _SKIPPABLE_FRAME:
        return None
    return next((format for format in _formats() if format.sniff(head)), None)


def stream_format_of(location: Location) -> StreamFormat | None:
    """Return the format of a file that is compressed as a whole, or None."""
    if not location.status().is_file:
        return None
    with closing(location.open("pread")) as storage:
        return find_stream_format(bytes(storage.read(0, min(HEAD_BYTES, storage.size))))


def check_expansion(file: FileStorage, size: int, format: StreamFormat) -> None:
    """Raise LimitError if the output of a compressed file is too long for its size."""
    if size > max(RATIO_FLOOR, file.size * MAX_COMPRESSION):
        raise LimitError(
            f"{file.path}: {file.size} bytes of {format.label} data decompress to more than "
            f"{MAX_COMPRESSION} times as many; if you trust the file, decompress it first: "
            f"{shell_command(format.command, file.path)}"
        )


def stream_format_named(name: object) -> StreamFormat | None:
    """Return the compression format with a name, or None."""
    return next((format for format in _formats() if format.name == name), None)


@dataclasses.dataclass(frozen=True)
class DerivedFile:
    """What the offsets of an index table refer to where that is not a file as it is stored.

    It is the decompressed view of a file; or of a member of another archive; or, without a format,
    the bytes of another file or view, which a nested archive of another container format shares.

    Attributes
    ----------
    format : str
        The name of the compression format; empty if nothing is compressed.
    stored_size : int
        The length of the file or member in bytes.
    size : int
        The length of its output.
    checkpoints : tuple of int
        Start and stop of its checkpoints in the section of the index.
    parent : int or None
        The number of the file or view that contains the member; None for a whole file.
    offset : int
        Where the member begins in its parent.
    crc : int
        The CRC-32 of the output, 0 if the format has checksums of its own.
    name : str
        The path of the member: its name, after those of the archives that it is in.
    """

    format: str
    stored_size: int
    size: int
    checkpoints: tuple[int, int]
    parent: int | None = None
    offset: int = 0
    crc: int = 0
    name: str = ""

    @classmethod
    def from_json(cls, found: Any) -> DerivedFile:
        """Return what `to_json` described.

        Raises
        ------
        ValueError
            It was not described by `to_json`.
        """
        try:
            parent, name = found.get("parent"), found.get("name", "")
            places = (found.get("offset", 0), found.get("crc", 0))
            numbers = (found["stored_size"], found["size"], *found["checkpoints"], *places)
            valid = all(
                type(number) is int and 0 <= number < 1 << 62
                for number in (*numbers, 0 if parent is None else parent)
            )
            format = found["format"]
            known = format == "" or stream_format_named(format) is not None
            if valid and known and isinstance(name, str) and (format or parent is not None):
                stored_size, size, start, stop, offset, crc = numbers
                return cls(format, stored_size, size, (start, stop), parent, offset, crc, name)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise ValueError("not a derived file")

    def to_json(self) -> dict[str, Any]:
        """Return a description for the metadata of an index."""
        described = dataclasses.asdict(self)
        if self.parent is None:
            for key in ("parent", "offset", "crc", "name"):
                del described[key]
        return described

    def stream(self, storage: Storage, where: str) -> CompressedStream:
        """Return the compressed stream.

        Parameters
        ----------
        storage : Storage
            The file, or the parent.
        where : str
            Its name in messages.
        """
        format = stream_format_named(self.format)
        assert format is not None
        return format.stream(storage, self.offset, self.stored_size, self.size, where, self.crc)

    def open(self, file: FileStorage, checkpoints: Buffer) -> CompressedStorage:
        """Return the view of an open file, which is closed together with it.

        Parameters
        ----------
        file : FileStorage
        checkpoints : bytes-like
            The section of the index.

        Raises
        ------
        CorruptIndexError
            The checkpoints do not belong to the file.
        """
        from imagearchive.storage.compressed import CompressedStorage

        start, stop = self.checkpoints
        stream = self.stream(file, file.path)
        return CompressedStorage(stream, memoryview(checkpoints)[start:stop], owned=file)

    def open_member(self, parent: Storage, checkpoints: Buffer, where: str) -> CompressedStorage:
        """Return the view of a member of an open archive, which stays open.

        Parameters
        ----------
        parent : Storage
        checkpoints : bytes-like
            The section of the index.
        where : str
            The name of the member in messages.

        Raises
        ------
        CorruptIndexError
            The checkpoints do not belong to the member.
        """
        from imagearchive.storage.compressed import CompressedStorage

        start, stop = self.checkpoints
        return CompressedStorage(self.stream(parent, where), memoryview(checkpoints)[start:stop])
