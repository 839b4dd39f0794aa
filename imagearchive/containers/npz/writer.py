"""A streaming NPZ writer: samples in, an ordinary ``.npz`` out, in constant memory.

The file is what `numpy.savez` would write, with two differences that `numpy.load` does not notice:
the data of stored arrays start at a multiple of 64 bytes of the file, so that a mapped row is
aligned, and the bytes depend on the samples alone (no time stamps).

- A column whose rows all have one shape becomes one array, its first dimension counting the rows.
- A numeric column whose rows differ in shape becomes flat values, offsets and, where they differ
  beyond their first dimension, shapes: ``NAME.values``, ``NAME.offsets``, ``NAME.shapes``.
- A column of strings becomes an array of fixed-width strings, or ``NAME.utf8`` and
  ``NAME.offsets`` where fixed width would waste much (one long string among many short ones) or
  lose something (a string that ends in NUL).
- A column of byte strings, such as encoded images, becomes ``NAME.bytes`` and ``NAME.offsets``.

`imagearchive.arrays.ragged` specifies those names; `LazyNPZDataset` reads them.

The ``.npy`` headers stand in front of the data, but say how many rows there are. So the column
that takes most space is written straight into the file behind room for its header, which is filled
in at the end; the others wait in unnamed temporary files beside it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, BinaryIO, Final, cast

import numpy as np

from imagearchive.arrays.npy import ALIGNMENT, build_header
from imagearchive.arrays.ragged import BYTES, OFFSETS, SHAPES, UTF8, VALUES
from imagearchive.containers.npz.column_writer import CHUNK, Chunks, Column, Part, Prepared, Sink
from imagearchive.errors import ClosedError, OptionError, OptionTypeError
from imagearchive.storage.atomic import AtomicFile

__all__ = ["NpzWriter"]

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END64: Final = struct.Struct("<4sQ2H2L4Q4sLQL")
_END: Final = struct.Struct("<4s4H2LH")
_ZIP64_SIZES: Final = struct.Struct("<2H2Q")
_FULL: Final = 0xFFFFFFFF
# From here on a value does not fit its field, and stands in a ZIP64 field.
_LARGE = 0xFFFFFFFF
# 1980-01-01, the first day that ZIP knows.
_DATE: Final = 33
_UNIX: Final = 3
_MODE: Final = 0o100644
# The id under which Android's zipalign pads local headers; readers skip what they do not know.
_PADDING_ID: Final = 0xD935
# A stored block of a deflate stream: five bytes in front of at most this many.
_BLOCK: Final = 0xFFFF


class NpzWriter:
    """Writes one ``.npz`` from samples that come one by one, or in batches.

    Parameters
    ----------
    path : path-like
        The file to write. It appears under this name when it is whole; until then it is
        ``path.part``, which the next writer to the same path replaces: if the one before is
        still at work, its `close` fails. An existing file stays until then.
    compress : bool
        Deflate the arrays, as `numpy.savez_compressed` does.
    level : int
        Level of the compression, 1 to 9.
    ragged : collection of str
        Numeric columns to write as values and offsets even where all rows have one shape, so
        that several files of one data set are alike.

    Raises
    ------
    OSError
        The file cannot be written.

    Notes
    -----
    Memory does not depend on the number of samples. One thread at a time may use a writer, and
    not across a fork. As a context manager, it closes at the end of the block, or aborts if the
    block raises.

    Examples
    --------
    >>> with NpzWriter("train.npz") as writer:
    ...     for image, boxes, path in samples:
    ...         writer.append(images=image, bboxes=boxes, image_paths=path)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compress: bool = False,
        level: int = 6,
        ragged: Collection[str] = (),
    ) -> None:
        if not 1 <= level <= 9:
            raise OptionError(f"level={level}: choose 1 (fast) to 9 (small)")
        self.path = os.fspath(path)
        self._level = level if compress else None
        self._ragged = frozenset([ragged] if isinstance(ragged, str) else ragged)
        self._columns: dict[str, Column] = {}
        self._directory: list[bytes] = []
        self._rows = 0
        self._failed = False
        self._target = AtomicFile(self.path, overwrite=True, takeover=True, buffering=CHUNK)
        self._file: BinaryIO | None = self._target.file

    def __len__(self) -> int:
        """Return the number of samples so far."""
        return self._rows

    def append(self, /, **sample: Any) -> None:
        """Add one sample.

        Parameters
        ----------
        **sample
            One value for each column: a number, an array, nested lists of numbers, a str or
            bytes. An empty list fits any column of lists.

        Raises
        ------
        OptionError
            The columns are not those of the first sample, or a row has another number of
            dimensions than the ones before. Nothing of the sample is written then.
        OptionTypeError
            A value is none of these, or does not go with the ones before.
        """
        self._add({name: ([value], False) for name, value in sample.items()}, 1)

    def extend(self, /, **columns: Any) -> None:
        """Add several samples at once.

        Parameters
        ----------
        **columns
            For each column an array whose first dimension counts the samples, or a list of
            values as `append` takes them; all of one length.

        Raises
        ------
        OptionError, OptionTypeError
            As `append`, and where the lengths differ. Nothing is written then.
        """
        rows: dict[str, tuple[Any, bool]] = {}
        for name, values in columns.items():
            block = isinstance(values, np.ndarray) and values.dtype.kind not in "OSU"
            if not hasattr(values, "__len__") or (block and not values.ndim):
                raise OptionTypeError(f"column {name!r}: {type(values).__name__} has no rows")
            rows[name] = (values, block)
        lengths = {name: len(values) for name, (values, _) in rows.items()}
        if len(set(lengths.values())) > 1:
            raise OptionError(f"columns of different lengths: {lengths}")
        self._add(rows, next(iter(lengths.values()), 0))

    def close(self) -> None:
        """Finish the file, and give it its name. A second call does nothing.

        Raises
        ------
        ClosedError
            A write failed before, or another writer to the same path was opened since; the file
            is discarded.
        OSError
            The file cannot be written; it is discarded.
        """
        if self._file is None:
            return
        if self._failed:
            self.abort()
            raise ClosedError(f"{self.path}: a write failed before, so the file is discarded")
        try:
            self._finish(self._file)
        except BaseException:
            self.abort()
            raise
        self._file = None
        self._forget()
        self._target.publish()

    def abort(self) -> None:
        """Discard what was written; an existing file of that name stays as it is."""
        self._file = None
        self._forget()
        self._target.abort()

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _forget(self) -> None:
        for column in self._columns.values():
            column.close()
        self._columns = {}

    def _add(self, rows: dict[str, tuple[Sequence[Any], bool]], count: int) -> None:
        if self._file is None or self._failed:
            raise ClosedError(f"{self.path}: closed or failed; open a new writer")
        columns = self._columns or self._new_columns(rows)
        if rows.keys() != columns.keys():
            raise OptionError(
                f"columns {sorted(rows)} differ from those of the first sample, {sorted(columns)}"
            )
        # All values are checked before the first is written, so that no sample is half there.
        prepared = {name: columns[name].prepare(*values) for name, values in rows.items()}
        self._failed = True
        if not self._columns:
            self._columns = columns
        if self._rows == 0 and count:
            self._choose_direct(prepared)
        for name, values in prepared.items():
            columns[name].write(values)
        self._rows += count
        self._failed = False

    def _new_columns(self, names: Iterable[str]) -> dict[str, Column]:
        folder = os.path.dirname(os.path.abspath(self.path))
        columns = {name: Column(name, folder, name in self._ragged) for name in names}
        taken = {name + end for name in columns for end in (VALUES, UTF8, BYTES, OFFSETS, SHAPES)}
        for name in columns:
            encoded = name.encode("utf-8", "surrogatepass")
            if not name or "\0" in name or len(encoded) > 60000 or name in taken:
                raise OptionError(
                    f"column {name!r}: its name is empty, too long, or means a part of another "
                    f"column; choose another"
                )
        return columns

    def _choose_direct(self, prepared: dict[str, Prepared]) -> None:
        """Let the column with the largest first row write into the file at once."""
        sizes = {name: one.nbytes for name, one in prepared.items() if one.kind != "utf8"}
        name = max(sizes, key=sizes.__getitem__, default="")
        if not sizes.get(name) or self._file is None:
            return
        one = prepared[name]
        if one.kind == "bytes":
            longest: tuple[int, ...] = (10**19,)
            dtype = np.dtype(np.uint8)
        else:
            longest = (10**19, *one.shape[1:], 10**10)
            dtype = one.dtype
        self._columns[name].redirect(_Direct(self._file, name, dtype, longest, self._level))

    def _finish(self, file: BinaryIO) -> None:
        parts = [part for column in self._columns.values() for part in column.parts()]
        for part in parts:
            if isinstance(part.data, _Direct):
                self._directory.append(part.data.finish(part))
        file.seek(0, os.SEEK_END)
        for part in parts:
            if not isinstance(part.data, _Direct):
                self._directory.append(_write_member(file, part, self._level))
        start = file.tell()
        for record in self._directory:
            file.write(record)
        size = file.tell() - start
        count = len(self._directory)
        if count >= 0xFFFF or start >= _LARGE or size >= _LARGE:
            end64 = (b"PK\x06\x06", 44, _UNIX << 8 | 45, 45, 0, 0, count, count, size, start)
            file.write(_END64.pack(*end64, b"PK\x06\x07", 0, start + size, 1))
        count = min(count, 0xFFFF)
        file.write(_END.pack(b"PK\x05\x06", 0, 0, count, count, _field(size), _field(start), 0))


