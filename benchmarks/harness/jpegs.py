"""Makes the TAR of photographs that the loader benchmarks read: 4,000 JPEGs of about 480 x 400.

The images are crops of the JPEG photographs in Debian's wallpaper packages (such as
``mate-backgrounds`` and ``lomiri-wallpapers-20.04``) if those are installed or unpacked below
``--photos``, and smooth noise otherwise. Each is encoded at the quality that makes it about 58 kB,
the mean of ImageNet. The same options give the same images; the file is kept and reused.

    python -m benchmarks.harness.jpegs --cache /tmp/imagearchive-benchmarks
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["CLASSES", "add_options", "jpeg_tar", "photographs", "small_tar"]

CLASSES = 10
WALLPAPERS = ("/usr/share/wallpapers", "/usr/share/backgrounds", "/usr/share/images")
TARGET_BYTES = 58_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache``, ``--photos`` and ``--count``."""
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir(), "imagearchive-benchmarks"),
        help="folder that keeps the generated files",
    )
    parser.add_argument(
        "--photos", type=Path, action="append", help="folder searched for JPEG photographs"
    )
    parser.add_argument("--count", type=int, default=4000, help="number of images")


def jpeg_tar(options: argparse.Namespace) -> Path:
    """Return the path of the TAR, which is made on the first call."""
    photos = _files(options.photos or [Path(name) for name in WALLPAPERS])
    kind = "photos" if photos else "noise"
    target = options.cache / f"jpegs-{kind}-{options.count}.tar"
    if not target.exists():
        _write(target, _images(photos, options.count))
    return target


def small_tar(images: Path, per_image: int = 5, side: int = 32) -> Path:
    """Return the path of a TAR of small squares, cropped from the images of another."""
    target = images.with_name(images.stem + f"-{side}.tar")
    if not target.exists():
        _write(target, _squares(images, per_image, side))
    return target


def _squares(images: Path, per_image: int, side: int) -> Iterator[bytes]:
    rng = np.random.default_rng(2)
    with tarfile.open(images) as archive:
        for member in archive:
            with Image.open(archive.extractfile(member)) as image:
                for _ in range(per_image):
                    cut = int(rng.integers(side, min(image.size)))
                    left, top = (int(rng.integers(0, length - cut + 1)) for length in image.size)
                    box = (left, top, left + cut, top + cut)
                    buffer = io.BytesIO()
                    image.resize((side, side), box=box).save(buffer, "JPEG", quality=90)
                    yield buffer.getvalue()


def _write(target: Path, files: Iterator[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, data in enumerate(files):
            info = tarfile.TarInfo(f"{number % CLASSES}/{number:06d}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    part.rename(target)


def photographs(most: int) -> list[Image.Image]:
    """Return some of the photographs, or the noise that replaces them."""
    files = _files([Path(name) for name in WALLPAPERS])[:most]
    rng = np.random.default_rng(1)
    return [_open(path) for path in files] or [_smooth_noise(rng)]


def _files(folders: list[Path]) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for pattern in ("*.jpg", "*.jpeg")
        for path in folder.rglob(pattern)
        if path.stat().st_size > 200_000
    )


def _images(photos: list[Path], count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    sources = [_open(path) for path in photos] or [_smooth_noise(rng) for _ in range(16)]
    for number in range(count):
        source = sources[number % len(sources)]
        width = int(rng.integers(420, 541))
        height = int(rng.integers(340, 461))
        # The crop is between width x height pixels and the whole photograph.
        most = min(source.width / width, source.height / height)
        factor = float(np.exp(rng.uniform(0, np.log(max(most, 1.0)))))
        cut = int(width * min(factor, most)), int(height * min(factor, most))
        left = int(rng.integers(0, source.width - cut[0] + 1))
        top = int(rng.integers(0, source.height - cut[1] + 1))
        box = (left, top, left + cut[0], top + cut[1])
        yield _encode(source.resize((width, height), Image.Resampling.LANCZOS, box=box))


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (2400, 1600))
        return ImageOps.contain(image.convert("RGB"), (2400, 1600))


def _smooth_noise(rng: np.random.Generator) -> Image.Image:
    # Octaves of noise whose amplitude falls as in photographs, with the frequency.
    total = np.zeros((800, 1200, 3), np.float32)
    for octave in range(8):
        cells = rng.normal(size=(2 + 2**octave, 2 + 3 * 2**octave // 2, 3))
        for channel in range(3):
            layer = Image.fromarray(cells[..., channel].astype(np.float32))
            grown = layer.resize((1200, 800), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(grown) / 1.5**octave
    return Image.fromarray((128 + 48 * total).clip(0, 255).astype(np.uint8))


def _encode(image: Image.Image) -> bytes:
    low, high = 50, 99
    data = b""
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if abs(len(data) - TARGET_BYTES) < TARGET_BYTES // 12:
            break
        if len(data) > TARGET_BYTES:
            high = quality - 1
        else:
            low = quality + 1
    return data


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(arguments)
    parsed = arguments.parse_args()
    path = jpeg_tar(parsed)
    print(f"{path}: {path.stat().st_size / parsed.count / 1000:.1f} kB per image")
