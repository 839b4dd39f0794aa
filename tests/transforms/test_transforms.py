"""Transforms: plain against Pillow and published formulas, compiled against plain, keys."""

import io
import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from imagearchive import transforms as T
from imagearchive.errors import (
    DecodeError,
    LimitError,
    OptionError,
    OptionTypeError,
    TransformError,
)
from imagearchive.images.render import HAVE_JPEG, Decoder
from imagearchive.transforms import Compose, Key, TensorFormat, compile_pipeline, decode_image

needs_jpeg = pytest.mark.skipif(not HAVE_JPEG, reason="built without libjpeg-turbo")
MEAN = np.float32([0.485, 0.456, 0.406])
STD = np.float32([0.229, 0.224, 0.225])


def noise(width, height, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photo(width, height, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    smooth = np.asarray(image).astype(int)
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def encode(array, fmt="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, fmt, **options)
    return buffer.getvalue()


def double(image):
    """A module-level function, so that it can be pickled."""
    return np.clip(image.astype(int) * 2, 0, 255).astype(np.uint8)


ALL = [
    T.Resize(31, 17),
    T.Resize(40, interpolation="bicubic"),
    T.RandomResizedCrop(24, scale=(0.2, 0.9)),
    T.RandomResizedCrop((24, 30)),
    T.RandomCrop(20, 10),
    T.RandomCrop(64, padding=(3, 4), pad_if_needed=True, fill=(1, 2, 3)),
    T.CenterCrop(20),
    T.CenterCrop(70, 5, pad_if_needed=True),
    T.RandomHorizontalFlip(),
    T.RandomVerticalFlip(0.3),
    T.Pad(3),
    T.Pad((1, 2, 3, 4), mode="reflect"),
    T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    T.RandomRotation(30),
    T.RandomRotation((10, 20), interpolation="bilinear", expand=True, fill=7),
    T.RandomPerspective(0.4, 1.0),
    T.RandomErasing(1.0),
    T.RandomErasing(p=0.9, value="random"),
    T.GaussianBlur(5),
    T.Grayscale(),
    T.Grayscale(3),
    T.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    T.ImageNetNormalize(),
    T.ToTensor(),
    T.ToTensor(TensorFormat.TENSORFLOW_HWC),
    T.ToDtype("float32", scale=True),
    T.ToDtype("float16"),
    T.RandAugment(),
    T.RandAugment(3, 20, fill=(9, 9, 9)),
    T.TrivialAugmentWide(),
    T.Lambda(double),
    Compose([T.Resize(30, 30), Compose([T.RandomCrop(20), T.ImageNetNormalize()]), T.ToTensor()]),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_every_transform(transform):
    image = photo(60, 50)
    before = image.copy()
    key = Key(7, 1, 2)
    result = transform.apply(image, key)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(transform(image, key=key), result)
    # Pillow images count as their arrays; pickled copies behave alike.
    copy = pickle.loads(pickle.dumps(transform))
    assert repr(copy) == repr(transform)
    np.testing.assert_array_equal(copy(image, key), result)
    if not isinstance(transform, T.Lambda):
        np.testing.assert_array_equal(transform(Image.fromarray(image), key), result)
        # A tensor is (C, H, W) and comes back as one.
        tensor = transform(torch.from_numpy(image.transpose(2, 0, 1).copy()), key)
        assert isinstance(tensor, torch.Tensor)
        last = transform.transforms[-1] if isinstance(transform, Compose) else transform
        flat = isinstance(last, T.ToTensor)
        expected = result if flat else result.transpose(2, 0, 1)
        np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("transform", ALL[:30], ids=lambda t: type(t).__name__)
def test_repr_can_be_evaluated(transform):
    names = {**vars(T)}
    again = eval(repr(transform), names)
    assert repr(again) == repr(transform)
    key = Key(1, 2, 3)
    image = photo(40, 41)
    np.testing.assert_array_equal(again(image, key), transform(image, key))


def test_repr_shows_arguments():
    assert repr(T.Resize(256, 224)) == "Resize(width=256, height=224, interpolation='bilinear')"
    assert repr(T.ImageNetNormalize()) == "ImageNetNormalize()"
    assert repr(T.ToTensor()) == "ToTensor(format=TensorFormat.PYTORCH_CHW)"
    assert repr(T.RandomHorizontalFlip(0.2, seed=4)) == "RandomHorizontalFlip(p=0.2, seed=4)"
    assert "Resize(width=3" in repr(Compose([T.Resize(3)]))


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2), (57, 91)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_extreme_sizes(size, channels):
    image = noise(*size, channels)
    for dtype in (np.uint8, np.float32):
        array = image if dtype == np.uint8 else image.astype(dtype) / np.float32(255)
        key = Key(0, 0, size[0])
        assert T.Resize(8, 9)(array).shape == (9, 8, channels)
        assert min(T.Resize(8)(array).shape[:2]) == 8
        assert T.RandomResizedCrop(8)(array, key).shape == (8, 8, channels)
        assert T.RandomCrop(9, 8, pad_if_needed=True)(array, key).shape == (8, 9, channels)
        assert T.ColorJitter(0.4, 0.4, 0.4, 0.4)(array, key).shape == array.shape
        assert T.RandomErasing(1.0)(array, key).shape == array.shape
        assert T.RandomRotation(30)(array, key).shape == array.shape
        assert T.Grayscale(3)(array).shape == (*array.shape[:2], 3)
        for result in (T.Resize(8)(array), T.RandomRotation(30)(array, key)):
            assert result.dtype == dtype


# ---- numerics ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [noise, photo])
@pytest.mark.parametrize("size", [(224, 224), (50, 300), (640, 400)])
def test_resize_is_pillows(make, size):
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


def test_resize_of_the_shorter_side():
    assert T.Resize(256)(noise(500, 375)).shape == (256, 341, 3)
    assert T.Resize(256)(noise(375, 500)).shape == (341, 256, 3)
    assert T.Resize(10)(noise(10, 1000)).shape == (1000, 10, 3)


def test_crops_flips_and_pads_are_exact():
    image = noise(60, 50)
    np.testing.assert_array_equal(T.CenterCrop(20, 10)(image), image[20:30, 20:40])
    np.testing.assert_array_equal(T.RandomHorizontalFlip(1.0)(image), image[:, ::-1])
    np.testing.assert_array_equal(T.RandomHorizontalFlip(0.0)(image), image)
    np.testing.assert_array_equal(T.RandomVerticalFlip(1.0)(image), image[::-1])
    padded = ImageOps.expand(Image.fromarray(image), (1, 2, 3, 4), (9, 8, 7))
    np.testing.assert_array_equal(T.Pad((1, 2, 3, 4), (9, 8, 7))(image), np.asarray(padded))
    for mode in ("edge", "reflect", "symmetric"):
        expected = np.pad(image, ((4, 4), (3, 3), (0, 0)), mode=mode)
        np.testing.assert_array_equal(T.Pad((3, 4), mode=mode)(image), expected)
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


def test_a_crop_larger_than_the_image():
    image = noise(20, 30)
    for transform in (T.RandomCrop(21, 30), T.CenterCrop(20, 31)):
        with pytest.raises(TransformError, match="pad_if_needed"):
            transform(image)
    np.testing.assert_array_equal(T.RandomCrop(20, 30)(image), image)
    result = T.CenterCrop(24, 32, pad_if_needed=True, fill=3)(image)
    np.testing.assert_array_equal(
        result, np.pad(image, ((1, 1), (2, 2), (0, 0)), constant_values=3)
    )


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


@pytest.mark.parametrize("make", [noise, photo])
@pytest.mark.parametrize("factor", [0.0, 0.35, 1.0, 1.7, 3.0])
def test_color_against_image_enhance(make, factor):
    image = make(90, 70)
    picture = Image.fromarray(image)
    for ours, theirs in (
        (T.adjust_brightness, ImageEnhance.Brightness),
        (T.adjust_contrast, ImageEnhance.Contrast),
        (T.adjust_saturation, ImageEnhance.Color),
    ):
        expected = np.asarray(theirs(picture).enhance(factor)).astype(int)
        difference = abs(ours(image, factor).astype(int) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 0.01
        # The same on floats in [0, 1], and in grey.
        floats = ours(image.astype(np.float32) / np.float32(255), factor)
        assert floats.dtype == np.float32
        assert abs(floats * 255 - expected).mean() < 1
        grey = np.asarray(picture.convert("L"))
        expected = np.asarray(theirs(Image.fromarray(grey)).enhance(factor)).astype(int)
        assert abs(ours(grey[:, :, None], factor)[:, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.05, 0.3, 0.5])
def test_hue_against_pillows_hsv(shift):
    image = np.concatenate([noise(90, 70), photo(90, 70)])
    h, s, v = Image.fromarray(image).convert("HSV").split()
    moved = (np.asarray(h).astype(int) + int(shift * 255)) % 256
    expected = Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), s, v)).convert("RGB")
    difference = abs(T.adjust_hue(image, shift).astype(int) - np.asarray(expected))
    assert difference.mean() < 0.1
    assert difference.max() <= 8
    floats = T.adjust_hue(image.astype(np.float32) / np.float32(255), shift)
    assert abs(floats * 255 - np.asarray(expected)).mean() < 2.5


def test_color_jitter_draws_order_and_factors():
    image = photo(40, 30)
    jitter = T.ColorJitter(0.4, (0.5, 0.6), 0.3, 0.2)
    orders = set()
    adjust = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
    bounds = ((0.6, 1.4), (0.5, 0.6), (0.7, 1.3), (-0.2, 0.2))
    for index in range(60):
        key = Key(2, 0, index)
        stream = key.stream()
        order = stream.permutation(4)
        orders.add(tuple(order))
        expected = image
        values = [stream.uniform(*b) for b in bounds]
        for which in order:
            expected = adjust[which](expected, values[which])
        np.testing.assert_array_equal(jitter(image, key), expected)
    assert len(orders) > 15  # of 24
    np.testing.assert_array_equal(T.ColorJitter()(image), image)


def test_grayscale_is_pillows():
    image = noise(50, 40)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_array_equal(T.Grayscale()(image)[:, :, 0], grey)
    np.testing.assert_array_equal(T.Grayscale(3)(image), np.stack([grey] * 3, 2))


def test_gaussian_blur_by_definition():
    image = photo(30, 20)
    sigma = 1.3
    x = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(image.astype(float), ((3, 3), (3, 3), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(0, 1))
    expected = np.einsum("hwcij,ij->hwc", windows, kernel)
    result = T.GaussianBlur(7, sigma)(image)
    assert abs(result - expected).max() < 0.51


def test_rotation_is_pillows():
    image = photo(40, 30)
    for index in range(5):
        key = Key(1, 0, index)
        angle = key.stream().uniform(-30, 30)
        expected = Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(T.RandomRotation(30)(image, key), np.asarray(expected))
    big = T.RandomRotation((45, 45), expand=True)(image)
    assert big.shape[0] > 40


def test_erasing():
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


def test_augmentation_policies_use_every_operation():
    image = photo(40, 30)
    for policy in (T.RandAugment(1, 30), T.TrivialAugmentWide()):
        results = {policy(image, Key(0, 0, i)).tobytes() for i in range(200)}
        assert len(results) > 15
    with pytest.raises(OptionTypeError, match="before normalisation"):
        T.RandAugment()(T.ImageNetNormalize()(image))
    assert T.TrivialAugmentWide()(T.Grayscale()(image)).shape == (30, 40, 1)


# ---- values and layout ---------------------------------------------------------------------


def test_normalize_then_to_tensor():
    image = noise(33, 21)
    expected = ((image / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)
    for transform in (
        Compose([T.ImageNetNormalize(), T.ToTensor()]),
        Compose([T.ToTensor(), T.ImageNetNormalize()]),
        Compose([T.ToDtype("float32", scale=True), T.ImageNetNormalize(), T.ToTensor()]),
        Compose([T.ToTensor(), T.ToDtype("float32", True), T.Normalize(MEAN, STD)]),
    ):
        result = transform(image)
        assert result.dtype == np.float32
        assert result.flags.c_contiguous
        np.testing.assert_allclose(result, expected, atol=2e-6)
        np.testing.assert_allclose(compile_pipeline(transform).apply(image), expected, atol=2e-6)


def test_to_tensor_keeps_values():
    image = noise(33, 21)
    result = T.ToTensor(TensorFormat.PYTORCH_CHW).apply(image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, image.transpose(2, 0, 1))
    assert torch.from_numpy(result).float().div(255.0).max() <= 1
    np.testing.assert_array_equal(T.ToTensor(TensorFormat.TENSORFLOW_HWC)(result), image)
    # An image of three rows: Compose knows what its shape does not tell.
    small = noise(3, 3)
    result = Compose([T.ToTensor(), T.Resize(5, 3), T.ImageNetNormalize()])(small)
    assert result.shape == (3, 3, 5)


def test_dtypes():
    image = noise(9, 8)
    floats = T.ToDtype("float32", scale=True)(image)
    assert floats.max() <= 1
    np.testing.assert_array_equal(T.ToDtype("uint8", scale=True)(floats), image)
    np.testing.assert_array_equal(T.ToDtype(np.float32)(image), image.astype(np.float32))
    np.testing.assert_array_equal(
        T.ToDtype("uint8")(np.float32([[[-1.0], [3.9], [300.0]]])), [[[0], [3], [255]]]
    )
    assert T.ToDtype("float16", True)(image).dtype == np.float16


def test_wrong_input_and_arguments():
    for bad in ("text", None, 5, np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 3), bool)):
        with pytest.raises(OptionTypeError):
            T.Resize(3)(bad)
    for bad in (
        np.zeros((5, 5, 7), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(OptionError):
            T.Resize(3)(bad)
    assert T.Resize(3, 2)(np.zeros((4, 4), np.uint8)).shape == (2, 3, 1)
    assert T.Resize(3, 2)(np.zeros((4, 4, 3))).dtype == np.float32
    with pytest.raises(OptionError, match="channels"):
        T.ImageNetNormalize()(np.zeros((4, 4, 1), np.uint8))
    for call in (
        lambda: T.Resize(0),
        lambda: T.Resize(5, -1),
        lambda: T.Resize(5, interpolation="sinc"),
        lambda: T.RandomHorizontalFlip(1.5),
        lambda: T.RandomResizedCrop(5, scale=(0.5, 0.1)),
        lambda: T.RandomResizedCrop(5, ratio=(0, 1)),
        lambda: T.ColorJitter(brightness=-1),
        lambda: T.ColorJitter(hue=0.7),
        lambda: T.GaussianBlur(4),
        lambda: T.GaussianBlur(3, 0),
        lambda: T.Grayscale(2),
        lambda: T.Normalize([0.5], [0.0]),
        lambda: T.Normalize([0.5], [0.5] * 3),
        lambda: T.ToDtype("int64"),
        lambda: T.Pad(-1),
        lambda: T.Pad((1, 2, 3)),
        lambda: T.Pad(1, mode="wrap"),
        lambda: T.RandAugment(magnitude=31),
        lambda: T.RandomErasing(value="noise"),
        lambda: T.RandomRotation(5, interpolation="box"),
    ):
        with pytest.raises(OptionError):
            call()
    for call in (lambda: T.Resize(2.5), lambda: T.Lambda(3), lambda: Compose([3])):
        with pytest.raises(OptionTypeError):
            call()


# ---- randomness ----------------------------------------------------------------------------


def test_a_key_decides_everything():
    image = photo(60, 50)
    transform = Compose(
        [T.RandomResizedCrop(20), T.ColorJitter(0.4, 0.4, 0.4), T.RandomErasing(0.8)]
    )
    results = {}
    for seed in (1, 2):
        for epoch in (0, 1):
            for index in (0, 1):
                results[seed, epoch, index] = transform(image, Key(seed, epoch, index))
    assert len({r.tobytes() for r in results.values()}) == 8
    failures = []

    def work():
        for key, expected in results.items():
            if not np.array_equal(transform(image, Key(*key)), expected):
                failures.append(key)

    pool = [threading.Thread(target=work) for _ in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not failures


def test_equal_transforms_at_different_positions_draw_differently():
    image = np.arange(200, dtype=np.uint8).reshape(1, 200, 1)
    flips = Compose([T.RandomHorizontalFlip(), T.Lambda(np.copy), T.RandomHorizontalFlip()])
    unequal = sum(not np.array_equal(flips(image, Key(0, 0, i)), image) for i in range(200))
    assert 60 < unequal < 140


def test_nesting_counts_positions_through():
    image = photo(30, 30)
    a, b, c = T.RandomCrop(25), T.RandomHorizontalFlip(), T.ColorJitter(0.5)
    key = Key(3, 4, 5)
    np.testing.assert_array_equal(
        Compose([a, Compose([b, c])])(image, key), Compose([a, b, c])(image, key)
    )


def draws(transform, count=20):
    image = np.arange(200, dtype=np.uint8).reshape(1, 200, 1)
    return tuple(int(transform(image)[0, 0, 0]) for _ in range(count))


def test_without_a_key_no_two_instances_share_a_stream():
    transforms = [T.RandomCrop(1) for _ in range(10)]
    assert len({draws(t) for t in transforms}) == 10
    assert draws(T.RandomCrop(1, seed=5)) == draws(T.RandomCrop(1, seed=5))
    crop = T.RandomCrop(1)
    assert draws(crop) != draws(crop)
    assert draws(pickle.loads(pickle.dumps(crop))) != draws(pickle.loads(pickle.dumps(crop)))
    assert pickle.loads(pickle.dumps(T.RandomCrop(1, seed=5))).seed == 5


def send_draws(pipe, transform):
    pipe.send(draws(transform))
    pipe.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_other_processes_draw_other_numbers(method):
    context = multiprocessing.get_context(method)
    crop = T.RandomCrop(1, seed=9)
    seen = [draws(crop)]
    for _ in range(2):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=send_draws, args=(theirs, crop))
        process.start()
        theirs.close()
        seen.append(mine.recv())
        process.join()
        mine.close()
    assert len(set(seen)) == 3


# ---- compiled ------------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(
        [
            T.Resize(40, 30),
            T.Resize(33),
            T.Resize(50, 20, "bicubic"),
            T.RandomResizedCrop(32),
            T.RandomCrop(24, 20, pad_if_needed=True, fill=3),
            T.RandomCrop(28, padding=4, pad_if_needed=True),
            T.CenterCrop(26, pad_if_needed=True, fill=(1, 2, 3)),
            T.RandomHorizontalFlip(),
            T.RandomVerticalFlip(),
            T.Pad((1, 2, 3, 4)),
            T.Pad(2, mode="edge"),
            T.ColorJitter(0.3, 0.3),
            T.Lambda(double),
        ]
    ),
    max_size=5,
)
TAILS = st.sampled_from(
    [
        [],
        [T.ToTensor()],
        [T.ImageNetNormalize(), T.ToTensor()],
        [T.ToTensor(), T.ImageNetNormalize()],
        [T.Normalize([0.5], [0.25])],
        [T.ToDtype("float32", scale=True), T.Normalize([0.5], [0.5]), T.ToTensor()],
        [T.ToDtype("float16", scale=True), T.ToTensor()],
        [T.ToDtype("float32")],
        [T.ImageNetNormalize(), T.ToDtype("uint8", True)],
        [T.Grayscale(), T.ToTensor()],
        [T.ImageNetNormalize(), T.RandomErasing(1.0), T.ToTensor()],
    ]
)


@settings(max_examples=150, deadline=None)
@given(STEPS, TAILS, st.integers(1, 90), st.integers(1, 70), st.integers(0, 2**64 - 1))
def test_compiled_is_plain(steps, tail, width, height, seed):
    transform = Compose([*steps, *tail])
    pipeline = pickle.loads(pickle.dumps(compile_pipeline(transform)))
    data = encode(photo(width, height, seed), quality=90)
    array = decode_image(data)
    key = Key(seed, 3, seed // 7)
    expected = transform(array, key)
    decoder = Decoder()
    for result in (pipeline.render(data, key, decoder), pipeline.apply(array, key, decoder)):
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(
            result.astype(float),
            expected.astype(float),
            atol=2e-3 if result.dtype == np.float16 else 2e-6,
        )
    if pipeline.shape is not None:
        assert pipeline.shape == expected.shape
    if pipeline.dtype is not None:
        assert pipeline.dtype == expected.dtype
    png = encode(array, "PNG")
    np.testing.assert_array_equal(pipeline.render(png, key), pipeline.apply(array, key))
    # A slot of a batch, in both layouts.
    for layout in ("CHW", "HWC"):
        slotted = compile_pipeline(transform, layout=layout, dtype="float32")
        channels_first = any(isinstance(step, T.ToTensor) for step in tail)
        wanted = expected.astype(np.float32)
        if channels_first and layout == "HWC":
            wanted = wanted.transpose(1, 2, 0)
        elif not channels_first and layout == "CHW":
            wanted = wanted.transpose(2, 0, 1)
        out = np.full(wanted.shape, np.nan, np.float32)
        slotted.render_into(data, key, out, decoder)
        np.testing.assert_allclose(out, wanted, atol=2e-3)
        out[:] = np.nan
        slotted.apply_into(array, key, out, decoder)
        np.testing.assert_allclose(out, wanted, atol=2e-3)


def test_usual_recipes_compile_into_one_pass():
    tail = [T.ImageNetNormalize(), T.ToTensor()]
    for steps in (
        [T.RandomResizedCrop(224), T.RandomHorizontalFlip()],
        [T.Resize(256), T.CenterCrop(224)],
        [T.Resize(256, 256), T.RandomCrop(224, 224), T.RandomHorizontalFlip(0.5)],
        [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()],
        [T.CenterCrop(100), T.Resize(50, 50), T.Pad(3)],
    ):
        pipeline = compile_pipeline(Compose(steps + tail))
        assert pipeline.compiled
        assert pipeline.dtype == np.float32
        assert pipeline.shape is not None
        assert pipeline.shape[0] == 3
        assert "compiled=True" in repr(pipeline)
    jitter = Compose([T.Resize(256, 256), T.RandomCrop(224), T.ColorJitter(0.2), *tail])
    assert not compile_pipeline(jitter).compiled
    assert compile_pipeline(jitter).shape == (3, 224, 224)
    assert compile_pipeline(None).compiled
    assert compile_pipeline(None).shape is None
    assert compile_pipeline(None).shape_for(28, 20, 1) == (28, 20, 1)
    assert compile_pipeline(T.Resize(9)).shape is None
    assert compile_pipeline(T.Lambda(double)).shape is None
    assert compile_pipeline(Compose(tail), layout="HWC").shape_for(9, 8, 3) == (9, 8, 3)


def test_functions_may_return_anything():
    data = encode(photo(30, 20))
    assert compile_pipeline(lambda image: image.shape).render(data) == (20, 30, 3)
    tensor = compile_pipeline(lambda image: torch.from_numpy(image.copy())).render(data)
    assert tensor.shape == (20, 30, 3)
    grey = compile_pipeline(lambda image: Image.fromarray(image).convert("L"), layout="HWC")
    out = np.empty((20, 30, 1), np.float32)
    grey.render_into(data, None, out)
    np.testing.assert_array_equal(out[:, :, 0], np.asarray(grey.render(data)))
    with pytest.raises(OptionError, match="collate_fn"):
        compile_pipeline(lambda image: {"a": 1}).render_into(data, None, out)


def test_slots_of_another_size_are_refused():
    data = encode(photo(30, 20))
    for transform in (T.Resize(8), Compose([T.ColorJitter(0.1), T.Resize(8)]), None):
        with pytest.raises(OptionError, match="one size"):
            compile_pipeline(transform).render_into(data, None, np.empty((8, 8, 3), np.uint8))
    with pytest.raises(OptionError, match="uint8"):
        compile_pipeline(T.ImageNetNormalize(), dtype="uint8")
    with pytest.raises(OptionError, match="cut"):
        late = compile_pipeline(lambda image: image / np.float32(255), dtype="uint8")
        late.render_into(data, None, np.empty((20, 30, 3), np.uint8))
    for options in ({"layout": "NCHW"}, {"dtype": "float64"}, {"reducing_gap": 0.5}):
        with pytest.raises(OptionError):
            compile_pipeline(None, **options)


def test_reducing_gap():
    data = encode(photo(900, 700), quality=92)
    transform = T.Resize(90, 70)
    exact = transform(decode_image(data)).astype(int)
    np.testing.assert_array_equal(compile_pipeline(transform).render(data), exact)
    fast = compile_pipeline(transform, reducing_gap=3.0).render(data)
    assert abs(fast - exact).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_exif_orientation(orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(30, 20), fmt, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image)
        turned = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(data), stored)
    np.testing.assert_array_equal(decode_image(data, exif_transpose=True), turned)
    transform = Compose([T.Resize(12, 9), T.RandomCrop(8), T.ToTensor()])
    key = Key(1)
    for flag, array in ((False, stored), (True, turned)):
        pipeline = compile_pipeline(transform, exif_transpose=flag)
        np.testing.assert_array_equal(pipeline.render(data, key), transform(array, key))


def test_kinds_of_images_become_rgb():
    image = photo(30, 20)
    picture = Image.fromarray(image)
    for mode, fmt in (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("P", "GIF"),
                      ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "BMP")):  # fmt: skip
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, fmt)
        data = buffer.getvalue()
        with Image.open(io.BytesIO(data)) as stored:
            expected = np.asarray(stored.convert("RGB"))
        np.testing.assert_array_equal(decode_image(data), expected)
        np.testing.assert_array_equal(compile_pipeline(None).render(data), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_truncated_images_are_errors(fmt):
    data = encode(photo(60, 50), fmt)
    pipeline = compile_pipeline(Compose([T.CenterCrop(8), T.ToTensor()]))
    out = np.empty((3, 8, 8), np.uint8)
    for cut in (0, 1, 10, len(data) // 3, len(data) * 2 // 3):
        with pytest.raises(DecodeError):
            decode_image(data[:cut])
        with pytest.raises(DecodeError):
            pipeline.render_into(data[:cut], None, out)


def test_limit_of_pixels():
    for fmt in ("JPEG", "PNG"):
        data = encode(photo(60, 50), fmt)
        with pytest.raises(LimitError):
            decode_image(data, Decoder(2999))
        assert decode_image(data, Decoder(3000)).shape == (50, 60, 3)


@needs_jpeg
def test_only_the_region_is_decoded():
    """Damage below the crop is not seen: those rows are not decoded, only the end is sought."""
    data = encode(photo(400, 400), quality=90)
    broken = bytearray(data)
    at = len(data) * 9 // 10
    broken[at : at + 2] = b"\xff\xd9"
    pipeline = compile_pipeline(Compose([T.Resize(400, 400), T.Lambda(np.copy)]))
    with pytest.raises(DecodeError):
        pipeline.render(bytes(broken))
    out = np.empty((40, 40, 3), np.uint8)
    top = compile_pipeline(Compose([_Top(40), T.ToTensor()]), layout="HWC")
    top.render_into(bytes(broken), None, out)
    np.testing.assert_array_equal(out, decode_image(data)[:40, :40])


class _Top(T.CenterCrop):
    """The upper left corner."""

    def add_to(self, geometry, stream):
        geometry.crop(0, 0, self.width, self.height)


def test_results_that_a_dtype_would_cut_are_refused():
    data = encode(photo(9, 8), "PNG")
    halved = compile_pipeline(lambda image: image / np.float32(255), dtype="uint8")
    with pytest.raises(OptionError, match="uint8 would cut"):
        halved.render(data)
    with pytest.raises(OptionError, match="uint8 would cut"):
        halved.render_into(data, None, np.empty((8, 9, 3), np.uint8))
    with pytest.raises(OptionError, match="int7"):
        compile_pipeline(None, dtype="int7")


def test_a_fill_without_alpha_is_refused_for_images_with_it():
    image = np.zeros((4, 5, 4), np.uint8)
    for steps in ([T.Pad(1, fill=(1, 2, 3))], [T.Pad(1, fill=(1, 2, 3)), T.Lambda(np.copy)]):
        with pytest.raises(OptionError, match="4 channels, fill"):
            compile_pipeline(Compose(steps)).apply(image)
    np.testing.assert_array_equal(
        compile_pipeline(T.Pad(1, fill=(1, 2, 3, 4))).apply(image)[0, 0], (1, 2, 3, 4)
    )


def test_functions_may_return_any_number_of_channels():
    pipeline = compile_pipeline(lambda image: image[:, :, :2])
    assert pipeline.apply(photo(9, 8)).shape == (8, 9, 2)


def test_the_shorter_side_may_be_called_size():
    assert T.Resize(size=5)(photo(20, 10)).shape == T.Resize(5)(photo(20, 10)).shape == (5, 10, 3)
    with pytest.raises(OptionError, match="not both"):
        T.Resize(5, size=5)
    with pytest.raises(OptionTypeError, match="width"):
        T.Resize()
