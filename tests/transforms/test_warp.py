"""Rotation and perspective, against Pillow and against torchvision's way of drawing corners."""

import pickle
import platform
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import encode, from_pillow, noise, photo, same_distribution, to_pillow

from imagearchive import transforms as T
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.images.render import warp_array
from imagearchive.transforms import Compose, Key, compile_pipeline, decode_image
from imagearchive.transforms.fields import Boxes, Mask, Sample
from imagearchive.transforms.fields import Image as ImageField
from imagearchive.transforms.warp import WARP_FILTERS, homography

SIDES = st.one_of(st.sampled_from([1, 2, 3, 17]), st.integers(1, 60))


def corners_of(width, height):
    return [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]


def drawn_corners(transform, width, height, key):
    """The corners that a transform with p=1 draws for a key."""
    stream = key.stream()
    stream.random()
    return transform.corners(width, height, stream)


def pillows_perspective(array, coefficients, interpolation, fill=None):
    image = to_pillow(array)
    method = Image.Resampling[interpolation.upper()]
    warped = image.transform(
        image.size, Image.Transform.PERSPECTIVE, coefficients, method, fillcolor=fill
    )
    return from_pillow(warped)


# ---- RandomRotation ------------------------------------------------------------------------


ANGLES = st.one_of(
    st.sampled_from([-180.0, -90.0, 0.0, 45.0, 90.0, 180.0, 270.0, 450.0]), st.floats(-400, 400)
)


def pillows_rotation(array, angle, interpolation, expand, fill):
    method = Image.Resampling[interpolation.upper()]
    color = fill if len(fill) > 1 else fill[0]
    return from_pillow(to_pillow(array).rotate(angle, method, expand, fillcolor=color))


