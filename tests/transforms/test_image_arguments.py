"""Arguments of transforms: what is refused, with which error, and how NumPy scalars count."""

import math

import numpy as np
import pytest

from imagearchive import transforms as T
from imagearchive.errors import ImageArchiveError, OptionError, OptionTypeError
from imagearchive.transforms import Compose, Key, compile_pipeline

INF, NAN = math.inf, math.nan
IMAGE = np.zeros((10, 12, 3), np.uint8)

WRONG_TYPE = {
    "size as text": lambda: T.RandomResizedCrop("224"),
    "width of a fraction": lambda: T.Resize(2.5),
    "size as a fraction": lambda: T.RandomResizedCrop(224.0),
    "None for a size": lambda: T.RandomResizedCrop(None),
    "a boolean for a size": lambda: T.RandomResizedCrop(True),
    "one bound": lambda: T.RandomResizedCrop(5, scale=0.5),
    "bounds as text": lambda: T.RandomResizedCrop(5, scale="ab"),
    "seed as text": lambda: T.RandomCrop(5, seed="x"),
    "seed as a fraction": lambda: T.RandomCrop(5, seed=1.5),
    "width as text": lambda: T.Resize("3"),
    "a pair for a width": lambda: T.Resize((224, 224)),
    "crop of a fraction": lambda: T.CenterCrop(5.0),
    "a transform for a list": lambda: Compose(T.Resize(3)),
    "None for a list": lambda: Compose(None),
    "a class": lambda: Compose([int]),
    "a transform's class": lambda: Compose([T.Resize]),
    "a number for a function": lambda: Compose([3]),
    "a text for a list": lambda: Compose("abc"),
    "a number for Lambda": lambda: T.Lambda(3),
    "a class to compile": lambda: compile_pipeline(T.Resize),
    "a number to compile": lambda: compile_pipeline(3),
    "mean as text": lambda: T.Normalize("abc", "abc"),
    "None for a mean": lambda: T.Normalize(None, None),
    "probability as text": lambda: T.RandomHorizontalFlip("0.5"),
    "None for a probability": lambda: T.RandomHorizontalFlip(None),
    "factor as text": lambda: T.ColorJitter("a"),
    "None for a factor": lambda: T.ColorJitter(None),
    "an unknown dtype": lambda: T.ToDtype("int7"),
    "kernel as text": lambda: T.GaussianBlur("5"),
    "kernel of a fraction": lambda: T.GaussianBlur(5.0),
    "two kernels": lambda: T.GaussianBlur((5, 5)),
    "a boolean for a kernel": lambda: T.GaussianBlur(True),
    "sigma as text": lambda: T.GaussianBlur(3, "a"),
    "padding as text": lambda: T.Pad("12"),
    "padding of a fraction": lambda: T.Pad(1.5),
    "paddings of fractions": lambda: T.Pad((1.5, 2)),
    "None for padding": lambda: T.Pad(None),
    "fill as text": lambda: T.Pad(1, fill="abc"),
    "None for fill": lambda: T.Pad(1, fill=None),
    "fill of a rotation as text": lambda: T.RandomRotation(30, fill="a"),
    "degrees as text": lambda: T.RandomRotation("30"),
    "None for a value": lambda: T.RandomErasing(1, value=None),
    "operations as text": lambda: T.RandAugment("2"),
    "operations of a fraction": lambda: T.RandAugment(2.5),
    "magnitude of a fraction": lambda: T.RandAugment(2, 9.5),
    "bins as text": lambda: T.RandAugment(2, num_magnitude_bins="a"),
    "bins of a fraction": lambda: T.TrivialAugmentWide(2.5),
    "a number for a key": lambda: T.RandomCrop(5)(IMAGE, 3),
    "a tuple for a key": lambda: Compose([T.RandomCrop(5)])(IMAGE, (1, 2, 3, 0)),
    "a key of fractions": lambda: T.RandomCrop(5)(IMAGE, Key(1.5)),
    "a factor as text": lambda: T.adjust_brightness(IMAGE, "1"),
    "expand as text": lambda: T.RandomRotation(5, expand="no"),
    "scale as text": lambda: T.ToDtype("float32", scale="no"),
    "pad_if_needed as text": lambda: T.CenterCrop(5, pad_if_needed="no"),
    "exif_transpose as text": lambda: compile_pipeline(None, exif_transpose="no"),
    "reducing_gap as text": lambda: compile_pipeline(None, reducing_gap="1"),
}

