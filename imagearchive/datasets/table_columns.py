"""Columns of tables: arrays of numbers, lists of text, or lists of nested values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode
from imagearchive.errors import LabelError, OptionTypeError
from imagearchive.errors.arguments import is_number, shorten
from imagearchive.errors.plurals import pluralize

__all__ = ["Column", "NoSuchColumnError", "column_of_records", "column_of_table"]

# How many rows or names a message lists.
SHOWN: Final = 5

_Array = npt.NDArray[Any]


class NoSuchColumnError(LabelError):
    """A table lacks a column, or has several of this name; callers see a `LabelError`.

    Attributes
    ----------
    column : str or int
    """

    def __init__(self, message: str, column: str | int) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    where : str
        The name of the column and of its table, for messages.
    cells : ndarray or list
        Numbers as an array of int64 or of a floating type, shape (N,); text as a list, in which
        None and the empty string are missing values; anything else as a list of objects, in which
        None is.
    is_typed : bool
        Whether text is meant as text. In a CSV file everything is text.
    is_nested : bool
        Whether cells may be lists, dicts, or arrays.
    """

    where: str
    cells: _Array | list[str | None] | list[Any]
    is_typed: bool = True
    is_nested: bool = False

    def __len__(self) -> int:
        return len(self.cells)

    def numbers(self) -> _Array | None:
        """Return the values as int64 or as floats, in which NaN is missing; None for text.

        Raises
        ------
        LabelError
            A value is neither a number nor text.
        """
        self._check_flat()
        if isinstance(self.cells, np.ndarray):
            return self.cells
        return None if self.is_typed else _parse_numbers(self.cells)

    def texts(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the values of some rows as text.

        Raises
        ------
        LabelError
            A value is missing, or is neither text nor an integer.
        """
        self._check_flat()
        cells = self.cells
        if isinstance(cells, np.ndarray):
            if cells.dtype.kind == "f":
                raise LabelError(
                    f"{self.where}: expected text or integers, got numbers such as {cells[0]}; "
                    f"read the column as text"
                )
            return [str(number) for number in cells[rows].tolist()]
        chosen = [cells[row] for row in rows.tolist()]
        self.check_complete(rows[[not cell for cell in chosen]])
        return [cell for cell in chosen if cell]

    def _check_flat(self) -> None:
        if self.is_nested:
            cells = enumerate(self.cells)
            row, cell = next((row, cell) for row, cell in cells if _is_nested(cell))
            raise LabelError(
                f"{self.where}: row {row}: expected text or a number, got {shorten(cell)}"
            )

    def check_complete(self, missing: npt.NDArray[np.int64]) -> None:
        """Raise LabelError if there are rows without a value."""
        if len(missing):
            rows = ", ".join(map(str, missing[:SHOWN])) + (", ..." * (len(missing) > SHOWN))
            raise LabelError(
                f"{self.where}: no value in {len(missing)} of {pluralize(len(self), 'row')}: "
                f"{'row' if len(missing) == 1 else 'rows'} {rows}, counted from 0; fill in the "
                f"values, or leave the rows out of the table"
            )


def _parse_numbers(cells: Sequence[str | None]) -> _Array | None:
    """Return cells of text as numbers if all of them are, or are empty."""
    # int() and float() accept underscores between digits.
    if not any(cells) or any("_" in cell for cell in cells if cell):
        return None
    try:
        return np.array([int(cell or "") for cell in cells], np.int64)
    except OverflowError:
        # Integers that int64 cannot hold are identifiers.
        return None
    except ValueError:
        pass
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return None


def column_of_records(where: str, records: Sequence[Any], name: str | int) -> Column:
    """Return a column of a list of dicts.

    Raises
    ------
    LabelError
        A record is not a dict.
    NoSuchColumnError
        A record has no such value.
    """
    values = []
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise LabelError(f"{where}: row {row}: expected a dict, got {shorten(record)}")
        if name not in record:
            raise NoSuchColumnError(
                f"{where}: row {row} has no {name!r}; it has "
                f"{', '.join(map(repr, list(record)[:20])) or 'nothing'}",
                name,
            )
        values.append(record[name])
    return _column_of(f"{where}: column {name!r}", values)


def column_of_table(where: str, table: Any, name: str | int) -> Column:
    """Return a column of a mapping, a dataframe, or a structured array.

    Raises
    ------
    LabelError
        It has no values that can be used.
    NoSuchColumnError
        The table lacks this column.
    OptionTypeError
        The table is none of these.
    """
    present = _column_names(table)
    if name not in present:
        raise NoSuchColumnError(
            f"{where}: no column is called {name!r}; the columns are "
            f"{', '.join(map(repr, present[:20]))}",
            name,
        )
    try:
        values = table[name]
    except Exception as error:
        # Such as a lazy dataframe, which has names but no values.
        raise OptionTypeError(f"{where}: column {name!r} cannot be read: {error}") from error
    return _column_of(f"{where}: column {name!r}", values)


def _column_names(table: Any) -> list[Any]:
    if isinstance(table, Mapping):
        return list(table)
    if isinstance(table, np.ndarray) and table.dtype.names:
        return list(table.dtype.names)
    # pyarrow has column_names; pandas and polars have columns.
    for attribute in ("column_names", "columns"):
        names = getattr(table, attribute, None)
        if names is not None and not callable(names) and not isinstance(names, (str, bytes)):
            listed = list(names)
            if all(isinstance(name, (str, int)) for name in listed):
                return listed
    raise OptionTypeError(
        f"table must be a dict of columns, a list of dicts, a dataframe, or the path of a file, "
        f"got {shorten(table)}"
    )


def _column_of(where: str, values: Any) -> Column:
    if not isinstance(values, (list, tuple)):
        try:
            array = np.asarray(values)
        except Exception as error:
            raise OptionTypeError(f"{where}: not a column of values: {error}") from error
        if not array.ndim:
            raise OptionTypeError(f"{where}: a column must have one value for each row, got one")
        if array.ndim > 1:
            return Column(where, list(array), is_nested=True)
        if array.dtype.kind in "biuf":
            return Column(where, _without_narrow_types(where, array))
        values = array.tolist()
    cells = [_plain(where, row, value) for row, value in enumerate(values)]
    if any(map(_is_nested, cells)):
        return Column(where, cells, is_nested=True)
    texts = [cell for cell in cells if cell is None or isinstance(cell, str)]
    if len(texts) == len(cells):
        return Column(where, texts)
    if any(isinstance(cell, str) for cell in cells):
        row = next(i for i, cell in enumerate(cells) if isinstance(cell, (int, float)))
        raise LabelError(
            f"{where}: row {row}: expected text as in other rows, got the number {cells[row]}"
        )
    if not any(isinstance(cell, float) or cell is None for cell in cells):
        try:
            return Column(where, np.array(cells, np.int64))
        except OverflowError:
            raise LabelError(f"{where}: a number is larger than int64 can hold") from None
    return Column(where, np.array([np.nan if cell is None else float(cell) for cell in cells]))


def _without_narrow_types(where: str, array: _Array) -> _Array:
    """Return booleans and integers as int64."""
    if array.dtype.kind == "f":
        return array
    if array.dtype == np.uint64 and len(array) and int(array.max()) >= 1 << 63:
        raise LabelError(f"{where}: a number is larger than int64 can hold")
    return array.astype(np.int64)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, np.ndarray))


def _plain(where: str, row: int, value: Any) -> Any:
    """Return a value as text, a number, or None; NaN is None. Lists, dicts and arrays stay."""
    if value is None or isinstance(value, str) or _is_nested(value):
        return value
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if is_number(value):
        if isinstance(value, (int, np.integer)):
            return int(value)
        return None if np.isnan(number := float(value)) else number
    if isinstance(value, bytes):
        return decode(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    # pandas.NA, which is not equal to itself either, but not a number.
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise LabelError(f"{where}: row {row}: expected text or a number, got {shorten(value)}")
