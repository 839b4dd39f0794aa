"""Compiled pipelines: the same images as the plain transforms."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import encode, noise, photo
from support.rendering import needs_jpeg
from support.transform_cases import double

from imagearchive import transforms as T
from imagearchive.errors import OptionError
from imagearchive.images.render import Decoder
from imagearchive.transforms import Compose, Key, compile_pipeline, decode_image

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


@settings(max_examples=150)
@given(STEPS, TAILS, st.integers(1, 90), st.integers(1, 70), st.integers(0, 2**64 - 1))
def test_pipeline_equals_the_plain_transform(steps, tail, width, height, seed):
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


def test_pipeline_of_usual_recipes_is_one_pass():
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


def test_pipeline_of_functions_returns_what_they_return():
    data = encode(photo(30, 20))
    assert compile_pipeline(lambda image: image.shape).render(data) == (20, 30, 3)
    gray = compile_pipeline(lambda image: Image.fromarray(image).convert("L"), layout="HWC")
    out = np.empty((20, 30, 1), np.float32)
    gray.render_into(data, None, out)
    np.testing.assert_array_equal(out[:, :, 0], np.asarray(gray.render(data)))
    with pytest.raises(OptionError, match="collate_fn"):
        compile_pipeline(lambda image: {"a": 1}).render_into(data, None, out)


def test_pipeline_of_functions_returns_any_number_of_channels():
    pipeline = compile_pipeline(lambda image: image[:, :, :2])
    assert pipeline.apply(photo(9, 8)).shape == (8, 9, 2)


def test_render_into_refuses_output_of_another_size():
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


def test_render_refuses_results_that_uint8_would_cut():
    data = encode(photo(9, 8), "PNG")
    halved = compile_pipeline(lambda image: image / np.float32(255), dtype="uint8")
    with pytest.raises(OptionError, match="uint8 would cut"):
        halved.render(data)
    with pytest.raises(OptionError, match="uint8 would cut"):
        halved.render_into(data, None, np.empty((8, 9, 3), np.uint8))
    with pytest.raises(OptionError, match="int7"):
        compile_pipeline(None, dtype="int7")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pipeline_of_rgba_equals_its_transforms(dtype):
    image = noise(31, 22, 4).astype(dtype)
    for resize in (T.Resize(17, 40), T.RandomResizedCrop(16), T.Resize(31, 22)):
        pad = T.Pad((3, 1, 2, 4), fill=(200, 100, 50, 128))
        steps = T.Compose([T.CenterCrop(31, 20), resize, T.RandomHorizontalFlip(1.0), pad])
        expected = steps(image, Key(5))
        np.testing.assert_array_equal(compile_pipeline(steps).apply(image, Key(5)), expected)
        np.testing.assert_array_equal(expected[0, 0], (200, 100, 50, 128))


def test_pipeline_refuses_fill_without_alpha_for_rgba():
    image = np.zeros((4, 5, 4), np.uint8)
    for steps in ([T.Pad(1, fill=(1, 2, 3))], [T.Pad(1, fill=(1, 2, 3)), T.Lambda(np.copy)]):
        with pytest.raises(OptionError, match="4 channels, but fill"):
            compile_pipeline(Compose(steps)).apply(image)
    np.testing.assert_array_equal(
        compile_pipeline(T.Pad(1, fill=(1, 2, 3, 4))).apply(image)[0, 0], (1, 2, 3, 4)
    )


def test_reducing_gap_is_close_to_exact():
    data = encode(photo(900, 700), quality=92)
    transform = T.Resize(90, 70)
    exact = transform(decode_image(data)).astype(int)
    np.testing.assert_array_equal(compile_pipeline(transform).render(data), exact)
    fast = compile_pipeline(transform, reducing_gap=3.0).render(data)
    assert abs(fast - exact).mean() < 1


@needs_jpeg
def test_pipeline_decodes_only_the_region_it_needs():
    """Damage below the crop is not seen: those rows are not decoded, only the end is sought."""
    data = encode(photo(400, 400), quality=90)
    broken = bytearray(data)
    at = len(data) * 9 // 10
    broken[at : at + 2] = b"\xff\xd9"
    pipeline = compile_pipeline(Compose([T.Resize(400, 400), T.Lambda(np.copy)]))
    decoder = Decoder()
    pipeline.render(bytes(broken), None, decoder)
    assert decoder.damaged_images == 1
    out = np.empty((40, 40, 3), np.uint8)
    top = compile_pipeline(Compose([_TopLeft(40), T.ToTensor()]), layout="HWC")
    top.render_into(bytes(broken), None, out, decoder)
    assert decoder.damaged_images == 1
    np.testing.assert_array_equal(out, decode_image(data)[:40, :40])


class _TopLeft(T.CenterCrop):
    """The upper left corner."""

    def add_to(self, geometry, stream):
        geometry.crop(0, 0, self.width, self.height)
