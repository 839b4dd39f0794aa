"""The columns of an NPZ: rows of stored, deflated, ragged and pickled arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.arrays import npy, ragged
from imagearchive.arrays.objects.array import FileRange, ObjectArray
from imagearchive.arrays.text import text_item
from imagearchive.datasets.npz.collate import batchable
from imagearchive.errors import CorruptArchiveError, CorruptIndexError, UnsupportedMemberError

if TYPE_CHECKING:
    from imagearchive.datasets.npz.array_source import ArraySource

__all__ = [
    "PLURALS",
    "ArrayColumn",
    "Column",
    "ObjectColumn",
    "RaggedColumn",
    "open_column",
    "open_whole",
    "sample_name",
]

logger = logging.getLogger(__name__)

#: What a value is called in a sample, if that differs from the name of its array.
SINGULARS: Final = {"images": "image", "image_paths": "image_path"}
PLURALS: Final = {sample: array for array, sample in SINGULARS.items()}

# From this many elements on, their offsets are saved in the index file. Locating them again takes
# every process a millisecond per thousand, and more if the file is not in memory.
_WORTH_SAVING: Final = 1000
# Bytes of an array of offsets that is loaded whole from a server, and not asked for row by row.
_MOST_LOADED: Final = 64 << 20
# Bytes of an array from which loading it whole is logged.
_MUCH_MEMORY: Final = 256 << 20

Rows = npt.NDArray[np.intp]


def sample_name(name: str) -> str:
    """Return what a column is called in a sample."""
    return SINGULARS.get(name, name)


class Column(Protocol):
    """One value for each row.

    Attributes
    ----------
    length : int
        Number of rows.
    """

    length: int

    def reader(self) -> Callable[[int], Any]:
        """Do what reading needs, and return a function from a row number to its value.

        The function takes ``0 <= i < length``; nothing is checked.
        """
        ...

    def prefetch(self, rows: Rows) -> None:
        """Request rows from a server that will be read soon one by one, if that is possible."""
        ...

    def batch(self, rows: Rows) -> npt.NDArray[Any]:
        """Return the values of several rows in the order asked for, along the first axis."""
        ...

    def whole(self) -> npt.NDArray[Any]:
        """Return all rows, as `numpy.load` would."""
        ...


class ArrayColumn:
    """An array whose items have a fixed size; a row is ``array[i]``.

    If the file is mapped and the member stored, rows are slices of the mapping. Otherwise a row is
    one positional read, except that an array in Fortran order, whose rows are scattered, is loaded
    whole first.

    Parameters
    ----------
    source : ArraySource
    header : NpyHeader
    copy : bool
        Whether rows are copies: native, aligned, contiguous and writable. Otherwise they are
        read-only, and views of the mapping if there is one.
    """

    def __init__(self, source: ArraySource, header: npy.NpyHeader, copy: bool) -> None:
        if header.has_objects:
            raise UnsupportedMemberError(
                f"{source.where}: records with object fields ({header.dtype}) cannot be read; save "
                f"each field as its own array"
            )
        self.header = header
        self.length = header.shape[0] if header.shape else 0
        self._source = source
        self._copy = copy
        self._native = header.dtype.newbyteorder("=")
        # Not dtype.isnative, which overlooks swapped sub-arrays in fields.
        self._swapped = header.dtype != self._native
        # Native rows of the whole array, or a view of the mapping; None if rows are read.
        self._array: npt.NDArray[Any] | None = None
        # The mapping again, as rows of bytes, which are aligned whatever the dtype.
        self._bytes: npt.NDArray[np.uint8] | None = None
        self._prepared = False

    def _prepare(self) -> None:
        """Map the array, or load it if it has to be loaded."""
        if self._prepared:
            return
        header, source = self.header, self._source
        source.verify()
        if source.storage.zero_copy:
            view = source.storage.read(header.data_offset, header.nbytes)
            order: Any = "F" if header.fortran_order else "C"
            if order == "C" and header.row_size:
                self._bytes = np.ndarray((self.length, header.row_size), np.uint8, view)
            self._array = np.ndarray(header.shape, header.dtype, view, order=order)
        elif header.fortran_order and len(header.shape) > 1:
            if header.nbytes > _MUCH_MEMORY:
                logger.warning(
                    "%s: loading %d MB into memory, because the array is in Fortran order and its "
                    "rows are scattered; save it in C order, or without compression and open it "
                    "with storage='mmap'",
                    source.where,
                    header.nbytes >> 20,
                )
            array = np.ascontiguousarray(self.whole())
            array.flags.writeable = False
            self._array = array
        # Last, since other threads test it.
        self._prepared = True

    def reader(self) -> Callable[[int], Any]:
        """Map the array, or load it if necessary, and return how its rows are read."""
        self._prepare()
        if self._array is None:
            return self._read_row
        if len(self.header.shape) == 1:
            return self._text_row if self.header.dtype.kind in "SU" else self._item_row
        if not self._copy:
            return self._array.__getitem__
        return self._native_row if self._swapped else self._copied_row

    def prefetch(self, rows: Rows) -> None:
        """Request rows from a server, unless the array has to be loaded whole."""
        size, shape = self.header.row_size, self.header.shape
        if size and self._array is None and not (self.header.fortran_order and len(shape) > 1):
            starts = self.header.data_offset + rows * size
            self._source.prefetch((start, size) for start in starts.tolist())

    @property
    def is_remote(self) -> bool:
        """Whether rows are read from a server."""
        return self._source.is_remote and self._array is None

    def prefetch_slices(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Request ``array[start:end]`` from a server for each of several ranges."""
        size, begin = self.header.row_size, self.header.data_offset
        if size and self.is_remote:
            self._source.prefetch(
                (begin + start * size, (end - start) * size) for start, end in ranges
            )

    def load_small(self) -> bool:
        """Load an array that is on a server, unless it is large; return whether it is here."""
        self._prepare()
        if self.is_remote:
            if self.header.nbytes > _MOST_LOADED:
                return False
            array = self.whole()
            array.flags.writeable = False
            self._array = array
        return True

    def _copied_row(self, index: int) -> Any:
        return self._array[index].copy()  # type: ignore[index]

    def _native_row(self, index: int) -> Any:
        return self._array[index].astype(self._native, "C")  # type: ignore[index]

    def _item_row(self, index: int) -> Any:
        item = self._array[index]  # type: ignore[index]
        # A record is a view of the array.
        return item.astype(self._native) if isinstance(item, np.void) and self._copy else item

    def _text_row(self, index: int) -> Any:
        return self._text(self._array, index)

    def _text(self, array: Any, index: int, row: int | None = None) -> Any:
        try:
            return text_item(array, index)
        except ValueError as error:
            number = index if row is None else row
            raise CorruptArchiveError(
                f"{self._source.where}: row {number} has {error}; the file is damaged"
            ) from error

    def _read_row(self, index: int) -> Any:
        rows = self._read(np.array([index]))
        if rows.ndim == 1 and self.header.dtype.kind in "SU":
            return self._text(rows, 0, index)
        row = rows[0]
        if not isinstance(row, np.ndarray):
            return row
        row.flags.writeable = self._copy
        return row

    def batch(self, rows: Rows) -> npt.NDArray[Any]:
        """Return ``array[rows]`` as a new array in native byte order."""
        self._prepare()
        if self._array is None:
            return self._read(rows)
        if self._bytes is None:
            # Fancy indexing of an array in Fortran order touches the rows only.
            return np.ascontiguousarray(self._array[rows], self._native)
        # As bytes, since NumPy first copies all of an array that is unaligned or swapped.
        return self._shaped(self._bytes.take(rows, 0), len(rows))

    def slice(self, start: int, end: int) -> npt.NDArray[Any]:
        """Return ``array[start:end]``, a copy or a view as rows are."""
        self._prepare()
        if self._array is not None:
            part = self._array[start:end]
            return np.array(part, self._native, order="C") if self._copy else part
        size = self.header.row_size
        data = np.empty((end - start, size), np.uint8)
        if data.size:
            self._source.storage.readinto(
                self.header.data_offset + start * size, data.reshape(-1).data
            )
        part = self._shaped(data, end - start)
        part.flags.writeable = self._copy
        return part

    def _shaped(self, data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[Any]:
        shape = (count, *self.header.shape[1:])
        array = np.ndarray(shape, self.header.dtype, data)
        return array.astype(self._native) if self._swapped else array

    def _read(self, rows: Rows) -> npt.NDArray[Any]:
        """Read rows in the order of the file, neighbors at once."""
        size = self.header.row_size
        data = np.empty((len(rows), size), np.uint8)
        if data.size:
            order = np.argsort(rows, kind="stable")
            breaks = np.flatnonzero((np.diff(rows[order]) != 1) | (np.diff(order) != 1)) + 1
            runs = np.split(order, breaks)
            starts = [self.header.data_offset + int(rows[run[0]]) * size for run in runs]
            if len(runs) > 1:
                self._source.prefetch((at, len(run) * size) for at, run in zip(starts, runs))
            for start, run in zip(starts, runs):
                part = data[run[0] : run[0] + len(run)]
                self._source.storage.readinto(start, part.reshape(-1).data)
        return self._shaped(data, len(rows))

    def whole(self) -> npt.NDArray[Any]:
        """Read the whole array into memory."""
        header = self.header
        data = np.empty(header.nbytes, np.uint8)
        if data.size:
            self._source.storage.readinto(header.data_offset, data.data)
        order: Any = "F" if header.fortran_order else "C"
        return np.ndarray(header.shape, header.dtype, data, order=order)


class ObjectColumn:
    """An array of objects, each decoded when it is asked for; see `ObjectArray`.

    Parameters
    ----------
    source : ArraySource
    header : NpyHeader
    stack : bool
        Whether torch may stack rows that are arrays.
    """

    def __init__(self, source: ArraySource, header: npy.NpyHeader, stack: bool) -> None:
        self.length = header.shape[0] if header.shape else 0
        self._source = source
        self._header = header
        self._stack = stack
        self._located: ObjectArray | None = None

    def reader(self) -> Callable[[int], Any]:
        """Locate the elements, and return how rows are decoded for a sample."""
        row, stack = self._objects().row, self._stack
        return lambda index: batchable(row(index), stack)

    def prefetch(self, rows: Rows) -> None:
        """Request rows from a server; first locate them, as the first read would."""
        if self._source.is_remote:
            self._source.prefetch(self._objects().row_ranges(rows))

    def _objects(self) -> ObjectArray:
        if self._located is None:
            self._located = self._locate()
        return self._located

    def _locate(self) -> ObjectArray:
        source = self._source
        source.verify()
        tables = source.load_tables("objects")
        if tables:
            try:
                return self._array(tables, None)
            except CorruptIndexError as error:
                logger.warning("%s; locating the elements again", error)
        file = source.open_range()
        try:
            objects = self._array(None, file)
        finally:
            if file is not None:
                file.close()
        if self._header.count >= _WORTH_SAVING:
            source.save_tables("objects", objects.tables)
        return objects

    def _array(
        self, tables: Mapping[str, npt.NDArray[Any]] | None, file: FileRange | None
    ) -> ObjectArray:
        header, source = self._header, self._source
        return ObjectArray(
            source.storage, header.data_offset, header.shape, source.where, tables, file
        )

    def batch(self, rows: Rows) -> npt.NDArray[Any]:
        """Return an array of objects of shape (n,), or ``(n, *shape[1:])``.

        Rows that are one object in the file are one object here.
        """
        self.prefetch(rows)
        return self._objects().rows(rows)

    def whole(self) -> npt.NDArray[Any]:
        """Decode the whole array."""
        return self._objects().whole()


class RaggedColumn:
    """Rows of different lengths, in the layout of `imagearchive.arrays.ragged`.

    Parameters
    ----------
    column : ragged.Column
    values, offsets, shapes : ArrayColumn
        Its arrays; `shapes` may be None.
    where : str
        Names the column in messages.
    stack : bool
        Whether torch may stack rows.
    """

    def __init__(
        self,
        column: ragged.Column,
        values: ArrayColumn,
        offsets: ArrayColumn,
        shapes: ArrayColumn | None,
        where: str,
        stack: bool,
    ) -> None:
        texts = column.kind in ("utf8", "bytes")
        if len(offsets.header.shape) != 1 or offsets.header.dtype.kind not in "iu":
            raise CorruptArchiveError(f"{where}: its offsets are not a list of integers")
        if offsets.length < 1 or not values.header.shape:
            raise CorruptArchiveError(f"{where}: it has no offsets or no values")
        if texts and (values.header.dtype != np.uint8 or len(values.header.shape) != 1):
            raise CorruptArchiveError(f"{where}: its text is not a list of bytes")
        if shapes is not None and (
            len(shapes.header.shape) != 2
            or shapes.header.dtype.kind not in "iu"
            or shapes.length != offsets.length - 1
            or len(values.header.shape) != 1
        ):
            raise CorruptArchiveError(f"{where}: its shapes do not fit its offsets")
        self.length = offsets.length - 1
        self._kind = column.kind
        self._values = values
        self._offsets = offsets
        self._shapes = shapes
        self._where = where
        self._stack = stack

    def reader(self) -> Callable[[int], Any]:
        """Map or load the arrays, and return how rows are read for a sample."""
        for part in (self._values, self._offsets, self._shapes):
            if part is not None:
                part.reader()
        return lambda index: batchable(self._row(index), self._stack)

    def prefetch(self, rows: Rows) -> None:
        """Request rows from a server; at the first time, load where they are."""
        parts = [part for part in (self._offsets, self._shapes) if part is not None]
        if not self._values.is_remote or not all(part.load_small() for part in parts):
            return
        pairs = self._offsets.batch(np.stack([rows, rows + 1], 1).reshape(-1)).reshape(-1, 2)
        length = self._values.length
        # Wrong ones are errors when they are read.
        self._values.prefetch_slices(
            (start, end) for start, end in pairs.tolist() if 0 <= start < end <= length
        )

    def _row(self, index: int) -> Any:
        """Return a row as a plain array, str or bytes."""
        pair = self._offsets.batch(np.array([index, index + 1]))
        start, end = ragged.row_range(pair, 0, self._values.length, self._where)
        data = self._values.slice(start, end)
        if self._kind == "utf8":
            try:
                return data.tobytes().decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise CorruptArchiveError(
                    f"{self._where}: row {index} is not UTF-8 ({error}); the file is damaged"
                ) from error
        if self._kind == "bytes":
            return data.tobytes()
        if self._shapes is None:
            return data
        shape = self._shapes.batch(np.array([index]))
        return data.reshape(ragged.row_shape(shape, 0, end - start, self._where))

    def batch(self, rows: Rows) -> npt.NDArray[Any]:
        """Return an array of objects of shape (n,)."""
        self.prefetch(rows)
        values = _read_rows(self._row, rows)
        return np.fromiter(values, object, len(values))

    def whole(self) -> npt.NDArray[Any]:
        """Return all rows as an array of objects."""
        return self.batch(np.arange(self.length))


def _read_rows(read: Callable[[int], Any], rows: Rows) -> list[Any]:
    """Return the values of rows, read in the order of the file."""
    values: list[Any] = [None] * len(rows)
    for place in np.argsort(rows, kind="stable").tolist():
        values[place] = read(int(rows[place]))
    return values


def open_column(
    column: ragged.Column, source: Callable[[str], ArraySource], copy: bool, stack: bool
) -> Column | None:
    """Open a column; return None for a single value, which has no rows.

    Parameters
    ----------
    column : ragged.Column
    source : callable
        From the name of an array to its bytes.
    copy, stack : bool
        As for `ArrayColumn` and `RaggedColumn`.
    """
    data = source(column.data)
    header = data.header()
    if column.offsets is None:
        if not header.shape:
            return None
        if header.dtype == object:
            return ObjectColumn(data, header, stack)
        return ArrayColumn(data, header, copy)

    def open_index(name: str) -> ArrayColumn:
        part = source(name)
        return ArrayColumn(part, part.header(), True)

    return RaggedColumn(
        column,
        ArrayColumn(data, header, copy),
        open_index(column.offsets),
        None if column.shapes is None else open_index(column.shapes),
        data.where,
        stack,
    )


def open_whole(source: ArraySource) -> npt.NDArray[Any]:
    """Read a whole array into memory."""
    header = source.header()
    source.verify()
    if header.dtype == object:
        return ObjectColumn(source, header, False).whole()
    return ArrayColumn(source, header, True).whole()
