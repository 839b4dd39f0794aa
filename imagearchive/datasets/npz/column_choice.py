"""Which arrays of an NPZ are the columns of a dataset."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imagearchive.arrays import ragged
from imagearchive.datasets.npz.columns import PLURALS, Column, open_column
from imagearchive.errors import (
    MemberNotFoundError,
    OptionError,
    UnsupportedArchiveError,
    UnsupportedMemberError,
)

if TYPE_CHECKING:
    from imagearchive.datasets.npz.file import NpzFile

__all__ = ["choose_columns"]

logger = logging.getLogger(__name__)

# How much of a list of names goes into a message.
_SHOWN = 500


def choose_columns(
    file: NpzFile, keys: Sequence[str] | None, prefix: str, suffix: str, copy: bool
) -> dict[str, Column]:
    """Open the columns of a dataset, all of one length, by their names without prefix and suffix.

    Parameters
    ----------
    file : NpzFile
    keys, prefix, suffix, copy
        As for `LazyNPZDataset`. Without `keys`, the columns are the arrays that share their first
        dimension with ``images``, or with most others if there is no array of that name.

    Raises
    ------
    MemberNotFoundError
        `keys` names a column that does not exist.
    OptionError
        `keys` names a single value, or columns of different lengths.
    UnsupportedArchiveError
        The file has no columns, or is not an NPZ.
    UnsupportedMemberError
        A column that `keys` names cannot be read. Without `keys` it is left out and logged.
    """
    names = [name for name in file if name.startswith(prefix)]
    layout = {
        name[len(prefix) : len(name) - len(suffix)]: column
        for name, column in ragged.columns(names).items()
        if not suffix or (name.endswith(suffix) and len(name) > len(prefix) + len(suffix))
    }
    if keys is None:
        columns, skipped = _open_readable(file, layout, copy)
        columns = _of_one_length(columns)
    else:
        columns, skipped = _open_keys(file, layout, keys, copy), {}
    if not columns and len(file) == 0:
        raise UnsupportedArchiveError(f"{file.path}: {file.describe()}")
    if not columns:
        parts = [f"begins with {prefix!r}"] if prefix else []
        parts += [f"ends with {suffix!r}"] if suffix else []
        named = f" whose name {' and '.join(parts)}" if parts else ""
        reason = f"; {next(iter(skipped.values()))}" if skipped else ""
        raise UnsupportedArchiveError(
            f"{file.path}: no arrays with rows among {', '.join(file)[:_SHOWN] or 'none'}"
            f"{named}{reason}"
        )
    for name, error in skipped.items():
        logger.warning("%s: column %r is left out: %s", file.path, name, error)
    return columns


def _open_keys(
    file: NpzFile,
    layout: Mapping[str, ragged.Column],
    keys: Sequence[str],
    copy: bool,
) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for key in keys:
        name = key if key in layout else PLURALS.get(key, key)
        if name not in layout:
            raise MemberNotFoundError(
                f"{file.path}: no column {key!r}; there are {', '.join(layout)[:_SHOWN]}"
            )
        column = open_column(layout[name], file.source, copy, name == "images")
        if column is None:
            raise OptionError(
                f"{file.path}: {layout[name].name!r} in keys= is a single value without rows; read "
                f"it from dataset.arrays"
            )
        columns[name] = column
    lengths = {name: column.length for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise OptionError(f"{file.path}: keys= names arrays of different lengths: {lengths}")
    return columns


def _open_readable(
    file: NpzFile, layout: Mapping[str, ragged.Column], copy: bool
) -> tuple[dict[str, Column], dict[str, UnsupportedMemberError]]:
    """Open all columns that can be read; return the errors of the others too."""
    columns: dict[str, Column] = {}
    skipped: dict[str, UnsupportedMemberError] = {}
    for name, arrays in layout.items():
        try:
            column = open_column(arrays, file.source, copy, name == "images")
        except UnsupportedMemberError as error:
            skipped[name] = error
            continue
        if column is not None:
            columns[name] = column
    return columns, skipped


def _of_one_length(columns: dict[str, Column]) -> dict[str, Column]:
    """Return the columns as long as ``images``, or else as long as most others."""
    if not columns:
        return {}
    if "images" in columns:
        length = columns["images"].length
    else:
        counts = Counter(column.length for column in columns.values())
        length = max(counts, key=lambda length: (counts[length], length))
    return {name: column for name, column in columns.items() if column.length == length}
