"""Claim: libjpeg-turbo's SIMD code is in use, and makes decoding about twice as fast.

Processes with and without ``JSIMD_FORCENONE=1``, which turns that code off, take turns at decoding
the same JPEGs of about 480 x 400 pixels. Times are CPU times of one thread. A ratio near 1 means
that the libjpeg-turbo in use was built without SIMD.

    python -m benchmarks.loader.jpeg_simd --photos /usr/share/backgrounds [--count 200]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import time

from benchmarks.harness.jpegs import add_options, jpeg_tar
from imagearchive.images.render import HAVE_JPEG, JPEG_VERSION, Decoder


def decode_all(path: str) -> float:
    """Return the CPU seconds of one image."""
    with tarfile.open(path) as archive:
        files = [archive.extractfile(member).read() for member in archive]
    decoder = Decoder()
    decoder.decode(files[0])
    start = time.thread_time()
    for data in files:
        decoder.decode(data)
    return (time.thread_time() - start) / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.set_defaults(count=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--decode", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        print(decode_all(options.decode))
        return
    if not HAVE_JPEG:
        raise SystemExit("built without libjpeg-turbo")
    command = [sys.executable, "-m", "benchmarks.loader.jpeg_simd", "--decode"]
    command.append(str(jpeg_tar(options)))
    times: dict[str, list[float]] = {"": [], "1": []}
    for _ in range(options.rounds):
        for forced, found in times.items():
            environment = {**os.environ, "JSIMD_FORCENONE": forced}
            if not forced:
                del environment["JSIMD_FORCENONE"]
            answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found.append(float(answer.stdout))
    ratio = statistics.median(without / simd for simd, without in zip(*times.values()))
    simd, without = (statistics.median(found) * 1e6 for found in times.values())
    print(f"libjpeg-turbo {JPEG_VERSION}, CPU time of an image")
    print(f"  with SIMD {simd:.0f} us, without {without:.0f} us, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
