"""RandomErasing, RandAugment and TrivialAugmentWide, against the published policies."""

import math
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from support.images import photo, same_distribution

from imagearchive import transforms as T
from imagearchive.errors import OptionTypeError
from imagearchive.transforms import Key


def test_random_erasing_overwrites_a_rectangle():
    image = photo(40, 30)
    for value, check in (
        (0, lambda a: (a == 0).all()),
        ((1, 2, 3), lambda a: (a == (1, 2, 3)).all()),
    ):
        for index in range(20):
            result = T.RandomErasing(1.0, value=value)(image, Key(1, 0, index))
            changed = (result != image).any(2)
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            part = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert check(part)
            assert 0.01 * 1200 < part.shape[0] * part.shape[1] < 0.34 * 1200
    np.testing.assert_array_equal(T.RandomErasing(0.0)(image), image)
    chw = T.ToTensor()(T.ImageNetNormalize()(image))
    key = Key(4)
    both = T.RandomErasing(1.0, value="random")(chw, key)
    np.testing.assert_array_equal(
        both, T.ToTensor()(T.RandomErasing(1.0, value="random")(T.ImageNetNormalize()(image), key))
    )


def published_erasing(rng, width, height, scale, ratio):
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    return 0, 0, 0, 0


@pytest.mark.parametrize("size", [(60, 40), (90, 12)])
def test_random_erasing_draws_the_published_distribution(size):
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
    across, down = (32.0, 32.0) if wide else (150 * width / 331, 150 * height / 331)
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
        # As float32, in which torchvision computes it.
        threshold = np.float32(255.0 * (1 - part))
        inverted = np.where(image < threshold, image, 255 - image)
        found.setdefault("Solarize", []).append(inverted.astype(np.uint8))
        kept = 8 - round(part * bits)
        found.setdefault("Posterize", []).append(image & (0xFF << (8 - kept) & 0xFF))
    found["AutoContrast"] = [np.asarray(ImageOps.autocontrast(picture))]
    found["Equalize"] = [np.asarray(ImageOps.equalize(picture))]
    return {name: [a.astype(np.uint8).tobytes() for a in arrays] for name, arrays in found.items()}


def test_policies_use_every_operation():
    image = photo(40, 30)
    for policy in (T.RandAugment(1, 30), T.TrivialAugmentWide()):
        results = {policy(image, Key(0, 0, i)).tobytes() for i in range(200)}
        assert len(results) > 15
    with pytest.raises(OptionTypeError, match="before normalization"):
        T.RandAugment()(T.ImageNetNormalize()(image))
    assert T.TrivialAugmentWide()(T.Grayscale()(image)).shape == (30, 40, 1)


@pytest.mark.parametrize("bins", [31, 5])
def test_trivial_augment_draws_the_published_operations(bins):
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
def test_rand_augment_applies_one_strength(magnitude):
    image = photo(60, 40)
    every = operations(image, [magnitude / 30], wide=False)
    policy = T.RandAugment(1, magnitude)
    results = {policy(image, Key(1, 0, i)).tobytes() for i in range(500)}
    assert results == set().union(*every.values())
    assert T.RandAugment(0)(image).tobytes() == image.tobytes()


def results_of(policy, image, count=400):
    return {policy(image, Key(1, 0, i)).tobytes() for i in range(count)}


def ramp():
    """All values of a byte, of one channel."""
    return np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(32, 32, 1)


@pytest.mark.parametrize("magnitude", range(31))
def test_rand_augment_solarize_has_the_published_threshold(magnitude):
    image = ramp()
    threshold = 255 - Fraction(255 * magnitude, 30)
    kept = np.array([value < threshold for value in range(256)])
    expected = np.where(kept[image], image, 255 - image).astype(np.uint8)
    assert expected.tobytes() in results_of(T.RandAugment(1, magnitude), image)


def test_trivial_augment_solarize_has_the_published_thresholds():
    image = ramp()
    results = results_of(T.TrivialAugmentWide(), image, 4000)
    for bin_ in range(31):
        kept = np.array([value < 255 - Fraction(255 * bin_, 30) for value in range(256)])
        expected = np.where(kept[image], image, 255 - image).astype(np.uint8)
        assert expected.tobytes() in results, bin_


@pytest.mark.parametrize("magnitude", [11, 22])
def test_rand_augment_translate_has_the_published_whole_pixels(magnitude):
    image = np.repeat(np.arange(331) % 251, 2).reshape(331, 2).T.astype(np.uint8)[:, :, None]
    shift = 150 * magnitude // 30
    expected = np.zeros_like(image)
    expected[:, :-shift] = image[:, shift:]
    assert expected.tobytes() in results_of(T.RandAugment(1, magnitude), image)


def test_rand_augment_applies_several_operations():
    image = photo(48, 40)
    once = {T.RandAugment(1, 9)(image, Key(1, 0, i)).tobytes() for i in range(200)}
    twice = {T.RandAugment(2, 9)(image, Key(1, 0, i)).tobytes() for i in range(200)}
    assert len(twice) > 3 * len(once)