WRONG_VALUE = {
    "empty size": lambda: T.RandomResizedCrop(()),
    "half a size": lambda: T.RandomResizedCrop((224,)),
    "infinite area": lambda: T.RandomResizedCrop(5, scale=(0.5, INF)),
    "NaN area": lambda: T.RandomResizedCrop(5, scale=(NAN, 1)),
    "infinite ratio": lambda: T.RandomResizedCrop(5, ratio=(1, INF)),
    "ratio of 0": lambda: T.RandomResizedCrop(5, ratio=(0, 1)),
    "zero": lambda: T.Resize(0),
    "negative": lambda: T.Resize(-1),
    "negative height": lambda: T.Resize(5, -1),
    "unknown interpolation": lambda: T.Resize(5, interpolation="sinc"),
    "interpolation of resizing": lambda: T.RandomRotation(5, interpolation="box"),
    "descending area": lambda: T.RandomResizedCrop(5, scale=(0.5, 0.1)),
    "huge": lambda: T.Resize(2**70),
    "an interpolation by number": lambda: T.Resize(5, interpolation=2),
    "interpolations": lambda: T.Resize(5, interpolation=["bilinear"]),
    "other lengths": lambda: T.Normalize([0.5], [0.5] * 3),
    "two channels": lambda: T.Normalize([0.5] * 2, [0.5] * 2),
    "deviation of 0": lambda: T.Normalize([0.5], [0.0]),
    "NaN deviation": lambda: T.Normalize([0.5], [NAN]),
    "infinite deviation": lambda: T.Normalize([0.5], [INF]),
    "NaN mean": lambda: T.Normalize([NAN], [1.0]),
    "probability of 2": lambda: T.RandomHorizontalFlip(2),
    "probability of NaN": lambda: T.RandomHorizontalFlip(NAN),
    "negative factor": lambda: T.ColorJitter(brightness=-1),
    "infinite factor": lambda: T.ColorJitter(INF),
    "infinite bound": lambda: T.ColorJitter((0.5, INF)),
    "half a bound": lambda: T.ColorJitter((0.5,)),
    "hue over half a circle": lambda: T.ColorJitter(hue=0.6),
    "negative hue": lambda: T.ColorJitter(hue=-0.1),
    "hue bounds over half a circle": lambda: T.ColorJitter(hue=(-0.6, 0.1)),
    "another dtype": lambda: T.ToDtype("int64"),
    "None for a dtype": lambda: T.ToDtype(None),
    "another layout": lambda: T.ToTensor("NCHW"),
    "even kernel": lambda: T.GaussianBlur(4),
    "kernel of 0": lambda: T.GaussianBlur(0),
    "sigma of 0": lambda: T.GaussianBlur(3, 0),
    "sigma that underflows": lambda: T.GaussianBlur(3, 1e-200),
    "infinite sigma": lambda: T.GaussianBlur(3, INF),
    "NaN sigma": lambda: T.GaussianBlur(3, NAN),
    "two gray channels": lambda: T.Grayscale(2),
    "gray channels as text": lambda: T.Grayscale("3"),
    "negative padding": lambda: T.Pad(-1),
    "three paddings": lambda: T.Pad((1, 2, 3)),
    "empty padding": lambda: T.Pad(()),
    "huge padding": lambda: T.Pad(2**70),
    "another mode": lambda: T.Pad(1, mode="wrap"),
    "empty fill": lambda: T.Pad(1, fill=()),
    "two fills": lambda: T.Pad(1, fill=(1, 2)),
    "NaN fill": lambda: T.Pad(1, fill=NAN),
    "empty fill of a crop": lambda: T.RandomCrop(5, padding=1, fill=()),
    "three paddings of a crop": lambda: T.RandomCrop(5, padding=(1, 2, 3)),
    "infinite rotation": lambda: T.RandomRotation(INF),
    "one bound of a rotation": lambda: T.RandomRotation((1,)),
    "descending bounds of a rotation": lambda: T.RandomRotation((5, 1)),
    "two values": lambda: T.RandomErasing(1, value=(1, 2)),
    "NaN value": lambda: T.RandomErasing(1, value=NAN),
    "area of more than 1": lambda: T.RandomErasing(1, scale=(0, 2)),
    "infinite rectangle": lambda: T.RandomErasing(1, ratio=(1, INF)),
    "a word": lambda: T.RandomErasing(1, value="noise"),
    "bins of 0": lambda: T.TrivialAugmentWide(0),
    "magnitude beyond the bins": lambda: T.RandAugment(magnitude=31),
    "negative operations": lambda: T.RandAugment(-1),
    "NaN factor": lambda: T.adjust_contrast(IMAGE, NAN),
    "negative adjustment": lambda: T.adjust_saturation(IMAGE, -0.1),
    "hue of more than half a circle": lambda: T.adjust_hue(IMAGE, 0.51),
}


@pytest.mark.parametrize("call", WRONG_TYPE.values(), ids=WRONG_TYPE.keys())
def test_wrong_type_raises_option_type_error(call):
    with pytest.raises(OptionTypeError) as caught:
        call()
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("call", WRONG_VALUE.values(), ids=WRONG_VALUE.keys())
def test_wrong_value_raises_option_error(call):
    with pytest.raises(OptionError) as caught:
        call()
    assert isinstance(caught.value, ValueError)


