"""The samples that a table or a list of names describes: members of an archive, and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.class_numbers import ClassNumbers
from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.datasets.table_columns import SHOWN, Column
from imagearchive.datasets.table_files import parse_json
from imagearchive.datasets.table_rows import (
    check_column_names,
    label_numbers,
    locate_table,
    match_rows,
    read_columns,
    rows_of_split,
)
from imagearchive.errors import LabelError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_choice, check_sequence, shorten
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.selection import Selection

__all__ = ["ListedSamples", "MembersOptions", "MissingMode", "TableOptions", "list_options"]

MissingMode = Literal["error", "drop"]


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
        check_column_names([image, split_column, *_as_list(label)])
        table = locate_table(table)
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
    split_column = None if options.split is None else options.split_column
    columns = read_columns(archive, options.table, [options.image, *labels], split_column)
    images = columns[options.image]
    rows = np.arange(len(images))
    if options.split is not None:
        rows = rows_of_split(columns[options.split_column], options.split)
    texts = images.texts(rows)
    positions = _match(archive, selection, texts, images.where, options.missing)
    found = positions >= 0
    rows, positions = rows[found], positions[found]
    values: npt.NDArray[Any] | None = None
    classes: list[str] = []
    if several:
        values = np.stack([_numbers(columns[label])[rows] for label in labels], axis=1)
    elif labels:
        values, classes = label_numbers(columns[labels[0]], rows, class_to_idx)
    return ListedSamples(positions, values, classes)


def _numbers(column: Column) -> npt.NDArray[Any]:
    numbers = column.numbers()
    if numbers is None:
        raise LabelError(
            f"{column.where}: expected numbers, as several columns of label= make one array; for "
            f"the names of classes, give this column alone"
        )
    return numbers


def _list_members(archive: Archive, selection: Selection, options: MembersOptions) -> ListedSamples:
    where, names = _read_members(archive, options)
    positions = _match(archive, selection, names, where, options.missing)
    found = positions[positions >= 0]
    order = np.argsort(found, kind="stable")
    repeated = found[order][1:][np.diff(found[order]) == 0]
    if len(repeated):
        listed = ", ".join(repr(archive.name(int(one))) for one in repeated[:SHOWN])
        raise LabelError(
            f"{where}: {pluralize(len(repeated), 'member is', 'members are')} named more than "
            f"once: {listed}"
        )
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
    return match_rows(
        archive,
        selection.prefix,
        selection.positions,
        names,
        where,
        narrower="choose the members with root= or extensions=",
        lenient=Hint("missing='drop'", "to leave them out"),
        is_lenient=missing == "drop",
    )
