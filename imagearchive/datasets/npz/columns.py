"""The columns of an NPZ: row by row out of stored, deflated, ragged and pickled arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.arrays import npy, ragged
from imagearchive.arrays.objects.array import ObjectArray
from imagearchive.datasets.npz.collate import varying
from imagearchive.errors import CorruptArchiveError, CorruptIndexError, UnsupportedMemberError

if TYPE_CHECKING:
    from imagearchive.datasets.npz.file import NpzMember

__all__ = ["ArrayColumn", "Column", "ObjectColumn", "RaggedColumn", "open_column", "open_whole"]

logger = logging.getLogger(__name__)

# Where this many elements lie is worth a file write: finding them again takes every process a
# millisecond for each thousand, and more where the file is not in memory.
_WORTH_SAVING: Final = 1000


class Column(Protocol):
    """One value for each row.

    Attributes
    ----------
    length : int
        Number of rows.
    row : callable
        From a row number, ``0 <= i < length``, to its value.
    """

    length: int
    row: Callable[[int], Any]

    def batch(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return the values of several rows in the order asked for, along the first axis."""
        ...

    def whole(self) -> npt.NDArray[Any]:
        """Return all rows, as `numpy.load` would."""
        ...

    def prepare(self) -> None:
        """Build what the first read would build."""
        ...


