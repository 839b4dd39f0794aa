"""Barecat archives: an SQLite index ``NAME`` and shards of bytes, ``NAME-shard-00000`` and on.

Schema 0.3 keeps the index in ``NAME`` itself, earlier archives in ``NAME-sqlite-index``. Both have
the tables ``files`` and ``dirs``; 0.2 and 0.3 differ in how they are keyed, not in their columns.

The database is someone else's file. It is opened read-only and without locks or journals, only
plain tables are read, and the work that SQLite may do is limited by the size of the file, so that
pages that point at one another cannot keep it busy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from imagearchive.containers.rows import ENTRY_DTYPE, KIND_DIRECTORY, RowBuffer
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    MissingDependencyError,
    UnsupportedArchiveError,
)

__all__ = ["NAME", "VERSION", "checksum", "index_path", "scan_path", "sniff"]

logger = logging.getLogger(__name__)

NAME: Final = "barecat"
VERSION: Final = 1

INDEX_SUFFIX: Final = "-sqlite-index"
SQLITE_MAGIC: Final = b"SQLite format 3\0"
SUPPORTED_MAJOR: Final = 0
MAX_SHARDS: Final = 100_000  # five digits in the file name

COLUMNS: Final = ("path", "shard", "offset", "size", "crc32c", "mode", "mtime_ns")
DIRECTORY_COLUMNS: Final = ("path", "mode", "mtime_ns")
# An index written before a column existed.
OPTIONAL: Final = frozenset(["crc32c", "mode", "mtime_ns"])

_ROWS_AT_ONCE: Final = 8192
_STEPS_AT_ONCE: Final = 100_000
# A row takes tens of bytes and is read in tens of steps.
_STEPS_PER_BYTE: Final = 16
_STEPS_AT_LEAST: Final = 10_000_000
_COPY_ATTEMPTS: Final = 3

# The second: a message of SQLite's that quotes damaged bytes.
_DATABASE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


def index_path(path: str | os.PathLike[str]) -> str:
    """Return the SQLite file of the archive that a user calls `path`."""
    name = os.fspath(path)
    if not os.path.exists(name) and os.path.exists(name + INDEX_SUFFIX):
        return name + INDEX_SUFFIX
    return name


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a Barecat archive: an SQLite file with the table ``files``.

    Both the name of the archive and that of its index file are recognised.
    """
    name = index_path(path)
    try:
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(name).st_mode):
            return False
        with open(name, "rb") as file:
            if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                return False
    except OSError:
        return False
    try:
        with contextlib.closing(_connect(name)) as connection:
            return "files" in _tables(connection)
    except _DATABASE_ERRORS:
        # Damaged, but hardly anything else: the scan says what is wrong with it.
        return True


def scan_path(path: str | os.PathLike[str], strict: bool = True) -> tuple[RowBuffer, list[str]]:
    """Read the index of a Barecat archive.

    Parameters
    ----------
    path : path-like
        The archive, or its index file.
    strict : bool
        Whether a member that lies outside its shard is an error; otherwise such members are left
        out, and the loss is logged. What damages the database itself is an error in any case.

    Returns
    -------
    RowBuffer
        The files in the order of the database's table, which is that in which they were added
        (by name with schema 0.2); then all directories but the root. ``crc`` is the CRC-32C, 0
        where none is stored.
    list of str
        The shards in use, in order of their numbers, and the index file last: no row refers to
        it, but a change of it is one of the archive.

    Raises
    ------
    ArchiveNotFoundError
        There is no such file.
    UnsupportedArchiveError
        It is no Barecat archive, or of a schema other than 0.x.
    CorruptArchiveError
        The database is damaged, or describes what cannot be.
    """
    name = index_path(path)
    if not os.path.isfile(name):
        raise ArchiveNotFoundError(f"{name}: no such Barecat index; is the path right?")
    try:
        with _settled(name) as settled, contextlib.closing(_connect(settled)) as connection:
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
    prefix = name.removesuffix(INDEX_SUFFIX)
    shards, number = np.unique(files["shard"], return_inverse=True)
    if len(shards) and not 0 <= int(shards[0]) <= int(shards[-1]) < MAX_SHARDS:
        bad = shards[0] if shards[0] < 0 else shards[-1]
        raise CorruptArchiveError(f"{name}: the index names a shard {bad}, which cannot be")
    paths = [f"{prefix}-shard-{int(shard):05d}" for shard in shards]
    sizes = np.array([_shard_size(shard) for shard in paths], np.int64)
    # Each is below 2**62, so that the sum cannot overflow.
    keep = files["offset"] + files["size"] <= sizes[number]
    if not keep.all():
        first = int(keep.argmin())
        row = files[first]
        message = (
            f"{name}: {file_names.shown(first)} of {row['size']} bytes at offset {row['offset']} "
            f"does not lie inside {paths[number[first]]}: the shard is missing or truncated, or "
            f"the index belongs to another"
        )
        if strict:
            raise CorruptArchiveError(message)
        logger.warning("%s; %d such members are left out", message, int((~keep).sum()))
        files, number, file_names = files[keep], number[keep], file_names.kept(keep)
    return _rows(files, number, file_names, directories, directory_names), [*paths, name]


