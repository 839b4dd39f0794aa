"""Deflated members: whole ones, and single ranges out of large ones.

A deflate stream can be entered at the start of any of its blocks by whoever knows the bit at which
the block starts and the 32 KiB of output in front of it. Those *checkpoints*, one for about every
MiB, are found once by ``indexed_gzip`` (extra ``compressed``), which checks size and CRC-32 of the
whole stream on the way, and are kept with the index. From then on zlib alone reads any range: the
window goes in as a preset dictionary, and empty blocks in front of the first byte bring the
decoder to the bit where the block starts.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import (
    ClosedError,
    CorruptArchiveError,
    CorruptIndexError,
    LimitError,
    MissingDependencyError,
)
from imagearchive.storage.closing import Closable
from imagearchive.storage.fork_lock import ForkSafeLock

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["SPACING", "DeflatedStorage", "inflate"]

logger = logging.getLogger(__name__)

#: Bytes of output between two checkpoints. Each keeps a window of 32 KiB, so the index takes 3 %
#: of the inflated size, and a random read inflates half of this on average.
SPACING: Final = 1 << 20

#: Members up to this size are inflated whole at the first read and kept.
WHOLE: Final = 1 << 20

#: The same for lack of ``indexed_gzip``: beyond it, every process would hold too much.
WHOLE_WITHOUT_INDEX: Final = 64 << 20

# Compressed bytes that are fed at a time: zlib copies what it has not used yet.
_FEED: Final = 1 << 16
# Output that is asked for at a time.
_PIECE: Final = 1 << 20
# What a reader that goes on where it stopped gets ahead.
_AHEAD: Final = 1 << 17
# Longest output that is kept for the next read.
_KEEP: Final = 4 << 20
# No deflate stream yields more: 258 bytes out of two bits.
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


def inflate(storage: Storage, offset: int, stored: int, size: int, crc: int, where: str) -> bytes:
    """Inflate a whole member.

    Parameters
    ----------
    storage : Storage
        The archive file.
    offset, stored : int
        Byte range of the raw deflate stream.
    size : int
        Bytes that it inflates to; not one more is inflated.
    crc : int
        CRC-32 of them.
    where : str
        What to call the member in messages.

    Raises
    ------
    CorruptArchiveError
        The stream is damaged, or yields another number of bytes or another CRC-32.
    """
    if size > _MAX_RATIO * (stored + 1):
        raise _corrupt(where, offset, f"{stored} bytes cannot inflate to {size}")
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more shows a stream that is too long.
        data = decoder.decompress(storage.read(offset, stored), size + 1)
    except zlib.error as error:
        raise _corrupt(where, offset, str(error)) from error
    if len(data) != size or not decoder.eof:
        at_least = "more" if len(data) > size else f"{len(data)}"
        raise _corrupt(where, offset, f"it inflates to {at_least} of {size} bytes")
    if zlib.crc32(data) != crc:
        raise _corrupt(where, offset, "its CRC-32 does not match")
    return data


class DeflatedStorage(Closable):
    """A deflated member as position-addressable storage.

    Any range is read by inflating from the last checkpoint in front of it, about half a MiB on
    average. The last inflated block is kept, one in each thread, so reading on inflates nothing
    twice. Members up to 1 MiB are inflated whole once.

    Without checkpoints, a reader may go forward from the start, which needs none; at the first
    jump they are built. Where ``indexed_gzip`` is missing, members up to 64 MiB are inflated
    whole instead.

    Parameters
    ----------
    storage : Storage
        The archive file; it stays open when this is closed.
    offset, stored : int
        Byte range of the raw deflate stream in it.
    size : int
        Inflated size in bytes.
    crc : int
        CRC-32 of the inflated bytes. It is checked when checkpoints are built, when the member
        is inflated whole, and when it is read from start to end.
    name : str
        Name of the member, for messages.
    checkpoints : bytes-like, optional
        What `build_checkpoints` returned. It is kept, not copied: a mapped file is best.

    Raises
    ------
    CorruptIndexError
        `checkpoints` are damaged or belong to another member.

    Notes
    -----
    Any number of threads may read at once, without locks, each with its own decoder; zlib works
    without the GIL. A forked child goes on with its own copy of its thread's decoder.
    """

    zero_copy = False

    def __init__(
        self,
        storage: Storage,
        offset: int,
        stored: int,
        size: int,
        crc: int,
        name: str,
        checkpoints: Buffer | None = None,
    ) -> None:
        self.path = f"{storage.path}: member {name!r}"
        self.size = size
        self._storage = storage
        self._offset = offset
        self._stored = stored
        self._crc = crc
        self._whole: bytes | None = None
        self._local = threading.local()
        self._lock = ForkSafeLock()
        self._points: npt.NDArray[Any] | None = None
        self._checkpoints: memoryview | None = None
        if size > _MAX_RATIO * (stored + 1):
            raise self._corrupt(f"{stored} bytes cannot inflate to {size}")
        if checkpoints is not None:
            self._use(checkpoints)

    @property
    def checkpoints(self) -> memoryview | None:
        """The checkpoints as bytes to keep, or None where there are none yet."""
        return self._checkpoints

    def build_checkpoints(self, progress: Callable[[int, int], object] | None = None) -> bytes:
        """Inflate the whole stream once, check it, and return its checkpoints.

        Parameters
        ----------
        progress : callable, optional
            Called with the stored bytes read so far and their total. Work of more than some
            seconds is logged in any case.

        Returns
        -------
        bytes
            About 3 % of the inflated size, for the constructor's `checkpoints`. They are in use
            already.

        Raises
        ------
        CorruptArchiveError
            The stream is damaged, or yields another number of bytes or another CRC-32.
        MissingDependencyError
            ``indexed_gzip`` is not installed.
        """
        gzip = _indexed_gzip(self.path)
        view = _GzipView(
            self._storage, self._offset, self._stored, self.size, self._crc, self.path, progress
        )
        index = io.BytesIO()
        try:
            with gzip.IndexedGzipFile(fileobj=view, spacing=SPACING, readbuf_size=1 << 18) as file:
                file.build_full_index()
                file.export_index(fileobj=index)
        except OSError as error:  # all of its errors are
            if view.error is not None:
                raise view.error from None
            raise self._corrupt("its content does not match its size and CRC-32") from error
        checkpoints = self._converted(index.getbuffer())
        self._use(checkpoints)
        return checkpoints

    def verify(self) -> None:
        """Check the member by building its checkpoints, unless it has some.

        A member that is small enough to be inflated whole is checked at its first read.
        """
        if self._checkpoints is None and self.size > WHOLE:
            self.build_checkpoints()

    def read(self, offset: int, size: int) -> memoryview:
        """Return exactly `size` inflated bytes from `offset`, as a read-only view.

        Raises
        ------
        CorruptArchiveError
            The range does not lie inside the member, or the stream is damaged.
        MissingDependencyError
            Checkpoints are needed, and ``indexed_gzip`` is not installed.
        ClosedError
            The storage is closed.
        """
        if self._closed:
            raise ClosedError(f"{self.path}: closed; open the archive again to read from it")
        end = offset + size
        if offset < 0 or size < 0 or end > self.size:
            raise CorruptArchiveError(
                f"{self.path}: {size} bytes at offset {offset} do not lie inside its {self.size} "
                f"bytes; the archive is damaged, or its index belongs to another file"
            )
        whole = self._whole
        if whole is None and self.size <= WHOLE:
            whole = self._inflate()
        if whole is not None:
            return memoryview(whole)[offset:end]
        cursor: _Cursor | None = getattr(self._local, "cursor", None)
        if cursor is None or not cursor.start <= offset <= end <= cursor.position:
            cursor = self._advance(cursor, offset, end)
            if cursor is None:
                return self.read(offset, size)
        view = memoryview(cursor.data)[offset - cursor.start : end - cursor.start]
        if len(cursor.data) > _KEEP:
            cursor.start, cursor.data = cursor.position, b""
        return view

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer from `offset`; return its length in bytes. Raises as `read`."""
        target = memoryview(buffer).cast("B")
        for start in range(0, len(target), _PIECE):
            part = target[start : start + _PIECE]
            part[:] = self.read(offset + start, len(part))
        if not len(target):
            self.read(offset, 0)
        return len(target)

    def close(self) -> None:
        """Release what is kept; views returned before stay valid."""
        super().close()
        self._whole = self._points = self._checkpoints = None
        self._local = threading.local()

    def _advance(self, cursor: _Cursor | None, offset: int, end: int) -> _Cursor | None:
        """Inflate up to `end` in this thread; None where the member now is in memory whole."""
        points = self._points
        point = 0
        if points is not None:
            point = int(np.searchsorted(points["position"], offset, "right")) - 1
        known = 0 if points is None else int(points["position"][point])
        if cursor is None or offset < cursor.start or known > cursor.position:
            cursor = None
        reached = known if cursor is None else cursor.position
        if points is None and offset > reached + SPACING:
            if not self._prepare():
                return None
            return self._advance(cursor, offset, end)
        # Until all went well, the thread has no cursor: a decoder that failed is of no use.
        self._local.cursor = None
        if cursor is None:
            cursor = _Cursor(self, points, point)
            ahead = 0
        else:
            ahead = _AHEAD if offset <= cursor.position else 0
        cursor.fill(self, offset, min(end + ahead, self.size))
        self._local.cursor = cursor
        return cursor

    def _prepare(self) -> bool:
        """Build the checkpoints once; False where the member was inflated whole instead."""
        with self._lock:
            if self._points is None and self._whole is None:
                try:
                    self.build_checkpoints()
                except MissingDependencyError:
                    if self.size > WHOLE_WITHOUT_INDEX:
                        raise
                    self._inflate()
        return self._whole is None

    def _inflate(self) -> bytes:
        whole = inflate(self._storage, self._offset, self._stored, self.size, self._crc, self.path)
        self._whole = whole
        return whole

    def _converted(self, index: memoryview) -> bytes:
        """Turn the exported index into checkpoints."""
        magic, _, _, _, size, _, window, count = _GZIDX_HEAD.unpack_from(index)
        points = np.frombuffer(index, _GZIDX_POINT, count, _GZIDX_HEAD.size)
        windows = np.frombuffer(index, np.uint8, offset=_GZIDX_HEAD.size + points.nbytes)
        if magic != b"GZIDX" or window != _WINDOW:
            raise LimitError(
                f"{self.path}: indexed_gzip writes an index in a form unknown here; install a "
                f"version from 1.8 up to the one that this library was released with"
            )
        # A second stream behind the first, inside one member, starts without a window.
        if size != self.size or not points["has_window"][1:].all() or points["has_window"][0]:
            raise self._corrupt(f"it inflates to {size} of {self.size} bytes")
        # The last one is the end of the stream.
        count = max(1, int(np.count_nonzero(points["position"] < size)))
        points, windows = points[:count], windows[: (count - 1) * _WINDOW]
        table = np.zeros(count, _POINT)
        table["source"] = points["source"] - len(_GZIP_HEAD)
        table["position"] = points["position"]
        table["bits"] = points["bits"]
        for row, start in enumerate(range(0, len(windows), _WINDOW), 1):
            table["crc"][row] = zlib.crc32(windows[start : start + _WINDOW].data)
        rows = table.tobytes()
        head = _HEAD.pack(_MAGIC, self._stored, self.size, self._crc, count, zlib.crc32(rows))
        return b"".join([head, rows, windows.data])

    def _use(self, checkpoints: Buffer) -> None:
        view = memoryview(checkpoints).cast("B").toreadonly()
        if len(view) >= _HEAD.size:
            *identity, count, points_crc = _HEAD.unpack_from(view)
            length = _HEAD.size + count * _POINT.itemsize + (count - 1) * _WINDOW
            own = [_MAGIC, self._stored, self.size, self._crc]
            if identity == own and count and len(view) == length:
                points = np.frombuffer(view, _POINT, count, _HEAD.size)
                if zlib.crc32(points.data) == points_crc:
                    self._checkpoints, self._points = view, points
                    return
        raise CorruptIndexError(
            f"{self.path}: its checkpoints are damaged or belong to another member; delete the "
            f"index to have them built again"
        )

    def window(self, point: int) -> memoryview:
        """Return the 32 KiB of output in front of a checkpoint, checked."""
        points, view = self._points, self._checkpoints
        if points is None or view is None:
            raise ClosedError(f"{self.path}: closed; open the archive again to read from it")
        start = _HEAD.size + points.nbytes + (point - 1) * _WINDOW
        window = view[start : start + _WINDOW]
        if zlib.crc32(window) != points["crc"][point]:
            raise CorruptIndexError(
                f"{self.path}: checkpoint {point} is damaged; delete the index to have the "
                f"checkpoints built again"
            )
        return window

    def source(self, position: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes of the deflate stream."""
        return self._storage.read(self._offset + position, min(size, self._stored - position))

    def _corrupt(self, reason: str) -> CorruptArchiveError:
        return _corrupt(self.path, self._offset, reason)

    def check(self, position: int, crc: int | None) -> None:
        """Compare the CRC-32 of a stream that was read from start to end."""
        if position == self.size and crc is not None and crc != self._crc:
            raise self._corrupt("its CRC-32 does not match")


class _Cursor:
    """A decoder somewhere in the stream, and the output that it gave last.

    `data` are the bytes from `start` to `position`; the decoder goes on at `position`. It does not
    refer to the storage that it belongs to, which would close a circle and keep files open.
    """

    __slots__ = ("crc", "data", "decoder", "pending", "position", "source", "start")

    def __init__(self, owner: DeflatedStorage, points: npt.NDArray[Any] | None, point: int) -> None:
        self.data = b""
        self.pending: bytes | memoryview = b""
        self.crc: int | None = None
        if points is None or point == 0:
            self.start = self.position = self.source = 0
            self.decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            self.crc = 0
            return
        self.start = self.position = int(points["position"][point])
        self.source = int(points["source"][point])
        # CPython hands the dictionary of a raw stream to zlib at once.
        self.decoder = zlib.decompressobj(-zlib.MAX_WBITS, bytes(owner.window(point)))
        bits = int(points["bits"][point])
        if bits:
            # The block starts in the upper bits of the byte in front.
            split = 8 - bits
            padding = _PADDING[split]
            upper = owner.source(self.source - 1, 1)[0] & (0xFF << split)
            self.decoder.decompress(padding[:-1] + bytes([padding[-1] | upper]))

    def fill(self, owner: DeflatedStorage, offset: int, end: int) -> None:
        """Go on to `end`, and keep what comes from `offset` on, or all if that is little."""
        pieces = []
        if offset < self.position:
            pieces.append(memoryview(self.data)[offset - self.start :])
            self.start = offset
        elif offset - self.start > _KEEP or self.start != self.position:
            self._skip(owner, offset)
        while self.position < end:
            pieces.append(memoryview(self._next(owner, end - self.position)))
        self.data = b"".join(pieces)

    def _skip(self, owner: DeflatedStorage, offset: int) -> None:
        self.data = b""
        while self.position < offset:
            self._next(owner, offset - self.position)
        self.start = self.position

    def _next(self, owner: DeflatedStorage, size: int) -> bytes:
        """Inflate between one and `size` bytes."""
        try:
            while True:
                if not self.pending:
                    self.pending = owner.source(self.source, _FEED)
                    self.source += len(self.pending)
                fed = len(self.pending)
                piece = self.decoder.decompress(self.pending, min(size, _PIECE))
                self.pending = self.decoder.unconsumed_tail
                if piece:
                    self.position += len(piece)
                    if self.crc is not None:
                        self.crc = zlib.crc32(piece, self.crc)
                        owner.check(self.position, self.crc)
                    return piece
                if self.decoder.eof or not fed:
                    raise owner._corrupt(f"it ends after {self.position} of {owner.size} bytes")
        except zlib.error as error:
            raise owner._corrupt(str(error)) from error


class _GzipView(io.RawIOBase):
    """A raw deflate stream as a gzip file: header and trailer around a range of a storage."""

    def __init__(
        self,
        storage: Storage,
        offset: int,
        stored: int,
        size: int,
        crc: int,
        where: str,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._storage, self._offset, self._stored = storage, offset, stored
        self._trailer = struct.pack("<II", crc, size & 0xFFFFFFFF)
        self._end = len(_GZIP_HEAD) + stored
        self._position = self._seen = 0
        self._where, self._progress = where, progress
        self._told = time.monotonic()

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
        """Return up to `size` bytes; what goes wrong is kept, since C code is in between."""
        total = self._end + len(self._trailer)
        stop = total if size < 0 else min(total, self._position + size)
        parts = [_GZIP_HEAD[self._position : stop]]
        start = max(self._position, len(_GZIP_HEAD)) - len(_GZIP_HEAD)
        count = min(stop - len(_GZIP_HEAD), self._stored) - start
        try:
            if count > 0:
                parts.append(bytes(self._storage.read(self._offset + start, count)))
                self._tell(start + count)
        except Exception as error:
            self.error = error
            raise
        if stop > self._end:
            parts.append(self._trailer[max(0, self._position - self._end) : stop - self._end])
        self._position = max(self._position, stop)
        return b"".join(parts)

    def _tell(self, done: int) -> None:
        if done <= self._seen:
            return
        self._seen = done
        if self._progress is not None:
            self._progress(done, self._stored)
        now = time.monotonic()
        if now - self._told > 5:
            self._told = now
            percent = 100 * done // self._stored
            logger.info("%s: building checkpoints for random access: %d %%", self._where, percent)


def _padding() -> list[bytes]:
    """For each bit of a byte, empty deflate blocks that end in front of it (RFC 1951, 3.2.5-7).

    An empty block of the fixed code takes 10 bits, so any even position is reached by up to three
    of them. The odd ones begin with an empty block of a dynamic code that takes 99 bits: code
    lengths 1, 2, 254 times 0, and 2 for the end of block; no distance code.
    """
    fixed = "010" + "0000000"
    # Lengths of the code length code, in the order of the RFC: 2 bits for 18, 0, 2 and 1.
    lengths = ["000"] * 18
    for index in (2, 3, 15, 17):
        lengths[index] = "010"
    # The code then is 0 = 00, 1 = 01, 2 = 10, 18 = 11; repeats count from 11, in 7 bits.
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


_PADDING: Final = _padding()


def _indexed_gzip(where: str) -> Any:
    try:
        import indexed_gzip
    except ImportError as error:
        raise MissingDependencyError(
            f"{where}: random access to a deflated member of this size needs indexed_gzip; "
            f"install it with: pip install 'imagearchive[compressed]'"
        ) from error
    return indexed_gzip


def _corrupt(where: str, offset: int, reason: str) -> CorruptArchiveError:
    return CorruptArchiveError(
        f"{where}: deflate stream at offset {offset}: {reason}; the file is damaged"
    )
