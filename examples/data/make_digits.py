"""Write digits.tar: the 1,797 handwritten digits of scikit-learn as PNG files in class directories.

This needs scikit-learn. The result is deterministic, so running it again changes nothing.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from imagearchive import TarWriter

TARGET = Path(__file__).parent / "digits.tar"


def main() -> None:
    digits = load_digits()
    with TarWriter(TARGET, overwrite=True) as archive:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target)):
            image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8))
            file = io.BytesIO()
            image.save(file, "PNG", optimize=True)
            archive.add(f"{label}/{number:04d}.png", file.getvalue())
    print(f"{TARGET}: {len(digits.target)} images, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
