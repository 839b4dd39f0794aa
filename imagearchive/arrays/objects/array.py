"""Reads ``.npy`` arrays of Python objects one element at a time, without `pickle`.

``np.save`` writes such an array as one pickle. `ObjectArray` finds where each element begins in one
native pass that decodes nothing, and decodes an element on access. It supports plain values and
NumPy arrays, scalars and dtypes; anything else is refused with an error that names it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.objects.indexer import LOOKAHEAD, PickleIndexer
from imagearchive.arrays.objects.unpickler import PlainUnpickler
from imagearchive.errors import (
    CorruptIndexError,
    DecodeError,
    LimitError,
    SampleIndexError,
    UnsafePickleError,
)
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = ["FileRange", "ObjectArray"]

logger = logging.getLogger(__name__)

_WINDOW_MIN: Final = 1 << 12
_WINDOW_MAX: Final = 1 << 20
#: The tables, in the order in which `PickleIndexer.tables` returns them.
_COLUMNS: Final = {
    "starts": np.uint64,
    "bases": np.uint32,
    "memo_ids": np.uint32,
    "memo_bases": np.uint32,
    "memo_starts": np.uint64,
    "memo_ends": np.uint64,
}

_WRONG: Final = {
    "truncated": "ends early",
    "underflow": "takes more values than there are",
    "no mark": "closes a container that it did not open",
    "memo unset": "refers to a memo entry that is not set",
    "memo twice": "stores a value in the memo twice",
    "borrowed": "changes a complete value",
    "unknown opcode": "has an unknown opcode",
    "no callable": "calls something that is not a global",
    "not array": "is not that of an object array",
    "too many": "does not have as many elements as the header says",
    "bad protocol": "uses a protocol other than 2 to 5",
}
_LIMITS: Final = {
    "nested": "is nested more than 256 levels deep",
    "stack limit": "has a tuple of more than 4 million items",
    "memo limit": "has memo entries out of order, or more than 134 million of them",
}
_OPCODES: Final = {
    0x81: "NEWOBJ",
    0x92: "NEWOBJ_EX",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
    ord("P"): "PERSID",
    ord("Q"): "BINPERSID",
    ord("i"): "INST",
    ord("o"): "OBJ",
}


class FileRange(Protocol):
    """A storage that is a range of an open file, starting at byte `offset`."""

    offset: int

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


class ObjectArray:
    """The elements of a pickled array of objects.

    Parameters
    ----------
    storage : Storage
        The ``.npy``: a file, or a member of an archive.
    offset : int
        Start of its pickle.
    shape : tuple of int
        From its header.
    where : str
        Name of the array in messages.
    tables : mapping of str to ndarray, optional
        `tables` of an earlier instance for the same bytes. Without it, the stream is indexed.
    file : FileRange, optional
        The same bytes as a range of an open file, used only for indexing: to skip large elements,
        reads are cheaper than page faults.

    Attributes
    ----------
    shape : tuple of int
    size : int
        Number of elements.

    Raises
    ------
    UnsafePickleError
        The pickle contains more than plain data. Nothing is executed.
    DecodeError
        The pickle is damaged, or is not that of an object array.
    LimitError
        The pickle is nested too deeply, or indexing it would take too much memory.

    Notes
    -----
    Read-only and position-independent: threads and forked processes may share an instance. If two
    elements are the same object (a list that is twice in one array), `element` and `row` decode
    each into its own copy, and `rows` and `whole` share them. For an array with several axes, only
    the start of each ``array[i]`` is kept, so that the tables of ten million numbers saved as
    objects take no more memory than the file.
    """

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        where: str,
        tables: Mapping[str, npt.NDArray[Any]] | None = None,
        file: FileRange | None = None,
    ) -> None:
        self.shape = shape
        self.size = 1
        for length in shape:
            self.size *= length
        self._stride = self.size // shape[0] if self.size and shape else 1
        self._storage = storage
        self._offset = offset
        # The path of a remote file is a subclass of str, which native code does not take.
        self._where = str(where)
        self.tables = self._build_tables(file) if tables is None else self._check_tables(tables)
        self._starts = self.tables["starts"]
        self._bases = self.tables["bases"]
        self._unpickler = PlainUnpickler(
            self._read, self._where, *(self.tables[name] for name in _COLUMNS if name[:4] == "memo")
        )
        if tables is None:
            self._check_preamble()

    def _read(self, offset: int, size: int) -> bytes | memoryview:
        return self._storage.read(self._offset + offset, size)

    def __len__(self) -> int:
        return self.size

    def element(self, index: int) -> Any:
        """Decode one element.

        Parameters
        ----------
        index : int
            Position in C order, from 0 to ``size - 1``.

        Returns
        -------
        object
            A new object at every call; arrays are writable and own their memory.
        """
        if not 0 <= index < self.size:
            raise SampleIndexError(
                f"{self._where}: element {index} is out of range for "
                f"{pluralize(self.size, 'element')}"
            )
        return self._values(index // self._stride)[index % self._stride]

    def _values(self, row: int, memo: dict[int, Any] | None = None) -> list[Any]:
        start, end, base = self._starts[row], self._starts[row + 1], self._bases[row]
        if self._stride == 1 and memo is None:
            return [self._unpickler.value(start, end, base)]
        return self._unpickler.values(start, end, base, self._stride, memo)

    def row(self, index: int) -> Any:
        """Decode ``array[index]``: an element, or an object array if there are several axes.

        Parameters
        ----------
        index : int
            From 0 to ``shape[0] - 1``.
        """
        if len(self.shape) == 1:
            return self.element(index)
        if not self.shape or not 0 <= index < self.shape[0]:
            raise SampleIndexError(
                f"{self._where}: row {index} is out of range for shape {self.shape}"
            )
        values = self._values(index) if self.size else []
        return np.fromiter(values, object, len(values)).reshape(self.shape[1:])

    def row_ranges(self, indices: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
        """Return offset and size in the storage of the bytes of each row."""
        if not self.size:
            return []
        starts = np.asarray(self._starts)
        first, last = starts[indices].astype(np.int64), starts[indices + 1].astype(np.int64)
        return [(self._offset + int(at), int(end - at)) for at, end in zip(first, last)]

    def rows(self, indices: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Decode ``array[indices]``. Elements that are the same object stay one, as in NumPy.

        Parameters
        ----------
        indices : ndarray of intp, shape (n,)
            From 0 to ``shape[0] - 1``, in any order; the array has at least one axis.

        Returns
        -------
        ndarray of object, shape ``(n, *shape[1:])``
        """
        # Each row once, in the order of the file.
        unique, places = np.unique(indices, return_inverse=True)
        if len(unique) and not 0 <= unique[0] <= unique[-1] < self.shape[0]:
            raise SampleIndexError(
                f"{self._where}: row {unique[0 if unique[0] < 0 else -1]} is out of range for "
                f"shape {self.shape}"
            )
        decoded = self._decode(unique.tolist() if self.size else ())
        return decoded.reshape(len(unique), *self.shape[1:])[places]

    def whole(self) -> npt.NDArray[Any]:
        """Decode all elements. Elements that are the same object stay one object, as in NumPy."""
        return self._decode(range(self.size // self._stride)).reshape(self.shape)

    def _decode(self, rows: Sequence[int]) -> npt.NDArray[Any]:
        """Decode the elements of several rows with one memo."""
        memo: dict[int, Any] = {}
        values = tuple(value for row in rows for value in self._values(row, memo))
        self._unpickler.check(values, memo)
        return np.fromiter(values, object, len(values))

    def _build_tables(self, file: FileRange | None) -> dict[str, npt.NDArray[Any]]:
        size = self._storage.size - self._offset
        indexer = PickleIndexer(size, self.size, self._stride)
        if file is not None:
            with os_errors_for(self._where):
                outcome = indexer.walk_file(file.fileno(), file.offset + self._offset)
        else:
            outcome = self._walk_windows(indexer, size)
        if outcome:
            raise self._refusal(outcome, indexer)
        self._list_start = indexer.list_start
        logger.debug("%s: indexed %d elements in %d bytes", self._where, self.size, size)
        return dict(zip(_COLUMNS, indexer.tables()))

    def _walk_windows(self, indexer: PickleIndexer, size: int) -> str:
        window = LOOKAHEAD
        while True:
            position = indexer.position
            length = min(window, size - position)
            outcome = indexer.feed(self._read(position, length))
            if outcome != "more":
                return outcome
            # After a skipped payload, a short window suffices; small objects need longer ones.
            skipped = indexer.position - position > length
            window = _WINDOW_MIN if skipped else min(2 * window, _WINDOW_MAX)

    def _refusal(self, outcome: str, indexer: PickleIndexer) -> Exception:
        position = indexer.position
        text = f"{self._where}: the pickle %s at offset {position}"
        if outcome in _LIMITS:
            return LimitError(text % _LIMITS[outcome])
        if outcome in _WRONG:
            return DecodeError(text % _WRONG[outcome] + "; the file is damaged")
        if outcome == "old opcode":
            return DecodeError(
                text % "has opcodes of protocol 0" + "; load it with NumPy and save it again"
            )
        what = "contains more than plain data"
        if outcome == "unsafe global":
            what = f"names {self._global_name(indexer)}, which is not plain data,"
        elif outcome == "unsafe opcode":
            what = f"makes an object that is not plain data ({self._opcode_name(position)})"
        return UnsafePickleError(
            text % what + "; nothing was executed. Save the array without such objects"
        )

    def _global_name(self, indexer: PickleIndexer) -> str:
        """Return the refused global: two lines after the opcode, or two strings on the stack."""
        position = indexer.position
        if bytes(self._read(position, 1)) == b"c":
            return self._lines(position + 1)
        module, name = indexer.top(1), indexer.top(0)
        return f"{self._string(module)}.{self._string(name)}"

    def _lines(self, offset: int) -> str:
        room = self._storage.size - self._offset - offset
        parts = bytes(self._read(offset, min(512, room))).split(b"\n", 2)
        return ".".join(part[:200].decode("utf-8", "replace") for part in parts[:2])

    def _string(self, offset: int) -> str:
        room = self._storage.size - self._offset - offset
        head = bytes(self._read(offset, min(256, room)))
        skip = {ord("X"): 5, 0x8C: 2, 0x8D: 9}.get(head[0], 0)
        if not skip:
            return "?"
        length = int.from_bytes(head[1:skip], "little")
        return head[skip : skip + length][:200].decode("utf-8", "replace")

    def _opcode_name(self, position: int) -> str:
        code = bytes(self._read(position, 1))[0]
        name = _OPCODES[code]
        return f"{name} {self._lines(position + 1)}" if name == "INST" else name

    def _check_preamble(self) -> None:
        version, shape, dtype, _ = self._unpickler.preamble(self._list_start)
        if version != 1 or dtype != np.dtype(object) or shape != self.shape:
            raise DecodeError(
                f"{self._where}: the pickle is not that of an object array of shape {self.shape}, "
                f"as the header says; the file is damaged"
            )

    def _check_tables(self, tables: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        checked = {name: np.asarray(tables[name]) for name in _COLUMNS}
        memos = len(checked["memo_ids"])
        for name, dtype in _COLUMNS.items():
            rows = self.size // self._stride
            length = memos if name.startswith("memo") else rows + (name == "starts")
            if checked[name].dtype != dtype or checked[name].shape != (length,):
                raise CorruptIndexError(
                    f"{self._where}: the index does not match the array (table {name!r}); delete "
                    f"the index file"
                )
        return checked