@settings(max_examples=200)
@given(
    SIDES, SIDES, st.sampled_from([1, 3, 4]), st.sampled_from(WARP_FILTERS), ANGLES, st.booleans(),
)  # fmt: skip
def test_random_rotation_equals_pillow(width, height, channels, interpolation, angle, expand):
    """Within one level, without interpolation exactly; on x86-64 all are equal bit for bit."""
    image, fill = noise(width, height, channels), (10, 20, 30, 255)[:channels]
    result = T.RandomRotation((angle, angle), interpolation, expand, fill)(image, Key(1))
    expected = pillows_rotation(image, angle, interpolation, expand, fill).astype(int)
    assert result.shape == expected.shape
    most = 0 if interpolation == "nearest" or platform.machine() == "x86_64" else 1
    assert abs(result - expected).max(initial=0) <= most


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("interpolation", WARP_FILTERS)
def test_random_rotation_of_floats_equals_pillow(interpolation, expand):
    image = np.random.default_rng(3).standard_normal((31, 43, 3)).astype(np.float32)
    result = T.RandomRotation((25, 25), interpolation, expand, 0.5)(image, Key(4))
    for c in range(3):
        plane = np.ascontiguousarray(image[:, :, c])[:, :, None]
        expected = pillows_rotation(plane, 25, interpolation, expand, (0.5,))[:, :, 0]
        np.testing.assert_allclose(result[:, :, c], expected, atol=1e-5)


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 33])
@pytest.mark.parametrize("expand", [False, True])
def test_random_rotation_moves_mask_and_boxes_as_the_image(angle, expand):
    """A painted rectangle is found in image and mask, and its box is around it."""
    image, mask = np.zeros((30, 44, 3), np.uint8), np.zeros((30, 44), np.uint8)
    image[9:20, 13:30], mask[9:20, 13:30] = 200, 7
    fields = {"image": ImageField(), "mask": Mask(), "boxes": Boxes()}
    boxes = np.array([[13, 9, 30, 20]], np.float32)
    sample = Sample({"image": image, "mask": mask, "boxes": boxes}, fields)
    moved = T.RandomRotation((angle, angle), "nearest", expand)(sample, Key(1))
    np.testing.assert_array_equal(moved["mask"] > 0, moved["image"][:, :, 0] > 0)
    rows, columns = np.nonzero(moved["mask"])
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(moved["boxes"], [found], atol=1e-3 if angle != 33 else 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_random_rotation_premultiplies_alpha(dtype):
    image = np.zeros((20, 24, 4), dtype)
    image[:, :] = (0, 255, 0, 0)
    image[:, :12] = (200, 0, 0, 255)
    result = T.RandomRotation((30, 30), "bilinear", fill=(200, 0, 0, 100))(image, Key(1))
    visible = result[result[:, :, 3] > 64]
    assert len(np.unique(visible[:, 3])) > 3
    np.testing.assert_allclose(visible[:, 1], 0, atol=1e-3)
    np.testing.assert_allclose(visible[:, 0], 200, atol=2)
    assert (result[0, 0, 3], result[0, 0, 1]) == (100, 0)


def test_random_rotation_expand_shows_the_whole_image():
    result = T.RandomRotation((45, 45), expand=True)(photo(40, 30))
    assert result.shape[0] > 40
    assert result.shape[1] > 40


# ---- RandomPerspective ---------------------------------------------------------------------


@settings(max_examples=150)
@given(
    SIDES, SIDES, st.sampled_from([1, 3, 4]), st.sampled_from(WARP_FILTERS), st.floats(0, 1),
    st.integers(0, 10**6),
)  # fmt: skip
def test_random_perspective_equals_pillow(width, height, channels, interpolation, scale, seed):
    """Within one level; on x86-64 all filters are equal bit for bit."""
    image, key = noise(width, height, channels, seed), Key(seed)
    transform = T.RandomPerspective(scale, 1.0, interpolation)
    corners = drawn_corners(transform, width, height, key)
    coefficients = homography(corners, corners_of(width, height))
    expected = pillows_perspective(image, coefficients, interpolation).astype(int)
    # Pillow rounds the colors of transparent images also where no corner moves.
    if corners == corners_of(width, height):
        expected = image
    assert abs(transform(image, key) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", WARP_FILTERS)
def test_random_perspective_of_floats_equals_pillow(interpolation):
    image = np.random.default_rng(3).standard_normal((31, 43, 3)).astype(np.float32)
    transform, key = T.RandomPerspective(0.6, 1.0, interpolation, fill=0.5), Key(4)
    corners = drawn_corners(transform, 43, 31, key)
    coefficients = homography(corners, corners_of(43, 31))
    result = transform(image, key)
    for c in range(3):
        plane = np.ascontiguousarray(image[:, :, c])[:, :, None]
        expected = pillows_perspective(plane, coefficients, interpolation, 0.5)[:, :, 0]
        np.testing.assert_allclose(result[:, :, c], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_random_perspective_premultiplies_alpha(dtype):
    """The color of transparent pixels must not show at the edge of opaque ones."""
    image = np.zeros((20, 24, 4), dtype)
    image[:, :] = (0, 255, 0, 0)
    image[:, :12] = (200, 0, 0, 255)
    result = T.RandomPerspective(0.5, 1.0, "bilinear")(image, Key(1))
    # Colors of nearly transparent pixels are rounded to few levels, as by Pillow.
    visible = result[result[:, :, 3] > 64]
    assert len(np.unique(visible[:, 3])) > 3
    np.testing.assert_allclose(visible[:, 1], 0, atol=1e-3)
    np.testing.assert_allclose(visible[:, 0], 200, atol=2)


def test_random_perspective_distortion_0_is_identity():
    for channels in (1, 3, 4):
        image = noise(30, 20, channels)
        for interpolation in WARP_FILTERS:
            transform = T.RandomPerspective(0, 1.0, interpolation, fill=9)
            np.testing.assert_array_equal(transform(image, Key(1)), image)
    # The native code agrees, alpha aside.
    out = np.empty((20, 30, 3), np.uint8)
    for interpolation in WARP_FILTERS:
        warp_array(image[:, :, :3].copy(), [1, 0, 0, 0, 1, 0, 0, 0], interpolation, [9] * 3, out)
        np.testing.assert_array_equal(out, image[:, :, :3])


def test_random_perspective_p_0_and_1():
    image = noise(30, 20)
    for index in range(50):
        key = Key(2, 0, index)
        np.testing.assert_array_equal(T.RandomPerspective(1, 0.0)(image, key), image)
    changed = [
        not np.array_equal(T.RandomPerspective(1, p)(image, Key(2, 0, index)), image)
        for p in (0.3, 1.0)
        for index in range(1000)
    ]
    # Four standard deviations; all corners stay where they are once in 4,000,000 draws.
    assert abs(sum(changed[:1000]) - 300) < 4 * np.sqrt(1000 * 0.3 * 0.7)
    assert sum(changed[1000:]) == 1000


def test_random_perspective_key_decides_the_result():
    image, transform = photo(40, 30), T.RandomPerspective(0.5, 1.0)
    expected = [transform(image, Key(0, 0, index)) for index in range(20)]
    assert len({result.tobytes() for result in expected}) == 20
    copy = pickle.loads(pickle.dumps(transform))
    wrong = []

    def work():
        results = [copy(image, Key(0, 0, index)) for index in range(20)]
        wrong.extend(i for i in range(20) if not np.array_equal(results[i], expected[i]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    seeded = [T.RandomPerspective(0.5, 1.0, seed=3)(image) for _ in range(2)]
    np.testing.assert_array_equal(*seeded)


def torchvisions_corners(rng, width, height, scale):
    """RandomPerspective.get_params as torchvision's documentation words it."""
    across, down = int(scale * (width // 2)), int(scale * (height // 2))
    left = rng.integers(0, across + 1, 2)
    top = rng.integers(0, down + 1, 2)
    right = rng.integers(width - across - 1, width, 2)
    bottom = rng.integers(height - down - 1, height, 2)
    return [
        (left[0], top[0]), (right[0], top[1]), (right[1], bottom[0]), (left[1], bottom[1]),
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "scale"), [((224, 160), 0.5), ((31, 90), 1.0), ((7, 3), 0.4)])
def test_random_perspective_draws_corners_as_torchvision(size, scale):
    transform, rng = T.RandomPerspective(scale, 1.0), np.random.default_rng(1)
    ours = np.array([transform.corners(*size, Key(0, 0, i).stream()) for i in range(4000)])
    theirs = np.array([torchvisions_corners(rng, *size, scale) for _ in range(4000)])
    for corner in range(4):
        for axis in range(2):
            a, b = ours[:, corner, axis], theirs[:, corner, axis]
            assert same_distribution(a, b)
            assert (a.min(), a.max()) == (b.min(), b.max())
    # The corners are independent of one another.
    flat = ours.reshape(4000, 8).astype(float)
    moving = flat[:, flat.std(0) > 0]
    correlation = np.corrcoef(moving.T) - np.eye(moving.shape[1])
    assert abs(correlation).max() < 0.08


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 400), (400, 1), (3, 500)])
def test_random_perspective_of_tiny_images(size, channels):
    image = noise(*size, channels)
    for interpolation in WARP_FILTERS:
        for scale in (0.0, 0.5, 1.0):
            transform = T.RandomPerspective(scale, 1.0, interpolation, fill=7)
            for index in range(20):
                result = transform(image, Key(0, 0, index))
                assert result.shape == image.shape
                assert result.dtype == np.uint8
    # One pixel cannot move, and neither can the row of an image of one row.
    np.testing.assert_array_equal(T.RandomPerspective(1, 1.0)(image[:1, :1], Key(1)), image[:1, :1])


def test_random_perspective_fill_is_what_lies_outside():
    image = np.full((40, 60, 3), 77, np.uint8)
    for fill, expected in (((1, 2, 3), (1, 2, 3)), (300, (255,) * 3), (-5, (0,) * 3)):
        result = T.RandomPerspective(1, 1.0, "nearest", fill)(image, Key(5)).reshape(-1, 3)
        assert {tuple(map(int, pixel)) for pixel in result} == {(77, 77, 77), expected}
    floats = T.RandomPerspective(1, 1.0, fill=-0.5)(image.astype(np.float32), Key(5))
    assert set(np.unique(floats)) == {-0.5, 77.0}
    with pytest.raises(OptionError, match="4 channels"):
        T.RandomPerspective(p=0.0, fill=(1, 2, 3))(np.zeros((4, 4, 4), np.uint8))


@pytest.mark.parametrize("arguments", [
    {"distortion_scale": -0.1}, {"distortion_scale": 1.1}, {"distortion_scale": float("nan")},
    {"p": 2}, {"p": -1}, {"interpolation": "lanczos"}, {"interpolation": 2}, {"fill": (1, 2)},
    {"fill": ()}, {"fill": float("inf")},
])  # fmt: skip
def test_random_perspective_refuses_values(arguments):
    with pytest.raises(OptionError, match=f"^{next(iter(arguments))} must be "):
        T.RandomPerspective(**arguments)


@pytest.mark.parametrize("arguments", [
    {"distortion_scale": "0.5"}, {"distortion_scale": None}, {"distortion_scale": True},
    {"p": "1"}, {"p": (0, 1)}, {"fill": "red"}, {"fill": None}, {"seed": 1.5},
])  # fmt: skip
def test_random_perspective_refuses_types(arguments):
    with pytest.raises(OptionTypeError, match=f"^{next(iter(arguments))} must be "):
        T.RandomPerspective(**arguments)


def test_random_perspective_in_a_pipeline_equals_the_plain_transform():
    transform = Compose([
        T.RandomResizedCrop(40), T.RandomPerspective(0.5, 1.0), T.RandomHorizontalFlip(),
        T.ImageNetNormalize(), T.ToTensor(),
    ])  # fmt: skip
    pipeline = compile_pipeline(transform)
    assert pipeline.shape == (3, 40, 40)
    assert pipeline.dtype == np.float32
    data = encode(photo(90, 70))
    out = np.empty((4, 3, 40, 40), np.float32)
    keys = [Key(0, 0, index) for index in range(4)]
    pipeline.render_all_into([data] * 4, keys, out)
    for key, result in zip(keys, out):
        np.testing.assert_allclose(result, transform(decode_image(data), key), atol=2e-6)


# ---- homography ----------------------------------------------------------------------------


def project(coefficients, x, y):
    a, b, c, d, e, f, g, h = coefficients
    divisor = g * x + h * y + 1
    return (a * x + b * y + c) / divisor, (d * x + e * y + f) / divisor


@given(st.lists(st.integers(0, 300), min_size=8, max_size=8), st.sampled_from([1, 100, 10_000]))
def test_homography_takes_points_to_points(offsets, factor):
    """Any convex quadrangle: the corners of a square, each moved inwards by at most 30 %."""
    side = 1000 * factor
    square = corners_of(side + 1, side + 1)
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    points = [
        (x + sx * offsets[2 * i] * factor, y + sy * offsets[2 * i + 1] * factor)
        for i, ((x, y), (sx, sy)) in enumerate(zip(square, signs))
    ]
    coefficients = homography(points, square)
    for point, image in zip(points, square):
        np.testing.assert_allclose(project(coefficients, *point), image, atol=1e-6 * side)


def test_homography_of_equal_points_is_exactly_the_identity():
    for size in ((1, 1), (1, 9), (9, 1), (640, 480), (65_500, 3)):
        corners = corners_of(*size)
        assert homography(corners, corners) == [1, 0, 0, 0, 1, 0, 0, 0]


# ---- the native sampler --------------------------------------------------------------------


def test_warp_array_points_at_infinity_are_fill():
    image = noise(9, 8)
    out = np.empty((50, 60, 3), np.uint8)
    for coefficients in (
        [0] * 6 + [-1 / 4.5, 0],  # the divisor is zero in the fifth column
        [1e308] * 8,
        [-1e308] * 8,
        [float("nan")] * 8,
        [float("inf")] * 8,
        [0, 0, 1e300, 0, 0, 1e300, 0, 0],
    ):
        for interpolation in WARP_FILTERS:
            out[:] = 0
            warp_array(image, coefficients, interpolation, (1, 2, 3), out)
            assert (out[:, 4] == (1, 2, 3)).all()


def test_warp_array_scales_strided_input_to_another_size():
    wide = noise(40, 60, 3)
    image = wide[10:50:2, 5:35]
    out = np.empty((10, 15, 3), np.uint8)
    warp_array(image, [2, 0, 0, 0, 2, 0, 0, 0], "nearest", (0, 0, 0), out)
    np.testing.assert_array_equal(out, image[1::2, 1::2])


def test_warp_array_refuses_what_does_not_fit():
    image, identity = noise(9, 8), [1, 0, 0, 0, 1, 0, 0, 0]
    out = np.empty((8, 9, 3), np.uint8)
    for arguments in (
        (image, identity[:7], "nearest", (0, 0, 0), out),
        (image, identity, "nearest", (0, 0), out),
        (image, identity, "lanczos", (0, 0, 0), out),
        (image, identity, "sharp", (0, 0, 0), out),
        (image, identity, "nearest", (0, 0, 0), out[:, :, :1]),
        (image, identity, "nearest", (0, 0, 0), out.astype(np.float32)),
        (image, identity, "nearest", (0, 0, 0), out[:, ::-1]),
        (image[:, :, :2], identity, "nearest", (0, 0), out[:, :, :2]),
    ):
        with pytest.raises(OptionError):
            warp_array(*arguments)
