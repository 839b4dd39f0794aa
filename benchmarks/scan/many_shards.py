"""Claim: the first opening of ten thousand shards scans them in parallel, and one index is enough.

Times the opening of many small TAR archives as one: from nothing; again; from nothing with
``ipath=``, which saves a single index; and again with it.

    python -m benchmarks.scan.many_shards [--count 10000]
"""

import argparse
import os
import tarfile
import tempfile
import time

import imagearchive


def make_shards(folder: str, count: int) -> str:
    """Write archives of ten members each; return a pattern for all."""
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    for shard in range(count):
        with open(os.path.join(folder, f"{shard:05d}.tar"), "wb") as file:
            for number in range(10):
                header[:100] = f"{number % 3}/{shard:05d}_{number}.jpg".encode().ljust(100, b"\0")
                header[148:156] = b"        "
                header[148:156] = b"%06o\0 " % sum(header)
                file.write(header)
            file.write(bytes(1024))
    return os.path.join(folder, f"{{00000..{count - 1:05d}}}.tar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
        for title, options in (
            ("an index for each archive", {}),
            ("one index", {"ipath": os.path.join(folder, "all.idx.npy")}),
        ):
            shards = os.path.join(folder, title)
            os.mkdir(shards)
            pattern = make_shards(shards, count)
            for turn in ("first", "second"):
                start = time.perf_counter()
                with imagearchive.open(pattern, **options) as archive:
                    assert len(archive) == 10 * count
                seconds = time.perf_counter() - start
                files = sum(name.endswith(".idx.npy") for name in os.listdir(shards))
                print(f"{title}, {turn} opening: {seconds:.3f} s, {files} files beside archives")


if __name__ == "__main__":
    main()
