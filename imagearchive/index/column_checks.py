"""Checks an index that came from a file before anything is looked up in it.

An index may come along with the data, so its author may be the author of the data, and sizes and
digests can always be made to fit. Every column is therefore checked as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.errors import CorruptIndexError
from imagearchive.errors.plurals import pluralize
from imagearchive.index.index_locations import cache_directory
from imagearchive.index.validate import (
    UNBOUNDED,
    first_bad_entry,
    first_bad_offset,
    is_permutation,
)
from imagearchive.storage.location import Location
from imagearchive.storage.lru import LRUCache
from imagearchive.storage.temporary import is_private

__all__ = ["COLUMNS", "UNBOUNDED", "check_columns", "forget_checked", "take_columns"]

COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "entries": ENTRY_DTYPE,
    "label_values": np.dtype("<f8"),
    "label_offsets": np.dtype("<u8"),
    "names": np.dtype("u1"),
    "name_offsets": np.dtype("<u8"),
    "name_order": np.dtype("<u8"),
}

# Rows that one thread checks at a time; below this, no thread is started.
_CHUNK: Final = 1 << 20
# Of these checks: what passed older ones is checked again.
_VERSION: Final = 1

# The index files that passed, so that a process pays once for each.
_passed = LRUCache[str, bool](256)


def take_columns(path: str, sections: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Remove the columns from the sections of an index file, and return them.

    Raises
    ------
    CorruptIndexError
        A column is missing, or of another type.
    """
    missing = [name for name in COLUMNS if name not in sections]
    if missing:
        raise CorruptIndexError(f"{path}: sections are missing: {missing}; delete it")
    columns = {name: sections.pop(name) for name in COLUMNS}
    for name, dtype in COLUMNS.items():
        if columns[name].dtype != dtype or columns[name].ndim != 1:
            raise CorruptIndexError(
                f"{path}: section {name!r} is {columns[name].dtype} of "
                f"{pluralize(columns[name].ndim, 'dimension')}; delete it"
            )
    return columns


def check_columns(
    path: str,
    identity: Sequence[object],
    columns: Mapping[str, npt.NDArray[Any]],
    sizes: npt.ArrayLike,
    state: str = "",
) -> None:
    """Check that nothing in the columns leads outside of the names, the labels or the files.

    Parameters
    ----------
    path : str
        The index file.
    identity : sequence
        Changes with the content of that file. What passed once is not checked again.
    columns : mapping of str to ndarray
        The columns of `imagearchive.index.table.IndexTable`.
    sizes : array-like of int
        The size of each file of the archive in bytes; `UNBOUNDED` where it is not known.
    state : str
        What differs after any change of that file; see `MmapStorage.state`. With it, an index of so
        many rows that the check takes a while is checked once on this machine, and not in each
        process.

    Raises
    ------
    CorruptIndexError
        A row is not what a scanner writes.
    """
    limits = np.asarray(sizes, np.uint64)
    digest = hashlib.blake2b(limits.tobytes(), digest_size=16).hexdigest()
    key = f"{path}\0{identity}\0{digest}"
    if _passed.get(key):
        return
    record = None
    if state and len(columns["entries"]) > _CHUNK:
        record = _record_path(f"{_VERSION}\0{key}\0{state}")
        # Where others can write, a record may be of an index that did not pass.
        if record and is_private(os.path.dirname(record)) and os.path.lexists(record):
            _passed.setdefault(key, True)
            return
    entries = columns["entries"]
    count = len(entries)
    for name, length in (("name_offsets", count + 1), ("label_offsets", count + 1)):
        if len(columns[name]) != length:
            raise _damaged(path, f"{len(columns[name])} {name} for {pluralize(count, 'member')}")
    if len(columns["name_order"]) != count:
        raise _damaged(
            path,
            f"{pluralize(len(columns['name_order']), 'sorted name')} for "
            f"{pluralize(count, 'member')}",
        )

    def permutation() -> str | None:
        return None if is_permutation(columns["name_order"]) else "name_order is not a permutation"

    def offsets(name: str, total: int) -> str | None:
        row = first_bad_offset(columns[name], total)
        return None if row < 0 else f"{name} does not ascend from 0 to {total}: see row {row}"

    def rows(start: int) -> str | None:
        row = first_bad_entry(entries, limits, start, min(start + _CHUNK, count))
        return None if row < 0 else f"row {row} is not that of a member: {entries[row]}"

    checks: list[Callable[[], str | None]] = [
        permutation,
        partial(offsets, "name_offsets", len(columns["names"])),
        partial(offsets, "label_offsets", len(columns["label_values"])),
        *(partial(rows, start) for start in range(0, count, _CHUNK)),
    ]
    if count > _CHUNK:
        # Imported here, because few archives are that large.
        from imagearchive.storage.task_threads import TaskThreads

        with TaskThreads(min(4, os.cpu_count() or 1)) as threads:
            found = [task.result() for task in [threads.submit(check) for check in checks]]
    else:
        found = [check() for check in checks]
    for reason in found:
        if reason is not None:
            raise _damaged(path, reason)
    _passed.setdefault(key, True)
    if record:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(record), 0o700, exist_ok=True)
            os.close(
                os.open(record, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            )


def forget_checked() -> None:
    """Forget which indexes have passed on this machine."""
    folder = _records()
    if folder is not None and folder.exists():
        for entry in folder.list():
            folder.join(entry.name).remove()


def _records() -> Location | None:
    folder = cache_directory()
    return folder and folder.join("checked")


def _record_path(key: str) -> str | None:
    """Return the path of the empty file that says that an index has passed."""
    folder = _records()
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16)
    return None if folder is None else folder.join(digest.hexdigest()).path


def _damaged(path: str, reason: str) -> CorruptIndexError:
    return CorruptIndexError(f"{path}: {reason}; delete the index file and open the archive again")
