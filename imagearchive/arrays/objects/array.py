"""Arrays of Python objects in ``.npy`` form, read one element at a time and without `pickle`.

``np.save`` writes such an array as one pickle. `ObjectArray` finds where each element lies in one
native pass that decodes nothing, and decodes an element when it is asked for. Plain values and
NumPy arrays, scalars and dtypes are understood; anything else is refused by name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.objects.indexer import LOOKAHEAD, Locator
from imagearchive.arrays.objects.unpickler import Machine
from imagearchive.errors import (
    CorruptIndexError,
    DecodeError,
    LimitError,
    SampleIndexError,
    UnsafePickleError,
)

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = ["FileRange", "ObjectArray"]

logger = logging.getLogger(__name__)

_WINDOW_MIN: Final = 1 << 12
_WINDOW_MAX: Final = 1 << 20
#: The columns of the location table, in the order in which `Locator.tables` returns them.
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
    "no mark": "closes what it did not open",
    "memo unset": "refers to a memo entry that is not set",
    "memo twice": "remembers a value twice",
    "borrowed": "changes a value after it was made",
    "unknown opcode": "has an unknown opcode",
    "no callable": "calls what is no name",
    "not array": "is not that of an array of objects",
    "too many": "has another number of elements than its header says",
    "bad protocol": "has a protocol other than 2 to 5",
}
_LIMITS: Final = {
    "nested": "nests deeper than 256",
    "stack limit": "has a tuple of more than 4 million items",
    "memo limit": "numbers its memo entries out of order, or has more than 134 million",
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
    """A storage that is a range of an open file, from byte `offset` on."""

    offset: int

    def fileno(self) -> int:
        """The open descriptor."""
        ...


class ObjectArray:
    """The elements of a pickled array of objects.

    Parameters
    ----------
    storage : Storage
        The ``.npy`` file: a file of its own, or a member of an archive.
    offset : int
        Where its pickle begins.
    shape : tuple of int
        From its header.
    where : str
        What to call it in messages.
    tables : mapping of str to ndarray, optional
        `tables` of an earlier instance over the same bytes; without it the stream is walked once.
    file : FileRange, optional
        The same bytes as a range of an open file, for that walk alone: hopping over large
        elements, reads are cheaper than page faults.

    Attributes
    ----------
    shape : tuple of int
    size : int
        Number of elements.

    Raises
    ------
    UnsafePickleError
        The pickle asks for more than plain data. Nothing of it is executed.
    DecodeError
        It is damaged, or not the pickle of an array of objects.
    LimitError
        It nests too deeply, or is otherwise too large to be walked in bounded memory.

    Notes
    -----
    Read-only and position-independent: threads and forked processes may share one. A row that
    another refers to (the same list twice in one array) is decoded into a copy for each of them.
    Of an array with more axes, only where ``array[i]`` begins is kept, so that an array of ten
    million numbers saved as objects takes no more memory than the file.
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
        self._where = where
        self.tables = self._locate(file) if tables is None else self._checked(tables)
        self._starts = self.tables["starts"]
        self._bases = self.tables["bases"]
        self._machine = Machine(
            self._read, where, *(self.tables[name] for name in _COLUMNS if name[:4] == "memo")
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
            raise SampleIndexError(f"{self._where}: element {index} of {self.size}")
        return self._values(index // self._stride)[index % self._stride]

    def _values(self, row: int) -> list[Any]:
        start, end, base = self._starts[row], self._starts[row + 1], self._bases[row]
        if self._stride == 1:
            return [self._machine.value(start, end, base)]
        return self._machine.values(start, end, base, self._stride)

    def row(self, index: int) -> Any:
        """Decode what ``array[index]`` is: an element, or an array of objects if it has more axes.

        Parameters
        ----------
        index : int
            From 0 to ``shape[0] - 1``.
        """
        if len(self.shape) == 1:
            return self.element(index)
        if not self.shape or not 0 <= index < self.shape[0]:
            raise SampleIndexError(f"{self._where}: row {index} of shape {self.shape}")
        values = self._values(index) if self.size else []
        return np.fromiter(values, object, len(values)).reshape(self.shape[1:])

    def whole(self) -> npt.NDArray[Any]:
        """Decode all elements."""
        values = (value for row in range(self.size // self._stride) for value in self._values(row))
        return np.fromiter(values, object, self.size).reshape(self.shape)

    def _locate(self, file: FileRange | None) -> dict[str, npt.NDArray[Any]]:
        size = self._storage.size - self._offset
        locator = Locator(size, self.size, self._stride)
        if file is not None:
            outcome = locator.walk_file(file.fileno(), file.offset + self._offset)
        else:
            outcome = self._walk_windows(locator, size)
        if outcome:
            raise self._refusal(outcome, locator)
        self._list_start = locator.list_start
        logger.debug("%s: located %d elements in %d bytes", self._where, self.size, size)
        return dict(zip(_COLUMNS, locator.tables()))

    def _walk_windows(self, locator: Locator, size: int) -> str:
        window = LOOKAHEAD
        while True:
            position = locator.position
            length = min(window, size - position)
            outcome = locator.feed(self._read(position, length))
            if outcome != "more":
                return outcome
            # Payloads that are skipped make windows short; small objects fill them.
            gone = locator.position - position > length
            window = _WINDOW_MIN if gone else min(2 * window, _WINDOW_MAX)

    def _refusal(self, outcome: str, locator: Locator) -> Exception:
        position = locator.position
        text = f"{self._where}: the pickle %s at offset {position}"
        if outcome in _LIMITS:
            return LimitError(text % _LIMITS[outcome])
        if outcome in _WRONG:
            return DecodeError(text % _WRONG[outcome] + "; the file is damaged")
        if outcome == "old opcode":
            return DecodeError(
                text % "has opcodes of protocol 0" + "; load and save it again with NumPy"
            )
        what = "asks for more than plain data"
        if outcome == "unsafe global":
            what = f"names {self._global_name(locator)}, which is not plain data,"
        elif outcome == "unsafe opcode":
            what = f"makes an object that is not plain data ({self._opcode_name(position)})"
        return UnsafePickleError(
            text % what + "; nothing was executed. Save the array without such objects"
        )

    def _global_name(self, locator: Locator) -> str:
        """The name that was refused: two lines behind the opcode, or two strings on the stack."""
        position = locator.position
        if bytes(self._read(position, 1)) == b"c":
            return self._lines(position + 1)
        module, name = locator.top(1), locator.top(0)
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
        version, shape, dtype, _ = self._machine.preamble(self._list_start)
        if version != 1 or dtype != np.dtype(object) or shape != self.shape:
            raise DecodeError(
                f"{self._where}: the pickle is not of an array of shape {self.shape} and dtype "
                f"object, as its header says; the file is damaged"
            )

    def _checked(self, tables: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        checked = {name: np.asarray(tables[name]) for name in _COLUMNS}
        memos = len(checked["memo_ids"])
        for name, dtype in _COLUMNS.items():
            rows = self.size // self._stride
            length = memos if name.startswith("memo") else rows + (name == "starts")
            if checked[name].dtype != dtype or checked[name].shape != (length,):
                raise CorruptIndexError(
                    f"{self._where}: the saved table {name!r} does not fit; delete the index file"
                )
        return checked
