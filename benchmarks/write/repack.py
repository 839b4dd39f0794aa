"""Claim: two threads of `repack` do 1.7 times the work of one, and one twice that of Pillow.

Photographs are shrunk to a shorter side of 512 and written as JPEGs of quality 90 into a TAR: by
`repack` with one thread and with two, and by a loop over Pillow, `tarfile`, and one process.

`repack` also opens the archive, saves an index, and decodes a few images at full size to measure
the gain. This takes some tens of milliseconds. With the default count, that is a small share of the
run, as it is for people who repack thousands of images.

    python -m benchmarks.write.repack
"""

from __future__ import annotations

import argparse
import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import photographs
from imagearchive import repack

SIDE = 512
QUALITY = 90


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000), metavar=("W", "H"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.tar")
        _write_source(source, options.count, tuple(options.size))
        target = Path(folder, "out")

        def ours(workers: int) -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            repack(
                source, target / "x-{}.tar", resize=SIDE, quality=QUALITY, workers=workers,
                sync=False,
            )  # fmt: skip

        times = compare(
            {
                "repack, one thread": lambda: ours(1),
                "repack, two threads": lambda: ours(2),
                "Pillow and tarfile": lambda: _by_pillow(source, Path(folder, "pillow.tar")),
            },
            rounds=options.rounds,
        )
        title = f"{options.size[0]} x {options.size[1]} to a shorter side of {SIDE}"
        report(title, times, "repack, one thread", options.count, "image")
        ratios = report(title, times, "repack, two threads", options.count, "image")
        print(f"\ntwo threads are {ratios['repack, one thread']:.2f}x as fast as one")


def _write_source(path: Path, count: int, size: tuple[int, int]) -> None:
    photos = photographs(8)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            photo = photos[number % len(photos)].convert("RGB").resize(size)
            buffer = io.BytesIO()
            photo.save(buffer, "JPEG", quality=92)
            info = tarfile.TarInfo(f"{number % 4}/{number:06}.jpg")
            info.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(info, buffer)


def _by_pillow(source: Path, target: Path) -> None:
    """Do the same as most people's script."""
    with tarfile.open(source) as archive, tarfile.open(target, "w") as out:
        for member in archive:
            with Image.open(archive.extractfile(member)) as image:
                factor = SIDE / min(image.size)
                size = tuple(round(side * factor) for side in image.size)
                small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=QUALITY)
            info = tarfile.TarInfo(member.name)
            info.size = buffer.tell()
            buffer.seek(0)
            out.addfile(info, buffer)


if __name__ == "__main__":
    main()
