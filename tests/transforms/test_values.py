"""Normalize, ToTensor and ToDtype."""

import numpy as np
from support.images import noise

from imagearchive import transforms as T
from imagearchive.transforms import Compose, TensorFormat, compile_pipeline

MEAN = np.float32([0.485, 0.456, 0.406])


STD = np.float32([0.229, 0.224, 0.225])


def test_normalize_and_to_tensor_in_any_order():
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
    np.testing.assert_array_equal(T.ToTensor(TensorFormat.TENSORFLOW_HWC)(result), image)
    # An image of three rows: Compose knows what its shape does not tell.
    small = noise(3, 3)
    result = Compose([T.ToTensor(), T.Resize(5, 3), T.ImageNetNormalize()])(small)
    assert result.shape == (3, 3, 5)


def test_to_tensor_normalize_equals_scaling():
    image = noise(33, 21)
    for format in TensorFormat:
        expected = Compose([T.ToDtype("float32", scale=True), T.ToTensor(format)])(image)
        for steps in ([T.ToTensor(format, True)], [T.ToTensor(format, True), T.ToTensor(format)]):
            transform = Compose(steps)
            result = transform(image)
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, expected)
            np.testing.assert_array_equal(compile_pipeline(transform).apply(image), expected)
    # Values that are floats already are kept.
    normalized = T.ImageNetNormalize()(image)
    transform = Compose([T.ImageNetNormalize(), T.ToTensor(normalize=True)])
    np.testing.assert_array_equal(transform(image), normalized.transpose(2, 0, 1))
    np.testing.assert_array_equal(compile_pipeline(transform).apply(image), transform(image))
    assert compile_pipeline(T.ToTensor(normalize=True)).dtype == np.float32


def test_to_dtype_scales_and_clips():
    image = noise(9, 8)
    floats = T.ToDtype("float32", scale=True)(image)
    assert floats.max() <= 1
    np.testing.assert_array_equal(T.ToDtype("uint8", scale=True)(floats), image)
    np.testing.assert_array_equal(T.ToDtype(np.float32)(image), image.astype(np.float32))
    np.testing.assert_array_equal(
        T.ToDtype("uint8")(np.float32([[[-1.0], [3.9], [300.0]]])), [[[0], [3], [255]]]
    )
    assert T.ToDtype("float16", True)(image).dtype == np.float16
