"""Scanning a ZIP archive of many small members, against ``zipfile`` from the standard library.

``zipfile.ZipFile(path)`` reads the central directory alone and makes an object a member; the scan
reads every local header as well, since only they say where the data start.

Run: ``python benchmarks/scan_zip.py [members]``.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

from interleave import compare, report

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
