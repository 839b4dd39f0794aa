"""The fields and members of archives whose samples have several fields."""

import io

import numpy as np
from PIL import Image as PillowImage

from imagearchive import Mask


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def palette_png(indices):
    image = PillowImage.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


MASKS = [
    np.random.default_rng(i).choice([0, 1, 2, 255], (30, 40)).astype(np.uint8) for i in range(4)
]

VOC = {"image": "VOC/JPEGImages/{key}.jpg", "mask": Mask("VOC/Masks/{key}.png")}

WEB = {"image": "{key}.png|jpg|webp", "caption": "{key}.txt", "meta": "{key}.json"}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
