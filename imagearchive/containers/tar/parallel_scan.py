"""Scans a large TAR in several threads, with the result of a scan from start to end.

The archive is divided into segments. A thread looks for the first block of its segment that could
be a header, and scans from there to the end of the segment: a run. It may have begun inside a
member, for instance in another TAR, so it is only a guess. The scan from the left decides: where it
arrives exactly at a row of the run, what follows is the same, and it takes these rows and goes on
where the run ended. What no run can know, it reads itself.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.tar.scan import Cursor, advance, find_header
from imagearchive.storage.protocol import RangesStorage
from imagearchive.storage.task_threads import Task, TaskThreads

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = ["Plan", "make_plan", "scan_in_parallel", "scan_segments"]

BLOCK: Final = 512
# A sample of the archive tells how long a scan takes: at least so many members and seconds.
_SAMPLE_ROWS: Final = 8
_SAMPLE_SECONDS: Final = 0.002
_SAMPLE_BYTES: Final = 1 << 16
# If the rest takes less, threads are not worth their start.
_MIN_SECONDS: Final = 0.02
# An archive whose headers, or whose bytes, arrive faster is in memory. Threads only share the
# work then, and leave processors to others where there are more than two.
_CACHED_HEADER: Final = 20e-6
_CACHED_BYTES: Final = 3e9
# From one header to the next, beyond which only headers are read, and more reads at once are
# faster; `HOP` in scan.pyx.
_HOP: Final = 0x3000
_LOCAL_READS: Final = 8
_MAX_THREADS: Final = 4
# On a server, data of smaller members arrives with the read-ahead of a scan in order, before the
# answers to requests for each header would.
_REMOTE_HOP: Final = 256 << 10
_REMOTE_READS: Final = 32
# How many members a segment has at least, and how many segments a thread: the first member of a
# segment has to be looked for, and segments take different times.
_SEGMENT_ROWS: Final = 8
_SEGMENTS_PER_THREAD: Final = 4
_MIN_SEGMENT: Final = 4 << 20
# For how many rows of a segment memory is allocated at once. An archive that begins with small
# members seems to have very many.
_MAX_ROWS: Final = 1 << 20
# How far to look for a member: so many times the mean size. Most are found in the first window.
_SEARCH: Final = 8
_MIN_WINDOW: Final = 64 << 10
_MAX_WINDOW: Final = 4 << 20
# After so many runs in a row that the scan did not arrive at, it goes on alone.
_MAX_MISSES: Final = 4


class Plan(NamedTuple):
    """How an archive is divided.

    Attributes
    ----------
    threads : int
    segment : int
        Bytes of a segment, a multiple of 512.
    search : int
        Bytes from the beginning of a segment in which a member is looked for.
    rows : int
        How many members a segment probably has.
    """

    threads: int
    segment: int
    search: int
    rows: int


def scan_in_parallel(storage: Storage, rows: RowBuffer, cursor: Cursor) -> None:
    """Scan most of an archive in several threads if that is faster, or else a small part.

    Parameters
    ----------
    storage : Storage
        The archive.
    rows : RowBuffer
        Where the rows are appended.
    cursor : Cursor
        At the beginning. Moves on past what was read; the caller scans the rest.
    """
    if hasattr(storage, "fileno"):
        stop = _SAMPLE_BYTES
    elif isinstance(storage, RangesStorage):
        stop = _SAMPLE_ROWS * _REMOTE_HOP
    else:
        return
    started = time.perf_counter()
    while advance(storage, rows, cursor, stop):
        seconds = time.perf_counter() - started
        if rows.rows >= _SAMPLE_ROWS and (
            seconds >= _SAMPLE_SECONDS or 8 * cursor.offset > storage.size
        ):
            plan = make_plan(storage, rows.rows, cursor.offset, seconds)
            if plan is not None:
                scan_segments(storage, rows, cursor, plan)
            return
        stop = 2 * cursor.offset


def make_plan(storage: Storage, rows: int, offset: int, seconds: float) -> Plan | None:
    """Return how to scan the rest of an archive, or None if one thread is as fast.

    Parameters
    ----------
    storage : Storage
    rows, offset : int
        How many members were scanned, and where they end.
    seconds : float
        How long that took.
    """
    left = storage.size - offset
    mean = offset // rows
    segments = _SEGMENTS_PER_THREAD
    if seconds * left / offset < _MIN_SECONDS:
        return None
    if not hasattr(storage, "fileno"):
        # Looking for a member takes as long as reading several headers.
        threads, segments = (_REMOTE_READS if mean >= _REMOTE_HOP else 1), 1
    elif mean > _HOP and seconds / rows > _CACHED_HEADER:
        threads = _LOCAL_READS
    elif mean <= _HOP and offset / seconds < _CACHED_BYTES:
        threads = min(_MAX_THREADS, _processors())
    else:
        threads = min(_MAX_THREADS, _processors(), max(2, _processors() // 2))
    segment = max(_MIN_SEGMENT, _SEGMENT_ROWS * mean, left // (threads * segments))
    threads = min(threads, left // segment)
    if threads < 2:
        return None
    return Plan(threads, _to_block(segment), min(segment, _SEARCH * mean), segment // mean)


def scan_segments(storage: Storage, rows: RowBuffer, cursor: Cursor, plan: Plan) -> None:
    """Scan an archive in threads; parameters as for `scan_in_parallel`.

    Whatever a thread reads, the rows are those of a scan from start to end. An error in a thread
    ends its run; the scan meets the same error when it comes there, unless it was a passing one.
    """
    with closing(_Runs(storage, plan)) as runs, suppress(_EndedError):
        _join_segments(storage, rows, cursor, plan, runs)


def _join_segments(
    storage: Storage, rows: RowBuffer, cursor: Cursor, plan: Plan, runs: _Runs
) -> None:
    misses = 0
    for segment in range(_to_block(cursor.offset), storage.size, plan.segment):
        run = runs.next(segment)
        if run is None or not run.rows.rows or run.cursor.offset <= cursor.offset:
            continue
        misses = 0 if _join(storage, rows, cursor, run) else misses + 1
        if cursor.has_globals or misses == _MAX_MISSES:
            return


class _EndedError(Exception):
    """The scan has ended; its caller scans on, and finds out why."""


def _join(storage: Storage, rows: RowBuffer, cursor: Cursor, run: _Run) -> bool:
    """Scan on to the first row of a run at which the scan arrives; return whether there is one."""
    if not cursor.has_globals and run.rows.first_header() == cursor.offset:
        # As nearly always; the rows stay packed.
        _take(rows, cursor, run, 0, storage.size)
        return True
    starts = run.rows.entries["header_offset"][: run.rows.rows]
    while not cursor.has_globals:
        row = int(np.searchsorted(starts, np.uint64(cursor.offset)))
        if row == len(starts):
            return False
        if starts[row] == cursor.offset:
            _take(rows, cursor, run, row, storage.size)
            return True
        if not advance(storage, rows, cursor, int(starts[row])):
            raise _EndedError
    return False


def _take(rows: RowBuffer, cursor: Cursor, run: _Run, row: int, size: int) -> None:
    """Append the rows of a run from `row` on, and go on behind them."""
    _reserve(rows, cursor, run, size)
    rows.extend(run.rows, row)
    cursor.join(run.cursor)


def _reserve(rows: RowBuffer, cursor: Cursor, run: _Run, size: int) -> None:
    """Make room for the rest of the archive, if it goes on as it began; at most eightfold."""
    need, text = run.rows.rows, run.rows.name_bytes
    if rows.rows + need <= len(rows.name_ends) and rows.name_bytes + text <= len(rows.names):
        return
    factor = min(7.0, 1.0625 * (size - cursor.offset) / max(1, cursor.offset))
    rows.reserve(max(need, int(factor * rows.rows)), max(text, int(factor * rows.name_bytes)))


class _Run(NamedTuple):
    """The rows from a guessed place on, and where they end."""

    rows: RowBuffer
    cursor: Cursor


class _Runs:
    """The runs of all segments, which threads scan a few segments ahead."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self._scattered = storage.scattered() if isinstance(storage, RangesStorage) else None
        self._storage = self._scattered or storage
        self._plan = plan
        self._threads = TaskThreads(plan.threads, name="imagearchive-scan")
        self._submitted = 0
        self._tasks: deque[Task[_Run | None]] = deque()
        self._cursors: set[Cursor] = set()
        self._closed = False

    def next(self, segment: int) -> _Run | None:
        """Return the run of the next segment, which begins there."""
        ahead = max(self._submitted, segment)
        while ahead < self._storage.size and len(self._tasks) <= 2 * self._plan.threads:
            self._tasks.append(self._threads.submit(self._scan, ahead))
            ahead += self._plan.segment
        self._submitted = ahead
        return self._tasks.popleft().result()

    def _scan(self, segment: int) -> _Run | None:
        """Scan a segment, in a thread."""
        storage, size = self._storage, self._storage.size
        try:
            start = self._find_header(segment)
        except Exception:  # noqa: BLE001 - raised again where the scan reads the same
            return None
        if start is None:
            return None
        run = _Run(
            RowBuffer(
                min(self._plan.rows + self._plan.rows // 16 + 16, _MAX_ROWS),
                packs=hasattr(storage, "fileno"),
            ),
            Cursor.speculate(size, start, segment + self._plan.segment),
        )
        self._cursors.add(run.cursor)
        if not self._closed:
            with suppress(Exception):
                advance(storage, run.rows, run.cursor)
        self._cursors.discard(run.cursor)
        return run

    def _find_header(self, segment: int) -> int | None:
        position = segment
        window = min(max(_MIN_WINDOW, self._plan.search // _SEARCH + BLOCK), _MAX_WINDOW)
        end = min(segment + self._plan.search, self._storage.size)
        while position < end and not self._closed:
            window = min(window, end - position)
            found = find_header(self._storage.read(position, window))
            if found + BLOCK <= window:
                return position + found
            position += window
        return None

    def close(self) -> None:
        """Have the threads stop soon, and wait for them."""
        self._closed = True
        for cursor in list(self._cursors):
            cursor.cancel()
        self._threads.close()
        if self._scattered is not None:
            self._scattered.close()


def _to_block(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
