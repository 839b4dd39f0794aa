"""Claim: the headers of large members on a server are read many at once.

TARs of large members, which are holes, on a server of this machine with a latency and a bandwidth:
seconds and bytes of a scan in one thread, and of one in threads.

    python -m benchmarks.remote.scan_http [LATENCY_IN_MS [BANDWIDTH_IN_MB]]
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from imagearchive.containers.tar.parallel_scan import scan_in_parallel
from imagearchive.containers.tar.scan import scan
from imagearchive.storage.location import locate

TESTS = Path(__file__).parents[2] / "tests"


def main(latency: float, bandwidth: float) -> None:
    sys.path.insert(0, str(TESTS))
    from support.servers.faulty import FaultyServer

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for members, size in ((2_000, 1_000_000), (1_000, 3_000_000)):
            path = Path(folder, "large.tar")
            write_archive(path, members, size)
            print(f"{members:,} members of {size:,} bytes, {latency:g} ms, {bandwidth:g} MB/s")
            with FaultyServer({"large.tar": path}, record=False) as server:
                server.configure(latency=latency / 1e3, bandwidth=bandwidth * 1e6)
                for name, first in (("one thread", None), ("threads", scan_in_parallel)):
                    sent, start = server.totals.sent, time.perf_counter()
                    with locate(server.url("large.tar")).open() as storage:
                        rows = scan(storage, first=first)
                    seconds = time.perf_counter() - start
                    if rows.rows != members:
                        raise SystemExit(f"{name} found another number of members")
                    megabytes = (server.totals.sent - sent) / 1e6
                    print(f"  {name:12} {seconds:7.2f} s {megabytes:9.1f} MB")
            path.unlink()


def write_archive(path: Path, members: int, size: int) -> None:
    stride = 512 + -(-size // 512) * 512
    with open(path, "wb") as file:
        for number in range(members):
            header = tarfile.TarInfo(f"{number:06}.bin")
            header.size = size
            file.seek(number * stride)
            file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(members * stride + 1024)


if __name__ == "__main__":
    given = [float(argument) for argument in sys.argv[1:]]
    main(*(given + [20, 500][len(given) :]))
