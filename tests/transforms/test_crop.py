"""RandomCrop, CenterCrop and Pad."""

import numpy as np
import pytest
from PIL import ImageOps
from support.images import noise, to_pillow

from imagearchive import transforms as T
from imagearchive.errors import TransformError
from imagearchive.transforms import Key


def test_center_crop_is_exact():
    image = noise(60, 50)
    np.testing.assert_array_equal(T.CenterCrop(20, 10)(image), image[20:30, 20:40])


def test_pad_is_exact():
    image = noise(60, 50)
    padded = ImageOps.expand(to_pillow(image), (1, 2, 3, 4), (9, 8, 7))
    np.testing.assert_array_equal(T.Pad((1, 2, 3, 4), (9, 8, 7))(image), np.asarray(padded))
    for mode in ("edge", "reflect", "symmetric"):
        expected = np.pad(image, ((4, 4), (3, 3), (0, 0)), mode=mode)
        np.testing.assert_array_equal(T.Pad((3, 4), mode=mode)(image), expected)


def test_random_crop_draws_every_position():
    image = noise(60, 50)
    crop = T.RandomCrop(60, 50, padding=4, fill=5)
    wide = np.pad(image, ((4, 4), (4, 4), (0, 0)), constant_values=5)
    places = set()
    for index in range(300):
        result = crop(image, Key(0, 0, index))
        found = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.array_equal(wide[y : y + 50, x : x + 60], result)
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 70  # of 81


def test_crop_larger_than_the_image():
    image = noise(20, 30)
    for transform in (T.RandomCrop(21, 30), T.CenterCrop(20, 31)):
        with pytest.raises(TransformError, match="pad_if_needed"):
            transform(image)
    np.testing.assert_array_equal(T.RandomCrop(20, 30)(image), image)
    result = T.CenterCrop(24, 32, pad_if_needed=True, fill=3)(image)
    np.testing.assert_array_equal(
        result, np.pad(image, ((1, 1), (2, 2), (0, 0)), constant_values=3)
    )
