"""Distributions and formulas against those that were published, written down here once more."""

import colorsys
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imagearchive import transforms as T
from imagearchive.transforms import Key


def photo(width, height, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    # Not all of the range, which would leave AutoContrast nothing to do.
    return np.asarray(image) // 2 + 40


def same_distribution(a, b):
    """Kolmogorov and Smirnov's distance of two samples is below its 0.1 % quantile."""
    a, b = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    points = np.concatenate([a, b])
    distance = abs(
        np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b)
    ).max()
    return distance < 1.95 * math.sqrt((len(a) + len(b)) / (len(a) * len(b)))


# ---- boxes ---------------------------------------------------------------------------------


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
def test_boxes_of_random_resized_crop(size, scale, ratio):
    crop = T.RandomResizedCrop(8, scale, ratio)
    rng = np.random.default_rng(1)
    ours = np.array([crop.box(*size, Key(0, 0, i).stream()) for i in range(4000)])
    theirs = np.array([published_crop(rng, *size, scale, ratio) for _ in range(4000)])
    for column in range(4):
        assert same_distribution(ours[:, column], theirs[:, column])
    assert same_distribution(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    assert same_distribution(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3])


def test_every_place_for_a_box_is_drawn():
    crop = T.RandomResizedCrop(8, (0.81, 0.81), (1, 1))
    boxes = [crop.box(10, 10, Key(0, 0, i).stream()) for i in range(400)]
    places = np.bincount([x + 2 * y for x, y, _, _ in boxes], minlength=4)
    assert {(w, h) for _, _, w, h in boxes} == {(9, 9)}
    assert len(places) == 4
    assert places.min() > 70


def published_erasing(rng, width, height, scale, ratio):
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    return 0, 0, 0, 0


@pytest.mark.parametrize("size", [(60, 40), (90, 12)])
def test_rectangles_of_random_erasing(size):
    scale, ratio = (0.05, 0.4), (0.3, 3.3)
    image = np.full((size[1], size[0], 1), 200, np.uint8)
    erasing = T.RandomErasing(1.0, scale, ratio)
    ours = []
    for index in range(2500):
        rows, columns, _ = np.nonzero(erasing(image, Key(2, 0, index)) == 0)
        if len(rows):
            x, y = columns.min(), rows.min()
            ours.append((x, y, columns.max() - x + 1, rows.max() - y + 1))
        else:
            ours.append((0, 0, 0, 0))
    rng = np.random.default_rng(1)
    theirs = np.array([published_erasing(rng, *size, scale, ratio) for _ in range(2500)])
    ours = np.array(ours)
    for column in range(4):
        assert same_distribution(ours[:, column], theirs[:, column])


def test_probabilities():
    image = np.array([[[1], [2]]], np.uint8)
    for kind in (T.RandomHorizontalFlip, T.RandomErasing):
        for p in (0.0, 0.1, 0.5, 1.0):
            wide = image if kind is T.RandomHorizontalFlip else np.ones((9, 9, 1), np.uint8)
            changed = sum(
                not np.array_equal(kind(p)(wide, Key(3, 0, i)), wide) for i in range(2000)
            )
            assert abs(changed - 2000 * p) <= 4 * math.sqrt(2000 * p * (1 - p))


# ---- colour --------------------------------------------------------------------------------


def test_adjustments_of_floats_are_the_formulas():
    image = np.random.default_rng(0).random((9, 8, 3), np.float32)
    grey = image @ np.array([0.299, 0.587, 0.114])
    for factor in (0.0, 0.4, 1.0, 1.9):
        for result, other in (
            (T.adjust_brightness(image, factor), 0.0),
            (T.adjust_contrast(image, factor), grey.mean()),
            (T.adjust_saturation(image, factor), grey[:, :, None]),
        ):
            expected = np.clip(factor * image + (1 - factor) * other, 0, 1)
            np.testing.assert_allclose(result, expected, atol=1e-6)
    for shift in (-0.5, -0.2, 0.0, 0.13, 0.5):
        expected = np.empty_like(image)
        for y, x in np.ndindex(image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*map(float, image[y, x]))
            expected[y, x] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
        np.testing.assert_allclose(T.adjust_hue(image, shift), expected, atol=1e-5)


