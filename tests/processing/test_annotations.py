"""Annotation files: the records they become, and the messages for malformed ones."""

from __future__ import annotations

import csv
import functools
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.codecs.json_stream import WINDOW, JsonStream
from imagearchive.errors import ArchiveNotFoundError, LabelError
from imagearchive.processing import pts
from imagearchive.processing.annotations import read_annotations, read_coco, read_csv, read_pts

COCO = "_annotations.coco.json"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read by the functions tested here")


def coco_file(folder, images, marks, categories=({"id": 1, "name": "ear"},), **more):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / COCO
    data = {"images": images, "annotations": marks, "categories": list(categories), **more}
    path.write_text(json.dumps(data, indent=1))
    return path


def test_read_coco_returns_boxes_labels_and_keypoints(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = coco_file(
        tmp_path,
        [
            {"id": 7, "file_name": "a.jpg"},
            {"id": 2**70, "file_name": "b.jpg"},
            {"id": "c", "file_name": "c.jpg"},
        ],
        [
            {"image_id": 2**70, "category_id": 1, "bbox": [0.1, 2, 3.5, 4], "area": 14},
            {"image_id": 7, "category_id": 9, "bbox": [5, 6, 7, 8], "segmentation": [[1, 2, 3]]},
            {"image_id": 2**70, "category_id": 1, "keypoints": [0, 0, 0, 0, 0, 0]},
            {"image_id": 2**70, "category_id": 1, "keypoints": [1, 2, 2, 3, 4, 0]},
        ],
        info={"description": "x", "list": [1, [2, {"images": 3}]]},
    )
    found = read_coco(path)
    assert [os.path.basename(record.path) for record in found.records] == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
    ]
    a, b, c = found.records
    np.testing.assert_array_equal(a.boxes, [[5, 6, 7, 8]])
    assert a.labels == ("9",)
    assert a.keypoints is None
    np.testing.assert_array_equal(b.boxes, [[0.1, 2, 3.5, 4]])
    assert b.labels == ("ear",)
    # The person without a labeled point is skipped.
    np.testing.assert_array_equal(b.keypoints, [[1, 2, 2], [3, 4, 0]])
    assert c.boxes.shape == (0, 4)
    assert not c.annotated
    assert b.annotated
    assert found.problems == []


def test_read_coco_lists_problems(tmp_path):
    touch(tmp_path, "a.jpg")
    path = coco_file(
        tmp_path,
        [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "gone.jpg"}],
        [
            {"image_id": 1, "bbox": [0, 0, 0, 5]},
            {"image_id": 1, "bbox": [0, 0, 4, 5]},
            {"image_id": 99, "bbox": [0, 0, 4, 5]},
            {"image_id": 99, "bbox": [0, 0, 4, 5]},
        ],
    )
    found = read_coco(path)
    assert [record.boxes.tolist() for record in found.records] == [[[0, 0, 4, 5]]]
    reasons = [problem.reason for problem in found.problems]
    assert reasons[0] == "left out a box without area"
    assert found.problems[0].path.startswith(f"{path}, line ")
    assert reasons[1].startswith("2 annotations refer to images")
    assert found.problems[2].path == str(tmp_path / "gone.jpg")
    assert "no such file" in reasons[2]


def test_read_coco_images_of_one_name_become_one_record(tmp_path):
    touch(tmp_path, "a.jpg")
    path = coco_file(
        tmp_path,
        [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}],
        [{"image_id": 2, "bbox": [0, 0, 4, 5]}, {"image_id": 1, "bbox": [1, 1, 4, 5]}],
    )
    (record,) = read_coco(path).records
    assert sorted(record.boxes[:, 0]) == [0, 1]


