"""Whole members decompressed in memory, with a bound on what they may grow to.

A few kilobytes of gzip, xz, bzip2 or Zstandard can stand for terabytes. Every decompressor here
is fed step by step and stopped as soon as its output passes what the `Limits` allow.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from imagearchive.errors import DecodeError, LimitError, MissingDependencyError
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["COMPRESSIONS", "compress", "decompress"]

# An xz file says how large a dictionary its decoder must allocate, up to 4 GiB. The presets stop
# at 64 MiB, for which a decoder needs 65 MiB.
XZ_MEMORY: Final = 128 << 20
ZSTD_WINDOW: Final = 1 << 27
ZSTD_FEED: Final = 1 << 12
STEP: Final = 1 << 20
FIRST_FEED: Final = 1 << 10


class _Stream(Protocol):
    """What the decompressors of `bz2` and `lzma` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


class _Gzip:
    """The one of `zlib` made like theirs."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: Buffer, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail or data, max_length)


def _streams(data: memoryview, new: Callable[[], _Stream], limits: Limits, stored: int) -> bytes:
    """Decompress concatenated streams; zero bytes may follow the last, as tapes leave them."""
    allowed = limits.allowed(stored)
    parts: list[bytes] = []
    total = position = 0
    while position < len(data):
        stream = new()
        # What is fed beyond the end of a stream is copied back, so short streams get little.
        feed = FIRST_FEED
        while not stream.eof:
            chunk = data[position : position + feed] if stream.needs_input else b""
            position += len(chunk)
            feed = min(2 * feed, STEP)
            part = stream.decompress(chunk, STEP)
            if not part and not stream.eof and position == len(data):
                raise DecodeError("the compressed data ends early; the member is truncated")
            total += len(part)
            if total > allowed:
                raise limits.exceeded(stored)
            parts.append(part)
        position = _behind_zeros(data, position - len(stream.unused_data))
    return b"".join(parts)


def _behind_zeros(data: memoryview, position: int) -> int:
    while position < len(data) and not data[position]:
        # In pieces, as there may be gigabytes of them.
        piece = bytes(data[position : position + STEP])
        position += len(piece) - len(piece.lstrip(b"\0"))
    return position


def _gunzip(data: memoryview, limits: Limits, stored: int) -> bytes:
    return _streams(data, _Gzip, limits, stored)


def _bunzip2(data: memoryview, limits: Limits, stored: int) -> bytes:
    return _streams(data, bz2.BZ2Decompressor, limits, stored)


def _unxz(data: memoryview, limits: Limits, stored: int) -> bytes:
    def new() -> _Stream:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    return _streams(data, new, limits, stored)


def _unzstd(data: memoryview, limits: Limits, stored: int) -> bytes:
    zstandard = _zstandard()
    allowed = limits.allowed(stored)
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    parts: list[bytes] = []
    total = position = 0
    while position < len(data):
        # One frame after the other: the reader alone would not say that the last is cut.
        frame = decompressor.decompressobj()
        while not frame.eof:
            if position >= len(data):
                raise DecodeError("the compressed data ends early; the member is truncated")
            # A block of Zstandard holds at most 128 KiB, so little input gives bounded output.
            chunk = data[position : position + ZSTD_FEED]
            position += len(chunk)
            part = frame.decompress(chunk)
            total += len(part)
            if total > allowed:
                raise limits.exceeded(stored)
            parts.append(part)
        position -= len(frame.unused_data)
    return b"".join(parts)


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingDependencyError(
            "Zstandard needs a package: pip install 'imagearchive[compressed]'"
        ) from None
    return zstandard


def _zstd(data: bytes) -> bytes:
    packed: bytes = _zstandard().ZstdCompressor(level=3).compress(data)
    return packed


def _gzip(data: bytes) -> bytes:
    # No time stamp: the same input gives the same bytes.
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


_DECOMPRESSORS: Final[dict[str, Callable[[memoryview, Limits, int], bytes]]] = {
    "gz": _gunzip,
    "bz2": _bunzip2,
    "xz": _unxz,
    "zst": _unzstd,
}
_COMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gz": _gzip,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": _zstd,
}
#: The extensions that `compress` and `decompress` know, without the dot.
COMPRESSIONS: Final = frozenset(_DECOMPRESSORS)


def decompress(kind: str, data: Buffer, limits: Limits, stored: int | None = None) -> bytes:
    """Decompress a whole member.

    Parameters
    ----------
    kind : {"gz", "bz2", "xz", "zst"}
    data : bytes-like
        One or more whole compressed streams.
    limits : Limits
    stored : int, optional
        Size to which the ratio refers, where `data` is itself the outcome of decompression.

    Raises
    ------
    DecodeError
        The data is damaged or cut short.
    LimitError
        The output would pass the limits.
    MissingDependencyError
        ``zst`` without the ``zstandard`` package.
    """
    raw = memoryview(data).cast("B")
    if not raw:
        raise DecodeError(f"an empty member is no {kind} data")
    try:
        return _DECOMPRESSORS[kind](raw, limits, len(raw) if stored is None else stored)
    except lzma.LZMAError as error:
        if "Memory usage limit" in str(error):
            raise LimitError(
                f"this xz data asks for more than {XZ_MEMORY >> 20} MiB of dictionary; "
                f"recompress it with a preset (xz -9 or less)"
            ) from error
        raise DecodeError(f"not valid {kind} data: {error}") from error
    except (zlib.error, OSError, EOFError, ValueError) as error:
        if isinstance(error, DecodeError | LimitError):
            raise
        raise DecodeError(f"not valid {kind} data: {error}") from error
    except Exception as error:
        # zstandard.ZstdError derives from Exception alone, and may not be importable here.
        if type(error).__name__ != "ZstdError":
            raise
        raise DecodeError(f"not valid {kind} data: {error}") from error


def compress(kind: str, data: Buffer) -> bytes:
    """Compress a whole member; the same input gives the same bytes.

    Raises
    ------
    MissingDependencyError
        ``zst`` without the ``zstandard`` package.
    """
    return _COMPRESSORS[kind](memoryview(data).tobytes())