def test_message_names_the_argument_and_what_is_allowed():
    for call, words in (
        (
            lambda: T.RandomResizedCrop("224"),
            ["size must be an integer or (width, height), got '224'"],
        ),
        (
            lambda: T.Resize((224, 224)),
            ["width must be an integer, got (224, 224)", "as two arguments"],
        ),
        (lambda: T.ColorJitter(hue=0.7), ["hue must be at most 0.5, got 0.7"]),
        (lambda: Compose([T.Resize]), ["is a class", "Resize(...)", "Lambda"]),
        (lambda: T.RandomHorizontalFlip(2), ["p must be at most 1, got 2"]),
        (lambda: T.ToDtype("int7"), ["dtype must be 'uint8', 'float16' or 'float32', got 'int7'"]),
        (
            lambda: T.Pad(1, fill=(1, 2)),
            ["fill must be one number, or one for each channel", "got (1, 2)"],
        ),
        (lambda: T.RandAugment(magnitude=40), ["magnitude must be at most 30, got 40"]),
    ):
        with pytest.raises(ImageArchiveError) as caught:
            call()
        for word in words:
            assert word in str(caught.value)


def test_numpy_scalars_count_as_numbers():
    for ours, plain in (
        (T.Resize(np.int32(5), np.int64(4)), T.Resize(5, 4)),
        (T.RandomResizedCrop((np.int64(5), 4), np.array([0.5, 1])), None),
        (T.ColorJitter(np.int64(1), hue=np.float64(0.25)), T.ColorJitter(1, hue=0.25)),
        (T.Pad(np.int64(2), fill=np.array([1, 2, 3])), T.Pad(2, fill=(1, 2, 3))),
        (T.Pad([np.int8(1), 2]), T.Pad((1, 2))),
        (T.Normalize(np.float32(0.5), np.float32(0.25)), T.Normalize(0.5, 0.25)),
        (T.RandomRotation(np.float32(30)), T.RandomRotation(30)),
        (T.Grayscale(np.int64(3)), T.Grayscale(3)),
        (T.RandomHorizontalFlip(np.float32(0.5)), T.RandomHorizontalFlip(0.5)),
        (T.GaussianBlur(np.int64(3), np.float64(1.5)), T.GaussianBlur(3, 1.5)),
        (T.RandomErasing(1, value=np.float32([1, 2, 3])), None),
        (T.RandomCrop(3, seed=np.int64(7)), T.RandomCrop(3, seed=7)),
    ):
        assert "np." not in repr(ours)
        if plain is not None:
            assert repr(ours).replace(".0", "") == repr(plain).replace(".0", "")
    crop, plain_key = T.RandomCrop(5), Key(3, 1, 7)
    for key in (Key(np.int64(3), np.uint8(1), np.int32(7)), Key(3, 1, np.uint64(7))):
        np.testing.assert_array_equal(crop(ramp(), key), crop(ramp(), plain_key))
    # Keys count modulo their width, whatever the sign.
    assert Key(-1).stream().random() == Key(2**64 - 1).stream().random()


def ramp():
    return np.arange(120, dtype=np.uint8).reshape(10, 12, 1)


def test_list_arguments_are_copied():
    fill = [1, 2, 3]
    pad = T.Pad(2, fill)
    fill[:] = [9, 9, 9]
    assert pad(IMAGE)[0, 0].tolist() == [1, 2, 3]
    assert "fill=(1, 2, 3)" in repr(pad)


def test_fill_is_rounded_and_clipped_for_uint8():
    image = np.full((20, 20, 3), 77, np.uint8)
    erasing = lambda value: T.RandomErasing(1.0, value=value)(image, Key(1))  # noqa: E731
    assert set(np.unique(erasing(300))) == {77, 255}
    assert set(np.unique(erasing(-5))) == {0, 77}
    assert set(np.unique(erasing(1.7))) == {2, 77}
    assert set(np.unique(T.Pad(1, fill=300)(image))) == {77, 255}
    turned = T.RandomRotation((45, 45), fill=300)
    assert set(np.unique(turned(image))) == {77, 255}
    assert set(np.unique(turned(image[:, :, :1]))) == {77, 255}
    assert set(np.unique(T.RandAugment(2, 30, fill=-9)(image, Key(3)))) <= set(range(256))


def test_fill_needs_a_number_for_each_channel():
    rgba, gray = np.zeros((9, 8, 4), np.uint8), np.zeros((9, 8, 1), np.uint8)
    for transform in (
        T.Pad(1, fill=(1, 2, 3)),
        T.RandomCrop(9, padding=4, fill=(1, 2, 3)),
        T.CenterCrop(20, pad_if_needed=True, fill=(1, 2, 3)),
        T.RandomRotation(30, fill=(1, 2, 3)),
        T.RandomErasing(1.0, (0.5, 0.5), (1, 1), value=(1, 2, 3)),
    ):
        with pytest.raises(OptionError, match="4 channels"):
            transform(rgba)
    np.testing.assert_array_equal(T.Pad(1, fill=(1, 2, 3, 4))(rgba)[0, 0], np.uint8([1, 2, 3, 4]))
    # Gray images take the first.
    assert T.Pad(1, fill=(1, 2, 3))(gray)[0, 0].tolist() == [1]
    assert T.RandAugment(1, 30, fill=(1, 2, 3))(gray, Key(1)).shape == gray.shape
