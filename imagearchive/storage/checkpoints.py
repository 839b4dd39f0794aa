"""Checkpoints of a deflate stream: building them, their format, and decoding from one of them.

A deflate stream can be entered at the start of any of its blocks by a decoder that knows the bit at
which the block starts and the 32 KiB of output before it. These *checkpoints*, one for about every
MiB of output, are found once by ``indexed_gzip`` (extra ``compressed``), which also checks size and
CRC-32 of the whole stream. To decode from a checkpoint, zlib alone suffices: the window is a preset
dictionary, and empty blocks before the first byte bring the decoder to the bit where the block
starts.

The format is a head, a table of points, and a window of 32 KiB for each point but the first, which
is the start of the stream.
"""

from __future__ import annotations

import io
import logging
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.errors import (
    CorruptArchiveError,
    CorruptIndexError,
    LimitError,
    MissingDependencyError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["BIT_PADDING", "SPACING", "Checkpoints", "DeflateStream", "build_checkpoints"]

logger = logging.getLogger(__name__)

#: Bytes of output between two checkpoints. Each keeps a window of 32 KiB, so the checkpoints take
#: 3 % of the inflated size, and a random read inflates half of this on average.
SPACING: Final = 1 << 20

# No deflate stream has a higher ratio: 258 bytes from two bits.
_MAX_RATIO: Final = 1032
_WINDOW: Final = 1 << 15
# Magic; stored size, size and CRC-32 of the member; number of points; CRC-32 of the points.
_HEAD: Final = struct.Struct("<8s5Q")
_MAGIC: Final = b"deflat\x01\0"
_POINT: Final = np.dtype(
    [("source", "<u8"), ("position", "<u8"), ("crc", "<u4"), ("bits", "<u4")], align=True
)

# The index of indexed_gzip: GZIDX, version, flags, sizes, spacing, window, number of points.
_GZIDX_HEAD: Final = struct.Struct("<5sBBQQIII")
_GZIDX_POINT: Final = np.dtype(
    [("source", "<u8"), ("position", "<u8"), ("bits", "u1"), ("has_window", "u1")]
)
_GZIP_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


@dataclass(frozen=True)
class DeflateStream:
    """A raw deflate stream in a file, and what it should inflate to.

    Attributes
    ----------
    storage : Storage
        The file.
    offset, stored_size : int
        Byte range of the stream in it.
    size : int
        Inflated size in bytes.
    crc : int
        CRC-32 of the inflated bytes.
    where : str
        Name of the member in messages.

    Raises
    ------
    CorruptArchiveError
        No stream of this length can inflate to that size.
    """

    storage: Storage
    offset: int
    stored_size: int
    size: int
    crc: int
    where: str

    def __post_init__(self) -> None:
        if self.size > _MAX_RATIO * (self.stored_size + 1):
            raise self.error(f"{self.stored_size} bytes cannot inflate to {self.size}")

    def read(self, position: int, size: int) -> bytes | memoryview:
        """Return `size` bytes of the stream, or fewer at its end."""
        return self.storage.read(self.offset + position, min(size, self.stored_size - position))

    def error(self, reason: str) -> CorruptArchiveError:
        """Return the error for a damaged stream."""
        return CorruptArchiveError(
            f"{self.where}: deflate stream at offset {self.offset}: {reason}; the file is damaged"
        )


class Checkpoints:
    """The checkpoints of one stream.

    Parameters
    ----------
    stream : DeflateStream
    data : bytes-like
        What `build_checkpoints` returned. It is not copied: a mapped file is best.

    Raises
    ------
    CorruptIndexError
        `data` is damaged or belongs to another stream.
    """

    def __init__(self, stream: DeflateStream, data: Buffer) -> None:
        self._stream = stream
        self.data = memoryview(data).cast("B").toreadonly()
        if len(self.data) >= _HEAD.size:
            *identity, count, points_crc = _HEAD.unpack_from(self.data)
            length = _HEAD.size + count * _POINT.itemsize + (count - 1) * _WINDOW
            expected = [_MAGIC, stream.stored_size, stream.size, stream.crc]
            if identity == expected and count and len(self.data) == length:
                self._points = np.frombuffer(self.data, _POINT, count, _HEAD.size)
                if zlib.crc32(self._points.data) == points_crc and self._are_points_inside():
                    return
        raise CorruptIndexError(
            f"{stream.where}: its checkpoints are damaged or belong to another member; delete the "
            f"index to have them built again"
        )

    def _are_points_inside(self) -> bool:
        """Whether the points ascend and are places in the stream; anyone may have written them."""
        source, position, bits = (self._points[name] for name in ("source", "position", "bits"))
        return bool(
            (source <= self._stream.stored_size).all()
            and (position <= self._stream.size).all()
            and position[0] == 0
            and (position[1:] > position[:-1]).all()
            and (bits <= 7).all()
            and (source[bits > 0] > 0).all()
        )

    def last_before(self, position: int) -> int:
        """Return the number of the last checkpoint at or before a position in the output."""
        return int(np.searchsorted(self._points["position"], position, "right")) - 1

    def position(self, number: int) -> int:
        """Return the position of a checkpoint in the output."""
        return int(self._points["position"][number])

    def decoder(self, number: int) -> tuple[Any, int]:
        """Return a `zlib` decoder at a checkpoint, and where in the stream to go on feeding it.

        Raises
        ------
        CorruptIndexError
            The checkpoint is damaged.
        """
        # For a raw stream, CPython passes the dictionary to zlib at once.
        decoder = zlib.decompressobj(-zlib.MAX_WBITS, bytes(self._window(number)))
        source = int(self._points["source"][number])
        bits = int(self._points["bits"][number])
        if bits:
            # The block starts in the upper bits of the previous byte.
            split = 8 - bits
            padding = BIT_PADDING[split]
            upper = self._stream.read(source - 1, 1)[0] & (0xFF << split)
            try:
                decoder.decompress(padding[:-1] + bytes([padding[-1] | upper]))
            except zlib.error as error:
                raise CorruptIndexError(
                    f"{self._stream.where}: checkpoint {number} is damaged; delete the index to "
                    f"have the checkpoints built again"
                ) from error
        return decoder, source

    def _window(self, number: int) -> memoryview:
        start = _HEAD.size + self._points.nbytes + (number - 1) * _WINDOW
        window = self.data[start : start + _WINDOW]
        if zlib.crc32(window) != self._points["crc"][number]:
            raise CorruptIndexError(
                f"{self._stream.where}: checkpoint {number} is damaged; delete the index to have "
                f"the checkpoints built again"
            )
        return window


def build_checkpoints(
    stream: DeflateStream, progress: Callable[[int, int], object] | None = None
) -> bytes:
    """Inflate a whole stream, check it, and return its checkpoints.

    Parameters
    ----------
    stream : DeflateStream
    progress : callable, optional
        Called with the number of stored bytes read so far and their total. If the work takes more
        than a few seconds, progress is logged in any case.

    Returns
    -------
    bytes
        For `Checkpoints`; about 3 % of the inflated size.

    Raises
    ------
    CorruptArchiveError
        The stream is damaged, or its inflated size or CRC-32 is wrong.
    MissingDependencyError
        ``indexed_gzip`` is not installed.
    """
    try:
        import indexed_gzip
    except ImportError as error:
        raise MissingDependencyError(
            f"{stream.where}: random access to a deflated member of this size needs indexed_gzip; "
            f"install it with: pip install 'imagearchive[compressed]'"
        ) from error
    view = _GzipView(stream, progress)
    index = io.BytesIO()
    try:
        with indexed_gzip.IndexedGzipFile(
            fileobj=view, spacing=SPACING, readbuf_size=1 << 18
        ) as file:
            file.build_full_index()
            file.export_index(fileobj=index)
    except OSError as error:  # the base of all errors of indexed_gzip
        if view.error is not None:
            raise view.error from None
        raise stream.error("its content does not match its size and CRC-32") from error
    return _convert(stream, index.getbuffer())


def _convert(stream: DeflateStream, index: memoryview) -> bytes:
    """Convert the index that indexed_gzip exported."""
    magic, _, _, _, size, _, window, count = _GZIDX_HEAD.unpack_from(index)
    points = np.frombuffer(index, _GZIDX_POINT, count, _GZIDX_HEAD.size)
    windows = np.frombuffer(index, np.uint8, offset=_GZIDX_HEAD.size + points.nbytes)
    if magic != b"GZIDX" or window != _WINDOW:
        raise LimitError(
            f"{stream.where}: this version of indexed_gzip exports an unknown format; install one "
            f"from 1.8 up to the version that this library was released with"
        )
    # A second stream after the first, in the same member, starts without a window.
    if size != stream.size or not points["has_window"][1:].all() or points["has_window"][0]:
        raise stream.error(f"it inflates to {size} of {stream.size} bytes")
    # The last point is the end of the stream.
    count = max(1, int(np.count_nonzero(points["position"] < size)))
    points, windows = points[:count], windows[: (count - 1) * _WINDOW]
    table = np.zeros(count, _POINT)
    table["source"] = points["source"] - len(_GZIP_HEAD)
    table["position"] = points["position"]
    table["bits"] = points["bits"]
    for row, start in enumerate(range(0, len(windows), _WINDOW), 1):
        table["crc"][row] = zlib.crc32(windows[start : start + _WINDOW].data)
    rows = table.tobytes()
    identity = (_MAGIC, stream.stored_size, stream.size, stream.crc)
    return b"".join([_HEAD.pack(*identity, count, zlib.crc32(rows)), rows, windows.data])


class _GzipView(io.RawIOBase):
    """A raw deflate stream as a gzip file: between a header and a trailer."""

    def __init__(
        self, stream: DeflateStream, progress: Callable[[int, int], object] | None
    ) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._stream = stream
        self._trailer = struct.pack("<II", stream.crc, stream.size & 0xFFFFFFFF)
        self._end = len(_GZIP_HEAD) + stream.stored_size
        self._position = self._done = 0
        self._progress = progress
        self._logged = time.monotonic()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._end + len(self._trailer))[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes. An exception is kept, because C code would hide it."""
        total = self._end + len(self._trailer)
        stop = total if size < 0 else min(total, self._position + size)
        parts = [_GZIP_HEAD[self._position : stop]]
        start = max(self._position, len(_GZIP_HEAD)) - len(_GZIP_HEAD)
        count = min(stop - len(_GZIP_HEAD), self._stream.stored_size) - start
        try:
            if count > 0:
                parts.append(bytes(self._stream.read(start, count)))
                self._report(start + count)
        except Exception as error:
            self.error = error
            raise
        if stop > self._end:
            parts.append(self._trailer[max(0, self._position - self._end) : stop - self._end])
        self._position = max(self._position, stop)
        return b"".join(parts)

    def _report(self, done: int) -> None:
        if done <= self._done:
            return
        self._done = done
        total = self._stream.stored_size
        if self._progress is not None:
            self._progress(done, total)
        now = time.monotonic()
        if now - self._logged > 5:
            self._logged = now
            logger.info(
                "%s: building checkpoints for random access: %d %%",
                self._stream.where,
                100 * done // total,
            )


def _padding() -> list[bytes]:
    """Return, for each bit of a byte, empty deflate blocks that end before it.

    See RFC 1951, 3.2.5 to 3.2.7. An empty block with the fixed code takes 10 bits, so up to three
    of them reach any even bit. The odd ones begin with an empty block with a dynamic code, which
    takes 99 bits: code lengths 1, 2, 254 times 0, and 2 for the end of the block; no distance code.
    """
    fixed = "010" + "0000000"
    # Lengths of the code length code, in the order of the RFC: 2 bits for 18, 0, 2 and 1.
    lengths = ["000"] * 18
    for index in (2, 3, 15, 17):
        lengths[index] = "010"
    # This makes the code 0 = 00, 1 = 01, 2 = 10, 18 = 11; repeats count from 11, in 7 bits.
    repeat = [f"{count - 11:07b}"[::-1] for count in (138, 116)]
    body = ["01", "10", "11", repeat[0], "11", repeat[1], "10", "00", "11"]
    dynamic = "".join(["001", "00000", "00000", "0111", *lengths, *body])
    result = []
    for split in range(8):
        text = dynamic if split % 2 else ""
        while len(text) % 8 != split:
            text += fixed
        octets = [text[start : start + 8][::-1] for start in range(0, len(text), 8)]
        result.append(bytes(int(octet, 2) for octet in octets))
    return result


#: For each bit of a byte, empty blocks that end before it; the last byte is incomplete.
BIT_PADDING: Final = _padding()
