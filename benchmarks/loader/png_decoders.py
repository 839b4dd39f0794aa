"""Claim: the native PNG decoder is at least 1.3 times as fast as Pillow, for RGB and for masks.

OpenCV (``opencv-python-headless``), ``imagecodecs`` and ``pyspng`` take part if they are
installed. CPU time of one thread, interleaved. Clip art comes from Debian's package
``openclipart-png`` or is drawn here.

    python -m benchmarks.loader.png_decoders [--count 60]
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.harness.jpegs import photographs
from imagearchive.images.masks import INDEX, decode_mask
from imagearchive.images.pillow import decode_with_pillow
from imagearchive.transforms import decode_image

CLIPART = Path("/usr/share/openclipart/png")


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def photos(count: int) -> list[bytes]:
    """Return crops of 480 x 400 pixels."""
    rng = np.random.default_rng(1)
    sources = photographs(12)
    files = []
    for number in range(count):
        source = sources[number % len(sources)]
        x, y = (int(rng.integers(size)) for size in (source.width - 959, source.height - 799))
        part = source.resize((480, 400), Image.Resampling.LANCZOS, (x, y, x + 960, y + 800))
        files.append(encode(part))
    return files


def clipart(count: int) -> list[bytes]:
    """Return drawings with few colors and transparency, 200 to 2,000 pixels a side."""
    rng = np.random.default_rng(2)
    found = sorted(CLIPART.rglob("*.png"))
    files = []
    for number in rng.permutation(len(found)):
        data = found[number].read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if 200 < max(image.size) < 2000:
                files.append(data)
        if len(files) == count:
            return files
    for _ in range(count - len(files)):
        image = Image.new("RGBA", (600, 500))
        pen = ImageDraw.Draw(image)
        for _ in range(30):
            box = np.sort(rng.integers(0, 500, (2, 2)), axis=0).ravel().tolist()
            pen.ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
        files.append(encode(image))
    return files


def masks(count: int) -> list[bytes]:
    """Return masks of 480 x 400 pixels with regions of about 50 pixels."""
    rng = np.random.default_rng(3)
    files = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 21, (9, 10), np.uint8))
        files.append(encode(small.resize((480, 400), Image.Resampling.NEAREST)))
    return files


def small(count: int) -> list[bytes]:
    """Return photographs of 32 x 32 pixels."""
    images = [Image.open(io.BytesIO(data)) for data in photos(count)]
    return [encode(image.resize((32, 32))) for image in images]


Decoders = dict[str, Callable[[bytes], object]]


def mask_decoders() -> Decoders:
    return {"Pillow": lambda data: decode_with_pillow(data, INDEX), "imagearchive": decode_mask}


def image_decoders() -> Decoders:
    found: Decoders = {"Pillow": decode_with_pillow, "imagearchive": decode_image}
    try:
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda data: cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )
    except ImportError:
        pass
    try:
        import imagecodecs

        # These do not convert RGBA and palettes.
        found["imagecodecs, libpng"] = imagecodecs.png_decode
        found["imagecodecs, libspng"] = imagecodecs.spng_decode
    except ImportError:
        pass
    try:
        import pyspng

        found["pyspng"] = pyspng.load
    except ImportError:
        pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count, decoders = options.count, image_decoders()
    for title, files, contestants in (
        ("photographs", photos(count), decoders),
        ("clip art", clipart(count), decoders),
        ("photographs of 32 x 32 pixels", small(count), decoders),
        ("masks", masks(count), mask_decoders()),
    ):
        times: dict[str, list[float]] = {name: [] for name in contestants}
        refused = dict.fromkeys(contestants, 0)
        for _ in range(options.rounds):
            for name, decode in contestants.items():
                start = time.thread_time()
                for data in files:
                    try:
                        decode(data)
                    except (RuntimeError, ValueError):
                        refused[name] += 1
                times[name].append(time.thread_time() - start)
        kilobytes = sum(map(len, files)) / len(files) / 1e3
        print(f"\n{title}, {len(files)} files of {kilobytes:.0f} kB")
        first = next(iter(times.values()))
        for name, values in times.items():
            ratio = statistics.median(other / own for other, own in zip(first, values))
            note = f", refuses {refused[name] // options.rounds}" if refused[name] else ""
            each = statistics.median(values) / len(files) * 1e6
            print(f"  {name:<24} {each:8.0f} us a file   {ratio:5.2f} times as fast{note}")


if __name__ == "__main__":
    main()