def test_color_jitter_draws_uniformly():
    """A white pixel shows the factor of brightness, and black and white that of contrast."""
    white = np.full((1, 1, 3), 0.5, np.float32)
    factors = [T.ColorJitter(0.4)(white, Key(0, 0, i))[0, 0, 0] * 2 for i in range(2000)]
    assert same_distribution(factors, np.random.default_rng(0).uniform(0.6, 1.4, 2000))
    # Never below zero.
    factors = [T.ColorJitter(1.5)(white, Key(0, 0, i))[0, 0, 0] * 2 for i in range(2000)]
    drawn = np.random.default_rng(0).uniform(0.0, 2.5, 2000)
    assert same_distribution(factors, np.minimum(drawn, 2.0))


# ---- policies ------------------------------------------------------------------------------


def operations(image, parts, wide):
    """Every operation at these parts of its largest magnitude, by Pillow: name -> images."""
    picture = Image.fromarray(image)
    width, height = picture.size
    found = {"Identity": [image]}

    def affine(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix)

    enhance = {"Brightness": ImageEnhance.Brightness, "Color": ImageEnhance.Color,
               "Contrast": ImageEnhance.Contrast, "Sharpness": ImageEnhance.Sharpness}  # fmt: skip
    shear, turn, factor, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    across, down = (32.0, 32.0) if wide else (150 / 331 * width, 150 / 331 * height)
    for part in parts:
        for sign in (1, -1):
            signed = {
                "ShearX": affine(1, sign * part * shear, 0, 0, 1, 0),
                "ShearY": affine(1, 0, 0, sign * part * shear, 1, 0),
                "TranslateX": affine(1, 0, int(sign * part * across), 0, 1, 0),
                "TranslateY": affine(1, 0, 0, 0, 1, int(sign * part * down)),
                "Rotate": picture.rotate(sign * part * turn),
            }
            for name, kind in enhance.items():
                signed[name] = kind(picture).enhance(1 + sign * part * factor)
            for name, result in signed.items():
                found.setdefault(name, []).append(np.asarray(result))
        threshold = 255.0 * (1 - part)
        inverted = np.where(image < threshold, image, 255 - image)
        found.setdefault("Solarize", []).append(inverted.astype(np.uint8))
        kept = 8 - round(part * bits)
        found.setdefault("Posterize", []).append(image & (0xFF << (8 - kept) & 0xFF))
    found["AutoContrast"] = [np.asarray(ImageOps.autocontrast(picture))]
    found["Equalize"] = [np.asarray(ImageOps.equalize(picture))]
    return {name: [a.astype(np.uint8).tobytes() for a in arrays] for name, arrays in found.items()}


@pytest.mark.parametrize("bins", [31, 5])
def test_trivial_augment_draws_one_of_the_published_operations(bins):
    image = photo(48, 40)
    every = operations(image, np.arange(bins) / (bins - 1), wide=True)
    assert len(every) == 14
    policy = T.TrivialAugmentWide(bins)
    seen = dict.fromkeys(every, 0)
    variants = set()
    for index in range(2800):
        result = policy(image, Key(1, 0, index)).tobytes()
        names = [name for name, results in every.items() if result in results]
        assert names
        variants.add(result)
        # What changes nothing may be any of them.
        if result != image.tobytes():
            for name in names:
                seen[name] += 1 / len(names)
    assert seen.pop("Identity") == 0
    for name, count in seen.items():
        changing = 1 - every[name].count(image.tobytes()) / len(every[name])
        assert abs(count - 200 * changing) < 60, name
    assert len(variants) > 0.6 * len(set().union(*every.values()))


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_rand_augment_is_of_one_strength(magnitude):
    image = photo(60, 40)
    every = operations(image, [magnitude / 30], wide=False)
    policy = T.RandAugment(1, magnitude)
    results = {policy(image, Key(1, 0, i)).tobytes() for i in range(500)}
    assert results == set().union(*every.values())
    assert T.RandAugment(0)(image).tobytes() == image.tobytes()


def test_operations_follow_one_another():
    image = photo(48, 40)
    once = {T.RandAugment(1, 9)(image, Key(1, 0, i)).tobytes() for i in range(200)}
    twice = {T.RandAugment(2, 9)(image, Key(1, 0, i)).tobytes() for i in range(200)}
    assert len(twice) > 3 * len(once)
