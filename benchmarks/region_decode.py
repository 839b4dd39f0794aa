"""Random-resized-crop 224, flip, normalise: the compiled pipeline against region decoding alone.

The limit is a C loop over libjpeg-turbo that decodes the same regions and does nothing else. Both
run on the same number of threads over the same JPEGs in memory.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from interleave import compare, report
from PIL import Image

from imagearchive._pixels import Decoder, jpeg_info
from imagearchive.transforms import (
    CenterCrop,
    Compose,
    ImageNetNormalize,
    Key,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
    compile_pipeline,
    decode_image,
)

WALLPAPERS = ("/usr/share/backgrounds", "/usr/share/wallpapers", "/usr/share/desktop-base")


def photographs() -> list[Image.Image]:
    """Debian's wallpapers, or smooth noise where none are installed."""
    found = [
        path
        for folder in WALLPAPERS
        for suffix in ("jpg", "jpeg", "png")
        for path in sorted(Path(folder).rglob(f"*.{suffix}"))
        if path.stat().st_size > 100_000
    ]
    images = []
    for path in found[:12]:
        with Image.open(path) as image:
            if min(image.size) >= 1000:
                images.append(image.convert("RGB"))
    if images:
        return images
    rng = np.random.default_rng(7)
    size = (1600, 1200)
    layers = np.zeros((size[1], size[0], 3))
    for cells, weight in ((6, 0.45), (40, 0.25), (200, 0.17), (800, 0.08)):
        noise = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        layers += weight * np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    return [Image.fromarray(np.clip(layers, 0, 255).astype(np.uint8))]


def make_files(count: int, kilobytes: float = 58.0) -> list[bytes]:
    """JPEGs of about 480 x 400 pixels and 58 kB, cut out of photographs."""
    rng = np.random.default_rng(11)
    sources = photographs()
    files = []
    for i in range(count):
        width, height = int(rng.integers(440, 521)), int(rng.integers(360, 441))
        source = sources[i % len(sources)]
        zoom = float(rng.uniform(1.0, 2.0))
        w, h = int(width * zoom), int(height * zoom)
        x = int(rng.integers(0, max(1, source.width - w)))
        y = int(rng.integers(0, max(1, source.height - h)))
        part = source.resize((width, height), Image.Resampling.LANCZOS, (x, y, x + w, y + h))
        best = b""
        for quality in (75, 82, 88, 92, 95, 97):
            buffer = io.BytesIO()
            part.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
            data = buffer.getvalue()
            if abs(len(data) - kilobytes * 1e3) < abs(len(best) - kilobytes * 1e3):
                best = data
        files.append(best)
    return files


def in_threads(threads: int, work: Callable[[int], None]) -> None:
    pool = [threading.Thread(target=work, args=(turn,)) for turn in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()


def limit(files: list[bytes], boxes: np.ndarray, threads: int) -> Callable[[], None]:
    """The C loop over the same regions, compiled on the spot."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "region_decode.so")
        source = Path(__file__).with_suffix(".c")
        subprocess.run(
            ["cc", "-O3", "-shared", "-fPIC", "-o", library, source, "-ljpeg"], check=True
        )
        loaded = ctypes.CDLL(str(library))
    loaded.decode_regions.restype = ctypes.c_int64
    pointers = (ctypes.c_char_p * len(files))(*files)
    sizes = (ctypes.c_uint64 * len(files))(*map(len, files))
    regions = np.ascontiguousarray(boxes, np.int32)

    def work(turn: int) -> None:
        loaded.decode_regions(
            pointers,
            sizes,
            ctypes.c_void_p(regions.ctypes.data),
            ctypes.c_int64(turn),
            ctypes.c_int64(threads),
            ctypes.c_int64(len(files)),
        )

    return lambda: in_threads(threads, work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    files = make_files(options.count)
    threads, count = options.threads, options.count
    print(f"{count} files of {sum(map(len, files)) / count / 1e3:.0f} kB, {threads} threads")

    crop = RandomResizedCrop(224)
    train = compile_pipeline(
        Compose([crop, RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()])
    )
    keys = [Key(1, 0, i) for i in range(count)]
    boxes = np.empty((count, 4), np.int32)
    whole = np.zeros((count, 4), np.int32)
    for i, data in enumerate(files):
        width, height = jpeg_info(data)[:2]
        boxes[i] = crop.box(width, height, keys[i].at(0).stream())
        whole[i, 2:] = width, height
    resize = compile_pipeline(Compose([Resize(224, 224), ImageNetNormalize(), ToTensor()]))
    evaluate = compile_pipeline(
        Compose([Resize(256), CenterCrop(224), ImageNetNormalize(), ToTensor()])
    )
    batch = np.empty((64, 3, 224, 224), np.float32)

    def ours(pipeline) -> Callable[[], None]:
        def work(turn: int) -> None:
            decoder = Decoder()
            for i in range(turn, count, threads):
                pipeline.render_into(files[i], keys[i], batch[i % 64], decoder)

        return lambda: in_threads(threads, work)

    def decoded() -> None:
        def work(turn: int) -> None:
            decoder = Decoder()
            for i in range(turn, count, threads):
                decode_image(files[i], decoder)

        in_threads(threads, work)

    times = compare(
        {
            "libjpeg-turbo, the crops' regions": limit(files, boxes, threads),
            "RandomResizedCrop 224, flip, normalise": ours(train),
            "libjpeg-turbo, whole images": limit(files, whole, threads),
            "decode_image": decoded,
            "Resize 224, normalise": ours(resize),
            "Resize 256, CenterCrop 224, normalise": ours(evaluate),
        },
        rounds=options.rounds,
    )
    name = "RandomResizedCrop 224, flip, normalise"
    ratios = report("region decoding", times, name, count, "image")
    print(f"\nof region decoding alone: {100 * ratios[next(iter(times))]:.0f} %")


if __name__ == "__main__":
    main()
