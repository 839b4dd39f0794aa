"""Scan Barecat archives, whose index is an SQLite database.

Schema 0.3 keeps the index in ``NAME`` itself, earlier archives in ``NAME-sqlite-index``. Both have
the tables ``files`` and ``dirs``; 0.2 and 0.3 differ in how they are keyed, not in their columns.

The database is not trusted. It is opened read-only and without locks or journals, and only plain
tables are read. The work of SQLite is limited by the size of the file, so that pages that point at
one another cannot make it loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import DAMAGED, LeftOut
from imagearchive.containers.rows import ENTRY_DTYPE, KIND_DIRECTORY, RowBuffer
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    UnsupportedArchiveError,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.temporary import LockedDirectory

if TYPE_CHECKING:
    from imagearchive.storage.location import Location

__all__ = ["has_files_table", "scan"]

logger = logging.getLogger(__name__)

SUPPORTED_MAJOR: Final = 0
MAX_SHARDS: Final = 100_000  # five digits in the file name

COLUMNS: Final = ("path", "shard", "offset", "size", "crc32c", "mode", "mtime_ns")
DIRECTORY_COLUMNS: Final = ("path", "mode", "mtime_ns")
# Older indexes lack these columns.
OPTIONAL: Final = frozenset(["crc32c", "mode", "mtime_ns"])

_ROWS_AT_ONCE: Final = 8192
_STEPS_AT_ONCE: Final = 100_000
# A row takes tens of bytes and is read in tens of steps.
_STEPS_PER_BYTE: Final = 16
_STEPS_AT_LEAST: Final = 10_000_000
_COPY_ATTEMPTS: Final = 3
_COPY_BYTES: Final = 1 << 20

# UnicodeDecodeError: a message of SQLite that quotes damaged bytes.
_DATABASE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


def _beside(location: Location, suffix: str) -> Location:
    return location.parent.join(location.name + suffix)


def has_files_table(location: Location) -> bool:
    """Whether an SQLite file has the table of a Barecat archive, or cannot be read."""
    try:
        with _local_copy(location) as path, contextlib.closing(_connect(path)) as connection:
            return "files" in _tables(connection)
    except _DATABASE_ERRORS:
        # It is most likely a damaged archive; the scan reports the damage.
        return True


def scan(location: Location, prefix: str, strict: bool = True) -> tuple[RowBuffer, list[Location]]:
    """Read the index of a Barecat archive.

    Parameters
    ----------
    location : Location
        The index file.
    prefix : str
        What the names of the shards begin with.
    strict : bool
        Whether a member outside its shard, or one that overlaps another, is an error; otherwise
        such members are left out, and the loss is logged. Damage to the database itself is an
        error in any case.

    Returns
    -------
    RowBuffer
        The files in the order of the database's table, in which they were added (by name with
        schema 0.2); then all directories except the root. ``crc`` is the CRC-32C,
        0 where none is stored.
    list of Location
        The shards that have members, in the order of their numbers, then the index file: no
        row refers to it, but if it changes, the archive has changed.

    Raises
    ------
    ArchiveNotFoundError
        There is no such file.
    UnsupportedArchiveError
        It is not a Barecat archive, or of a schema other than 0.x.
    CorruptArchiveError
        The database is damaged, or its contents are impossible.
    """
    name = location.path
    if not location.exists():
        raise ArchiveNotFoundError(f"{name}: no such Barecat index; is the path right?")
    try:
        with _committed(location) as path, contextlib.closing(_connect(path)) as connection:
            _check_schema(connection, name)
            files, file_names = _read(connection, name, "files", COLUMNS)
            directories, directory_names = _read(connection, name, "dirs", DIRECTORY_COLUMNS)
    except _DATABASE_ERRORS as error:
        reason = str(error)
        if reason == "interrupted":
            reason = "it takes more steps than its size explains; its pages point at one another"
        raise CorruptArchiveError(
            f"{name}: SQLite cannot read this index: {reason}; restore it from a copy"
        ) from error
    shards, number = np.unique(files["shard"], return_inverse=True)
    if len(shards) and not 0 <= int(shards[0]) <= int(shards[-1]) < MAX_SHARDS:
        bad = shards[0] if shards[0] < 0 else shards[-1]
        raise CorruptArchiveError(f"{name}: the index names a shard {bad}, which is impossible")
    folder = location.parent
    paths = [folder.join(f"{prefix}-shard-{int(shard):05d}") for shard in shards]
    sizes = np.array([_size(shard) for shard in paths], np.int64)
    # Each is below 2**62, so that the sum cannot overflow.
    keep = files["offset"] + files["size"] <= sizes[number]
    left_out = LeftOut()
    if not keep.all():
        first = int(keep.argmin())
        row = files[first]
        message = (
            f"{name}: {file_names.quoted(first)} of {pluralize(int(row['size']), 'byte')} at "
            f"offset {row['offset']} is not inside {paths[number[first]].path}: the shard is "
            "missing or truncated, or the index belongs to another"
        )
        files, number, file_names = _without(
            ~keep, strict, message, files, number, file_names, left_out
        )
    bad = _overlapping(files, number)
    if bad.any():
        first = int(bad.argmax())
        message = (
            f"{name}: {file_names.quoted(first)} at offset {files[first]['offset']} overlaps "
            f"another file in {paths[number[first]].path}: the index is damaged"
        )
        files, number, file_names = _without(
            bad, strict, message, files, number, file_names, left_out
        )
    # What was left out may have been all of a shard that is missing.
    remaining, number = np.unique(number, return_inverse=True)
    rows = _rows(files, number, file_names, directories, directory_names)
    rows.left_out = left_out
    return rows, [*(paths[shard] for shard in remaining), location]


def _without(
    bad: npt.NDArray[np.bool_],
    strict: bool,
    message: str,
    files: npt.NDArray[Any],
    number: npt.NDArray[np.intp],
    names: _Names,
    left_out: LeftOut,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp], _Names]:
    """Raise because of the bad files, or log that they are left out."""
    if strict:
        raise CorruptArchiveError(message)
    # The archive warns of what is left out.
    logger.info("%s; %d such members are left out", message, int(bad.sum()))
    offsets = np.zeros(len(files) + 1, np.uint64)
    offsets[1:] = np.cumsum(names.lengths)
    left_out.add_rows(names.text, offsets, bad, DAMAGED, number)
    return files[~bad], number[~bad], names.select(~bad)


def _overlapping(files: npt.NDArray[Any], number: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Find the files that begin inside another one; several may share the same bytes exactly."""
    bad = np.zeros(len(files), np.bool_)
    rows = np.flatnonzero(files["size"])
    order = rows[np.lexsort((files["size"][rows], files["offset"][rows], number[rows]))]
    starts, shards = files["offset"][order], number[order]
    ends = starts + files["size"][order]
    repeated = np.zeros(len(order), np.bool_)
    repeated[1:] = (
        (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1]) & (shards[1:] == shards[:-1])
    )
    order, starts, ends, shards = (x[~repeated] for x in (order, starts, ends, shards))
    for part in np.split(np.arange(len(order)), np.flatnonzero(shards[1:] != shards[:-1]) + 1):
        inside = starts[part][1:] < np.maximum.accumulate(ends[part])[:-1]
        bad[order[part][1:][inside]] = True
    return bad


