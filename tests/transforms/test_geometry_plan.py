"""Geometries that are drawn natively, for many images at once, are those of single images."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagearchive import transforms as T
from imagearchive.errors import OptionError, TransformError
from imagearchive.images.geometry_plan import GeometryPlan
from imagearchive.transforms import Key, compile_pipeline
from imagearchive.transforms.random_keys import SampleKeys
from imagearchive.transforms.stages import GeometricStage

SIZES = [(40, 32), (32, 40), (70, 33), (33, 33), (120, 34)]


def encode(size, name="JPEG", **options):
    rng = np.random.default_rng(sum(size))
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, name, **options)
    return buffer.getvalue()


IMAGES = [encode(size, name) for size in SIZES for name in ("JPEG", "PNG")]

fills = st.sampled_from([0, 7.5, (1, 2, 3)])
filters = st.sampled_from(["nearest", "box", "bilinear", "bicubic", "lanczos"])
bounds = st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0)).map(sorted)
ratios = st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 10.0)).map(sorted)
crops = st.one_of(
    st.builds(T.RandomResizedCrop, st.just((20, 16)), bounds, ratios, filters),
    st.builds(
        lambda side, tail: [T.Resize(size=side, interpolation="bicubic"), tail],
        st.integers(20, 60),
        st.sampled_from([T.RandomCrop(20, 16), T.CenterCrop(20, 16)]),
    ),
    st.builds(lambda f: T.Resize(20, 16, f), filters),
    st.builds(
        lambda padding, fill: T.RandomCrop(20, 16, padding=padding, fill=fill),
        st.sampled_from([None, 4, (3, 0, 1, 2)]),
        fills,
    ),
    st.builds(
        lambda kind, fill: [
            T.Resize(size=9),
            kind(20, 16, pad_if_needed=True, fill=fill),
        ],
        st.sampled_from([T.RandomCrop, T.CenterCrop]),
        fills,
    ),
    st.builds(lambda fill: [T.Resize(16, 15), T.Pad((4, 0, 0, 1), fill)], fills),
)
flips = st.sampled_from([[], [T.RandomHorizontalFlip()], [T.RandomVerticalFlip(0.3)]])
ends = st.sampled_from([[], [T.ImageNetNormalize(), T.ToTensor()]])


def compose(crop, flip, end):
    return T.Compose([*(crop if isinstance(crop, list) else [crop]), *flip, *end])


@given(
    st.builds(compose, crops, flips, ends),
    st.integers(-(2**70), 2**70),
    st.integers(0, 2**33),
    st.integers(0, 2**40),
)
def test_plan_renders_the_same_as_images_one_by_one(transform, seed, epoch, first):
    pipeline = compile_pipeline(transform)
    keys = [Key(seed, epoch, first + k) for k in range(len(IMAGES))]
    expected = np.stack(
        [pipeline.render(data, key) for data, key in zip(IMAGES, keys, strict=True)]
    )
    out = np.empty_like(expected)
    pipeline.render_all_into(IMAGES, keys, out)
    assert np.array_equal(out, expected)
    again = np.empty_like(expected)
    pickle.loads(pickle.dumps(pipeline)).render_all_into(IMAGES, keys, again)
    assert np.array_equal(again, expected)


def test_sample_keys_equal_a_list_of_keys():
    keys = SampleKeys(-5, 3, [7, 2, 9])
    assert list(keys) == [Key(-5, 3, 7), Key(-5, 3, 2), Key(-5, 3, 9)]
    assert keys[1] == Key(-5, 3, 2)
    assert list(keys[1:]) == [Key(-5, 3, 2), Key(-5, 3, 9)]
    assert list(SampleKeys.from_keys(list(keys))) == list(keys)


def test_plan_with_sample_keys_renders_the_same_as_with_keys():
    pipeline = compile_pipeline(T.Compose([T.RandomResizedCrop(8), T.RandomHorizontalFlip()]))
    files = IMAGES * 17
    keys = SampleKeys(4, 1, list(range(len(files), 0, -1)))
    out = np.empty((len(files), 8, 8, 3), np.uint8)
    pipeline.render_all_into(files, keys, out)
    expected = [pipeline.render(data, key) for data, key in zip(files, list(keys), strict=True)]
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("last", [Key(4, 2, 5), Key(5, 1, 5)])
def test_plan_of_keys_of_several_epochs_renders_the_same_as_one_by_one(last):
    pipeline = compile_pipeline(T.RandomResizedCrop(8))
    keys = [Key(4, 1, 5), last]
    out = np.empty((2, 8, 8, 3), np.uint8)
    pipeline.render_all_into(IMAGES[:2], keys, out)
    expected = [pipeline.render(data, key) for data, key in zip(IMAGES, keys, strict=False)]
    assert np.array_equal(out, expected)


def test_plan_of_fewer_keys_than_images_raises():
    pipeline = compile_pipeline(T.RandomResizedCrop(8))
    out = np.empty((2, 8, 8, 3), np.uint8)
    with pytest.raises(OptionError, match="2 images need 2 keys, got 1"):
        pipeline.render_all_into(IMAGES[:2], [Key(0)], out)


@pytest.mark.parametrize(
    "transform",
    [
        T.Compose([T.RandomResizedCrop(8), T.RandomHorizontalFlip()]),
        T.Compose([T.RandomCrop(8, padding=2, pad_if_needed=True), T.RandomVerticalFlip()]),
        T.Compose([T.Resize(size=8), T.CenterCrop(8)]),
        T.Compose([T.Resize(6, 6), T.Pad(1)]),
    ],
    ids=repr,
)
def test_plan_needs_no_python_geometry(monkeypatch, transform):
    pipeline = compile_pipeline(transform)

    def refuse(self, width, height, key):
        raise AssertionError("a geometry was made in Python")

    monkeypatch.setattr(GeometricStage, "geometry", refuse)
    out = np.zeros((len(IMAGES), 8, 8, 3), np.uint8)
    pipeline.render_all_into(IMAGES, [Key(0, 0, k) for k in range(len(IMAGES))], out)
    assert out.reshape(len(IMAGES), -1).any(1).all()


def test_plan_leaves_what_it_refuses_to_python():
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = [encode((40, 32), exif=turned), encode((40, 32), "WEBP"), encode((40, 32), "GIF")]
    files = [odd[0], IMAGES[0], odd[1], odd[2], *IMAGES * 15, odd[1]]
    pipeline = compile_pipeline(T.RandomResizedCrop(8))
    keys = [Key(3, 1, k) for k in range(len(files))]
    out = np.empty((len(files), 8, 8, 3), np.uint8)
    pipeline.render_all_into(files, keys, out)
    for file, key, image in zip(files, keys, out, strict=True):
        assert np.array_equal(image, pipeline.render(file, key))


class Shifted(T.RandomResizedCrop):
    """Overrides a method, as users do."""

    def box(self, width, height, stream):
        return 0, 0, 5, 5


class Whole(T.RandomHorizontalFlip):
    def add_to(self, geometry, stream):
        geometry.flip_y()


@pytest.mark.parametrize("transform", [Shifted(8), T.Compose([T.Resize(8, 8), Whole()])])
def test_plan_of_a_subclass_that_overrides_a_method_is_not_used(transform):
    pipeline = compile_pipeline(transform)
    out = np.empty((1, 8, 8, 3), np.uint8)
    pipeline.render_all_into(IMAGES[:1], [Key(0)], out)
    assert np.array_equal(out[0], transform.apply(Image.open(io.BytesIO(IMAGES[0])), Key(0)))


def test_plan_of_an_image_that_is_too_small_raises():
    pipeline = compile_pipeline(T.RandomCrop(35))
    out = np.empty((2, 35, 35, 3), np.uint8)
    with pytest.raises(TransformError, match="only 40 x 32 pixels"):
        pipeline.render_all_into([encode((36, 36)), IMAGES[0]], [Key(0), Key(1)], out)


def test_plan_of_another_size_than_the_output_raises():
    pipeline = compile_pipeline(T.Resize(size=8))
    with pytest.raises(OptionError, match=r"\(8, 10, 3\), but the batch needs \(8, 8, 3\)"):
        pipeline.render_all_into([IMAGES[0]], [Key(0)], np.empty((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    "step",
    [
        ("turn", 1),
        ("resize", 1 << 24, 5, "bilinear"),
        ("random_crop", 5, -1),
        ("pad", 1, 1, 1, 1, (float("nan"),)),
    ],
)
def test_plan_with_a_wrong_operation_raises_option_error(step):
    with pytest.raises(OptionError):
        GeometryPlan([(0, step)])
