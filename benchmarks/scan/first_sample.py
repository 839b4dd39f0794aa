"""Claim: from nothing to the first sample of a TAR is 60 times as fast as `tarfile`.

What is timed is the first opening of an archive without an index: the scan, sorting the names,
digests, saving the index, and putting it on disk; then reading one member. The archive is warm
(just written), and the index of the round before is removed first. ``--children`` measures each
opening in a process of its own, and its peak memory.

    python -m benchmarks.scan.first_sample [--members N] [--size BYTES] [--folder DIR] [--children]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable

import imagearchive
from benchmarks.harness.interleave import compare, report
from benchmarks.scan.scan_tar import write_archive


def remove_index(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.splitext(path)[0] + ".idx.npy")


def first_sample(path: str) -> None:
    with imagearchive.open(path) as archive:
        archive.read(0)


def tarfile_first_sample(path: str) -> None:
    with tarfile.open(path) as archive:
        archive.extractfile(archive.getmembers()[0]).read()


def measure_child(path: str) -> None:
    """Open an archive in this process, and print what that took."""
    remove_index(path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    first_sample(path)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    print(f"  {seconds:.2f} s, {cpu:.2f} s of processor time; peak of resident memory "
          f"{int(status['VmHWM'].split()[0]) / 1e3:,.0f} MB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=500_000)
    parser.add_argument("--size", type=int, default=900)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the archive is written")
    parser.add_argument("--children", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure_child(options.child)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = os.path.join(folder, "members.tar")
        write_archive(path, options.members, options.size)
        title = f"{options.members:,} members of {options.size:,} bytes, warm"
        if options.children:
            print(title, flush=True)
            for _ in range(3):
                command = [sys.executable, "-m", "benchmarks.scan.first_sample", "--child", path]
                subprocess.run(command, check=True)
            return
        clocks = {"wall": time.perf_counter, "processor": time.process_time}
        times: dict[str, dict[str, list[float]]] = {clock: {} for clock in clocks}

        def timed(name: str, function: Callable[[str], None]) -> Callable[[], None]:
            def run() -> None:
                remove_index(path)
                starts = {clock: now() for clock, now in clocks.items()}
                function(path)
                for clock, now in clocks.items():
                    times[clock].setdefault(name, []).append(now() - starts[clock])

            return run

        functions = {"tarfile: getmembers and read": tarfile_first_sample,
                     "imagearchive": first_sample}  # fmt: skip
        contestants = {name: timed(name, function) for name, function in functions.items()}
        compare(contestants, options.rounds, warmup=0)
        for clock, taken in times.items():
            report(f"{title}, {clock} time", taken, "imagearchive", options.members, "member")


if __name__ == "__main__":
    main()