MARK = '{"image_id": 1, "bbox": %s}'
MALFORMED_COCO = {
    "": "line 1: not valid JSON",
    "[]": "line 1: not valid JSON: expected an object, got '['",
    "{": "expected a quoted key, got the end of the file",
    '{"images": []': "expected ',' or '}', got the end of the file",
    '{"images": []}': "the file has no annotations",
    '{"images": {}, "annotations": []}': "'images' is not a list",
    '{\n"images": [{"id": 1,\n"file_name": "a.jpg"},\n3], "annotations": []}': (
        "line 4: an element of 'images' is not an object"
    ),
    '{"images": [{"id": 1, "file_name": "a.jpg"},\n\n{"id": 1, "file_name": "b.jpg"}]}': (
        "line 3: image id 1 occurs twice"
    ),
    '{"images": [{"id": true, "file_name": "a.jpg"}]}': (
        "image id must be an integer or a string, got True"
    ),
    '{"images": [{"id": 1.5, "file_name": "a.jpg"}]}': (
        "image id must be an integer or a string, got 1.5"
    ),
    '{"images": [{"id": 1}]}': "file_name must be the name of an image, got None",
    '{"images": [{"id": 1, "file_name": ["a"]}]}': "file_name must be",
    '{"images": [], "annotations": [%s]}'
    % (MARK % "[1, 2, 3]"): "bbox must be [x, y, width, height], got 3 values",
    '{"images": [], "annotations": [%s]}' % (MARK % "[1, 2, 3, NaN]"): "not a finite number",
    '{"images": [], "annotations": [%s]}' % (MARK % "[1, 2, 3, 1e999]"): "not a finite number",
    '{"images": [], "annotations": [%s]}' % (MARK % ("[1, 2, 3, 1%s]" % ("0" * 400))): (
        "not a finite number"
    ),
    '{"images": [], "annotations": [%s]}' % (MARK % ("[1, 2, 3, 1%s]" % ("0" * 9000))): (
        "line 1: "
    ),
    '{"images": [], "annotations": [%s]}' % (MARK % '[1, 2, 3, "4"]'): "is not a number",
    '{"images": [], "annotations": [%s]}' % (MARK % "[1, 2, -3, 4]"): "is negative",
    '{"images": [], "annotations": [%s]}' % (MARK % '"abcd"'): "bbox is not a list",
    '{"images": [], "annotations": [{"image_id": 1, "keypoints": [1, 2]}]}': (
        "keypoints must be triples"
    ),
    '{"images": [%s' % ("[" * 100_000): "line 1: ",
    '{"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": []}': " is outside ",
    '{"images": [{"id": 1, "file_name": "/etc/passwd"}], "annotations": []}': " is outside ",
    '{"images": [{"id": 1, "file_name": "..\\\\..\\\\x.jpg"}], "annotations": []}': " is outside ",
    '{"images": [{"id": 1, "file_name": "a\\u0000.jpg"}], "annotations": []}': "null character",
    '{"images": [], "annotations": []} x': "expected the end of the file, got 'x'",
    '{"images": [,], "annotations": []}': "line 1: not valid JSON",
    '{"images" [], "annotations": []}': "expected ':', got '['",
}


@pytest.mark.parametrize("text", MALFORMED_COCO, ids=range(len(MALFORMED_COCO)))
def test_read_coco_malformed_file_raises(tmp_path, text):
    path = tmp_path / COCO
    path.write_text(text)
    with pytest.raises(LabelError) as caught:
        read_coco(path)
    assert MALFORMED_COCO[text] in str(caught.value)
    assert str(path) in str(caught.value)


class CountingInteger(int):
    """An integer that counts how often one is compared with another."""

    comparisons = 0

    def __eq__(self, other):
        CountingInteger.comparisons += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_read_coco_ids_with_the_same_hash_are_not_compared_with_each_other(tmp_path, monkeypatch):
    ids = [(2**61 - 1) * number for number in range(10, 500)]
    assert len(set(map(hash, ids))) == 1
    decoder = functools.partial(json.JSONDecoder, parse_int=CountingInteger)
    monkeypatch.setattr(json, "JSONDecoder", decoder)
    monkeypatch.setattr(CountingInteger, "comparisons", 0)
    images = [{"id": identity, "file_name": f"{identity}.jpg"} for identity in ids]
    marks = [
        {"image_id": identity, "bbox": [1, 2, 3, 4], "category_id": ids[0]} for identity in ids
    ]
    touch(tmp_path, *(image["file_name"] for image in images))
    category = {"id": ids[0], "name": "ear"}
    found = read_coco(coco_file(tmp_path, images, marks, [category]))
    assert len(found.records) == len(ids)
    assert {label for record in found.records for label in record.labels} == {"ear"}
    assert CountingInteger.comparisons < 20 * len(ids)


