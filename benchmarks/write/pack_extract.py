"""Claim: ``imagearchive pack`` and ``extract`` are as fast as ``tar cf`` and ``tar xf``.

Both read the same warm files and write to the same file system. `pack` also builds the index; by
default it waits for the disk, so that is compared with tar followed by ``sync``. Every extraction
goes to a new directory, and nothing is deleted before the end: after a deletion, ext4 creates
files slowly for some seconds, whoever does it.

    python -m benchmarks.write.pack_extract [--files 50000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from benchmarks.harness.interleave import compare, report

TOOL = [sys.executable, "-m", "imagearchive"]


def fill(folder: str, count: int, smallest: int, largest: int) -> int:
    """Write files of random bytes and sizes, 500 to a directory; return their size."""
    generator = random.Random(0)
    block = generator.randbytes(largest + (1 << 20))
    total = 0
    for start in range(0, count, 500):
        directory = os.path.join(folder, f"class_{start // 500:04d}")
        os.makedirs(directory)
        for number in range(start, min(start + 500, count)):
            size = generator.randint(smallest, largest)
            begin = generator.randrange(len(block) - size)
            with open(os.path.join(directory, f"{number:07d}.jpg"), "wb") as file:
                file.write(block[begin : begin + size])
            total += size
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--smallest", type=int, default=2_000)
    parser.add_argument("--largest", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; default: the temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = os.path.join(folder, "files")
        total = fill(source, options.files, options.smallest, options.largest)
        print(f"{options.files} files, {total / 1e6:.0f} MB, in {folder}")
        numbers = itertools.count()

        processor: dict[str, list[float]] = {}

        def run(name: str, *commands: list[str]) -> dict[str, Callable[[], None]]:
            def once() -> None:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                target = os.path.join(folder, str(next(numbers)))
                for command in commands:
                    filled = [part.replace("TARGET", target) for part in command]
                    subprocess.run(filled, check=True, stdout=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                processor.setdefault(name, []).append(used)

            return {name: once}

        def show(
            title: str,
            ours: dict[str, Callable[[], None]],
            others: dict[str, Callable[[], None]],
        ) -> None:
            times = compare({**ours, **others}, options.rounds)
            (name,) = ours
            report(title, times, name, options.files, "file")
            for each in times:
                used = statistics.median(processor[each])
                print(f"  {each:<44} {used * 1e6 / options.files:12.2f} us/file of processor time")

        tar = ["tar", "-C", source, "-cf", "TARGET.tar", "."]
        pack = [*TOOL, "pack", source, "TARGET.tar"]
        show(
            "pack",
            run("imagearchive pack --no-sync", [*pack, "--no-sync"]),
            {
                **run("the same with --no-index", [*pack, "--no-sync", "--no-index"]),
                **run("tar cf", tar),
            },
        )
        show(
            "pack, until the disk has it",
            run("imagearchive pack", pack),
            run("tar cf, sync", tar, ["sync", "TARGET.tar"]),
        )
        archive = os.path.join(folder, "0.tar")
        subprocess.run(["sync"], check=True)
        show(
            "extract",
            run("imagearchive extract", [*TOOL, "extract", archive, "TARGET"]),
            run("tar xf", ["mkdir", "TARGET"], ["tar", "-C", "TARGET", "-xf", archive]),
        )
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)


if __name__ == "__main__":
    main()
