"""Claim: a sample in a TAR of TARs is read as fast as one in a plain TAR.

Three figures: reading all members in a random order against the same members in a plain TAR (about
1x); opening an archive of 1,000 TARs from nothing against opening the plain one; and opening it
with its index (milliseconds).

    python -m benchmarks.read.nested_archive [MEMBERS_PER_ARCHIVE]
"""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tempfile
from pathlib import Path

import imagearchive
from benchmarks.harness.interleave import compare, report
from imagearchive.index.table import IndexTable

ARCHIVES = 1000
MEMBER = 10_000


def main(per_archive: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain, nested = Path(folder, "plain.tar"), Path(folder, "nested.tar")
        write(plain, nested, per_archive)
        measure(plain, nested, ARCHIVES * per_archive)


def write(plain: Path, nested: Path, per_archive: int) -> None:
    rng = random.Random(0)
    with tarfile.open(plain, "w") as flat, tarfile.open(nested, "w") as outer:
        for number in range(ARCHIVES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for image in range(per_archive):
                    data = rng.randbytes(MEMBER)
                    add(tar, f"{image}.JPEG", data)
                    add(flat, f"n{number:08}/{image}.JPEG", data)
            add(outer, f"n{number:08}.tar", inner.getvalue())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def measure(plain: Path, nested: Path, count: int) -> None:
    print(f"{ARCHIVES} archives in one, {count} members of {MEMBER / 1e3:.0f} kB")
    times = compare(
        {
            "nested": lambda: IndexTable.build(nested, nested="auto"),
            "nested=True": lambda: IndexTable.build(nested, nested=True),
            "plain": lambda: IndexTable.build(plain),
        }
    )
    report("Building the index", times, "nested", 1, "build")
    imagearchive.open(plain).close()
    imagearchive.open(nested, nested="auto").close()
    times = compare(
        {
            "nested": lambda: imagearchive.open(nested, nested="auto").close(),
            "plain": lambda: imagearchive.open(plain).close(),
        }
    )
    report("Opening it with its index", times, "nested", 1, "open")
    order = random.Random(0).sample(range(count), count)
    with imagearchive.open(plain) as one, imagearchive.open(nested, nested="auto") as other:

        def read(archive: imagearchive.Archive) -> None:
            for position in order:
                archive.read(position)

        times = compare({"nested": lambda: read(other), "plain": lambda: read(one)})
        ratios = report("Reading all members in a random order", times, "nested", count, "member")
        print(f"  {ratios['plain']:.2f}x as fast as in a plain TAR (target: about 1x)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