class _Names(NamedTuple):
    """Paths in one buffer: an object for each would take more memory than everything else."""

    text: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]

    def select(self, keep: npt.NDArray[np.bool_]) -> _Names:
        return _Names(self.text[np.repeat(keep, self.lengths)], self.lengths[keep])

    def quoted(self, row: int) -> str:
        end = int(self.lengths[: row + 1].sum())
        name = self.text[end - int(self.lengths[row]) : end].tobytes()
        return repr(name.decode("utf-8", "replace"))


# --- the database ---------------------------------------------------------------------------


@contextlib.contextmanager
def _local_copy(location: Location, suffixes: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a path that SQLite can open: that of the location, or of a copy.

    Parameters
    ----------
    location : Location
    suffixes : tuple of str
        The suffixes of journals to copy too. If there are any, the path is always that of a copy.
    """
    if not suffixes and location.local_path is not None:
        yield location.local_path
        return
    with LockedDirectory(tempfile.gettempdir(), "imagearchive-barecat-") as folder:
        copy = os.path.join(folder.path, "index")
        # The journal last: it has the old content of pages that change during the copy.
        for suffix in ("", *suffixes):
            with contextlib.suppress(FileNotFoundError):
                _copy(_beside(location, suffix) if suffix else location, copy + suffix)
        yield copy


def _copy(source: Location, target: str) -> None:
    with contextlib.closing(source.open("pread")) as storage, open(target, "wb") as file:
        for offset in range(0, storage.size, _COPY_BYTES):
            file.write(storage.read(offset, min(_COPY_BYTES, storage.size - offset)))


@contextlib.contextmanager
def _committed(location: Location) -> Iterator[str]:
    """Yield a database file with all committed transactions, and nothing else.

    Normally this is the file itself. If a journal is beside it (a writer is at work, or died), it
    is a private copy, in which SQLite can apply or roll back the journal.
    """
    journals = tuple(s for s in ("-journal", "-wal") if _size(_beside(location, s)) > 0)
    if not journals:
        with _local_copy(location) as path:
            yield path
        return
    logger.info(
        "%s: reading a copy, since %s is beside it", location.path, location.name + journals[0]
    )
    for _ in range(_COPY_ATTEMPTS):
        before = _state(location, journals)
        with _local_copy(location, journals) as copy:
            if _state(location, journals) != before:
                continue
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                # Recovers, and leaves no journal behind.
                connection.execute("PRAGMA journal_mode=DELETE").fetchall()
            yield copy
            return
    raise CorruptArchiveError(
        f"{location.path}: it is being written; open it when its writer has closed it"
    )


def _size(location: Location) -> int:
    """Return the size of a file, or -1 if it does not exist."""
    try:
        return location.status().size
    except FileNotFoundError:
        return -1


def _state(location: Location, journals: tuple[str, ...]) -> list[tuple[int, str]]:
    found = []
    for suffix in ("", *journals):
        with contextlib.suppress(FileNotFoundError):
            status = (_beside(location, suffix) if suffix else location).status()
            found.append((status.size, status.identity))
    return found


def _connect(path: str) -> sqlite3.Connection:
    # Raises a precise error; SQLite only says that it cannot open the file.
    os.close(os.open(path, os.O_RDONLY))
    # `immutable` keeps SQLite from looking for journals, taking locks and writing anything.
    url = f"file:{quote(path)}?mode=ro&immutable=1"
    connection = sqlite3.connect(url, uri=True)
    try:
        # Paths as stored, as a name may not be UTF-8.
        connection.text_factory = bytes
        size = os.path.getsize(path)
        if hasattr(connection, "setlimit"):
            # No value is larger than the file. Without this, SQLite would allocate a forged length.
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(1024, min(size, 2**31 - 1)))
        left = [(size * _STEPS_PER_BYTE + _STEPS_AT_LEAST) // _STEPS_AT_ONCE]

        def exhausted() -> int:
            left[0] -= 1
            return left[0] < 0

        connection.set_progress_handler(exhausted, _STEPS_AT_ONCE)
        connection.execute("PRAGMA trusted_schema=OFF").close()
        connection.execute("PRAGMA cell_size_check=ON").close()
    except BaseException:
        connection.close()
        raise
    return connection


def _tables(connection: sqlite3.Connection) -> dict[str, bytes]:
    """Return the plain tables and their SQL; views and virtual tables run code of the file."""
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    return {
        bytes(name).decode("utf-8", "replace"): bytes(sql)
        for name, sql in found
        if isinstance(name, bytes)
        and isinstance(sql, bytes)
        and re.match(rb"CREATE\s+TABLE\b", sql, re.IGNORECASE)
    }


def _check_schema(connection: sqlite3.Connection, path: str) -> None:
    tables = _tables(connection)
    if not {"files", "dirs", "config"} <= tables.keys():
        raise UnsupportedArchiveError(
            f"{path}: an SQLite file without the tables of a Barecat archive; if it is one of "
            f"before schema 0.1, run `barecat upgrade` on it"
        )
    rows = connection.execute(
        "SELECT value_int FROM config WHERE key = 'schema_version_major'"
    ).fetchall()
    if rows != [(SUPPORTED_MAJOR,)]:
        found = rows[0][0] if rows else "unknown"
        raise UnsupportedArchiveError(
            f"{path}: Barecat schema {found} is not supported, only {SUPPORTED_MAJOR}.x is; "
            f"convert it with the version of barecat that wrote it"
        )


def _read(
    connection: sqlite3.Connection, path: str, table: str, columns: tuple[str, ...]
) -> tuple[npt.NDArray[Any], _Names]:
    """Read the columns of one table: numbers as a structured array, and the paths."""
    present = {
        bytes(row[1]).decode("utf-8", "replace"): row[6]
        for row in connection.execute(f"PRAGMA table_xinfo({table})")
    }
    missing = [name for name in columns if name not in present and name not in OPTIONAL]
    # A generated column runs an expression of the file.
    computed = [name for name in columns if present.get(name)]
    if missing or computed:
        raise CorruptArchiveError(
            f"{path}: the table {table} has no plain column {', '.join(missing or computed)}"
        )
    numbers = [name for name in columns[1:] if name in present]
    _check_types(connection, path, table, numbers)
    dtype = np.dtype([(name, np.int64) for name in columns[1:]])
    selected = ", ".join(f'ifnull("{name}", 0)' for name in numbers)
    cursor = connection.execute(f'SELECT "path", {selected} FROM {table} NOT INDEXED')
    text = bytearray()
    lengths = [np.zeros(0, np.int64)]
    parts = [np.zeros(0, dtype)]
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        names, *values = zip(*rows)
        text += b"".join(names)
        lengths.append(np.fromiter(map(len, names), np.int64, len(rows)))
        part = np.zeros(len(rows), dtype)
        for name, column in zip(numbers, values):
            part[name] = column
        parts.append(part)
    return np.concatenate(parts), _Names(np.frombuffer(text, np.uint8), np.concatenate(lengths))


def _check_types(connection: sqlite3.Connection, path: str, table: str, numbers: list[str]) -> None:
    """Raise if a value is not a path or a number in range; SQLite does not enforce types."""
    limits = {"crc32c": 2**32 - 1, "mode": 2**32 - 1}
    wrong = ["typeof(path) <> 'text'"]
    for name in numbers:
        kinds = "('integer', 'null')" if name in OPTIONAL else "('integer')"
        wrong.append(f"typeof({name}) NOT IN {kinds}")
        if name != "mtime_ns":
            wrong.append(f"{name} NOT BETWEEN 0 AND {limits.get(name, 2**62 - 1)}")
    quoted = ", ".join(["path", *numbers])
    row = connection.execute(
        f"SELECT {quoted} FROM {table} NOT INDEXED WHERE {' OR '.join(wrong)} LIMIT 1"
    ).fetchone()
    if row is not None:
        values = ", ".join(f"{name} {value!r}" for name, value in zip(["path", *numbers], row))
        raise CorruptArchiveError(f"{path}: a row of the table {table} is invalid: {values[:500]}")


def _rows(
    files: npt.NDArray[Any],
    number: npt.NDArray[np.intp],
    file_names: _Names,
    directories: npt.NDArray[Any],
    directory_names: _Names,
) -> RowBuffer:
    # The root has an empty path and is not a member.
    real = directory_names.lengths > 0
    lengths = np.concatenate([file_names.lengths, directory_names.lengths[real]])
    count, file_count = len(lengths), len(files)
    buffer = RowBuffer(max(count, 1))
    buffer.window = np.zeros(len(buffer.window), ENTRY_DTYPE)
    buffer.window["index"][:count] = np.arange(count)
    rows = buffer.window[:file_count]
    rows["offset"] = rows["header_offset"] = files["offset"]
    rows["size"] = rows["stored_size"] = files["size"]
    rows["crc"] = files["crc32c"]
    rows["shard"] = number
    buffer.window["mode"][:count] = np.concatenate([files["mode"], directories["mode"][real]])
    buffer.window["mtime"][:count] = np.concatenate(
        [files["mtime_ns"], directories["mtime_ns"][real]]
    )
    buffer.window["kind"][file_count:count] = KIND_DIRECTORY
    joined = np.concatenate([file_names.text, directory_names.text])
    buffer.reserve(0, len(joined))
    buffer.names[: len(joined)] = joined
    ends = np.cumsum(lengths, dtype=np.uint64)
    buffer.name_ends[:count] = ends
    buffer.link_ends[:count] = ends
    buffer.rows = count
    buffer.name_bytes = len(joined)
    return buffer
