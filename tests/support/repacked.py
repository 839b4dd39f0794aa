"""Images to repack."""

import io

import numpy as np
from PIL import Image as PillowImage


def picture(number, size=(40, 30), format="JPEG", **options):
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (3, 4, 3), np.uint8)
    image = PillowImage.fromarray(small).resize(size, PillowImage.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def size_of(data):
    return PillowImage.open(io.BytesIO(data)).size
