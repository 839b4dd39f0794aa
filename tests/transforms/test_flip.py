"""RandomHorizontalFlip and RandomVerticalFlip."""

import numpy as np
from support.images import noise

from imagearchive import transforms as T
from imagearchive.transforms import Key


def test_random_flip_is_exact():
    image = noise(60, 50)
    np.testing.assert_array_equal(T.RandomHorizontalFlip(1.0)(image), image[:, ::-1])
    np.testing.assert_array_equal(T.RandomHorizontalFlip(0.0)(image), image)
    np.testing.assert_array_equal(T.RandomVerticalFlip(1.0)(image), image[::-1])


def test_random_flip_and_erasing_p_is_the_probability():
    image = np.array([[[1], [2]]], np.uint8)
    for kind in (T.RandomHorizontalFlip, T.RandomErasing):
        for p in (0.0, 0.1, 0.5, 1.0):
            wide = image if kind is T.RandomHorizontalFlip else np.ones((9, 9, 1), np.uint8)
            changed = sum(
                not np.array_equal(kind(p)(wide, Key(3, 0, i)), wide) for i in range(2000)
            )
            assert abs(changed - 2000 * p) <= 4 * np.sqrt(2000 * p * (1 - p))
