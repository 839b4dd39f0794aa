"""The columns of an NPZ under construction: what their rows are, and where they wait.

A column learns from its rows what it is: of one shape or ragged, of which dtype. Only its bytes
are kept, in a `Sink`, and three integers a row at most, so memory does not grow with the rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.ragged import BYTES, OFFSETS, SHAPES, UTF8, VALUES
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.plurals import pluralize

__all__ = ["CHUNK", "Chunks", "Column", "Part", "Prepared", "Sink", "Spool"]

#: Bytes that are moved at a time, and that a column keeps in memory before it takes to the disk.
CHUNK: Final = 1 << 20

Chunks = Iterator[bytes]
Kind = Literal["array", "utf8", "bytes"]

_OFFSET: Final = np.dtype("<i8")
# Fixed width may take this many times the bytes of UTF-8 (ASCII alone takes four) ...
_MAX_WASTE: Final = 8
# ... or this many bytes in all: little enough not to matter.
_MAX_WIDE: Final = 1 << 20
_NUMERIC: Final = "biufc"


class Sink(Protocol):
    """Where the bytes of a column go.

    Attributes
    ----------
    size : int
        Bytes written.
    """

    size: int

    def write(self, data: memoryview, /) -> None:
        """Append bytes."""
        ...

    def chunks(self) -> Chunks:
        """Read back everything once; nothing can be written afterwards."""
        ...

    def close(self) -> None:
        """Release the bytes."""
        ...


class Spool:
    """A sink in memory, and from `CHUNK` bytes on in an unnamed temporary file in `folder`.

    The file has no name, so nothing is left of it when the process is killed.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: Any = None
        self.size = 0

    def write(self, data: memoryview | bytes, /) -> None:
        """Append bytes."""
        if self._file is None:
            # Closed with the column.
            self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
                max_size=CHUNK, dir=self._folder
            )
        self._file.write(data)
        self.size += len(data)

    def chunks(self, size: int = CHUNK) -> Chunks:
        """Read back everything in chunks of `size` bytes; the last may be shorter."""
        if self._file is None:
            return
        self._file.seek(0)
        while data := self._file.read(size):
            yield data

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class Part:
    """One array of the file: all that its ``.npy`` needs."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data: Sink | Chunks


@dataclass(frozen=True)
class Prepared:
    """Rows that were checked and can be written.

    Attributes
    ----------
    kind : {"array", "utf8", "bytes"}
    rows : list
        Of bytes, or of arrays whose first dimension counts rows of one shape.
    nbytes : int
        Bytes of the rows.
    """

    kind: Kind
    rows: list[Any]
    nbytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first rows, those that decide the column's place in the file."""
        return tuple(self.rows[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the first rows."""
        dtype: np.dtype[Any] = self.rows[0].dtype
        return dtype


class Column:
    """One column, from its first row to the arrays that it becomes.

    Parameters
    ----------
    name : str
        Name of the column.
    folder : str
        Where temporary files go: the folder of the target, which has the room.
    ragged : bool
        Write numbers as values and offsets even if all rows have one shape.
    """

    def __init__(self, name: str, folder: str, ragged: bool = False) -> None:
        self.name = name
        self._folder = folder
        self._forced = ragged
        self._kind: Kind | None = None
        self._sink: Sink = Spool(folder)
        self._rows = 0
        # The shape of all rows, or of the first where they differ; None until a row tells.
        self._shape: tuple[int, ...] | None = None
        # The shapes of all rows, from the moment they differ.
        self._shapes: Spool | None = None
        self._same_inside = True
        self._lead = self._elements = 0
        self._dtype: np.dtype[Any] | None = None
        self._empty_dtype: np.dtype[Any] | None = None
        # Bytes up to which the sink holds another dtype than the last.
        self._older: list[tuple[int, np.dtype[Any]]] = []
        self._longest = 0
        self._loses_nul = False

    def prepare(self, values: Sequence[Any] | npt.NDArray[Any], block: bool) -> Prepared:
        """Check rows against those before them, and change nothing.

        Parameters
        ----------
        values : sequence
            The rows; an array whose first dimension counts them if `block`.
        block : bool
            Whether all rows are alike, in one array.
        """
        rows: list[Any] = []
        kind = self._kind
        if block:
            rows = [values]
            kind = self._agreed(kind, "array")
        else:
            for value in values:
                if isinstance(value, str):
                    kind = self._agreed(kind, "utf8")
                    rows.append(value)
                elif isinstance(value, (bytes, bytearray, memoryview)):
                    kind = self._agreed(kind, "bytes")
                    rows.append(bytes(value))
                else:
                    kind = self._agreed(kind, "array")
                    rows.append(self._array(value)[np.newaxis])
        if kind != "array":
            size = sum(len(row) for row in rows)
            return Prepared(kind or "array", rows, size)
        dtype = self._dtype
        dimensions = None if self._shape is None else len(self._shape)
        lists = dimensions is None and self._rows > 0
        for row in rows:
            if row.dtype.hasobject:
                raise self._wrong_type(f"dtype {row.dtype} holds objects")
            if _is_empty_list(row.shape[1:]) and dimensions != 0:
                lists = True
                continue
            if self._forced and row.ndim == 1:
                raise OptionError(f"column {self.name!r}: ragged, but its rows are single numbers")
            if (dimensions is not None and row.ndim - 1 != dimensions) or (lists and row.ndim == 1):
                before = (
                    "empty lists"
                    if dimensions is None
                    else f"rows of {pluralize(dimensions, 'dimension')}"
                )
                raise OptionError(
                    f"column {self.name!r}: a row of shape {row.shape[1:]} after {before}; reshape "
                    f"it, or write a column of its own"
                )
            dimensions = row.ndim - 1
            if row.size:
                dtype = row.dtype if dtype is None else self._promoted(dtype, row.dtype)
        return Prepared("array", rows, sum(row.nbytes for row in rows))

    def write(self, prepared: Prepared) -> None:
        """Append rows that `prepare` let through."""
        if not prepared.rows:
            return
        self._kind = prepared.kind
        if prepared.kind == "array":
            for rows in prepared.rows:
                self._write_array(rows)
            return
        lengths = []
        for row in prepared.rows:
            data = row
            if prepared.kind == "utf8":
                data = row.encode("utf-8", "surrogatepass")
                self._longest = max(self._longest, len(row))
                self._loses_nul = self._loses_nul or row.endswith("\0")
            lengths.append(len(data))
            self._sink.write(memoryview(data))
        if self._shapes is None:
            self._shapes = Spool(self._folder)
        self._shapes.write(np.array(lengths, _OFFSET).tobytes())
        self._shape = ()
        self._rows += len(lengths)

    def redirect(self, sink: Sink) -> None:
        """Let a column without rows write to another sink."""
        self._sink.close()
        self._sink = sink

    def parts(self) -> list[Part]:
        """Return the arrays that the column becomes; data that must be converted are chunks."""
        shapes = self._shapes
        data = self._sink
        if self._kind == "utf8" and shapes is not None and self._fits_fixed_width():
            dtype = np.dtype(f"<U{max(1, self._longest)}")
            return [Part(self.name, dtype, (self._rows,), self._widened(shapes, dtype))]
        if self._kind in {"utf8", "bytes"} and shapes is not None:
            name = self.name + (UTF8 if self._kind == "utf8" else BYTES)
            whole = Part(name, np.dtype(np.uint8), (data.size,), _readable(data))
            return [whole, self._offsets(shapes, 1)]
        dtype = self._dtype or self._empty_dtype or np.dtype(np.float64)
        content = self._converted(dtype) if self._older else _readable(data)
        if self._shape is None:
            # Nothing but empty lists.
            return [Part(self.name, dtype, (self._rows, 0), content)]
        if shapes is None:
            return [Part(self.name, dtype, (self._rows, *self._shape), content)]
        dimensions = len(self._shape)
        name = self.name + VALUES
        if self._same_inside:
            values = Part(name, dtype, (self._lead, *self._shape[1:]), content)
            return [values, self._offsets(shapes, dimensions)]
        return [
            Part(name, dtype, (self._elements,), content),
            self._offsets(shapes, dimensions),
            Part(self.name + SHAPES, _OFFSET, (self._rows, dimensions), shapes.chunks()),
        ]

    def close(self) -> None:
        """Release the bytes that wait."""
        self._sink.close()
        if self._shapes is not None:
            self._shapes.close()

    def _write_array(self, rows: npt.NDArray[Any]) -> None:
        """Append rows of one shape, counted by the first dimension."""
        count, shape = len(rows), rows.shape[1:]
        if not count:
            return
        if not rows.size:
            self._empty_dtype = self._empty_dtype or rows.dtype
        if self._shape is None and _is_empty_list(shape):
            self._rows += count
            return
        if self._shape is None:
            self._shape = shape
            if self._forced or (self._rows and shape[0]):
                self._begin_ragged((0, *shape[1:]))
        elif _is_empty_list(shape):
            shape = (0, *self._shape[1:])
        if self._shapes is None and shape != self._shape:
            self._begin_ragged(self._shape)
        if self._shapes is not None:
            self._shapes.write(np.array([shape] * count, _OFFSET).tobytes())
        self._same_inside = self._same_inside and shape[1:] == self._shape[1:]
        self._rows += count
        self._lead += count * shape[0] if shape else 0
        if not rows.size:
            return
        self._elements += rows.size
        self._agree_on(rows.dtype)
        rows = np.ascontiguousarray(rows, self._dtype)
        if rows.nbytes:
            self._sink.write(rows.reshape(-1).view(np.uint8).data)

    def _begin_ragged(self, shape: tuple[int, ...]) -> None:
        """Write down the shape of all rows so far."""
        self._shapes = Spool(self._folder)
        step = CHUNK // (_OFFSET.itemsize * len(shape))
        for start in range(0, self._rows, step):
            count = min(step, self._rows - start)
            self._shapes.write(np.tile(np.array(shape, _OFFSET), count).tobytes())

    def _agree_on(self, dtype: np.dtype[Any]) -> None:
        """Take a dtype that holds the rows so far and the next."""
        if self._dtype is None:
            self._dtype = dtype
            return
        promoted = self._promoted(self._dtype, dtype)
        if promoted == self._dtype:
            return
        # The old rows are converted at the end, which needs them in a place of their own.
        if not isinstance(self._sink, Spool):
            spool = Spool(self._folder)
            for piece in self._sink.chunks():
                spool.write(piece)
            self._sink = spool
        self._older.append((self._sink.size, self._dtype))
        self._dtype = promoted

    def _agreed(self, kind: Kind | None, new: Kind) -> Kind:
        if kind is not None and kind != new:
            words = {"array": "numbers", "utf8": "strings", "bytes": "byte strings"}
            raise self._wrong_type(f"{words[new]} after {words[kind]}")
        return new

    def _array(self, value: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(value)
        except ValueError as error:
            raise self._wrong_type(f"the lists of a row differ in length: {error}") from error

    def _promoted(self, old: np.dtype[Any], new: np.dtype[Any]) -> np.dtype[Any]:
        if old == new:
            return old
        if old.kind == new.kind or (old.kind in _NUMERIC and new.kind in _NUMERIC):
            try:
                return np.promote_types(old, new)
            except TypeError:
                pass
        raise self._wrong_type(f"{new} after {old}")

    def _wrong_type(self, reason: str) -> OptionTypeError:
        return OptionTypeError(
            f"column {self.name!r}: {reason}; a column holds numbers or arrays of one number of "
            f"dimensions, strings, or byte strings"
        )

    def _converted(self, dtype: np.dtype[Any]) -> Chunks:
        """Read what the sink holds, all of it in the last dtype."""
        segments = [*self._older, (self._sink.size, dtype)]
        return _converted(self._sink.chunks(), segments, dtype)

    def _offsets(self, shapes: Spool, dimensions: int) -> Part:
        whole = self._kind == "array" and not self._same_inside
        return Part(
            self.name + OFFSETS, _OFFSET, (self._rows + 1,), _ends(shapes, dimensions, whole)
        )

    def _fits_fixed_width(self) -> bool:
        wide = 4 * max(1, self._longest) * self._rows
        return not self._loses_nul and wide <= max(_MAX_WIDE, _MAX_WASTE * self._sink.size)

    def _widened(self, shapes: Spool, dtype: np.dtype[Any]) -> Chunks:
        """Turn UTF-8 into strings of fixed width."""
        text = _Reader(_readable(self._sink))
        step = _OFFSET.itemsize * max(1, CHUNK // dtype.itemsize)
        for lengths in shapes.chunks(step):
            rows = [
                text.read(length).decode("utf-8", "surrogatepass")
                for length in np.frombuffer(lengths, _OFFSET).tolist()
            ]
            yield np.array(rows, dtype).tobytes()


def _readable(sink: Sink) -> Any:
    """What a part takes its data from: chunks, or the sink itself that wrote them in place."""
    return sink.chunks() if isinstance(sink, Spool) else sink


def _is_empty_list(shape: tuple[int, ...]) -> bool:
    """Whether a row has the shape of ``[]``, which fits any number of dimensions but none."""
    return shape == (0,)


def _ends(shapes: Spool, dimensions: int, whole: bool) -> Chunks:
    """Offsets from the shapes of the rows: of elements if `whole`, else of first dimensions."""
    end = 0
    yield np.zeros(1, _OFFSET).tobytes()
    for data in shapes.chunks(CHUNK // (8 * dimensions) * 8 * dimensions):
        table = np.frombuffer(data, _OFFSET).reshape(-1, dimensions)
        lengths = table.prod(axis=1) if whole else table[:, 0]
        ends = end + np.cumsum(lengths, dtype=_OFFSET)
        end = int(ends[-1])
        yield ends.tobytes()


def _converted(
    data: Chunks, segments: list[tuple[int, np.dtype[Any]]], dtype: np.dtype[Any]
) -> Chunks:
    """Turn all of `data` into one dtype; each segment is the byte up to which it has another."""
    reader = _Reader(data)
    start = 0
    for end, old in segments:
        step = max(1, CHUNK // old.itemsize) * old.itemsize
        for at in range(start, end, step):
            piece = reader.read(min(step, end - at))
            yield np.frombuffer(piece, old).astype(dtype).tobytes()
        start = end


class _Reader:
    """Pieces of chosen length out of chunks of any length."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._data = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        while len(self._data) - self._at < size:
            self._data = self._data[self._at :] + next(self._chunks)
            self._at = 0
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece
