"""Checkpoints of a compressed stream: places at which decompression can start.

A *checkpoint* is a position in the output and the place in the stored bytes that produces what
follows it. Inside a deflate stream it needs the 32 KiB of output before it, its *window*; at the
start of a gzip member, of a bzip2 or xz block, or of a Zstandard frame it needs nothing.

Saved checkpoints consist of a head, a table of points, and the windows, which are deflated if
the stream compresses well. The first point is the start of the stream.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from imagearchive.errors import CorruptIndexError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SPACING", "CheckpointBuilder", "Checkpoints", "Point", "StreamIdentity"]

#: Bytes of output between two checkpoints. A random read decompresses half of this on average.
SPACING: Final = 1 << 20

# The same in a large stream, so that the windows of images take less than 1 % of it.
_LARGE_SPACING: Final = 4 << 20
_LARGE: Final = 128 << 20
# Checkpoints without a window cost almost nothing.
_FREE_SPACING: Final = 1 << 18

_WINDOW: Final = 1 << 15
# Magic; stored size, size, and CRC-32 of the stream; number of points; CRC-32 of the points.
_HEAD: Final = struct.Struct("<8s5Q")
_MAGIC: Final = b"points\x01\0"
_POINT: Final = np.dtype(
    [
        ("source", "<u8"),
        ("position", "<u8"),
        ("window", "<u8"),
        ("window_size", "<u4"),
        ("window_crc", "<u4"),
        ("bits", "<u4"),
        ("inside", "<u2"),
        ("deflated", "<u2"),
    ]
)


class StreamIdentity(Protocol):
    """What is known of a stream without decompressing it."""

    @property
    def stored_size(self) -> int:
        """Its length in bytes."""
        ...

    @property
    def size(self) -> int:
        """The length of its output in bytes."""
        ...

    @property
    def crc(self) -> int:
        """The CRC-32 of its output, 0 if unknown."""
        ...

    @property
    def where(self) -> str:
        """Its name in messages."""
        ...


class Point(NamedTuple):
    """A checkpoint.

    Attributes
    ----------
    source : int
        The first stored byte that is not used up.
    position : int
        How much output comes before.
    bits : int
        How many bits of the byte before `source` are not used up.
    inside : bool
        Whether it is inside a deflate stream, and not at the start of a stream, frame, or block.
    window : bytes
        The output before it; empty unless `inside`.
    """

    source: int
    position: int
    bits: int
    inside: bool
    window: bytes


class CheckpointBuilder:
    """Collects the checkpoints of a stream while it is decompressed from its start.

    Parameters
    ----------
    stored_size : int
        The length of the stream in bytes.
    """

    def __init__(self, stored_size: int) -> None:
        self._spacing = SPACING if stored_size < _LARGE else _LARGE_SPACING
        self._rows: list[tuple[int, ...]] = []
        self._windows: list[bytes] = []
        self._window_bytes = 0
        self.add(0, 0)

    def wants(self, position: int) -> bool:
        """Whether a checkpoint that needs a window is due at a position in the output."""
        return position - self._rows[-1][1] >= self._spacing

    def wants_free(self, position: int) -> bool:
        """Whether a checkpoint that needs no window is due at a position in the output."""
        return position - self._rows[-1][1] >= _FREE_SPACING

    def add(self, source: int, position: int, bits: int = 0, window: bytes | None = None) -> None:
        """Add a checkpoint after the last one; with a window, it is inside a deflate stream."""
        stored = window or b""
        # What has hardly been compressed, such as images, costs time and cannot be made smaller.
        deflated = len(stored) > 0 and position > 2 * source
        if deflated:
            stored = zlib.compress(stored, 1)
        row = (self._window_bytes, len(stored), zlib.crc32(stored), bits)
        self._rows.append((source, position, *row, window is not None, deflated))
        self._windows.append(stored)
        self._window_bytes += len(stored)

    def span(self, size: int) -> int:
        """Return the longest output between two checkpoints of a stream whose output has a size."""
        return max(b - a for a, b in pairwise([row[1] for row in self._rows] + [size]))

    def finish(self, stream: StreamIdentity) -> bytes:
        """Return what `Checkpoints` reads."""
        points = np.array(self._rows, _POINT).tobytes()
        identity = (_MAGIC, stream.stored_size, stream.size, stream.crc)
        head = _HEAD.pack(*identity, len(self._rows), zlib.crc32(points))
        return b"".join([head, points, *self._windows])


class Checkpoints:
    """The checkpoints of one stream.

    Parameters
    ----------
    stream : StreamIdentity
    data : bytes-like
        What `CheckpointBuilder` returned. It is not copied: a mapped file is best.

    Raises
    ------
    CorruptIndexError
        `data` is damaged or belongs to another stream.
    """

    def __init__(self, stream: StreamIdentity, data: Buffer) -> None:
        self._stream = stream
        self.data = memoryview(data).cast("B").toreadonly()
        if len(self.data) >= _HEAD.size:
            *identity, count, points_crc = _HEAD.unpack_from(self.data)
            expected = [_MAGIC, stream.stored_size, stream.size, stream.crc]
            self._start = _HEAD.size + count * _POINT.itemsize
            if identity == expected and count > 0 and self._start <= len(self.data):
                self._points = np.frombuffer(self.data, _POINT, count, _HEAD.size)
                # Threads slice it, which a memoryview does not support without the GIL.
                self._bytes = np.frombuffer(self.data, np.uint8)
                if zlib.crc32(self._points.data) == points_crc and self._are_points_inside():
                    return
        raise CorruptIndexError(
            f"{stream.where}: its checkpoints are damaged or belong to other data; delete the "
            f"index to have them built again"
        )

    def _are_points_inside(self) -> bool:
        """Whether the points ascend and are places in the stream; anyone may have written them."""
        points = self._points
        source, position, bits, size = (
            points[name] for name in ("source", "position", "bits", "window_size")
        )
        # The sum does not overflow, because its terms are compared first.
        available = len(self.data) - self._start
        return bool(
            (source <= self._stream.stored_size).all()
            and (position <= self._stream.size).all()
            and position[0] == 0
            and (position[1:] > position[:-1]).all()
            and (source[1:] >= source[:-1]).all()
            and (bits <= 7).all()
            and (source[bits > 0] > 0).all()
            and (size <= 2 * _WINDOW).all()
            and (points["window"] <= available).all()
            and (points["window"] + size <= available).all()
        )

    def __len__(self) -> int:
        return len(self._points)

    def last_before(self, position: int) -> int:
        """Return the number of the last checkpoint at or before a position in the output."""
        return int(np.searchsorted(self._points["position"], position, "right")) - 1

    def position(self, number: int) -> int:
        """Return the position of a checkpoint in the output."""
        return int(self._points["position"][number])

    def point(self, number: int) -> Point:
        """Return a checkpoint.

        Raises
        ------
        CorruptIndexError
            Its window is damaged.
        """
        row: Any = self._points[number]
        start = self._start + int(row["window"])
        window = self._bytes[start : start + int(row["window_size"])].tobytes()
        if zlib.crc32(window) != row["window_crc"]:
            raise self.damaged(number)
        if row["deflated"]:
            decoder = zlib.decompressobj()
            try:
                window = decoder.decompress(window, _WINDOW + 1)
            except zlib.error as error:
                raise self.damaged(number) from error
            if len(window) > _WINDOW:
                raise self.damaged(number)
        source, position, bits = int(row["source"]), int(row["position"]), int(row["bits"])
        return Point(source, position, bits, bool(row["inside"]), window)

    def damaged(self, number: int) -> CorruptIndexError:
        """Return the error for a checkpoint that cannot be used."""
        return CorruptIndexError(
            f"{self._stream.where}: checkpoint {number} is damaged; delete the index to have the "
            f"checkpoints built again"
        )
