"""Claim: scanning a ZIP of many small members is faster than opening it with `zipfile`.

``zipfile.ZipFile(path)`` reads only the central directory and creates an object per member. The
scan also reads every local header, because only the local header says where the data begins.

    python -m benchmarks.scan.scan_zip [MEMBERS]
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.harness.interleave import compare, report
from imagearchive.containers.zip import scan as scanner
from imagearchive.storage.local import MmapStorage, PreadStorage


def main(members: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(members):
                archive.writestr(f"n{number % 1000:04}/{number:08}.jpg", bytes(number % 200))

        def scan(kind: type[MmapStorage] | type[PreadStorage]) -> None:
            with kind(path) as storage:
                if scanner.scan(storage).rows != members:
                    raise ValueError("members are missing")

        def standard() -> None:
            with zipfile.ZipFile(path) as archive:
                if len(archive.infolist()) != members:
                    raise ValueError("members are missing")

        contestants = {
            "scan, mmap": lambda: scan(MmapStorage),
            "scan, pread": lambda: scan(PreadStorage),
            "zipfile.ZipFile": standard,
        }
        report("Opening a ZIP archive", compare(contestants), "scan, mmap", members, "member")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
