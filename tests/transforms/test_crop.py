"""RandomCrop, CenterCrop, Pad, and RandomIoUCrop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps
from support.images import noise, to_pillow

from imagearchive import transforms as T
from imagearchive.errors import TransformError
from imagearchive.transforms import Key
from imagearchive.transforms.fields import Boxes, Image


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


@given(index=st.integers(0, 10**6), count=st.integers(0, 6))
@settings(max_examples=150)
def test_random_iou_crop_keeps_boxes_whose_center_is_inside(index, count):
    rng = np.random.default_rng(index)
    low = rng.integers(0, (60, 40), (count, 2))
    boxes = np.concatenate([low, low + rng.integers(5, 20, (count, 2))], 1).astype(np.float32)
    image = np.dstack([*np.meshgrid(np.arange(80), np.arange(60)), np.zeros((60, 80))])
    image = image.astype(np.uint8)
    crop = T.RandomIoUCrop()
    fields = {"image": Image(), "boxes": Boxes(labels="classes", min_size=0)}
    sample = {"image": image, "boxes": boxes, "classes": np.arange(count)}
    result = crop(sample, Key(9, 0, index), fields)
    height, width = result["image"].shape[:2]
    left, top = result["image"][0, 0, :2]  # the image holds its own coordinates
    if (height, width) == (60, 80):
        np.testing.assert_array_equal(result["boxes"], boxes)
        return
    assert 0.5 <= width / height <= 2.0
    assert width >= 0.3 * 80 - 1
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centers > (left, top)) & (centers < (left + width, top + height))).all(1)
    assert inside.any()
    assert result["classes"].tolist() == np.nonzero(inside)[0].tolist()
    expected = np.clip(boxes[inside] - [left, top, left, top], 0, [width, height] * 2)
    np.testing.assert_array_equal(result["boxes"], expected)


def test_random_iou_crop_reaches_the_overlap_that_it_draws():
    boxes = np.array([[20, 10, 60, 50]], np.float32)
    fields = {"image": Image(), "boxes": Boxes(min_size=0)}
    crop = T.RandomIoUCrop(min_overlaps=[0.5], trials=100)
    changed = 0
    for index in range(50):
        result = crop({"image": noise(80, 60), "boxes": boxes}, Key(1, 0, index), fields)
        height, width = result["image"].shape[:2]
        x0, y0, x1, y1 = result["boxes"][0]
        common = (x1 - x0) * (y1 - y0)
        changed += (width, height) != (80, 60)
        if (width, height) != (80, 60):
            assert common / (1600 + width * height - common) >= 0.499
    assert changed > 20
