"""Whole samples: masks, boxes and keypoints go where the pixels of their image go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from support.images import encode, noise, photo

from imagearchive import transforms as T
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms import Compose, Key, compile_pipeline
from imagearchive.transforms.fields import (
    KEY,
    Boxes,
    Image,
    Keypoints,
    Label,
    Mask,
    Sample,
    Text,
)

KINDS = {
    "image": Image(),
    "mask": Mask(fill=255),
    "boxes": Boxes(labels="classes"),
    "points": Keypoints(flip_pairs=[(0, 1)]),
    "classes": Label(),
    "caption": Text(),
}

#: Everything that moves pixels, with a size of results if it is fixed.
MOVING = [
    T.Resize(60, 40, "nearest"),
    T.Resize(50),
    T.RandomResizedCrop(48, (0.3, 1.0), interpolation="nearest"),
    T.RandomCrop(50, 40, padding=7),
    T.CenterCrop(90, 40, pad_if_needed=True),
    T.RandomHorizontalFlip(1.0),
    T.RandomVerticalFlip(1.0),
    T.Pad((3, 5, 2, 7)),
    T.Pad(4, mode="reflect"),
    T.Letterbox(64, 64),
    T.LongestMaxSize(70),
    T.ScaleJitter(60, scale=(0.8, 1.4)),
    T.RandomRotation(25),
    T.RandomRotation(25, expand=True),
    T.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 8),
    T.RandomPerspective(0.3, 1.0, interpolation="nearest"),
    T.RandAugment(3, 12),
    T.TrivialAugmentWide(),
    Compose([T.RandomCrop(60, 50), T.Resize(45, 45, "nearest"), T.RandomHorizontalFlip(1.0)]),
    Compose([T.Resize(50, 50), T.RandomHorizontalFlip(1.0), T.Resize(70, 40), T.Pad(3)]),
]
WIDTH, HEIGHT = 80, 60


def painted(x0, y0, x1, y1):
    """A black image with a white rectangle, the same as a mask, and its box and center."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    center = [(x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2]
    return {
        "image": image,
        "mask": image[:, :, 0] // 255,
        "boxes": np.array([[x0, y0, x1, y1]], np.float32),
        "points": np.array([[*center, 2], [*center, 1], [0, 0, 0]], np.float32),
        "classes": np.array([7]),
        "caption": "a rectangle",
        KEY: "k",
    }


@pytest.mark.parametrize("transform", MOVING, ids=repr)
@given(
    index=st.integers(0, 1000),
    corner=st.tuples(st.integers(20, 40), st.integers(15, 30)),
    sides=st.tuples(st.integers(9, 20), st.integers(9, 20)),
)
@settings(max_examples=25)
def test_compose_of_sample_moves_places_with_the_pixels(transform, index, corner, sides):
    (x0, y0), (w, h) = corner, sides
    sample = painted(x0, y0, x0 + w, y0 + h)
    key = Key(3, 1, index)
    result = transform(sample, key, KINDS)
    np.testing.assert_array_equal(result["image"], transform(sample["image"], key))
    assert result["mask"].shape == result["image"].shape[:2]
    assert result["mask"].dtype == np.uint8
    assert set(np.unique(result["mask"])) <= {0, 1, 255}
    rows, columns = np.nonzero(result["mask"] == 1)
    if len(rows) < 20 or (isinstance(transform, T.Pad) and transform.mode == "reflect"):
        return
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    height, width = result["mask"].shape
    inside = min(seen[0], seen[1]) > 0 and seen[2] < width and seen[3] < height
    if len(result["boxes"]):
        box = result["boxes"][0]
        if inside:
            # The corners of a rotated rectangle reach beyond the outermost centers of pixels.
            np.testing.assert_allclose(box, seen, atol=2.5)
        assert (box[:2] <= np.add(seen[:2], 1.5)).all()
        assert (box[2:] >= np.subtract(seen[2:], 1.5)).all()
        assert result["classes"].tolist() == [7]
    if inside and not isinstance(transform, T.RandomPerspective):
        middle = [columns.mean(), rows.mean()]
        np.testing.assert_allclose(result["points"][0, :2], middle, atol=1.0)
        assert sorted(result["points"][:2, 2]) == [1, 2]
    np.testing.assert_array_equal(result["points"][2], 0)
    assert (result["caption"], result[KEY]) == ("a rectangle", "k")
    np.testing.assert_array_equal(sample["boxes"], [[x0, y0, x0 + w, y0 + h]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.bool_])