class ArrayColumn:
    """An array whose items have a fixed size; a row is ``array[i]``.

    Where the file is mapped and the member stored, rows are slices of the mapping. Otherwise a row
    is one positional read, but an array in Fortran order, whose rows lie scattered, is loaded
    whole at the first read.

    Parameters
    ----------
    member : NpzMember
    header : NpyHeader
    copy : bool
        Whether rows are copies: native, aligned, contiguous and writable. Otherwise they are
        read-only, and views of the mapping where there is one.
    """

    def __init__(self, member: NpzMember, header: npy.NpyHeader, copy: bool) -> None:
        if header.has_objects:
            raise UnsupportedMemberError(
                f"{member.where}: records with fields that are objects ({header.dtype}) are not "
                f"read; save the fields as arrays of their own"
            )
        self.header = header
        self.length = header.shape[0] if header.shape else 0
        self._member = member
        self._copy = copy
        self._native = header.dtype.newbyteorder("=")
        # Not dtype.isnative, which overlooks swapped sub-arrays in fields.
        self._swapped = header.dtype != self._native
        # Native rows of the whole array, or a view of the mapping; None where rows are read.
        self._array: npt.NDArray[Any] | None = None
        # The mapping again, as rows of bytes: aligned in any case.
        self._bytes: npt.NDArray[np.uint8] | None = None
        self.row: Callable[[int], Any] = self._first_row

    def prepare(self) -> None:
        """Map the array, or load it if it has to be loaded."""
        if self.row != self._first_row:
            return
        header, member = self.header, self._member
        member.prepare()
        storage = member.storage
        if member.mapped:
            view = storage.read(header.data_offset, header.nbytes)
            order: Any = "F" if header.fortran_order else "C"
            self._array = np.ndarray(header.shape, header.dtype, view, order=order)
            if order == "C" and header.row_size:
                self._bytes = np.ndarray((self.length, header.row_size), np.uint8, view)
        elif header.fortran_order and len(header.shape) > 1:
            if header.nbytes > 256 << 20:
                logger.warning(
                    "%s: %d MB in Fortran order are loaded into memory, since its rows lie "
                    "scattered; map the file (storage='mmap', saved without compression) or save "
                    "the array in C order",
                    member.where,
                    header.nbytes >> 20,
                )
            self._array = np.ascontiguousarray(self.whole())
            self._array.flags.writeable = False
        self.row = self._chosen_row()

    def _chosen_row(self) -> Callable[[int], Any]:
        if self._array is None:
            return self._read_row
        if len(self.header.shape) == 1:
            return self._text_row if self.header.dtype.kind in "SU" else self._item_row
        if not self._copy:
            return self._array.__getitem__
        return self._native_row if self._swapped else self._copied_row

    def _first_row(self, index: int) -> Any:
        self.prepare()
        return self.row(index)

    def _copied_row(self, index: int) -> Any:
        return self._array[index].copy()  # type: ignore[index]

    def _native_row(self, index: int) -> Any:
        return self._array[index].astype(self._native, "C")  # type: ignore[index]

    def _item_row(self, index: int) -> Any:
        item = self._array[index]  # type: ignore[index]
        # A record is a view of the array.
        return item.astype(self._native) if isinstance(item, np.void) and self._copy else item

    def _text_row(self, index: int) -> Any:
        return self._array[index].item()  # type: ignore[index]

    def _read_row(self, index: int) -> Any:
        row = self._read(np.array([index]))[0]
        if not isinstance(row, np.ndarray):
            return row.item() if self.header.dtype.kind in "SU" else row
        row.flags.writeable = self._copy
        return row

    def batch(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return ``array[rows]`` as a new array in native byte order."""
        self.prepare()
        if self._array is None:
            return self._read(rows)
        if self._bytes is None:
            # Fancy indexing of an array in Fortran order touches the rows only.
            return np.ascontiguousarray(self._array[rows], self._native)
        # As bytes, since NumPy first copies all of an array that is unaligned or swapped.
        return self._shaped(self._bytes.take(rows, 0), len(rows))

    def slice(self, start: int, end: int) -> npt.NDArray[Any]:
        """Return ``array[start:end]``, a copy or a view as rows are."""
        self.prepare()
        if self._array is not None:
            part = self._array[start:end]
            return np.array(part, self._native, order="C") if self._copy else part
        size = self.header.row_size
        data = np.empty((end - start, size), np.uint8)
        if data.size:
            self._member.storage.readinto(
                self.header.data_offset + start * size, data.reshape(-1).data
            )
        part = self._shaped(data, end - start)
        part.flags.writeable = self._copy
        return part

    def _shaped(self, data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[Any]:
        shape = (count, *self.header.shape[1:])
        array = np.ndarray(shape, self.header.dtype, data)
        return array.astype(self._native) if self._swapped else array

    def _read(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Read rows in the order of the file, neighbours at once."""
        size = self.header.row_size
        data = np.empty((len(rows), size), np.uint8)
        if data.size:
            order = np.argsort(rows, kind="stable")
            breaks = np.flatnonzero((np.diff(rows[order]) != 1) | (np.diff(order) != 1)) + 1
            for run in np.split(order, breaks):
                start = self.header.data_offset + int(rows[run[0]]) * size
                part = data[run[0] : run[0] + len(run)]
                self._member.storage.readinto(start, part.reshape(-1).data)
        return self._shaped(data, len(rows))

    def whole(self) -> npt.NDArray[Any]:
        """Read the whole array into memory."""
        header = self.header
        data = np.empty(header.nbytes, np.uint8)
        if data.size:
            self._member.storage.readinto(header.data_offset, data.data)
        order: Any = "F" if header.fortran_order else "C"
        return np.ndarray(header.shape, header.dtype, data, order=order)


class ObjectColumn:
    """An array of objects, each decoded when it is asked for; see `ObjectArray`.

    Parameters
    ----------
    member : NpzMember
    header : NpyHeader
    stack : bool
        Whether torch may stack rows that are arrays.
    """

    def __init__(self, member: NpzMember, header: npy.NpyHeader, stack: bool) -> None:
        self.length = header.shape[0] if header.shape else 0
        self._member = member
        self._header = header
        self._stack = stack
        self._objects: ObjectArray | None = None
        self.row: Callable[[int], Any] = self._first_row

    def prepare(self) -> None:
        """Locate the elements."""
        self._opened()

    def _opened(self) -> ObjectArray:
        if self._objects is None:
            member = self._member
            member.prepare()
            tables = member.load("objects")
            if tables:
                try:
                    self._objects = self._array(tables)
                except CorruptIndexError as error:
                    logger.warning("%s; located again", error)
            if self._objects is None:
                self._objects = self._array(None)
                if self._header.count >= _WORTH_SAVING:
                    member.save("objects", self._objects.tables)
            self.row = self._object_row
        return self._objects

    def _array(self, tables: Any) -> ObjectArray:
        header, member = self._header, self._member
        place = (member.storage, header.data_offset, header.shape, member.where)
        file = member.descriptor() if tables is None else None
        try:
            return ObjectArray(*place, tables, file)
        finally:
            if file is not None:
                file.close()

    def _first_row(self, index: int) -> Any:
        self._opened()
        return self.row(index)

    def _object_row(self, index: int) -> Any:
        return varying(self._objects.row(index), self._stack)  # type: ignore[union-attr]

    def plain(self, index: int) -> Any:
        """Return a row as it was saved."""
        return self._opened().row(index)

    def batch(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return an array of objects of shape (n,), or ``(n, *shape[1:])``."""
        row = self._opened().row
        values = _listed(row, rows)
        if len(self._header.shape) > 1:
            if not values:
                return np.empty((0, *self._header.shape[1:]), object)
            return np.stack(values)
        return np.fromiter(values, object, len(values))

    def whole(self) -> npt.NDArray[Any]:
        """Decode the whole array."""
        return self._opened().whole()


class RaggedColumn:
    """Rows of different lengths, as `imagearchive.arrays.ragged` lays them out.

    Parameters
    ----------
    column : ragged.Column
    values, offsets, shapes : ArrayColumn
        Its arrays; `shapes` may be None.
    where : str
    copy : bool
        As for `ArrayColumn`.
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
        copy: bool,
        stack: bool,
    ) -> None:
        texts = column.kind in ("utf8", "bytes")
        if len(offsets.header.shape) != 1 or offsets.header.dtype.kind not in "iu":
            raise CorruptArchiveError(f"{where}: its offsets are no list of integers")
        if offsets.length < 1 or not values.header.shape:
            raise CorruptArchiveError(f"{where}: it has no offsets or no values")
        if texts and (values.header.dtype != np.uint8 or len(values.header.shape) != 1):
            raise CorruptArchiveError(f"{where}: its text is no list of bytes")
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
        self._copy = copy
        self._stack = stack
        self.row: Callable[[int], Any] = self._ragged_row

    def prepare(self) -> None:
        """Map the arrays."""
        self._values.prepare()
        self._offsets.prepare()
        if self._shapes is not None:
            self._shapes.prepare()

    def plain(self, index: int) -> Any:
        """Return a row as a plain array, str or bytes."""
        pair = self._offsets.batch(np.array([index, index + 1]))
        start, end = ragged.row_range(pair, 0, self._values.length, self._where)
        data = self._values.slice(start, end)
        if self._kind == "utf8":
            try:
                return data.tobytes().decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise CorruptArchiveError(
                    f"{self._where}: row {index} is no UTF-8 ({error}); the file is damaged"
                ) from error
        if self._kind == "bytes":
            return data.tobytes()
        if self._shapes is None:
            return data
        shape = self._shapes.batch(np.array([index]))
        return data.reshape(ragged.row_shape(shape, 0, end - start, self._where))

    def _ragged_row(self, index: int) -> Any:
        return varying(self.plain(index), self._stack)

    def batch(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return an array of objects of shape (n,)."""
        values = _listed(self.plain, rows)
        return np.fromiter(values, object, len(values))

    def whole(self) -> npt.NDArray[Any]:
        """Return all rows as an array of objects."""
        return self.batch(np.arange(self.length))


def _listed(row: Callable[[int], Any], rows: npt.NDArray[np.intp]) -> list[Any]:
    """Values of rows, read in the order of the file."""
    values: list[Any] = [None] * len(rows)
    for place in np.argsort(rows, kind="stable").tolist():
        values[place] = row(int(rows[place]))
    return values


def open_column(
    column: ragged.Column, member: Callable[[str], NpzMember], copy: bool, stack: bool
) -> Column | None:
    """Open a column; None where it is a single value, which has no rows.

    Parameters
    ----------
    column : ragged.Column
    member : callable
        From the name of an array to its member.
    copy, stack : bool
        As for `ArrayColumn` and `RaggedColumn`.
    """
    data = member(column.data)
    header = data.header()
    if column.offsets is None:
        if not header.shape:
            return None
        if header.dtype == object:
            return ObjectColumn(data, header, stack)
        return ArrayColumn(data, header, copy)
    others = [
        ArrayColumn(part, part.header(), True) if part is not None else None
        for part in (
            member(column.offsets),
            None if column.shapes is None else member(column.shapes),
        )
    ]
    offsets, shapes = others
    values = ArrayColumn(data, header, copy)
    if offsets is None:
        raise CorruptArchiveError(f"{data.where}: it has no offsets")
    return RaggedColumn(column, values, offsets, shapes, data.where, copy, stack)


def open_whole(member: NpzMember) -> npt.NDArray[Any]:
    """Read a whole array into memory."""
    header = member.header()
    member.prepare()
    if header.dtype == object:
        return ObjectColumn(member, header, False).whole()
    return ArrayColumn(member, header, True).whole()
