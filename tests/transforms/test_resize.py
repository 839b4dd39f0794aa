"""Resize and RandomResizedCrop."""

import math

import numpy as np
import pytest
from PIL import Image
from support.images import noise, photo, same_distribution

from imagearchive import transforms as T
from imagearchive.errors import LimitError, OptionError, OptionTypeError
from imagearchive.transforms import Key


@pytest.mark.parametrize("make", [noise, photo])
@pytest.mark.parametrize("size", [(224, 224), (50, 300), (640, 400)])
def test_resize_is_close_to_pillow(make, size):
    image = make(341, 251)
    theirs = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    difference = abs(T.Resize(*size)(image).astype(int) - np.asarray(theirs))
    assert difference.mean() <= 0.5
    assert difference.max() <= 2
    key = Key(3)
    crop = T.RandomResizedCrop(size)
    x, y, w, h = crop.box(341, 251, key.stream())
    box = (x, y, x + w, y + h)
    theirs = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box)
    difference = abs(crop(image, key).astype(int) - np.asarray(theirs))
    assert difference.mean() <= 0.5
    assert difference.max() <= 2


def test_resize_shorter_side():
    assert T.Resize(256)(noise(500, 375)).shape == (256, 341, 3)
    assert T.Resize(256)(noise(375, 500)).shape == (341, 256, 3)
    assert T.Resize(10)(noise(10, 1000)).shape == (1000, 10, 3)


def test_resize_size_is_the_shorter_side():
    assert T.Resize(size=5)(photo(20, 10)).shape == T.Resize(5)(photo(20, 10)).shape == (5, 10, 3)
    with pytest.raises(OptionError, match="not both"):
        T.Resize(5, size=5)
    with pytest.raises(OptionTypeError, match="width"):
        T.Resize()


def test_resize_of_a_line_is_limited():
    line = np.zeros((65500, 1, 3), np.uint8)
    with pytest.raises(LimitError, match="1 x 65500 pixels would become"):
        T.Resize(224)(line)
    # Where the user says how large, it is that large.
    assert T.Resize(4, 8)(line).shape == (8, 4, 3)
    assert T.Resize(1)(line).shape == line.shape


def test_random_resized_crop_draws_within_bounds():
    crop = T.RandomResizedCrop(10, scale=(0.3, 0.5), ratio=(0.5, 2.0))
    areas, ratios = [], []
    for index in range(500):
        x, y, w, h = crop.box(200, 160, Key(1, 0, index).stream())
        assert x >= 0
        assert y >= 0
        assert x + w <= 200
        assert y + h <= 160
        areas.append(w * h / (200 * 160))
        ratios.append(w / h)
    assert 0.29 < min(areas) < 0.32
    assert 0.48 < max(areas) < 0.51
    assert min(ratios) > 0.48
    assert max(ratios) < 2.05
    # Where nothing fits: the central box of the nearest ratio.
    assert T.RandomResizedCrop(10, scale=(1, 1)).box(400, 100, Key(1).stream()) == (
        133,
        0,
        133,
        100,
    )
    assert T.RandomResizedCrop(10, scale=(1, 1)).box(100, 400, Key(1).stream()) == (
        0,
        133,
        100,
        133,
    )


def published_crop(rng, width, height, scale, ratio):
    """The box of "Going deeper with convolutions" as torchvision's documentation words it."""
    for _ in range(10):
        target = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((500, 375), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((375, 500), (0.5, 0.6), (0.2, 5.0)),
        ((400, 60), (0.08, 1.0), (3 / 4, 4 / 3)),  # mostly the central box
        ((60, 400), (0.3, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_random_resized_crop_draws_the_published_distribution(size, scale, ratio):
    crop = T.RandomResizedCrop(8, scale, ratio)
    rng = np.random.default_rng(1)
    ours = np.array([crop.box(*size, Key(0, 0, i).stream()) for i in range(4000)])
    theirs = np.array([published_crop(rng, *size, scale, ratio) for _ in range(4000)])
    for column in range(4):
        assert same_distribution(ours[:, column], theirs[:, column])
    assert same_distribution(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    assert same_distribution(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3])


def test_random_resized_crop_draws_every_position():
    crop = T.RandomResizedCrop(8, (0.81, 0.81), (1, 1))
    boxes = [crop.box(10, 10, Key(0, 0, i).stream()) for i in range(400)]
    places = np.bincount([x + 2 * y for x, y, _, _ in boxes], minlength=4)
    assert {(w, h) for _, _, w, h in boxes} == {(9, 9)}
    assert len(places) == 4
    assert places.min() > 70