def test_compose_of_mask_equals_nearest_of_pillow(dtype):
    mask = np.random.default_rng(0).integers(0, 60000, (37, 53)).astype(dtype)
    steps = Compose([T.CenterCrop(40, 30), T.Resize(31, 17, "bicubic"), T.RandomVerticalFlip(1.0)])
    fields = {"image": Image(), "mask": Mask()}
    result = steps({"image": noise(53, 37), "mask": mask}, Key(1), fields)["mask"]
    plane = Pillow.fromarray(mask.astype(np.int32)).crop((6, 4, 46, 34))
    plane = plane.resize((31, 17), Pillow.Resampling.NEAREST)
    expected = np.asarray(plane.transpose(Pillow.Transpose.FLIP_TOP_BOTTOM)).astype(dtype)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == dtype
    several = np.stack([mask, mask[::-1]])
    both = steps({"image": noise(53, 37), "mask": several}, Key(1), fields)["mask"]
    np.testing.assert_array_equal(both[0], expected)
    assert both.shape == (2, 17, 31)


def test_compose_of_sample_clips_and_drops_boxes_with_their_labels():
    boxes = [[0, 0, 10, 10], [15, 15, 35, 35], [20, 20, 20, 30], [38, 38, 60, 60], [30, 20, 40, 40]]
    sample = {
        "image": noise(60, 60),
        "boxes": np.array(boxes, np.float32),
        "classes": np.arange(5),
        "names": list("abcde"),
    }
    crop = T.CenterCrop(20)  # from (20, 20) to (40, 40)

    def run(**options):
        kind = Boxes(labels=("classes", "names"), **options)
        return crop(sample, fields={"image": Image(), "boxes": kind})

    result = run()
    assert result["classes"].tolist() == [1, 3, 4]
    assert result["names"] == ["b", "d", "e"]
    expected = [[0, 0, 15, 15], [18, 18, 20, 20], [10, 0, 20, 20]]
    np.testing.assert_array_equal(result["boxes"], np.array(expected, np.float32))
    assert result["boxes"].dtype == np.float32
    assert run(min_size=3)["names"] == ["b", "e"]
    assert run(min_visibility=0.57)["names"] == ["e"]
    assert run(min_visibility=0.56)["names"] == ["b", "e"]
    # What earlier steps cut away counts, too.
    steps = Compose([T.CenterCrop(30), T.CenterCrop(20)])
    kind = Boxes(labels="names", min_visibility=0.57)
    assert steps(sample, fields={"image": Image(), "boxes": kind})["names"] == ["e"]


def test_compose_of_sample_without_movement_changes_images_only():
    sample = painted(5, 5, 9, 9) | {"boxes": np.array([[3, 3, 3, 3]], np.float32)}
    result = Compose([T.Grayscale(3), T.ToTensor()])(sample, Key(0), KINDS)
    assert result["image"].shape == (3, HEIGHT, WIDTH)
    for name in ("mask", "boxes", "points", "classes"):
        np.testing.assert_array_equal(result[name], sample[name])


def test_compose_of_sample_without_boxes_or_labels():
    sample = painted(5, 5, 9, 9) | {"boxes": np.zeros((0, 4)), "classes": None, "mask": None}
    result = T.RandomHorizontalFlip(1.0)(sample, fields=KINDS)
    assert result["boxes"].shape == (0, 4)
    assert result["mask"] is None
    assert result["classes"] is None


def test_keypoints_swap_where_the_image_is_mirrored_and_lose_visibility_outside():
    points = np.array([[10, 5, 2], [20, 6, 1], [70, 50, 2], [0, 0, 0]], np.float32)
    sample = {"image": noise(WIDTH, HEIGHT), "points": points}
    fields = {"image": Image(), "points": Keypoints(flip_pairs=[(0, 1)])}
    flipped = T.RandomHorizontalFlip(1.0)(sample, fields=fields)["points"]
    np.testing.assert_array_equal(flipped, [[59, 6, 1], [69, 5, 2], [9, 50, 2], [0, 0, 0]])
    upside_down = Compose([T.RandomHorizontalFlip(1.0), T.RandomVerticalFlip(1.0)])
    turned = upside_down(sample, fields=fields)["points"]
    np.testing.assert_array_equal(turned[0], [69, 54, 2])
    cropped = T.CenterCrop(40, 30)(sample, fields=fields)["points"]
    np.testing.assert_array_equal(cropped[:, 2], [0, 0, 0, 0])
    np.testing.assert_array_equal(cropped[0, :2], [-10, -10])
    people = np.stack([points, points + np.array([1, 0, 0])])
    both = T.RandomHorizontalFlip(1.0)(sample | {"points": people}, fields=fields)["points"]
    np.testing.assert_array_equal(both[0], flipped)
    plain = {"image": Image(), "points": Keypoints()}
    moved = T.RandomHorizontalFlip(1.0)(sample | {"points": points[:, :2]}, fields=plain)
    np.testing.assert_array_equal(moved["points"][0], [69, 5])
    with pytest.raises(OptionError, match="flip_pairs of 'points' names the point 9"):
        T.RandomHorizontalFlip(1.0)(
            sample, fields=fields | {"points": Keypoints(flip_pairs=[(1, 9)])}
        )


