"""What `preview` of a transform shows."""

import numpy as np
import pytest
from support.images import noise

from imagearchive import Boxes, Image
from imagearchive.errors import OptionError
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    Key,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)
from imagearchive.transforms.fields import Sample

STEP = 36


def cell(picture, row, column, size=32):
    return np.asarray(picture)[row * STEP : row * STEP + size, column * STEP : column * STEP + size]


def test_preview_shows_the_results_of_as_many_keys_without_normalization():
    crop = RandomResizedCrop(32)
    transform = Compose([crop, ImageNetNormalize(), ToTensor()])
    image = noise(40, 40)
    picture = transform.preview(image, n=4, seed=5, size=32)
    assert picture.size == (2 * STEP - 4, 2 * STEP - 4)
    for number in range(4):
        expected = crop(image, Key(5, 0, number))
        np.testing.assert_array_equal(cell(picture, number // 2, number % 2), expected)


def test_preview_of_equal_seed_is_equal():
    transform = RandomResizedCrop(16)
    image = noise(40, 40)
    first, again, other = (np.asarray(transform.preview(image, seed=k)) for k in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_preview_of_sample_moves_boxes_with_the_image():
    fields = {"image": Image(), "boxes": Boxes()}
    values = {
        "image": np.full((32, 32, 3), 100, np.uint8),
        "boxes": np.array([[2, 2, 10, 10]], np.float32),
    }
    transform = Compose([RandomHorizontalFlip(1.0)])
    for options in ({"fields": fields}, {}):
        sample = values if options else Sample(values, fields)
        picture = transform.preview(sample, n=2, size=32, columns=2, **options)
        changed = (cell(picture, 0, 1) != 100).any(axis=2)
        assert changed[:, 20:].any()
        assert not changed[:, :20].any()


def test_preview_of_single_transform_and_bad_arguments():
    assert RandomHorizontalFlip().preview(noise(8, 8), n=1, size=64).size == (64, 64)
    with pytest.raises(OptionError, match="n must be at least 1"):
        RandomHorizontalFlip().preview(noise(8, 8), n=0)
