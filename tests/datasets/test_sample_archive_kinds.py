"""`SampleArchive`: how members become values of each kind of field."""

import io

import numpy as np
import pytest
from support.archives import encoded
from support.sample_archives import MASKS, npy

import imagearchive
from imagearchive import (
    Array,
    Boxes,
    Bytes,
    Field,
    Keypoints,
    Label,
    Mask,
    Npz,
    SampleArchive,
    Text,
)
from imagearchive.errors import DecodeError


@pytest.mark.parametrize(
    ("kind", "name", "data", "wanted"),
    [
        (Text, "caption", b"a\nb ", "a\nb "),
        (Bytes, "bin", b"\0\1", b"\0\1"),
        (Label, "cls", b" 7\n", 7),
        (Label, "txt", b"2.5", 2.5),
        (Label, "json", b"7", 7),
        (Label, "txt", b"1 2\n3", np.array([1.0, 2.0, 3.0])),
        (Label, "npy", npy(np.array(3)), 3),
        (Array, "npy", npy(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3)),
        (Mask, "npy", npy(MASKS[0].astype(np.int64)), MASKS[0].astype(np.int64)),
        (Keypoints, "txt", b"1 2\n3 4\n", np.array([[1, 2], [3, 4]], np.float32)),
        (Keypoints, "json", b"[[[1, 2, 0]]]", np.array([[[1, 2, 0]]], np.float32)),
        (Boxes, "npy", npy(np.array([[1, 2, 3, 4]])), np.array([[1, 2, 3, 4]], np.float32)),
        (Boxes, "txt", b"1,2,3,4", np.array([[1, 2, 3, 4]], np.float32)),
        (Boxes, "txt", b"", np.zeros((0, 4), np.float32)),
        (Boxes, "json", b"[]", np.zeros((0, 4), np.float32)),
        (Keypoints, "txt", b"", np.zeros((0, 2), np.float32)),
    ],
)
def test_kind_decodes_its_value(one, kind, name, data, wanted):
    path = one(**{name: data})
    value = SampleArchive(path, fields={"image": "{key}.jpg", "x": kind("{key}." + name)})[0]["x"]
    assert type(value) is type(wanted)
    np.testing.assert_array_equal(value, wanted)
    assert getattr(value, "dtype", None) == getattr(wanted, "dtype", None)


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"format": "xyxy"}, [4, 6, 12, 15]),
        ({"format": "xywh"}, [4, 6, 8, 9]),
        ({"format": "cxcywh"}, [8, 10.5, 8, 9]),
        ({"format": "cxcywh", "relative": True}, [8 / 40, 10.5 / 30, 8 / 40, 9 / 30]),
    ],
)
def test_boxes_of_every_format_are_corners_in_pixels(one, options, row):
    path = one(npy=npy(np.array([row])))
    fields = {"image": "{key}.jpg", "boxes": Boxes("{key}.npy", **options)}
    boxes = SampleArchive(path, fields=fields)[0]["boxes"]
    np.testing.assert_allclose(boxes, [[4, 6, 12, 15]], rtol=1e-6)
    assert boxes.dtype == np.float32


def test_boxes_of_yolo_files_give_their_classes_as_a_field(one):
    fields = {
        "image": "{key}.jpg",
        "boxes": Boxes("{key}.txt", format="cxcywh", relative=True, labels="classes"),
    }
    dataset = SampleArchive(one(txt=b"3 0.5 0.5 0.2 0.2\n0 0.1 0.1 0.2 0.2\n"), fields=fields)
    sample = dataset[0]
    np.testing.assert_allclose(sample["boxes"], [[16, 12, 24, 18], [0, 0, 8, 6]], atol=1e-5)
    np.testing.assert_array_equal(sample["classes"], np.array([3, 0]))
    assert sample["classes"].dtype == np.int64
    assert set(dataset.fields) == {"image", "boxes", "classes"}
    empty = SampleArchive(one(txt=b""), fields=fields, overwrite_index=True)[0]
    assert (empty["boxes"].shape, empty["classes"].shape) == ((0, 4), (0,))


