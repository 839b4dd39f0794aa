"""Images that tests make up, and what Pillow makes of them."""

import io

import numpy as np
from PIL import Image


def noise(width, height, channels=3, seed=0):
    """Random bytes, (H, W, C) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photo(width, height, seed=0):
    """Smooth RGB color with an edge and a little noise."""
    rng = np.random.default_rng(seed)
    shape = (height // 16 + 2, width // 16 + 2, 3)
    small = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[height // 3 :, width // 2 :] = 255 - smooth[height // 3 :, width // 2 :]
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def to_pillow(array):
    """A Pillow image of an (H, W, C) uint8 array."""
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def from_pillow(image):
    """An (H, W, C) array of a Pillow image."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def encode(array, fmt="JPEG", mode=None, **options):
    """The bytes of an image file."""
    image = to_pillow(array)
    buffer = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, fmt, **options)
    return buffer.getvalue()


def decode_by_pillow(data):
    """The RGB pixels of an image file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def same_distribution(a, b):
    """Whether two samples pass the Kolmogorov-Smirnov test at the 0.1 % level."""
    a, b = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    points = np.concatenate([a, b])
    distance = abs(
        np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b)
    ).max()
    return distance < 1.95 * np.sqrt((len(a) + len(b)) / (len(a) * len(b)))
