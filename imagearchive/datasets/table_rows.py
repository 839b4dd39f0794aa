"""The rows of a table: reads its columns, chooses rows, and finds the members that they name."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.class_numbers import ClassNumbers, number_names
from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.datasets.match_names import MISSING, match_names
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.datasets.table_columns import (
    SHOWN,
    Column,
    NoSuchColumnError,
    column_of_records,
    column_of_table,
)
from imagearchive.datasets.table_files import read_table_file
from imagearchive.errors import LabelError, OptionTypeError
from imagearchive.errors.arguments import shorten
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagearchive.archive.archive import Archive

__all__ = [
    "IMAGE_NAMES",
    "check_column_names",
    "label_numbers",
    "locate_table",
    "match_rows",
    "read_columns",
    "rows_of_split",
]

logger = logging.getLogger(__name__)

#: Extensions that a name without one may have, as `match_names` takes them.
IMAGE_NAMES: Final = [f".{extension}".encode() for extension in IMAGE_EXTENSIONS]

Positions = npt.NDArray[np.int64]


def locate_table(table: Any) -> Any:
    """Return the argument ``table=``, with a path as a `CompanionFile`."""
    if isinstance(table, (str, bytes, os.PathLike)) or hasattr(table, "read"):
        return CompanionFile.at("table", table)
    return table


def check_column_names(names: Iterable[Any]) -> None:
    """Raise OptionTypeError for one that cannot name a column."""
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise OptionTypeError(
                f"a column of table= is named by a string or a number, got {shorten(name)}"
            )


def read_columns(
    archive: Archive | None,
    table: Any,
    names: Sequence[str | int],
    split_column: str | int | None = None,
) -> dict[str | int, Column]:
    """Return some columns of a table, all of the same length.

    Parameters
    ----------
    archive : Archive or None
        May contain the file of the table. None if the table is not a file.
    table : CompanionFile, sequence of dict, or mapping
    names : sequence of str or int
        The first one is that with the names of the images.
    split_column : str or int, optional
        A further column, that of ``split=``.

    Raises
    ------
    LabelError, OptionError, OptionTypeError
        The table cannot be read, or has no such column.
    """
    names = list(dict.fromkeys(names if split_column is None else [*names, split_column]))
    try:
        columns = _read_each(archive, table, names)
    except NoSuchColumnError as error:
        # The caller may not know this name, which is the default.
        is_split = error.column == split_column
        hint = Hint("split_column", "to name the column whose values split= chooses")
        raise LabelError(error.message, hints=[hint] if is_split else []) from None
    length = len(columns[names[0]])
    for column in columns.values():
        if len(column) != length:
            raise LabelError(
                f"{column.where}: {pluralize(len(column), 'value')}, but the column {names[0]!r} "
                f"has {length}"
            )
    return columns


def _read_each(
    archive: Archive | None, table: Any, names: Sequence[str | int]
) -> dict[str | int, Column]:
    if isinstance(table, CompanionFile):
        assert archive is not None
        return read_table_file(table, archive, names)
    if isinstance(table, (list, tuple)):
        return {name: column_of_records("table", table, name) for name in names}
    return {name: column_of_table("table", table, name) for name in names}


def rows_of_split(column: Column, split: Any) -> Positions:
    """Return the rows whose value is `split`, or one of several.

    Raises
    ------
    LabelError
        No row has this value.
    """
    numbers = column.numbers()
    values = [*map(str, column.cells)] if numbers is None else numbers.tolist()
    wanted = split if isinstance(split, (list, tuple, set, frozenset, range)) else [split]
    chosen = {str(value) if numbers is None else _as_number(value) for value in wanted}
    present = set(values)
    for value in chosen - present:
        listed = ", ".join(map(repr, sorted(present)[:20]))
        raise LabelError(
            f"{column.where}: no row has the value {value!r} of split=; found {listed}"
        )
    return np.flatnonzero(np.fromiter((value in chosen for value in values), bool, len(values)))


def _as_number(value: Any) -> Any:
    """Return a value of ``split=`` as it is in a column of numbers, if it is a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def label_numbers(
    column: Column, rows: Positions, class_to_idx: ClassNumbers | None
) -> tuple[npt.NDArray[Any], list[str]]:
    """Return the labels of some rows, and the names of the classes if they are numbered here.

    Raises
    ------
    LabelError
        A row has no label, or `class_to_idx` lacks it.
    """
    numbers = column.numbers()
    if numbers is not None:
        numbers = numbers[rows]
        if numbers.dtype.kind == "f":
            column.check_complete(rows[np.isnan(numbers)])
        if class_to_idx is not None:
            numbers = class_to_idx.of_values(numbers, column.where)
        return numbers, []
    names = column.texts(rows)
    # Other splits have other rows, but the same classes.
    classes = sorted({cell for cell in column.cells if cell})
    found = number_names(names, classes)
    if class_to_idx is None:
        return found, classes
    return class_to_idx.of_numbered(classes, found, column.where), []


def match_rows(
    archive: Archive,
    prefix: bytes,
    candidates: Positions | None,
    names: list[str],
    where: str,
    *,
    narrower: str,
    lenient: Hint,
    is_lenient: bool,
) -> Positions:
    """Return the position of the member that each name stands for; see `match_names`.

    Parameters
    ----------
    archive : Archive
    prefix, candidates, names
        As for `match_names`.
    where : str
        Has the names, for messages.
    narrower : str
        What to do if a name fits several members.
    lenient : Hint
        The argument that leaves out names that fit no member.
    is_lenient : bool
        Whether it is given. The position of such a name then is `MISSING`, which is logged.

    Raises
    ------
    LabelError
        A name fits no member, or several.
    """
    positions = match_names(archive.table, prefix, candidates, names, IMAGE_NAMES)
    several = np.flatnonzero(positions < MISSING).tolist()
    if several:
        listed = ", ".join(
            f"{names[row]!r} (such as {archive.name(int(-2 - positions[row]))!r})"
            for row in several[:SHOWN]
        )
        raise LabelError(
            f"{where}: {len(several)} of {len(names)} names fit several members: {listed}; write "
            f"more of their paths, or {narrower}"
        )
    absent = np.flatnonzero(positions == MISSING).tolist()
    if not absent:
        return positions
    listed = ", ".join(repr(names[row]) for row in absent[:SHOWN])
    text = f"{len(absent)} of {len(names)} names fit no member: {listed}"
    if is_lenient and len(absent) < len(names):
        logger.warning("%s: %s; these samples are left out", where, text)
        return positions
    count = len(archive.table) if candidates is None else len(candidates)
    first = 0 if candidates is None or not count else int(candidates[0])
    example = f"; a member is called {archive.name(first)!r}" if count else ""
    raise LabelError(f"{where}: {text}{example}", hints=[] if is_lenient else [lenient])
