"""The samples that a table or a list of names describes: members of an archive, and labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.class_numbers import ClassNumbers, number_names
from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.datasets.match_names import MISSING, match_names
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.datasets.table_columns import SHOWN, Column, column_of_records, column_of_table
from imagearchive.datasets.table_files import parse_json, read_table_file
from imagearchive.errors import LabelError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_choice, check_sequence, shorten
from imagearchive.errors.hints import Hint

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.selection import Selection

__all__ = ["ListedSamples", "MembersOptions", "MissingMode", "TableOptions", "list_options"]

logger = logging.getLogger(__name__)

MissingMode = Literal["error", "drop"]

_IMAGES: Final = [f".{extension}".encode() for extension in IMAGE_EXTENSIONS]


@dataclass(frozen=True)
class TableOptions:
    """A table that labels samples; `ImageArchive` documents its arguments."""

    table: Any
    image: str | int
    label: str | int | Sequence[str | int] | None
    split: Any
    split_column: str | int
    missing: MissingMode

    def resolve(
        self, archive: Archive, selection: Selection, class_to_idx: ClassNumbers | None
    ) -> ListedSamples:
        """Return the samples that the rows of the table describe, in the order of the rows.

        Raises
        ------
        LabelError
            The table cannot be read, or does not fit the archive.
        """
        return _list_table(archive, selection, self, class_to_idx)


@dataclass(frozen=True)
class MembersOptions:
    """A list of names that selects samples; `ImageArchive` documents its arguments."""

    members: Any
    split: Any
    missing: MissingMode

    def resolve(
        self, archive: Archive, selection: Selection, class_to_idx: ClassNumbers | None
    ) -> ListedSamples:
        """Return the members that the list names, in its order.

        Raises
        ------
        LabelError
            The list cannot be read, does not fit the archive, or has two names of one member.
        """
        return _list_members(archive, selection, self)


@dataclass(frozen=True)
class ListedSamples:
    """Samples as a table or a list describes them.

    Attributes
    ----------
    positions : ndarray of int64, shape (N,)
        The member of each sample.
    labels : ndarray or None
        int64 or floating, of shape (N,), or (N, k) for several columns; None if the table has no
        labels.
    classes : list of str
        The names of the classes, if labels were names.
    """

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[Any] | None
    classes: list[str]


def list_options(
    table: Any,
    image: str | int | None,
    label: str | int | Sequence[str | int] | None,
    split: Any,
    split_column: str | int,
    members: Any,
    missing: MissingMode,
) -> TableOptions | MembersOptions | None:
    """Return the arguments of `ImageArchive` that list its samples; None if there are none."""
    check_choice("missing", missing, ("error", "drop"))
    if table is not None:
        if members is not None:
            raise OptionError("table= cannot be combined with members=; use split= to choose rows")
        if image is None:
            raise OptionError("image= must name the column of table= with the names of the images")
        for column in [image, split_column, *_as_list(label)]:
            if isinstance(column, bool) or not isinstance(column, (str, int)):
                raise OptionTypeError(
                    f"a column of table= is named by a string or a number, got {shorten(column)}"
                )
        if isinstance(table, (str, bytes, os.PathLike)) or hasattr(table, "read"):
            table = CompanionFile.at("table", table)
        return TableOptions(table, image, label, split, split_column, missing)
    if image is not None or label is not None:
        raise OptionError("image= and label= name columns of table=, which is missing")
    if members is None:
        if split is not None:
            raise OptionError("split= chooses from table= or members=; pass one of them")
        return None
    if isinstance(members, (str, bytes, os.PathLike)) or hasattr(members, "read"):
        members = CompanionFile.at("members", members)
    return MembersOptions(members, split, missing)


def _as_list(label: Any) -> list[Any]:
    """Return the columns of labels."""
    if isinstance(label, (list, tuple)):
        return list(label)
    return [] if label is None else [label]


def _list_table(
    archive: Archive, selection: Selection, options: TableOptions, class_to_idx: ClassNumbers | None
) -> ListedSamples:
    several = isinstance(options.label, (list, tuple))
    labels = _as_list(options.label)
    names = list(dict.fromkeys([options.image, *labels]))
    if options.split is not None:
        names = list(dict.fromkeys([*names, options.split_column]))
    columns = _read_columns(archive, options.table, names)
    images = columns[options.image]
    for column in columns.values():
        if len(column) != len(images):
            raise LabelError(
                f"{column.where}: {len(column)} values, but the column {options.image!r} has "
                f"{len(images)}"
            )
    rows = np.arange(len(images))
    if options.split is not None:
        rows = _rows_of_split(columns[options.split_column], options.split)
    texts = images.texts(rows)
    positions = _match(archive, selection, texts, images.where, options.missing)
    found = positions >= 0
    rows, positions = rows[found], positions[found]
    values: npt.NDArray[Any] | None = None
    classes: list[str] = []
    if several:
        values = np.stack([_numbers(columns[label])[rows] for label in labels], axis=1)
    elif labels:
        values, classes = _labels(columns[labels[0]], rows, class_to_idx)
    return ListedSamples(positions, values, classes)


def _read_columns(
    archive: Archive, table: Any, names: Sequence[str | int]
) -> dict[str | int, Column]:
    if isinstance(table, CompanionFile):
        return read_table_file(table, archive, names)
    if isinstance(table, (list, tuple)):
        return {name: column_of_records("table", table, name) for name in names}
    return {name: column_of_table("table", table, name) for name in names}


def _numbers(column: Column) -> npt.NDArray[Any]:
    numbers = column.numbers()
    if numbers is None:
        raise LabelError(f"{column.where}: expected numbers, as several columns make one array")
    return numbers


def _labels(
    column: Column, rows: npt.NDArray[np.int64], class_to_idx: ClassNumbers | None
) -> tuple[npt.NDArray[Any], list[str]]:
    """Return the labels of some rows, and the names of the classes if they are numbered here."""
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


def _rows_of_split(column: Column, split: Any) -> npt.NDArray[np.int64]:
    """Return the rows whose value is `split`, or one of several."""
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


def _list_members(archive: Archive, selection: Selection, options: MembersOptions) -> ListedSamples:
    where, names = _read_members(archive, options)
    positions = _match(archive, selection, names, where, options.missing)
    found = positions[positions >= 0]
    order = np.argsort(found, kind="stable")
    repeated = found[order][1:][np.diff(found[order]) == 0]
    if len(repeated):
        listed = ", ".join(repr(archive.name(int(one))) for one in repeated[:SHOWN])
        raise LabelError(f"{where}: {len(repeated)} members are named more than once: {listed}")
    return ListedSamples(found, None, [])


def _read_members(archive: Archive, options: MembersOptions) -> tuple[str, list[str]]:
    members, where = options.members, "members"
    if isinstance(members, CompanionFile):
        where = members.given
        if where.lower().endswith(".json"):
            members = parse_json(where, members.read(archive))
        else:
            members = [line for line, _ in members.lines(archive)]
    if isinstance(members, Mapping):
        if options.split is not None:
            if options.split not in members:
                raise LabelError(
                    f"{where}: no list is called {options.split!r}; the lists are "
                    f"{', '.join(map(repr, list(members)[:20]))}"
                )
            members = members[options.split]
        else:
            lists = [
                check_sequence("members", names, "lists of names") for names in members.values()
            ]
            members = [name for names in lists for name in names]
    elif options.split is not None:
        raise OptionError(
            f"{where}: split= chooses a list by its name, but there is only one list; name several "
            f"in a dict, or use table= and split_column="
        )
    names = check_sequence("members", members, "a list of names, a dict of lists, or a path")
    for name in names:
        if not isinstance(name, (str, os.PathLike)):
            raise OptionTypeError(
                f"{where}: a member must be named by a string, got {shorten(name)}"
            )
    return where, [os.fspath(name) for name in names]


def _match(
    archive: Archive, selection: Selection, names: list[str], where: str, missing: MissingMode
) -> npt.NDArray[np.int64]:
    """Return the position of each name; `MISSING` for those to leave out."""
    positions = match_names(archive.table, selection.prefix, selection.positions, names, _IMAGES)
    several = np.flatnonzero(positions < MISSING).tolist()
    if several:
        listed = ", ".join(
            f"{names[row]!r} (such as {archive.name(int(-2 - positions[row]))!r})"
            for row in several[:SHOWN]
        )
        raise LabelError(
            f"{where}: {len(several)} of {len(names)} names fit several members: {listed}; write "
            f"more of their paths, or choose the members with root= or extensions="
        )
    absent = np.flatnonzero(positions == MISSING).tolist()
    if not absent:
        return positions
    listed = ", ".join(repr(names[row]) for row in absent[:SHOWN])
    text = f"{len(absent)} of {len(names)} names fit no member: {listed}"
    if missing == "drop" and len(absent) < len(names):
        logger.warning("%s: %s; these samples are left out", where, text)
        return positions
    first = selection.position(0) if len(selection) else None
    example = "" if first is None else f"; a member is called {archive.name(first)!r}"
    hints = [Hint("missing='drop'", "to leave them out")] if missing == "error" else []
    raise LabelError(f"{where}: {text}{example}", hints=hints)
