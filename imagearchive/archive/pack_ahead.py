"""Adds files to a TAR archive, while threads read the next ones."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import groupby, islice
from typing import Final, NamedTuple

from imagearchive.archive.packed_files import SourceFile, name_path_in_errors
from imagearchive.archive.small_files import fill
from imagearchive.archive.writers import IndexedZipWriter
from imagearchive.containers.tar.writer import BareTarWriter
from imagearchive.storage.task_threads import Task, TaskThreads

__all__ = ["Progress", "add_all", "add_one"]

_REPORT_EVERY: Final = 256
# Threads that read ahead, the files that they take at a time, and into how much memory. Larger
# files are copied by the thread that writes.
READERS: Final = 2
BATCH: Final = 64
READ_AHEAD: Final = 1 << 20
LARGE: Final = 1 << 18


class Progress:
    """Calls back once in a while: one call per file would cost more than packing it."""

    def __init__(self, function: Callable[[int], object] | None) -> None:
        self._function = function
        self._count = 0

    def step(self, count: int = 1) -> None:
        """Count files, and tell of them if there are enough."""
        self._count += count
        if self._count >= _REPORT_EVERY:
            self.end()

    def end(self) -> None:
        """Tell of the files that were not told of yet."""
        if self._function is not None and self._count:
            self._function(self._count)
        self._count = 0


class _Batch(NamedTuple):
    """Files of one directory, read ahead by a thread."""

    folder: int
    prefix: bytes
    names: tuple[bytes, ...]


_Members = list[tuple[bytearray, int, int] | int]
"""Finished members as (buffer, bytes used, number of members), or the number of a special file."""


def add_all(
    tar: BareTarWriter,
    files: Iterator[SourceFile],
    top: str,
    keep: bool,
    report: Progress,
    index: bool,
) -> None:
    """Add files; threads read those of a directory ahead, in batches."""
    template = tar.template()
    ahead: deque[tuple[_Batch, Task[_Members]]] = deque()
    spare: list[bytearray] = []

    def take() -> None:
        batch, task = ahead[0]
        for piece in task.result():
            if isinstance(piece, int):
                name = batch.names[piece]
                add_one(tar, SourceFile(batch.prefix + name, name, batch.folder), top, keep)
            else:
                buffer, used, count = piece
                tar.add_members(memoryview(buffer)[:used], count)
                spare.append(buffer)
        report.step(len(batch.names))
        ahead.popleft()
        os.close(batch.folder)

    def add(pool: TaskThreads) -> None:
        for item in _batches(files) if template else files:
            if isinstance(item, _Batch):
                ahead.append((item, pool.submit(_read, item, template, keep, spare)))
                if len(ahead) > 2 * READERS:
                    take()
                continue
            while ahead:
                take()
            add_one(tar, item, top, keep)
            report.step()
        while ahead:
            take()

    with TaskThreads(READERS + 1) as pool:
        if index:
            # Needed at the end; loading NumPy takes as long as packing ten thousand files.
            pool.submit(import_module, "imagearchive.index.table")
        try:
            add(pool)
        finally:
            pool.close()
            for batch, _ in ahead:
                os.close(batch.folder)


def _batches(files: Iterator[SourceFile]) -> Iterator[_Batch | SourceFile]:
    for (dir_fd, prefix), group in groupby(files, key=_directory):
        if dir_fd is None:
            yield from group
            continue
        while chunk := tuple(item.path for item in islice(group, BATCH)):
            # Duplicated because the batch outlives the walk through the directory.
            yield _Batch(os.dup(dir_fd), prefix, chunk)


def _directory(item: SourceFile) -> tuple[int | None, bytes]:
    return item.dir_fd, item.name[: -len(item.path)]


def _read(batch: _Batch, template: bytes, keep: bool, spare: list[bytearray]) -> _Members:
    pieces: _Members = []
    start = 0
    while start < len(batch.names):
        try:
            # Memory that was used before causes no page faults.
            buffer = spare.pop()
        except IndexError:
            buffer = bytearray(READ_AHEAD)
        after, used, special = fill(
            batch.folder, batch.prefix, batch.names, start, template, keep, LARGE, buffer
        )
        pieces.append((buffer, used, after - start))
        start = after
        if special:
            pieces.append(start)
            start += 1
    return pieces


def add_one(
    writer: BareTarWriter | IndexedZipWriter, item: SourceFile, top: str, keep: bool
) -> None:
    """Add one file, whatever it is."""
    with name_path_in_errors(top, item):
        writer.add_file(item.path, item.name, dir_fd=item.dir_fd, keep_mtime=keep)
