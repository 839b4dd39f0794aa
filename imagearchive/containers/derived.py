"""Files of an archive that are not as they are stored: decompressed views of a file."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Final

from imagearchive.storage.compressed import CompressedStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import FileStorage
    from imagearchive.storage.stream_format import StreamFormat

__all__ = ["DerivedFile", "find_stream_format", "stream_format_named"]

# How the files of each format begin, so that its module is imported only for them.
_BEGINNINGS: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_SKIPPABLE_FRAME: Final = b"\x2a\x4d\x18"


@functools.cache
def _formats() -> list[StreamFormat]:
    from imagearchive.storage.bzip2 import Bzip2Format
    from imagearchive.storage.gzip import GzipFormat
    from imagearchive.storage.xz import XzFormat
    from imagearchive.storage.zstd import ZstdFormat

    return [GzipFormat(), Bzip2Format(), XzFormat(), ZstdFormat()]


def find_stream_format(head: bytes) -> StreamFormat | None:
    """Return the compression format of a file that begins with `head`, or None."""
    if not head.startswith(_BEGINNINGS) and head[1:4] != _SKIPPABLE_FRAME:
        return None
    return next((format for format in _formats() if format.sniff(head)), None)


def stream_format_named(name: object) -> StreamFormat | None:
    """Return the compression format with a name, or None."""
    return next((format for format in _formats() if format.name == name), None)


@dataclasses.dataclass(frozen=True)
class DerivedFile:
    """The decompressed view of a file, to which the offsets of an index table refer.

    Attributes
    ----------
    format : str
        The name of the compression format.
    stored_size : int
        The length of the file in bytes.
    size : int
        The length of its output.
    checkpoints : tuple of int
        Start and stop of its checkpoints in the section of the index.
    """

    format: str
    stored_size: int
    size: int
    checkpoints: tuple[int, int]

    @classmethod
    def from_json(cls, found: Any) -> DerivedFile:
        """Return what `to_json` described.

        Raises
        ------
        ValueError
            It was not described by `to_json`.
        """
        try:
            numbers = (found["stored_size"], found["size"], *found["checkpoints"])
            valid = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
            if valid and stream_format_named(found["format"]) is not None:
                stored_size, size, start, stop = numbers
                return cls(found["format"], stored_size, size, (start, stop))
        except (KeyError, TypeError):
            pass
        raise ValueError("not a derived file")

    def to_json(self) -> dict[str, Any]:
        """Return a description for the metadata of an index."""
        return dataclasses.asdict(self)

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
        format = stream_format_named(self.format)
        assert format is not None
        stream = format.stream(file, 0, self.stored_size, self.size, file.path)
        start, stop = self.checkpoints
        return CompressedStorage(stream, memoryview(checkpoints)[start:stop], owned=file)