def test_images_of_one_sample_share_random_choices():
    image = photo(60, 40)
    fields = {"left": Image(), "right": Image(), "mask": Mask()}
    steps = Compose([T.RandomResizedCrop(20), T.RandomHorizontalFlip(), T.RandomAffine(20)])
    sample = {"left": image, "right": image.copy(), "mask": np.zeros((40, 60), np.uint8)}
    for key in (Key(0), None):
        result = steps(sample, key, fields)
        np.testing.assert_array_equal(result["left"], result["right"])


def test_seed_makes_samples_without_a_key_repeatable():
    def epoch():
        flip = T.RandomHorizontalFlip(seed=4)
        fields = {"image": Image(), "mask": Mask()}
        sample = {"image": noise(9, 8), "mask": noise(9, 8)[:, :, 0]}
        return [flip(sample, fields=fields)["mask"] for _ in range(20)]

    first, second = epoch(), epoch()
    np.testing.assert_array_equal(first, second)
    assert len({mask.tobytes() for mask in first}) == 2


def test_compose_of_dict_without_fields_says_what_to_do():
    with pytest.raises(OptionTypeError, match="pass fields="):
        T.RandomHorizontalFlip()({"image": noise(9, 8)})
    with pytest.raises(OptionError, match="fields names 'mask'"):
        T.RandomHorizontalFlip()({"image": noise(9, 8)}, fields={"mask": Mask()})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": np.zeros((5, 6), np.uint8)}, "'mask' has 6 x 5 pixels, but the image 'image'"),
        ({"mask": np.zeros((HEIGHT, WIDTH), np.float32)}, "must have integer values, got float32"),
        ({"mask": "x"}, "the mask 'mask' must be an array"),
        ({"boxes": np.zeros((3, 5))}, r"boxes 'boxes' must have the shape \(n, 4\), got \(3, 5\)"),
        ({"boxes": [[0, 0, np.nan, 1]]}, "must be finite"),
        ({"points": np.zeros(3)}, "keypoints 'points' must have the shape"),
        ({"classes": np.arange(3)}, "'classes' must have 1 entry, one for each box of 'boxes'"),
        ({"classes": 3}, "'classes' must have 1 entry, one for each box of 'boxes'"),
        ({"image": None}, "the sample has no image"),
    ],
)
def test_compose_of_broken_sample_says_what_is_wrong(values, message):
    with pytest.raises((OptionError, OptionTypeError), match=message):
        T.RandomHorizontalFlip(1.0)(painted(5, 5, 20, 20) | values, Key(0), KINDS)


def test_own_transform_that_does_not_say_where_it_moves_is_refused():
    class Roll(T.Transform):
        moves_pixels = True

        def apply_array(self, array, layout, stream):
            return np.roll(array, 1, 0), layout

    image = noise(9, 8)
    fields = {"image": Image(), "mask": Mask()}
    result = Roll()({"image": image}, fields={"image": Image()})
    np.testing.assert_array_equal(result["image"], np.roll(image, 1, 0))
    with pytest.raises(OptionError, match=r"define its method move\(\)"):
        Roll()({"image": image, "mask": image[:, :, 0]}, fields=fields)


