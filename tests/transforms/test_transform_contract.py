"""What every transform promises: inputs, keys, pickling, repr."""

import pickle
import warnings

import numpy as np
import pytest
from PIL import Image
from support.images import noise, photo
from support.transform_cases import ALL, ANY_IMAGE, FOR_SAMPLES, TRANSFORMS, name_of, run

from imagearchive import transforms as T
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms import Compose, Key
from imagearchive.transforms.moves import with_contiguous_rows

KEY = Key(5, 1, 2)


def pixels(height, width, channels, dtype=np.uint8, seed=0):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return array if dtype == np.uint8 else array.astype(dtype) / dtype(255)


@pytest.mark.parametrize("transform", ALL, ids=name_of)
def test_transform_is_a_function_of_image_and_key(transform):
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


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name_of)
def test_repr_evaluates_to_an_equal_transform(transform):
    names = {**vars(T)}
    again = eval(repr(transform), names)
    assert repr(again) == repr(transform)
    key = Key(1, 2, 3)
    image = photo(40, 41)
    np.testing.assert_array_equal(again(image, key), transform(image, key))


@pytest.mark.parametrize("transform", FOR_SAMPLES, ids=name_of)
def test_transform_of_samples_refuses_an_image_alone(transform):
    again = pickle.loads(pickle.dumps(eval(repr(transform), {**vars(T)})))
    assert repr(again) == repr(transform)
    with pytest.raises(OptionError, match=r"boxes|DataLoader"):
        transform(photo(40, 41), Key(1))


def test_repr_shows_arguments():
    assert repr(T.Resize(256, 224)) == "Resize(width=256, height=224, interpolation='bilinear')"
    assert repr(T.ImageNetNormalize()) == "ImageNetNormalize()"
    assert repr(T.ToTensor()) == "ToTensor(format=TensorFormat.PYTORCH_CHW, normalize=False)"
    assert repr(T.RandomHorizontalFlip(0.2, seed=4)) == "RandomHorizontalFlip(p=0.2, seed=4)"
    assert "Resize(width=3" in repr(Compose([T.Resize(3)]))


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2), (57, 91)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_transform_of_extreme_sizes(size, channels):
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


@pytest.mark.parametrize("transform", ANY_IMAGE, ids=name_of)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_transform_of_any_memory_layout(transform, dtype, channels):
    array = pixels(16, 20, channels, dtype)
    expected = run(transform, array, KEY)
    bytes_ = np.zeros(array.nbytes + 1, np.uint8)
    unaligned = bytes_[1:].view(dtype).reshape(array.shape)
    unaligned[...] = array
    wide = np.zeros((32, 60, channels + 2), dtype)
    wide[::2, ::3, 1:-1] = array
    views = [
        np.asfortranarray(array),
        np.ascontiguousarray(array[::-1])[::-1],
        np.ascontiguousarray(array[:, ::-1])[:, ::-1],
        np.ascontiguousarray(array[:, :, ::-1])[:, :, ::-1],
        np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0),
        wide[::2, ::3, 1:-1],
        unaligned,
    ]
    # Compilers may count on it that a float32 lies where one belongs.
    assert with_contiguous_rows(unaligned).flags.aligned
    for view in views:
        view.setflags(write=False)
        np.testing.assert_array_equal(run(transform, view, KEY), expected)
    if channels == 1:
        np.testing.assert_array_equal(run(transform, array[:, :, 0], KEY), expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3), (5, 5, 0), (5,), (2, 3, 5, 6), ()])
@pytest.mark.parametrize("transform", ANY_IMAGE, ids=name_of)
def test_transform_refuses_arrays_that_are_not_images(transform, shape):
    with pytest.raises(OptionError):
        run(transform, np.zeros(shape, np.uint8), KEY)


@pytest.mark.parametrize("transform", ANY_IMAGE, ids=name_of)
def test_transform_of_nan_affects_only_its_neighborhood(transform):
    """NaN and infinity in one pixel: no error, no warning, and the other corner is as before."""
    array = pixels(40, 40, 3, np.float32)
    broken = array.copy()
    broken[0, 0] = (np.nan, np.inf, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = run(transform, broken, KEY)
    # Contrast depends on the mean of all pixels.
    if not isinstance(transform, T.ColorJitter) and transform is not T.adjust_contrast:
        assert np.isnan(result).sum() < np.isnan(result).size / 2
        np.testing.assert_array_equal(np.isfinite(run(transform, array, KEY)), True)


def test_transform_refuses_input_of_wrong_type_or_shape():
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
    with pytest.raises(OptionError, match="channel"):
        T.ImageNetNormalize()(np.zeros((4, 4, 1), np.uint8))


def test_transform_cases_include_every_transform():
    exported = {
        value
        for name in T.__all__
        if isinstance(value := getattr(T, name), type) and issubclass(value, T.Transform)
    }
    bases = {T.Transform, T.GeometricTransform}
    assert {type(transform) for transform in (*TRANSFORMS, *FOR_SAMPLES)} == exported - bases
