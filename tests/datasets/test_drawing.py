"""Pictures of samples: what is drawn where."""

import numpy as np
import pytest
from PIL import Image as PillowImage
from support.images import noise

from imagearchive import Boxes, Image, Keypoints, Label, Mask, Text, draw
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms import Compose, ImageNetNormalize, Normalize, ToTensor
from imagearchive.transforms.fields import KEY, Sample

FIELDS = {
    "image": Image(),
    "mask": Mask(fill=255),
    "boxes": Boxes(labels="classes"),
    "points": Keypoints(),
    "classes": Label(),
    "caption": Text(),
}


def gray_sample(**values):
    image = np.full((32, 64, 3), 100, np.uint8)
    return Sample({"image": image} | values, FIELDS)


def pixels(picture):
    return np.asarray(picture)


def test_draw_of_image_alone_is_the_image_at_that_size():
    picture = draw(gray_sample(), size=128)
    assert picture.size == (128, 64)
    assert (pixels(picture) == 100).all()


def test_draw_paints_the_mask_but_neither_zero_nor_its_fill():
    mask = np.zeros((32, 64), np.uint8)
    mask[:16, :32], mask[16:, :32] = 3, 255
    picture = pixels(draw(gray_sample(mask=mask), size=64))
    assert (picture[16:] == 100).all()
    assert (picture[:16, 32:] == 100).all()
    assert not (picture[:16, :32] == 100).all(axis=2).any()
    several = pixels(draw(gray_sample(mask=np.stack([mask == 3, mask == 255])), size=64))
    assert len(np.unique(several.reshape(-1, 3), axis=0)) == 3


def test_draw_outlines_boxes_at_their_edges_and_names_their_class():
    sample = gray_sample(boxes=np.array([[8, 4, 24, 20]], np.float32))
    changed = (pixels(draw(sample, size=128)) != 100).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (16, 8, 47, 39)
    assert not changed[12:36, 20:44].any()
    named = gray_sample(boxes=sample["boxes"], classes=np.array([1]))
    with_names = pixels(draw(named, size=128, classes=["cat", "dog"]))
    assert (with_names != pixels(draw(named, size=128))).any()


def test_draw_marks_visible_keypoints_only():
    points = np.array([[10, 10, 2], [40, 20, 0]], np.float32)
    changed = (pixels(draw(gray_sample(points=points), size=64)) != 100).any(axis=2)
    assert changed[10, 10]
    assert not changed[:, 30:].any()


def test_draw_writes_key_and_text_below():
    picture = draw(gray_sample(caption="a very long caption, much longer than the image"), size=64)
    assert picture.width == 64
    assert picture.height > 32
    assert (pixels(picture)[32:] < 50).any()
    assert draw(gray_sample(**{KEY: "k"}), size=64).height == picture.height


@pytest.mark.parametrize("kind", ["float", "normalized", "bytes", "chw"])
def test_draw_shows_images_of_any_range_and_layout(kind):
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = 255
    value = {
        "float": image.astype(np.float32) / 255,
        "normalized": image.astype(np.float32) / 60 - 2,
        "bytes": image.astype(np.float32),
        "chw": image.transpose(2, 0, 1),
    }[kind]
    np.testing.assert_array_equal(
        pixels(draw({"image": value}, {"image": Image()}, size=16)), image
    )


def test_draw_of_batch_tiles_its_samples():
    batch = {
        "image": np.full((5, 3, 32, 64), 100, np.uint8),
        "mask": np.ones((5, 32, 64), np.uint8),
        "boxes": [np.zeros((n, 4), np.float32) for n in range(5)],
        "caption": ["a"] * 5,
    }
    fields = {name: kind for name, kind in FIELDS.items() if name in batch}
    picture = draw(batch, fields, size=64, columns=2)
    assert picture.size == (2 * 68 - 4, 3 * (32 + 18 + 4) - 4)
    empty = {name: value[:0] for name, value in batch.items()}
    assert draw(empty, fields).size[0] >= 1


def test_draw_of_two_images_shows_them_side_by_side():
    fields = {"left": Image(), "right": Image(), "boxes": Boxes(image="right")}
    image = np.full((32, 64, 3), 100, np.uint8)
    values = {"left": image, "right": image, "boxes": np.array([[5, 5, 20, 20]], np.float32)}
    picture = pixels(draw(values, fields, size=64))
    assert picture.shape == (32, 64 + 4 + 64, 3)
    assert (picture[:, :64] == 100).all()
    assert not (picture[:, 68:] == 100).all()


@pytest.mark.needs_torch
def test_draw_of_tensors_equals_that_of_arrays():
    torch = pytest.importorskip("torch")
    image = noise(20, 10)
    sample = {"image": torch.from_numpy(image).permute(2, 0, 1)}
    np.testing.assert_array_equal(
        pixels(draw(sample, {"image": Image()})), pixels(draw({"image": image}, {"image": Image()}))
    )
    pillow = {"image": PillowImage.fromarray(image)}
    assert draw(pillow, {"image": Image()}).size == (256, 128)


def test_draw_of_anything_else_says_what_to_do():
    with pytest.raises(OptionError, match="no field of kind Image"):
        draw({"mask": np.zeros((3, 3), np.uint8)}, {"mask": Mask()})
    with pytest.raises(OptionTypeError, match="pass fields="):
        draw({"image": noise(3, 3)})
    with pytest.raises(OptionError, match="size must be at least 16"):
        draw(gray_sample(), size=3)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("nested", [False, True])
def test_draw_undoes_the_normalization_of_the_transform(layout, nested):
    # Neither black nor white: stretching would show other colors.
    image = np.random.default_rng(0).integers(60, 120, (32, 64, 3)).astype(np.uint8)
    steps = [ImageNetNormalize(), ToTensor()] if layout == "CHW" else [Normalize(0.5, 0.1)]
    transform = Compose([Compose(steps)] if nested else steps)
    changed = transform(Sample({"image": image}, {"image": Image()}))
    expected = pixels(draw(Sample({"image": image}, {"image": Image()}), size=64))
    np.testing.assert_array_equal(pixels(draw(changed, size=64, transform=transform)), expected)
    assert (pixels(draw(changed, size=64)) != expected).any()


def test_draw_undoes_a_normalization_of_values_up_to_255():
    image = np.linspace(0, 255, 32 * 64 * 3).reshape(32, 64, 3).astype(np.float32)
    normalize = Normalize(120.0, 60.0)
    changed = Sample({"image": normalize(image)}, {"image": Image()})
    found = pixels(draw(changed, size=64, transform=normalize))
    np.testing.assert_array_equal(found, np.rint(image).astype(np.uint8))


def test_draw_with_a_normalization_of_other_channels_raises():
    sample = Sample({"image": np.zeros((32, 64, 1), np.float32)}, {"image": Image()})
    with pytest.raises(OptionError, match="the image has 1 channel"):
        draw(sample, transform=ImageNetNormalize())
