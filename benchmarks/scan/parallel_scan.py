"""Claim: threads scan a TAR at least 1.7 times as fast where headers take time to arrive.

Both ways give the same rows. ``waiting`` is a storage whose reads take ``--latency`` seconds, as
those of a server do. ``cold`` is a local file that is not in the page cache.

    python -m benchmarks.scan.parallel_scan [--latency 0.02] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

from benchmarks.harness.interleave import compare, report
from benchmarks.scan.scan_tar import write_archive
from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.tar.parallel_scan import scan_in_parallel
from imagearchive.storage.local import PreadStorage, open_storage


class WaitingStorage:
    """A file on a distant server: every read waits for the latency."""

    zero_copy = False

    def __init__(self, storage: PreadStorage, latency: float) -> None:
        self._storage = storage
        self._latency = latency
        self.path, self.size = storage.path, storage.size

    def read(self, offset: int, size: int) -> bytes | memoryview:
        time.sleep(self._latency)
        return self._storage.read(offset, size)

    def readinto(self, offset: int, buffer: bytearray) -> int:
        time.sleep(self._latency)
        return self._storage.readinto(offset, buffer)

    def prefetch_ranges(self, ranges: object) -> None:
        """Do nothing."""

    def scattered(self) -> WaitingStorage:
        return self

    def check_unchanged(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def evict(path: str) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def measure(title: str, scan: Callable[[bool], RowBuffer], members: int, rounds: int) -> None:
    for threads in (False, True):
        if scan(threads).rows != members:
            raise SystemExit(f"{title}: another number of members")
    contestants = {"one thread": lambda: scan(False), "threads": lambda: scan(True)}
    report(title, compare(contestants, rounds, warmup=0), "threads", members, "member")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--folder", help="where the archives are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for members, size in ((500_000, 900), (20_000, 60_000), (1_500, 1_000_000)):
            path = os.path.join(folder, f"{size}.tar")
            write_archive(path, members, size)

            def scan(threads: bool, cold: bool = False, path: str = path) -> RowBuffer:
                if cold:
                    evict(path)
                with open_storage(path, "pread") as storage:
                    return tar.scan(storage, first=scan_in_parallel if threads else None)

            def scan_waiting(threads: bool, path: str = path) -> RowBuffer:
                with PreadStorage(path) as storage:
                    waiting = WaitingStorage(storage, options.latency)
                    return tar.scan(waiting, first=scan_in_parallel if threads else None)

            what = f"{members:,} members of {size:,} bytes"
            measure(f"{what}, warm", scan, members, 7)
            measure(f"{what}, cold", lambda threads, scan=scan: scan(threads, True), members, 3)
            if size == 1_000_000:
                title = f"{what}, {1000 * options.latency:g} ms a read"
                measure(title, scan_waiting, members, 1)
            os.unlink(path)


if __name__ == "__main__":
    main()
