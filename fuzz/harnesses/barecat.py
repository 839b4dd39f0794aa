"""Barecat archives: SQLite databases."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import tempfile
from collections.abc import Hashable, Iterable
from random import Random

from support.barecat_archives import execute_sql, write_barecat
from support.memory_location import FILES, OPENED

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import scratch_folder, url
from fuzz.mutation import INTERESTING, mutate
from imagearchive.archive.archive import Archive
from imagearchive.errors import CorruptArchiveError, ImageArchiveError

# As a Julian day.
UNIX_EPOCH = 2440587.5
_CONTENT = {"a.txt": b"alpha", "d/b.bin": bytes(range(256)), "d/c/": b"", "ü": b"unicode"}


@functools.cache
def _archive() -> tuple[bytes, dict[str, bytes]]:
    """Return the database and the shards of an archive."""
    files = {name: data for name, data in _CONTENT.items() if not name.endswith("/")}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.barecat")
        write_barecat(path, files)
        # Instead of the current time.
        execute_sql(path, "UPDATE files SET mtime_ns = 0", "UPDATE dirs SET mtime_ns = 0")
        shards = {}
        database = b""
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read()
            if re.search(r"shard", name):
                shards[name] = data
            else:
                database = data
        return database, shards


class Barecat(Harness):
    """Opens an archive whose database is mutated, by SQL or byte by byte."""

    name = "barecat"
    smoke_runs = 1_500
    max_size = 1 << 17
    tokens = (b"SQLite format 3\0", b"files", b"dirs", b"config", b"path", b"shard", b"offset")

    def __init__(self) -> None:
        self._folder = scratch_folder()

    def seeds(self) -> Iterable[bytes]:
        """Return the database of an archive."""
        yield _archive()[0]

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change rows by SQL, or bytes."""
        if rng.random() < 0.4:
            return mutate(rng, data, other, self.tokens)
        path = os.path.join(self._folder, "mutated")
        with open(path, "wb") as file:
            file.write(data)
        try:
            connection = sqlite3.connect(path)
            # The triggers of Barecat store the current time, and SQLite has random numbers.
            connection.create_function("julianday", -1, lambda *_: UNIX_EPOCH)
            connection.create_function("random", 0, lambda: rng.getrandbits(63))
            try:
                for _ in range(rng.choice((1, 1, 2))):
                    connection.execute(*_statement(rng))
                connection.commit()
            finally:
                connection.close()
        except (sqlite3.Error, OverflowError, UnicodeDecodeError):
            return mutate(rng, data, other, self.tokens)
        with open(path, "rb") as file:
            return file.read()

    def run(self, data: bytes) -> Hashable:
        """Open the archive, and read all members."""
        FILES.clear()
        OPENED.clear()
        FILES["x.barecat"] = data
        for name, shard in _archive()[1].items():
            FILES[name] = shard
        try:
            archive = Archive(url("x.barecat"), storage="memory")
        except CorruptArchiveError:
            with Archive(url("x.barecat"), storage="memory", strict=False) as archive:
                _read(archive)
            raise
        with archive:
            return min(len(archive), 8), _read(archive)


def _read(archive: Archive) -> frozenset[str]:
    refused = set()
    for position in range(min(len(archive), 20)):
        try:
            data = archive.read(position)
            check(len(data) == archive.info(position).size, "another size")
        except ImageArchiveError as error:
            refused.add(type(error).__name__)
    list(archive.walk())
    return frozenset(refused)


def _statement(rng: Random) -> tuple[str, tuple[object, ...]]:
    kind = rng.random()
    value: object = rng.choice(
        (
            rng.choice(INTERESTING) - rng.choice((0, 1 << 62)),
            -1,
            0,
            None,
            1.5,
            "text",
            "",
            b"\xff",
            "a/../b",
        )
    )
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        value = (1 << 63) - 1
    columns = (
        "path",
        "shard",
        "offset",
        "size",
        "crc32c",
        "mode",
        "uid",
        "gid",
        "mtime_ns",
        "parent",
    )
    if kind < 0.7:
        table = rng.choice(("files", "files", "dirs"))
        row = f"(SELECT rowid FROM {table} ORDER BY random() LIMIT 1)"
        return f"UPDATE {table} SET {rng.choice(columns)} = ? WHERE rowid = {row}", (value,)
    return rng.choice(
        (
            ("DELETE FROM files WHERE rowid = (SELECT max(rowid) FROM files)", ()),
            ("DELETE FROM dirs", ()),
            ("DROP TABLE dirs", ()),
            ("DROP TABLE config", ()),
            ("UPDATE config SET value_int = ?", (value,)),
            ("UPDATE config SET value_text = ?", (value,)),
            ("ALTER TABLE files RENAME COLUMN size TO length", ()),
            ("CREATE VIEW more AS SELECT * FROM files", ()),
            ("PRAGMA page_size = 65536", ()),
            ("VACUUM", ()),
        )
    )