@pytest.mark.needs_torch
def test_compose_of_sample_of_tensors():
    torch = pytest.importorskip("torch")
    image = noise(12, 10)
    sample = {
        "image": torch.from_numpy(image).permute(2, 0, 1),
        "mask": torch.from_numpy(image[:, :, 0].copy()),
    }
    fields = {"image": Image(), "mask": Mask()}
    result = T.RandomHorizontalFlip(1.0)(sample, fields=fields)
    np.testing.assert_array_equal(result["image"].numpy(), image[:, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(result["mask"], image[:, ::-1, 0])


# -- pipelines -----------------------------------------------------------------------------------

STEPS = [T.RandomResizedCrop(32, (0.3, 1.0)), T.RandomHorizontalFlip()]


def encoded_sample(fmt="JPEG", **options):
    image = photo(80, 60)
    sample = painted(20, 15, 60, 45)
    data = encode(image, fmt, **options)
    mask = encode(sample["mask"][:, :, None], "PNG")
    return Sample(sample | {"image": data, "mask": mask}, KINDS)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "steps", [STEPS, [*STEPS, T.ColorJitter(0.4)], [T.RandomRotation(20), *STEPS], []], ids=repr
)
def test_pipeline_render_sample_equals_compose_of_decoded_sample(fmt, steps):
    sample = encoded_sample(fmt)
    steps = [*steps, T.ToTensor(), T.ImageNetNormalize()]
    pipeline = compile_pipeline(Compose(steps), layout="CHW", dtype="float32")
    decoded = Sample(sample | {"image": T.decode_image(sample["image"])}, KINDS)
    decoded["mask"] = painted(20, 15, 60, 45)["mask"]
    for index in range(8):
        key = Key(1, 2, index)
        expected = Compose(steps)(decoded, key)
        result = pipeline.render_sample(sample, key)
        np.testing.assert_allclose(result["image"], expected["image"], atol=1e-5)
        np.testing.assert_array_equal(result["image"], pipeline.render(sample["image"], key))
        for name in ("mask", "boxes", "points", "classes"):
            np.testing.assert_array_equal(result[name], expected[name])
    assert isinstance(sample["image"], bytes)


def test_pipeline_render_sample_writes_into_given_memory():
    pipeline = compile_pipeline(Compose([*STEPS, T.ToTensor()]), layout="CHW", dtype="uint8")
    out = np.zeros(pipeline.shape, pipeline.dtype)
    result = pipeline.render_sample(encoded_sample(), Key(5), out={"image": out})
    assert result["image"] is out
    np.testing.assert_array_equal(out, pipeline.render(encoded_sample()["image"], Key(5)))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pipeline_turns_places_with_the_exif_orientation(orientation, fmt):
    sample = painted(10, 5, 40, 25)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(fmt, {})
    data = encode(sample["image"], fmt, exif=exif, **options)
    encoded = Sample(sample | {"image": data}, KINDS)
    pipeline = compile_pipeline(T.RandomHorizontalFlip(0.0), exif_transpose=True)
    result = pipeline.render_sample(encoded, Key(0))
    seen = result["image"][:, :, 0] > 128
    np.testing.assert_array_equal(seen, result["mask"] == 1)
    rows, columns = np.nonzero(seen)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(result["boxes"][0], box)
    np.testing.assert_allclose(result["points"][0, :2], [columns.mean(), rows.mean()])
    np.testing.assert_array_equal(result["image"], pipeline.render(data, Key(0)))


@pytest.mark.parametrize("orientation", [3, 6])
def test_pipeline_gives_a_tiff_as_the_image_alone_whatever_exif_transpose_is(orientation):
    """Pillow turns every TIFF, so places refer to the image that it returns."""
    sample = painted(10, 5, 40, 25)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    turned = {3: sample["image"][::-1, ::-1], 6: np.rot90(sample["image"])}[orientation]
    data = encode(turned, "TIFF", exif=exif)
    for flag in (False, True):
        pipeline = compile_pipeline(T.RandomHorizontalFlip(0.0), exif_transpose=flag)
        result = pipeline.render_sample(Sample(sample | {"image": data}, KINDS), Key(0))
        np.testing.assert_array_equal(result["image"], sample["image"])
        np.testing.assert_array_equal(result["image"], pipeline.render(data, Key(0)))
        for name in ("mask", "boxes", "points"):
            np.testing.assert_array_equal(result[name], sample[name])


def test_pipeline_render_sample_of_damaged_jpeg_moves_places_alike():
    sample = encoded_sample()
    sample["image"] = sample["image"][: len(sample["image"]) * 3 // 4] + b"\xff\xd9"
    whole = encoded_sample()
    pipeline = compile_pipeline(Compose(STEPS))
    result = pipeline.render_sample(sample, Key(2))
    np.testing.assert_array_equal(result["mask"], pipeline.render_sample(whole, Key(2))["mask"])
