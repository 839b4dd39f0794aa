"""From a record to the sample that is stored: boxes at the edges of the image and of numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagearchive.processing.annotation_records import Problem, Record
from imagearchive.processing.tasks import DecodeOptions, Job, _region, decode_task, job_of

NUMBERS = st.floats(-1e4, 1e4) | st.sampled_from([0.0, 1e308, -1e308, math.inf, -math.inf])


@pytest.fixture
def image(tmp_path):
    path = str(tmp_path / "i.png")
    Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)).save(path)
    return path


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
@settings(max_examples=300)
def test_region_covers_the_pixels_of_the_box(box):
    x, y, w, h = box
    expected = [
        (column, row)
        for column in range(30)
        for row in range(20)
        if x < column + 1 and x + w > column and y < row + 1 and y + h > row
    ]
    region = _region(box, 30, 20)
    if not expected:
        assert region is None
    else:
        left, top, right, bottom = region
        assert (left, top) == expected[0]
        assert (right - 1, bottom - 1) == expected[-1]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1e308, 1, 2], [-1e308, 1, 1]], "outside"),
        ([[1e308, 1, 2], [5, 9, 1]], (0, 0, 30, 10)),
        ([[10, 10, 1], [20, 10, 1]], "outside"),
        ([[10, 10, 1], [20, 15, 1], [0, 0, 0]], (9, 9, 12, 7)),
    ],
)
def test_decode_task_teacher_crops_around_keypoints(image, points, expected):
    record = Record(image, np.empty((0, 4)), keypoints=np.array(points, np.float64))
    found = decode_task([job_of("teacher", record)], DecodeOptions())
    if expected == "outside":
        assert [problem.path for problem in found.problems] == [image]
        assert "outside" in found.problems[0].reason
    else:
        (box,) = found.columns["bboxes"]
        assert tuple(box) == expected
        left, top, width, height = expected
        whole = np.asarray(Image.open(image))
        np.testing.assert_array_equal(
            found.columns["images"][0], whole[top : top + height, left : left + width]
        )


def test_decode_task_coordinates_beyond_float32_are_problems(image):
    huge = np.array([[1.0, 1.0, 1e300, 5.0]])
    good = np.array([[1.0, 1.0, 4.0, 5.0]])
    jobs = [
        Job(image, boxes=huge),
        Job(image, boxes=good),
        Job(image, keypoints=np.array([[1e300, 0.0, 2.0]])),
    ]
    for size in (None, (8, 8)):
        for box_format in ("xywh", "xyxy"):
            found = decode_task(jobs[:2], DecodeOptions(size, box_format))
            assert found.count == 1
            assert found.problems == [
                Problem(image, "bboxes: a coordinate is larger than float32 can hold")
            ]
        found = decode_task(jobs[2:], DecodeOptions(size))
        assert "keypoints: " in found.problems[0].reason