def checksum(data: Any) -> int:
    """Return the CRC-32C of bytes, as Barecat stores it.

    Raises
    ------
    MissingDependencyError
        The package `crc32c` is not installed.
    """
    try:
        import crc32c
    except ImportError as error:
        raise MissingDependencyError(
            "verifying CRC-32C needs the package crc32c: pip install imagearchive[barecat]"
        ) from error
    return int(crc32c.crc32c(data))


class _Names(NamedTuple):
    """Paths one after the other: an object for each would take more memory than all else."""

    text: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]

    def kept(self, keep: npt.NDArray[np.bool_]) -> _Names:
        return _Names(self.text[np.repeat(keep, self.lengths)], self.lengths[keep])

    def shown(self, row: int) -> str:
        end = int(self.lengths[: row + 1].sum())
        name = self.text[end - int(self.lengths[row]) : end].tobytes()
        return repr(name.decode("utf-8", "replace"))


# --- the database ---------------------------------------------------------------------------


@contextlib.contextmanager
def _settled(path: str) -> Iterator[str]:
    """Give a database file that holds all that was committed, and nothing else.

    Normally that is the file itself. Where a journal lies beside it (a writer is at work, or died),
    it is a private copy, in which SQLite can apply or roll back the journal.
    """
    journals = [suffix for suffix in ("-journal", "-wal") if _size(path + suffix)]
    if not journals:
        yield path
        return
    logger.info("%s: reading a copy, since %s lies beside it", path, path + journals[0])
    with tempfile.TemporaryDirectory(prefix="imagearchive-") as folder:
        copy = os.path.join(folder, "index")
        for _ in range(_COPY_ATTEMPTS):
            before = _state(path, journals)
            # The journal last: it holds what pages were before they changed under the copy.
            for suffix in ("", *journals):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path + suffix, copy + suffix)
            if _state(path, journals) == before:
                break
        else:
            raise CorruptArchiveError(
                f"{path}: it is being written; open it when its writer has closed it"
            )
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            # Recovers, and leaves no journal behind.
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        yield copy


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _state(path: str, journals: list[str]) -> list[tuple[int, int]]:
    found = []
    for suffix in ("", *journals):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path + suffix)
            found.append((status.st_size, status.st_mtime_ns))
    return found


def _connect(path: str) -> sqlite3.Connection:
    # SQLite would not say why it cannot open a file.
    os.close(os.open(path, os.O_RDONLY))
    # `immutable` keeps SQLite from looking for journals, taking locks and writing anything.
    url = f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1"
    connection = sqlite3.connect(url, uri=True)
    try:
        # Paths as they are stored: a name need not be UTF-8.
        connection.text_factory = bytes
        size = os.path.getsize(path)
        if hasattr(connection, "setlimit"):
            # No value can be larger than the file; a forged length would be allocated.
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
    """Plain tables and the SQL that made them; views and virtual tables run foreign code."""
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
    # A generated column is computed by an expression of the file's author.
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
    """Let SQLite find a value that is no path or no number in range: columns hold anything."""
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
        raise CorruptArchiveError(
            f"{path}: a row of the table {table} cannot be right: {values[:500]}"
        )


def _shard_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _rows(
    files: npt.NDArray[Any],
    number: npt.NDArray[np.intp],
    file_names: _Names,
    directories: npt.NDArray[Any],
    directory_names: _Names,
) -> RowBuffer:
    # The root has an empty path and is no member.
    real = directory_names.lengths > 0
    lengths = np.concatenate([file_names.lengths, directory_names.lengths[real]])
    count, file_count = len(lengths), len(files)
    buffer = RowBuffer(max(count, 1))
    buffer.entries = np.zeros(len(buffer.entries), ENTRY_DTYPE)
    buffer.entries["index"][:count] = np.arange(count)
    rows = buffer.entries[:file_count]
    rows["offset"] = rows["header"] = files["offset"]
    rows["size"] = rows["stored"] = files["size"]
    rows["crc"] = files["crc32c"]
    rows["shard"] = number
    buffer.entries["mode"][:count] = np.concatenate([files["mode"], directories["mode"][real]])
    buffer.entries["mtime"][:count] = np.concatenate(
        [files["mtime_ns"], directories["mtime_ns"][real]]
    )
    buffer.entries["kind"][file_count:count] = KIND_DIRECTORY
    joined = np.concatenate([file_names.text, directory_names.text])
    buffer.reserve(0, len(joined))
    buffer.names[: len(joined)] = joined
    ends = np.cumsum(lengths, dtype=np.uint64)
    buffer.name_ends[:count] = ends
    buffer.link_ends[:count] = ends
    buffer.rows = count
    buffer.name_bytes = len(joined)
    return buffer