def test_read_coco_not_utf8_raises(tmp_path):
    path = tmp_path / COCO
    path.write_bytes(b'{"images": [{"id": 1, "file_name": "\xff.jpg"}]}')
    with pytest.raises(LabelError, match="not UTF-8"):
        read_coco(path)


class Trickle(io.StringIO):
    """Gives at most so many characters at a time, however many are asked for."""

    def __init__(self, text, most):
        super().__init__(text)
        self.most = most

    def read(self, size=-1):
        return super().read(self.most)


def read_stream(stream):
    """Read a JSON object whose values under "list" are read element by element."""
    return {
        key: [value for value, _ in stream.elements()] if key == "list" else stream.value()
        for key in stream.members()
    }


@pytest.mark.parametrize("most", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_stream_cut_anywhere_returns_what_json_does(most, indent):
    content = {
        "n": 12, "a": '\\"]}\u00e4\U0001f600', "e": 1.5e-30,
        "list": [[1, {"x": None}], True, -0.25, {}],
        "empty": [], "object": {"deep": [[["[,]"]]]}, "z": -1500,
    }  # fmt: skip
    for ascii_only in (True, False):
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
        assert read_stream(JsonStream("x.json", Trickle(text + "\r\n", most))) == content


@pytest.mark.parametrize("indent", [None, 2])
def test_read_coco_any_window_returns_the_same(tmp_path, indent):
    """The result does not depend on where the windows cut the file."""
    images = [{"id": 10**k, "file_name": f"\u00e4{k}.jpg"} for k in range(4)]
    touch(tmp_path, *(image["file_name"] for image in images))
    marks = [{"image_id": 10**k, "bbox": [k, 1e-3, 1e2, 5]} for k in range(4)]
    data = {"n": 12, "a": '\\"]}', "annotations": marks, "images": images, "z": [], "y": -1.5e3}
    path = tmp_path / COCO
    length = len(json.dumps(data, indent=indent))
    for cut in range(0, length + 20, 17):
        whole = {"padding": "x" * (WINDOW - cut), **data}
        path.write_text("\ufeff" + json.dumps(whole, indent=indent) + "\r\n", encoding="utf-8")
        found = read_coco(path)
        assert [record.boxes.tolist() for record in found.records] == [
            [[float(k), 1e-3, 1e2, 5.0]] for k in range(4)
        ]


def test_read_coco_truncated_file_raises(tmp_path):
    touch(tmp_path, "a.jpg")
    path = coco_file(
        tmp_path,
        [{"id": 1, "file_name": "a.jpg"}],
        [{"image_id": 1, "bbox": [0, 0, 4, 5], "keypoints": [1, 2, 2]}],
    )
    text = path.read_text()
    for end in range(len(text)):
        path.write_text(text[:end])
        with pytest.raises(LabelError):
            read_coco(path)


def test_read_coco_endless_value_raises(tmp_path):
    path = tmp_path / COCO
    with open(path, "w") as file:
        file.write('{"images": [{"id": "')
        # A hole of a terabyte, which reads as zeros.
        file.truncate(1 << 40)
    with pytest.raises(LabelError, match="one value is longer than 33554432 characters"):
        read_coco(path)


@pytest.mark.parametrize(
    ("header", "row", "box"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.jpg,640,480,ear,1,2,11,22.5", 0),
        ("image_path,x1,y1,x2,y2,label", "a.jpg,1,2,11,22.5,ear", 0),
        ("image_path,x,y,w,h,class", "a.jpg,1,2,10,20.5,ear", 0),
        ("class,Filename , X,Y,Width,Height", "ear,a.jpg, 1 ,2,10,20.5", 0),
        ("image,left,top,right,bottom,category", "a.jpg,1,2,11,22.5,ear", 0),
    ],
)
def test_read_csv_column_names(tmp_path, header, row, box):
    touch(tmp_path, "a.jpg")
    path = tmp_path / "x_annotations.csv"
    path.write_text(f"{header}\n{row}\n")
    (record,) = read_csv(path).records
    np.testing.assert_array_equal(record.boxes, [[1, 2, 10, 20.5]])
    assert record.labels == ("ear",)


def test_read_csv_quotes_line_ends_and_empty_boxes(tmp_path):
    touch(tmp_path, "a, b.jpg", 'q".jpg', "sub/c.jpg", "negative.jpg", "new\nline.jpg")
    path = tmp_path / "x_annotations.csv"
    path.write_bytes(
        "\ufefffilename,xmin,ymin,xmax,ymax,class\r\n"
        '"a, b.jpg",1,2,3,4,"left, ear"\r\n'
        "\r\n"
        '"q"".jpg",1,2,3,4,\r\n'
        "sub\\c.jpg,1,2,3,4,ear\r\n"
        "negative.jpg,,,,,\r\n"
        '"new\nline.jpg",1,2,3,4,ear\r\n'
        '"a, b.jpg",5,6,7,8,ear\r\n'
        "gone.jpg,5,6,7,8,ear".encode()
    )
    found = read_csv(path)
    names = [os.path.relpath(record.path, tmp_path) for record in found.records]
    assert names == ["a, b.jpg", 'q".jpg', "sub/c.jpg", "negative.jpg", "new\nline.jpg"]
    assert found.records[0].boxes.tolist() == [[1, 2, 2, 2], [5, 6, 2, 2]]
    assert found.records[0].labels == ("left, ear", "ear")
    assert not found.records[3].annotated
    (problem,) = found.problems
    assert problem.path == str(tmp_path / "gone.jpg")
    assert "line 10" in problem.reason


BOX = "filename,xmin,ymin,xmax,ymax\n"
MALFORMED_CSV = {
    "": "the file is empty",
    "a;b;c\n": "line 1: no column image_path or filename",
    "filename;xmin;ymin;xmax;ymax\na.jpg;1;2;3;4\n": "separated by commas",
    "filename,a,b\n": "line 1: no column xmin, ymin, xmax, ymax",
    "filename,x,x,y\n": "line 1: column 'x' occurs twice",
    BOX + "a.jpg,1,2,3\n": "line 2: 4 fields, but the header has 5",
    BOX + "a.jpg,1,2,3,4\n\na.jpg,1,2,3,x\n": "line 4: 'x' is not a number",
    BOX + "a.jpg,1,2,nan,4\n": "line 2: 'nan' is not a finite number",
    BOX + "a.jpg,1,2,1e999,4\n": "not a finite number",
    BOX + "a.jpg,1,,3,4\n": "line 2: '' is not a number",
    BOX + "a.jpg,3,2,1,4\n": "line 2: the box is -2 by 2 pixels, which is negative",
    BOX + ",1,2,3,4\n": "line 2: the image column must be the name of an image, got ''",
    BOX + '"a.jpg,1,2,3,4\n': "line 2: not valid CSV",
    BOX + "../../../../../etc/passwd,1,2,3,4\n": "line 2: ",
    BOX + "/etc/passwd,1,2,3,4\n": " is outside ",
    BOX + "x" * 200_000: "line 2: not valid CSV",
}


@pytest.mark.parametrize("text", MALFORMED_CSV, ids=range(len(MALFORMED_CSV)))
def test_read_csv_malformed_file_raises(tmp_path, text):
    path = tmp_path / "x_annotations.csv"
    path.write_text(text)
    with pytest.raises(LabelError) as caught:
        read_csv(path)
    assert MALFORMED_CSV[text] in str(caught.value)
    assert str(path) in str(caught.value)


def test_read_csv_not_utf8_raises(tmp_path):
    path = tmp_path / "x_annotations.csv"
    path.write_bytes(BOX.encode() + b"\xff.jpg,1,2,3,4\n")
    with pytest.raises(LabelError, match="not UTF-8"):
        read_csv(path)


@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=8
            ).filter(lambda text: text.strip() not in ("", ".", "..")),
            st.integers(0, 1000),
            st.integers(1, 1000),
        ),
        max_size=6,
    )
)
def test_read_csv_any_quoted_name_is_read_back(rows):
    """Names come back from what `csv.writer` writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["filename", "x", "y", "w", "h"])
        for name, x, w in rows:
            writer.writerow([name, x, x, w, w])
        path = os.path.join(folder, "x_annotations.csv")
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
        found = read_csv(path)
        # None of the images exists, and each is listed as missing.
        assert found.records == []
        assert {os.path.basename(problem.path) for problem in found.problems} == {
            name.strip() for name, _, _ in rows
        }


PTS = "version: 1\nn_points: 3\n{\n1.5 2\n3 4\n-1 0.25\n}\n"


def test_read_pts_returns_keypoints(tmp_path):
    touch(tmp_path, "a.png")
    path = tmp_path / "a.pts"
    path.write_bytes(b"\xef\xbb\xbf" + PTS.replace("\n", "\r\n").encode())
    (record,) = read_pts(path).records
    assert record.path == str(tmp_path / "a.png")
    np.testing.assert_array_equal(record.keypoints, [[1.5, 2, 2], [3, 4, 2], [-1, 0.25, 2]])
    assert record.boxes.shape == (0, 4)


def test_read_pts_missing_image_is_a_problem(tmp_path):
    path = tmp_path / "a.pts"
    path.write_text(PTS)
    found = read_pts(path)
    assert found.records == []
    assert "beside it" in found.problems[0].reason


MALFORMED_PTS = {
    "": "no closing brace",
    "version: 1\nn_points: 2\n{\n1 2\n3 4\n": "line 5: no closing brace",
    "version: 1\nn_points: 2\n{\n1 2\n}": "n_points is 2, but 1 point follows",
    "version: 1\n{\n1 2\n}": "no n_points",
    "n_points: -1\n{\n}": "line 1: n_points must be a number of points, got '-1'",
    "n_points: 99999999999999\n{\n}": "n_points must be a number of points",
    "n_points: 1\n{\n1 2 3\n}": "line 3: expected 'x y', got 3 values",
    "n_points: 1\n{\n1 inf\n}": "not a finite number",
    "n_points: 1\n{\n1 a\n}": "line 3: 'a' is not a number",
    "n_points: 1\n{\n1 2\n}\n1 2\n": "after the closing brace",
    "1 2\n3 4\n": "line 1: expected 'key: value' or '{', got '1 2'",
}


@pytest.mark.parametrize("text", MALFORMED_PTS, ids=range(len(MALFORMED_PTS)))
def test_read_pts_malformed_file_raises(tmp_path, text):
    touch(tmp_path, "a.jpg")
    path = tmp_path / "a.pts"
    path.write_text(text)
    with pytest.raises(LabelError) as caught:
        read_pts(path)
    assert MALFORMED_PTS[text] in str(caught.value)


def test_read_pts_huge_file_raises(tmp_path):
    path = tmp_path / "a.pts"
    with path.open("wb") as file:
        file.truncate(pts.MAX_BYTES + 1)
    with pytest.raises(LabelError, match="at most"):
        read_pts(path)


def test_read_annotations_reads_all_kinds_in_order(tmp_path):
    root = tmp_path / "raw"
    for split in ("train", "valid", "test", "other"):
        touch(root / "Ears-COCO" / split, "a.jpg")
        coco_file(
            root / "Ears-COCO" / split,
            [{"id": 1, "file_name": "a.jpg"}],
            [{"image_id": 1, "bbox": [0, 0, 4, 5]}],
        )
    touch(root / "boxes", "b.jpg")
    (root / "boxes" / "b_annotations.csv").write_text(
        "image_path,x,y,w,h\nb.jpg,1,2,3,4\n../points/c.jpg,1,2,3,4\n"
    )
    touch(root / "points", "c.jpg")
    (root / "points" / "c.pts").write_text(PTS)
    found = read_annotations(root)
    assert [os.path.relpath(record.path, root) for record in found.records] == [
        "Ears-COCO/test/a.jpg",
        "Ears-COCO/train/a.jpg",
        "Ears-COCO/valid/a.jpg",
        "boxes/b.jpg",
        "points/c.jpg",
    ]
    # Two files describe c.jpg: the first has it, the second is listed.
    assert found.records[-1].keypoints is None
    (problem,) = found.problems
    assert problem.path == str(root / "points" / "c.jpg")
    assert "describes this image already" in problem.reason


def test_read_annotations_follows_links_once(tmp_path):
    real = tmp_path / "elsewhere"
    touch(real, "a.jpg")
    (real / "a.pts").write_text(PTS)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "one").symlink_to(real)
    (raw / "two").symlink_to(real)
    (real / "loop").symlink_to(raw)
    (record,) = read_annotations(raw).records
    assert record.path == str(raw / "one" / "a.jpg")


def test_read_annotations_ignores_pipes(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "a.pts").write_text(PTS)
    assert read_annotations(tmp_path).records == []


def test_read_annotations_missing_folder_raises(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="no such folder"):
        read_annotations(tmp_path / "nowhere")