def test_keypoints_relative_are_scaled_to_pixels(one):
    fields = {"image": "{key}.jpg", "points": Keypoints("{key}.json", relative=True)}
    points = SampleArchive(one(json=b"[[0.5, 0.5, 2]]"), fields=fields)[0]["points"]
    np.testing.assert_array_equal(points, np.array([[20, 15, 2]], np.float32))


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        (Boxes("{key}.txt"), b"1 2 3", "boxes must have 4 numbers"),
        (Boxes("{key}.txt"), b"1 2 3 4 5", "pass labels='NAME'"),
        (Boxes("{key}.txt", labels="c"), b"1 2 3 4", "no class for labels="),
        (Boxes("{key}.txt", labels="c"), b"1.5 2 3 4 5", "must be integers"),
        (Boxes("{key}.txt"), b"1 2 3 4\n1 2", "rows of equally many numbers"),
        (Boxes("{key}.txt"), b"1 2 3 nan", "finite"),
        (Keypoints("{key}.txt", visibility=True), b"1 2", "must have 3 numbers"),
        (Label("{key}.txt"), b"", "at least one number"),
        (Label("{key}.txt"), b"cat", "equally many numbers"),
        (Mask("{key}.txt", decoder=lambda data: np.zeros((2, 2))), b"", "must hold integers"),
        (Mask("{key}.txt", decoder=lambda data: np.zeros(2, int)), b"", "shape"),
        (Field("{key}.txt", decoder=lambda data: 1 / 0), b"", "division"),
    ],
)
def test_field_that_cannot_be_decoded_raises_with_field_key_and_member(one, field, data, message):
    dataset = SampleArchive(one(txt=data), fields={"image": "{key}.jpg", "x": field})
    with pytest.raises((DecodeError, ZeroDivisionError), match=message) as caught:
        dataset[0]
    text = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "'x'" in text
    assert "'k'" in text


def test_mask_with_colors_raises(one):
    path = one(seg_png=encoded(np.zeros((3, 4, 3), np.uint8)))
    with pytest.raises(DecodeError, match="no single integer for each pixel"):
        SampleArchive(path, fields={"image": "{key}.jpg", "mask": Mask("{key}.seg.png")})[0]


def test_npz_arrays_become_fields(one):
    file = io.BytesIO()
    np.savez(file, boxes=[[1, 2, 3, 4]], label=np.int64(3), extra=np.arange(3))
    path = one(npz=file.getvalue())
    dataset = SampleArchive(path, fields={"image": "{key}.jpg", "arrays": "{key}.npz"})
    sample = dataset[0]
    assert set(sample) == {"__key__", "image", "boxes", "label", "extra"}
    assert sample.fields["extra"] == Array()
    kinds = {"boxes": Boxes(format="xywh"), "label": Label()}
    fields = {"image": "{key}.jpg", "arrays": Npz("{key}.npz", kinds=kinds)}
    chosen = SampleArchive(path, fields=fields)[0]
    assert set(chosen) == {"__key__", "image", "boxes", "label"}
    np.testing.assert_array_equal(chosen["boxes"], np.array([[1, 2, 4, 6]], np.float32))
    assert chosen["label"] == 3


def test_npz_array_named_as_another_field_or_missing_raises(one):
    file = io.BytesIO()
    np.savez(file, image=np.zeros(3))
    path = one(npz=file.getvalue())
    with pytest.raises(DecodeError, match="'image' has the name of another field"):
        SampleArchive(path, fields={"image": "{key}.jpg", "arrays": "{key}.npz"})[0]
    with pytest.raises(DecodeError, match="no array 'boxes'"):
        SampleArchive(path, fields={"arrays": Npz("{key}.npz", kinds={"boxes": Boxes()})})[0]


def test_folder_of_npz_files_is_a_dataset(tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", data=np.full((2, 2), i), label=i)
    dataset = SampleArchive(tmp_path, fields={"sample": "{key}.npz"})
    assert [(s["__key__"], int(s["label"]), int(s["data"][0, 0])) for s in dataset] == [
        ("0", 0, 0), ("1", 1, 1), ("2", 2, 2),
    ]  # fmt: skip


def test_registered_codec_and_decoder_and_compression_decode_a_field(one):
    import gzip

    imagearchive.register_codec("rev12", None, lambda data: bytes(data)[::-1])
    path = one(rev12=b"abc", raw=b"xyz", txt_gz=gzip.compress(b"text"))
    fields = {
        "a": "{key}.rev12",
        "b": Field("{key}.raw", decoder=len),
        "c": "{key}.txt.gz",
    }
    assert SampleArchive(path, fields=fields)[0] == {
        "__key__": "k", "a": b"cba", "b": 3, "c": "text",
    }  # fmt: skip
