"""Claim: scanning a TAR is as fast as a plain C loop, and 27 to 144 times as fast as `tarfile`.

The archives are warm (just written). ``pread`` is what builds an index; ``mmap`` is measured for
comparison. The C loops are compiled with ``cc -O3`` on the fly.

    python -m benchmarks.scan.scan_tar [--members N] [--sizes BYTES ...] [--folder DIR]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tarfile
import tempfile

import numpy as np

from benchmarks.harness.compile_c import load_c
from benchmarks.harness.interleave import compare, report
from imagearchive.containers.tar import scan as tar
from imagearchive.storage.local import open_storage

LOOPS = ("loop_mmap", "loop_window", "loop_pread")


def load_loops() -> dict[str, ctypes._FuncPointer]:
    """Compile the C loops and bind them."""
    library = load_c("scan_loop")
    loops = {}
    for name in LOOPS:
        loops[name] = getattr(library, name)
        loops[name].argtypes = [ctypes.c_char_p]
        loops[name].restype = ctypes.c_long
    return loops


def write_archive(path: str, members: int, size: int) -> None:
    """Write a ustar archive of `members` files, all of `size` bytes."""
    header = tarfile.TarInfo("class_0000/image_00000000.jpg")
    header.size = size
    header.mtime = 1_700_000_000
    template = np.frombuffer(header.tobuf(tarfile.USTAR_FORMAT), np.uint8)
    data = np.frombuffer(os.urandom(size) + bytes(-size % 512), np.uint8)
    step = max(1, (16 << 20) // (512 + len(data)))
    with open(path, "wb") as file:
        for first in range(0, members, step):
            numbers = np.arange(first, min(members, first + step))
            blocks = np.empty((len(numbers), 512 + len(data)), np.uint8)
            blocks[:, :512], blocks[:, 512:] = template, data
            _write_digits(blocks[:, 6:10], numbers % 1000, 10)
            _write_digits(blocks[:, 17:25], numbers, 10)
            blocks[:, 148:156] = ord(" ")
            sums = blocks[:, :512].sum(axis=1, dtype=np.int64)
            _write_digits(blocks[:, 148:154], sums, 8)
            blocks[:, 154] = 0
            file.write(blocks.data)
        file.write(bytes(1024))


def _write_digits(columns: np.ndarray, numbers: np.ndarray, base: int) -> None:
    for column in range(columns.shape[1] - 1, -1, -1):
        columns[:, column] = ord("0") + numbers % base
        numbers = numbers // base


def scan(path: str, kind: str) -> int:
    with open_storage(path, kind) as storage:
        return tar.scan(storage).rows


def scan_tarfile(path: str) -> int:
    with tarfile.open(path) as archive:
        return len(archive.getmembers())


def measure(path: str, loops: dict[str, ctypes._FuncPointer], members: int, size: int) -> None:
    encoded = os.fsencode(path)
    contestants = {f"C {name}": lambda loop=loop: loop(encoded) for name, loop in loops.items()}
    ours = {f"imagearchive {way}": lambda way=way: scan(path, way) for way in ("mmap", "pread")}
    contestants.update(ours)
    for name, contestant in contestants.items():
        if contestant() != members:
            raise SystemExit(f"{name} found another number of members")
    title = f"{members:,} members of {size:,} bytes, warm"
    report(title, compare(contestants), "imagearchive pread", members, "member")
    # tarfile takes a hundred times longer: fewer rounds.
    contestants = {"tarfile.getmembers()": lambda: scan_tarfile(path), **ours}
    times = compare(contestants, rounds=2, warmup=0)
    report(title, times, "imagearchive pread", members, "member")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, help="default: 500,000, but at most 2 GB")
    parser.add_argument("--sizes", type=int, nargs="+", default=[900, 6_000, 60_000])
    parser.add_argument("--folder", help="where the archives are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        loops = load_loops()
        for size in options.sizes:
            members = options.members or min(500_000, 2_000_000_000 // size)
            path = os.path.join(folder, f"{size}.tar")
            write_archive(path, members, size)
            measure(path, loops, members, size)
            os.unlink(path)


if __name__ == "__main__":
    main()
