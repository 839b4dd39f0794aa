"""Boxes and keypoints go where the published formulas of torchvision say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import joint_geometry as oracle

from imagearchive import transforms as T
from imagearchive.transforms import Key
from imagearchive.transforms.fields import Boxes, Image, Keypoints

WIDTH, HEIGHT = 80, 60
FIELDS = {"image": Image(), "boxes": Boxes(min_size=0.0), "points": Keypoints()}
#: In pixels. Values are float32, and those of an image this large have 17 bits after the point.
TOLERANCE = 1e-3

coordinates = st.tuples(
    st.floats(5, 35, width=32), st.floats(5, 25, width=32),
    st.floats(5, 30, width=32), st.floats(5, 25, width=32),
)  # fmt: skip


def moved(transform, boxes, points, index=0):
    """Return the boxes and points that a transform makes, and the size of the image."""
    sample = {
        "image": np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        "boxes": np.asarray(boxes, np.float32),
        "points": np.asarray(points, np.float32),
    }
    result = transform.apply(sample, Key(0, 0, index), FIELDS)
    height, width = result["image"].shape[:2]
    return result["boxes"], result["points"], (width, height)


AFFINE = [(0, 1.0, (0, 0)), (30, 1.0, (0, 0)), (-110, 1.0, (0, 0)), (0, 0.7, (0, 0)),
          (0, 1.0, (12, 0)), (0, 1.0, (0, -9)), (25, 1.2, (10, -6))]  # fmt: skip
FIXED = {
    "resize": (T.Resize(37, 91), lambda p: oracle.resize(p, (WIDTH, HEIGHT), (37, 91))),
    "crop": (T.CenterCrop(60, 44), lambda p: oracle.crop(p, 10, 8)),
    "flip": (T.RandomHorizontalFlip(1.0), lambda p: oracle.flip(p, WIDTH)),
    "crop-resize-flip": (
        T.Compose([T.CenterCrop(60, 44), T.Resize(30, 88), T.RandomHorizontalFlip(1.0)]),
        lambda p: oracle.flip(oracle.resize(oracle.crop(p, 10, 8), (60, 44), (30, 88)), 30),
    ),
} | {
    f"affine{case}": (
        T.RandomAffine((angle, angle), None, (scale, scale), np.repeat(shear, 2).tolist()),
        lambda p, angle=angle, scale=scale, shear=shear: oracle.affine(
            p, (WIDTH, HEIGHT), angle, (0, 0), scale, shear
        ),
    )
    for case, (angle, scale, shear) in enumerate(AFFINE)
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
@settings(max_examples=20)
@given(place=coordinates)
def test_joint_boxes_and_keypoints_equal_published_formulas(name, place):
    transform, formula = FIXED[name]
    x, y, w, h = place
    box = np.array([[x, y, x + w, y + h]], np.float32)
    points = np.array([[x, y], [x + w, y + h], [40, 30]], np.float32)
    boxes, found, size = moved(transform, box, points)
    expected = oracle.boxes_around(formula(oracle.corners(box)), *size)
    if (expected[0, 2:] - expected[0, :2]).min() > 1:
        np.testing.assert_allclose(boxes, expected, atol=TOLERANCE)
    # Keypoints count from the center of the first pixel.
    np.testing.assert_allclose(found, formula(points + 0.5) - 0.5, atol=TOLERANCE)


@pytest.mark.parametrize("index", range(8))
def test_random_perspective_moves_all_points_by_one_homography(index):
    box = np.array([[20, 15, 50, 45]], np.float32)
    frame = np.array([[10, 8], [70, 8], [70, 50], [10, 50]], np.float32)
    inner = np.array([[40, 30], [25, 40], [60, 12]], np.float32)
    boxes, points, size = moved(
        T.RandomPerspective(0.4, 1.0), box, np.concatenate([frame, inner]), index
    )
    assert not np.allclose(points[:4], frame, atol=0.5)

    def formula(p):
        return oracle.perspective(p, frame + 0.5, points[:4] + 0.5)

    # The homography comes from four float32 points here, which costs digits.
    np.testing.assert_allclose(points[4:], formula(inner + 0.5) - 0.5, atol=0.01)
    expected = oracle.boxes_around(formula(oracle.corners(box)), *size)
    np.testing.assert_allclose(boxes, expected, atol=0.01)