class _Direct(Sink):
    """The first member of the file, written while its header is unknown.

    In front of the data is room for the longest header; the name, which depends on whether the
    column turns out ragged, is padded by an extra field. In a deflated member the ``.npy`` header
    stands in stored blocks, which have one length whatever they hold.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        dtype: np.dtype[Any],
        longest: tuple[int, ...],
        level: int | None,
    ) -> None:
        self._file = file
        self._level = level
        self._name_room = len(_encoded(name + VALUES)[0])
        self._header_at = _LOCAL.size + self._name_room + _ZIP64_SIZES.size + 4
        self._header_size = len(build_header(dtype, longest, at=self._header_at))
        blocks = len(_stored_blocks(bytes(self._header_size))) if level else self._header_size
        self._start = self._header_at + blocks
        self._compressor = _compressor(level)
        self._crc = 0
        self.size = 0
        file.write(bytes(self._start))

    def write(self, data: memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self.size += len(data)
        self._file.write(self._compressor.compress(data) if self._compressor else data)

    def chunks(self) -> Chunks:
        """Read everything back and leave the file empty, for a column that must be converted."""
        file = self._file
        if self._compressor:
            file.write(self._compressor.flush())
        file.seek(self._start)
        decoder = zlib.decompressobj(-zlib.MAX_WBITS) if self._compressor else None
        left = self.size
        while left:
            data = file.read(min(CHUNK, left) if decoder is None else CHUNK)
            while left and data:
                piece = decoder.decompress(data, CHUNK) if decoder else data
                data = decoder.unconsumed_tail if decoder else b""
                left -= len(piece)
                yield piece
        file.seek(0)
        file.truncate()

    def finish(self, part: Part) -> bytes:
        """Write the headers; return the record for the central directory."""
        file = self._file
        if self._compressor:
            file.write(self._compressor.flush())
        stored = file.tell() - self._header_at
        header = build_header(part.dtype, part.shape, size=self._header_size)
        crc = crc32_combine(zlib.crc32(header), self._crc, self.size)
        name, flags = _encoded(part.name)
        member = _Member(name, flags, self._level is not None, 0)
        member.crc, member.size, member.stored = crc, len(header) + self.size, stored
        file.seek(0)
        file.write(member.local(self._name_room - len(name)))
        file.write(_stored_blocks(header) if self._level else header)
        return member.central()

    def close(self) -> None:
        pass


class _Member:
    """The two headers of a member."""

    def __init__(self, name: bytes, flags: int, deflated: bool, offset: int) -> None:
        self.name, self.flags, self.offset = name, flags, offset
        self.method = 8 if deflated else 0
        self.crc = self.size = self.stored = 0

    def local(self, padding: int | None = None) -> bytes:
        """Local header; its ZIP64 field holds the sizes whatever they are, so it has one length."""
        extra = _ZIP64_SIZES.pack(1, 16, self.size, self.stored)
        if padding is not None:
            extra += struct.pack("<2H", _PADDING_ID, padding) + bytes(padding)
        fields = (45, self.flags, self.method, 0, _DATE, self.crc, _FULL, _FULL)
        return _LOCAL.pack(b"PK\x03\x04", *fields, len(self.name), len(extra)) + self.name + extra

    def central(self) -> bytes:
        large = [value for value in (self.size, self.stored, self.offset) if value >= _LARGE]
        extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        return (
            _CENTRAL.pack(
                b"PK\x01\x02", _UNIX << 8 | 45, 45, self.flags, self.method, 0, _DATE,
                self.crc, _field(self.stored), _field(self.size),
                len(self.name), len(extra), 0, 0, 0, _MODE << 16, _field(self.offset),
            )
            + self.name
            + extra
        )  # fmt: skip


def _write_member(file: BinaryIO, part: Part, level: int | None) -> bytes:
    """Write a member at the end of the file; return its record for the central directory."""
    name, flags = _encoded(part.name)
    member = _Member(name, flags, level is not None, file.tell())
    file.write(member.local())
    start = file.tell()
    compressor = _compressor(level)
    header = build_header(part.dtype, part.shape, align=ALIGNMENT, at=start)
    for piece in chain([header], cast("Chunks", part.data)):
        member.crc = zlib.crc32(piece, member.crc)
        member.size += len(piece)
        file.write(compressor.compress(piece) if compressor else piece)
    if compressor:
        file.write(compressor.flush())
    end = file.tell()
    member.stored = end - start
    file.seek(member.offset)
    file.write(member.local())
    file.seek(end)
    return member.central()


def _field(value: int) -> int:
    return _FULL if value >= _LARGE else value


def _compressor(level: int | None) -> Any:
    return None if level is None else zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)


def _stored_blocks(data: bytes) -> bytes:
    """Wrap bytes in stored blocks of a deflate stream, none of them the last (RFC 1951, 3.2.4)."""
    blocks = []
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        blocks.append(struct.pack("<BHH", 0, len(block), len(block) ^ _BLOCK) + block)
    return b"".join(blocks)


def _encoded(name: str) -> tuple[bytes, int]:
    encoded = f"{name}.npy".encode("utf-8", "surrogatepass")
    return encoded, 0 if encoded.isascii() else 0x800


def crc32_combine(first: int, second: int, length: int) -> int:
    """CRC-32 of two byte strings one after the other, from theirs and the second's length.

    Appending a byte multiplies the CRC by x^8 in GF(2)[x] modulo the CRC's polynomial, so it is
    ``first * x^(8 * length) + second``. In the reflected form, 1 << 31 is the polynomial 1.
    """
    power, square = 1 << 31, 1 << 23  # x^0 and x^8
    while length:
        if length & 1:
            power = _product(power, square)
        square = _product(square, square)
        length >>= 1
    return _product(power, first) ^ second


def _product(a: int, b: int) -> int:
    """Product of two polynomials modulo that of CRC-32, all reflected."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product
