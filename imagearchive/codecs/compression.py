"""Decompresses whole members in memory, with a bound on their decompressed size.

A few kilobytes of gzip, xz, bzip2 or Zstandard can decompress to terabytes. Every decompressor here
is fed step by step and stopped as soon as its output exceeds what the `Limits` allow.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from imagearchive.codecs.codec import Codec, DecodeOptions
from imagearchive.errors import DecodeError, LimitError
from imagearchive.storage.limits import Limits
from imagearchive.storage.zstd import import_zstandard

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["COMPRESSIONS", "CompressionCodec", "compress", "decompress"]

# An xz file states how large a dictionary its decoder must allocate, up to 4 GiB. The largest
# preset uses 64 MiB, for which a decoder needs 65 MiB.
_XZ_MEMORY: Final = 128 << 20
_ZSTD_WINDOW: Final = 1 << 27
# Bytes that are fed to a decompressor at a time.
_ZSTD_FEED: Final = 1 << 12
_FIRST_FEED: Final = 1 << 10
_STEP: Final = 1 << 20


class _Stream(Protocol):
    """The interface that the decompressors of `bz2` and `lzma` share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


class _Gzip:
    """The decompressor of `zlib` with the same interface."""

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


def _decompress_streams(
    data: memoryview, new: Callable[[], _Stream], limits: Limits, stored_size: int
) -> bytes:
    """Decompress concatenated streams. Zero bytes may follow the last one, as on tapes."""
    allowed = limits.allowed(stored_size)
    parts: list[bytes] = []
    total = position = 0
    while position < len(data):
        stream = new()
        # Input beyond the end of a stream is copied back, so the first feed is small.
        feed = _FIRST_FEED
        while not stream.eof:
            chunk = data[position : position + feed] if stream.needs_input else b""
            position += len(chunk)
            feed = min(2 * feed, _STEP)
            part = stream.decompress(chunk, _STEP)
            if not part and not stream.eof and position == len(data):
                raise DecodeError("the compressed data ends early; the member is truncated")
            total += len(part)
            if total > allowed:
                raise limits.exceeded(stored_size)
            parts.append(part)
        position = _skip_zeros(data, position - len(stream.unused_data))
    return b"".join(parts)


def _skip_zeros(data: memoryview, position: int) -> int:
    while position < len(data) and not data[position]:
        # In chunks, because there may be gigabytes of zeros.
        chunk = bytes(data[position : position + _STEP])
        position += len(chunk) - len(chunk.lstrip(b"\0"))
    return position


def _gunzip(data: memoryview, limits: Limits, stored_size: int) -> bytes:
    return _decompress_streams(data, _Gzip, limits, stored_size)


def _bunzip2(data: memoryview, limits: Limits, stored_size: int) -> bytes:
    return _decompress_streams(data, bz2.BZ2Decompressor, limits, stored_size)


def _unxz(data: memoryview, limits: Limits, stored_size: int) -> bytes:
    def new() -> _Stream:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    return _decompress_streams(data, new, limits, stored_size)


def _unzstd(data: memoryview, limits: Limits, stored_size: int) -> bytes:
    zstandard = import_zstandard("Zstandard")
    allowed = limits.allowed(stored_size)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    parts: list[bytes] = []
    total = position = 0
    while position < len(data):
        # Frame by frame: zstandard's stream reader does not report that the last one is cut.
        frame = decompressor.decompressobj()
        while not frame.eof:
            if position >= len(data):
                raise DecodeError("the compressed data ends early; the member is truncated")
            # A Zstandard block has at most 128 KiB, so the output of a small input is bounded.
            chunk = data[position : position + _ZSTD_FEED]
            position += len(chunk)
            try:
                part = frame.decompress(chunk)
            except zstandard.ZstdError as error:
                raise DecodeError(f"not valid zst data: {error}") from error
            total += len(part)
            if total > allowed:
                raise limits.exceeded(stored_size)
            parts.append(part)
        position -= len(frame.unused_data)
    return b"".join(parts)


def _zstd(data: bytes) -> bytes:
    packed: bytes = import_zstandard("Zstandard").ZstdCompressor(level=3).compress(data)
    return packed


def _gzip(data: bytes) -> bytes:
    # zlib writes no time stamp, so the same input gives the same bytes.
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


def decompress(kind: str, data: Buffer, limits: Limits, stored_size: int | None = None) -> bytes:
    """Decompress a whole member.

    Parameters
    ----------
    kind : {"gz", "bz2", "xz", "zst"}
    data : bytes-like
        One or more whole compressed streams.
    limits : Limits
    stored_size : int, optional
        Size to which ``limits.max_ratio`` refers, if `data` has been decompressed before.

    Raises
    ------
    DecodeError
        The data is damaged or cut short.
    LimitError
        The output would exceed the limits.
    MissingDependencyError
        ``zst`` without the ``zstandard`` package.
    """
    raw = memoryview(data).cast("B")
    if not raw:
        raise DecodeError(f"the member is empty, which is not valid {kind} data")
    try:
        return _DECOMPRESSORS[kind](raw, limits, len(raw) if stored_size is None else stored_size)
    except lzma.LZMAError as error:
        if "Memory usage limit" in str(error):
            raise LimitError(
                f"the xz data needs a dictionary of more than {_XZ_MEMORY >> 20} MiB; recompress "
                f"it with a preset (xz -9 or lower)"
            ) from error
        raise DecodeError(f"not valid {kind} data: {error}") from error
    except (zlib.error, OSError, EOFError, ValueError) as error:
        if isinstance(error, DecodeError | LimitError):
            raise
        raise DecodeError(f"not valid {kind} data: {error}") from error


def compress(kind: str, data: Buffer) -> bytes:
    """Compress a whole member. The same input gives the same bytes.

    Raises
    ------
    MissingDependencyError
        ``zst`` without the ``zstandard`` package.
    """
    return _COMPRESSORS[kind](memoryview(data).tobytes())


class CompressionCodec(Codec):
    """A compressed member: bytes, which the extension before it may decode."""

    stackable = True

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> bytes:
        """Decompress within the limits."""
        return decompress(self._kind, data, options.limits, stored_size)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Compress bytes-like data."""
        try:
            return compress(self._kind, value)
        except TypeError as error:
            raise DecodeError(f"{self._kind} needs bytes, got {type(value).__name__}") from error
