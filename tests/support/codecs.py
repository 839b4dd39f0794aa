"""Images and pickles for the tests of codecs."""

import io

import numpy as np

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
GRAY = PIXELS[:, :, 0]
ALPHA = RNG.integers(0, 256, (12, 17, 4), dtype=np.uint8)


def image_bytes(image, kind, **options):
    """Write a Pillow image in the format `kind`."""
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


class Danger:
    """Sets `ran` when its pickle is loaded."""

    ran = False

    def __reduce__(self):
        return setattr, (Danger, "ran", True)
