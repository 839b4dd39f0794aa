"""Check that an installed imagearchive decodes JPEGs as its build promises.

Run it in the environment to check, from a folder without the sources::

    python check_installation.py wheel REPOSITORY
    python check_installation.py no-libjpeg REPOSITORY

``wheel``: the package comes from a wheel that has its own libjpeg-turbo, with SIMD code.
``no-libjpeg``: the package was built without libjpeg-turbo, and says so when it is used.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import imagearchive
from imagearchive.images.decode import decode_image
from imagearchive.transforms import ToTensor

# What the SIMD code of libjpeg-turbo reads from the environment; a build without it never asks.
_SIMD_SIGN = b"JSIMD_FORCENONE"


def main() -> None:
    """Check what the arguments name, and exit with a message where it is not so."""
    kind, repository = sys.argv[1], Path(sys.argv[2]).resolve()
    package = Path(imagearchive.__file__).resolve()
    _expect(not package.is_relative_to(repository / "imagearchive"), f"{package} is a source tree")
    messages = _collect_messages()
    picture = np.asarray(Image.radial_gradient("L").convert("RGB"))
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=95)
    difference = np.abs(decode_image(encoded.getvalue()).astype(int) - picture).mean()
    _expect(difference < 2, f"a decoded JPEG differs from its picture by {difference}")
    with imagearchive.ImageArchive(str(repository / "examples/data/digits.tar")) as digits:
        _expect(len(digits) == 1797, f"the digits are {len(digits)} images")
        batches = imagearchive.DataLoader(digits, batch_size=64, transform=ToTensor())
        images, labels = next(iter(batches))
        _expect(images.shape[0] == labels.shape[0] == 64, "a batch has the wrong shape")
    if kind == "wheel":
        _check_bundled_library()
        _expect(not messages, f"unexpected log messages: {messages}")
    else:
        _expect(any("libjpeg-turbo" in text for text in messages), "no message about JPEGs")
    print(f"{package.parent}: {kind} is as it should be")


def _check_bundled_library() -> None:
    files = importlib.metadata.files("imagearchive") or []
    _expect(any(f.name == "libjpeg-turbo.txt" for f in files), "the license is missing")
    bundled = [Path(f.locate()).resolve() for f in files if f.name.startswith("libjpeg-")]
    bundled = [path for path in bundled if path.suffix != ".txt"]
    _expect(len(bundled) == 1, f"the wheel holds {bundled}, not one libjpeg")
    _expect(_SIMD_SIGN in bundled[0].read_bytes(), f"{bundled[0]} has no SIMD code")
    if Path("/proc/self/maps").exists():
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped = {line.split(None, 5)[5] for line in lines if "libjpeg" in line}
        # Pillow's wheel brings another one, which is mapped when Pillow decodes.
        foreign = {path for path in mapped if "pillow" not in path and path != str(bundled[0])}
        _expect(str(bundled[0]) in mapped, "the libjpeg of the wheel is not in use")
        _expect(not foreign, f"in use, too: {foreign}")


def _collect_messages() -> list[str]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("imagearchive").addHandler(handler)
    return messages


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise SystemExit(f"check_installation: {otherwise}")


if __name__ == "__main__":
    main()
