"""`SampleArchive`: which members make a sample, and what errors say where they do not."""

import io
import json
import logging
import multiprocessing
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from support.archives import encoded, write_tar
from support.images import decode_by_pillow
from support.samples import encoded_image

import imagearchive
from imagearchive import (
    Array,
    Boxes,
    Bytes,
    CombinedLazyDataset,
    Field,
    Image,
    Keypoints,
    Label,
    Mask,
    Npz,
    Sample,
    SampleArchive,
    Text,
)
from imagearchive.errors import (
    DecodeError,
    LabelError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def palette_png(indices):
    image = PillowImage.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


MASKS = [
    np.random.default_rng(i).choice([0, 1, 2, 255], (30, 40)).astype(np.uint8) for i in range(4)
]


@pytest.fixture
def voc(tmp_path):
    """An archive laid out as VOC: images and masks in directories, lists of names."""
    members = {"VOC/ImageSets/train.txt": b"2007_3\n2007_1\n\n"}
    for i in range(4):
        members[f"VOC/JPEGImages/2007_{i}.jpg"] = encoded_image(i)
        members[f"VOC/Masks/2007_{i}.png"] = palette_png(MASKS[i])
    return write_tar(tmp_path / "voc.tar", members)


VOC = {"image": "VOC/JPEGImages/{key}.jpg", "mask": Mask("VOC/Masks/{key}.png")}


def test_sample_archive_voc_pairs_image_and_palette_mask(voc):
    dataset = SampleArchive(voc, fields=VOC)
    assert len(dataset) == 4
    assert [dataset.key(i) for i in range(4)] == [f"2007_{i}" for i in range(4)]
    for i, sample in enumerate(dataset):
        assert isinstance(sample, Sample)
        assert list(sample) == ["__key__", "image", "mask"]
        assert sample["__key__"] == f"2007_{i}"
        assert (
            sample.fields == dataset.fields == {"image": Image(VOC["image"]), "mask": VOC["mask"]}
        )
        np.testing.assert_array_equal(sample["image"], decode_by_pillow(encoded_image(i)))
        np.testing.assert_array_equal(sample["mask"], MASKS[i])
    assert dataset.member(1, "mask") == "VOC/Masks/2007_1.png"


def test_sample_archive_keys_from_a_member_or_file_or_list_give_order(voc, tmp_path):
    (tmp_path / "beside.txt").write_text("2007_0\r\n2007_2\r\n")
    for keys, wanted in [
        ("VOC/ImageSets/train.txt", ["2007_3", "2007_1"]),
        (f"{voc}/VOC/ImageSets/train.txt", ["2007_3", "2007_1"]),
        (tmp_path / "beside.txt", ["2007_0", "2007_2"]),
        (("2007_2",), ["2007_2"]),
    ]:
        dataset = SampleArchive(voc, fields=VOC, keys=keys)
        assert [sample["__key__"] for sample in dataset] == wanted
    np.testing.assert_array_equal(dataset[0]["mask"], MASKS[2])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["2007_0", "2007_9", "x"], r"2 of 3 samples have no member for the field 'image'.*2007_9"),
        (["2007_0", "2007_0"], "1 key twice, such as '2007_0'"),
        ([], "no keys"),
        ("nowhere.txt", "nowhere.txt: no such file"),
    ],
)
def test_sample_archive_wrong_keys_raise_label_error(voc, keys, message):
    with pytest.raises(LabelError, match=message):
        SampleArchive(voc, fields=VOC, keys=keys)


@pytest.fixture
def shards(tmp_path):
    """WebDataset shards that repeat keys; parts of a sample are not neighbors."""
    paths = []
    for number in range(2):
        members = {f"d/{i}.jpg": encoded_image(10 * number + i) for i in range(3)}
        members |= {f"d/{i}.txt": f"caption {number}/{i}".encode() for i in reversed(range(3))}
        members |= {f"d/{i}.json": json.dumps({"n": number, "i": i}).encode() for i in range(3)}
        members |= {
            "d/1.seg.png": encoded(MASKS[0]),
            "__meta__/x.jpg": b"no",
            "d/.hidden.jpg": b"no",
        }
        paths.append(write_tar(tmp_path / f"s-{number}.tar", members))
    return tmp_path / "s-{0..1}.tar"


WEB = {"image": "{key}.png|jpg|webp", "caption": "{key}.txt", "meta": "{key}.json"}


def test_sample_archive_webdataset_shards_with_equal_keys_are_paired_within_each(shards):
    dataset = SampleArchive(shards, fields=WEB)
    assert len(dataset) == 6
    for index, sample in enumerate(dataset):
        number, i = divmod(index, 3)
        assert sample["__key__"] == f"d/{i}"
        assert sample["caption"] == f"caption {number}/{i}"
        assert sample["meta"] == {"n": number, "i": i}
        np.testing.assert_array_equal(
            sample["image"], decode_by_pillow(encoded_image(10 * number + i))
        )


def test_sample_archive_first_dot_ends_the_key(shards):
    dataset = SampleArchive(
        shards, fields={"image": "{key}.jpg", "seg": Mask("{key}.seg.png")}, missing="skip"
    )
    assert [dataset.key(i) for i in range(len(dataset))] == ["d/1", "d/1"]
    assert dataset.skipped == 4


def test_sample_archive_names_with_dots_are_reported_and_found_with_first_dot_false(
    tmp_path, caplog
):
    path = write_tar(tmp_path / "a.tar", {"a_0.5.jpg": encoded_image(0), "b.jpg": encoded_image(1)})
    dataset = SampleArchive(path, fields={"image": "{key}.jpg"})
    assert [dataset.key(0), len(dataset)] == ["b", 1]
    assert "1 member such as 'a_0.5.jpg'" in caplog.text
    whole = SampleArchive(path, fields={"image": "{key}.jpg"}, first_dot=False)
    assert [whole.key(0), whole.key(1)] == ["a_0.5", "b"]
    given_keys = SampleArchive(path, fields={"image": "{key}.jpg"}, keys=["a_0.5"])
    assert given_keys.key(0) == "a_0.5"


def test_sample_archive_other_files_of_a_sample_are_not_reported(shards, caplog):
    with caplog.at_level(logging.WARNING):
        SampleArchive(shards, fields={"image": "{key}.jpg|png"})
    assert not caplog.text


def test_sample_archive_mask_beside_its_image_is_not_an_image(tmp_path):
    members = {"a.png": encoded(MASKS[0]), "a_mask.png": encoded(MASKS[1])}
    # The mask of nothing, so an image.
    members |= {"b_mask.png": encoded(MASKS[2]), "b_mask_mask.png": encoded(MASKS[3])}
    path = write_tar(tmp_path / "a.tar", members)
    dataset = SampleArchive(path, fields={"image": "{key}.png", "mask": Mask("{key}_mask.png")})
    assert [dataset.key(i) for i in range(len(dataset))] == ["a", "b_mask"]
    np.testing.assert_array_equal(dataset[1]["mask"], MASKS[3])


def test_sample_archive_fields_of_other_archives_and_key_across_directories(tmp_path):
    images = write_tar(
        tmp_path / "left.tar",
        {f"train/{city}/{city}_left.JPG": encoded_image(i) for i, city in enumerate("ab")},
    )
    with zipfile.ZipFile(tmp_path / "gt.zip", "w") as archive:
        for i, city in enumerate("ba"):
            archive.writestr(f"gt/train/{city}/{city}_ids.png", encoded(MASKS[i]))
    dataset = SampleArchive(
        fields={
            "image": (images, "train/{key}_left.jpg"),
            "mask": Mask(tmp_path / "gt.zip", "gt/train/{key}_ids.png"),
        }
    )
    assert [dataset.key(0), dataset.key(1)] == ["a/a", "b/b"]
    np.testing.assert_array_equal(dataset[0]["mask"], MASKS[1])
    np.testing.assert_array_equal(dataset[1]["mask"], MASKS[0])


def test_sample_archive_repeated_key_in_a_pattern_must_repeat(tmp_path):
    members = {"p1/p1_t2.txt": b"x", "p2/p3_t2.txt": b"y", "p1/p1_seg.txt": b"z"}
    path = write_tar(tmp_path / "a.tar", members)
    dataset = SampleArchive(path, fields={"a": "{key}/{key}_t2.txt", "b": "{key}/{key}_seg.txt"})
    assert list(dataset) == [{"__key__": "p1", "a": "x", "b": "z"}]


@pytest.fixture
def incomplete(tmp_path):
    members = {f"{i}.jpg": encoded_image(i) for i in range(8)}
    members |= {f"{i}.txt": b"text" for i in (0, 3)}
    return write_tar(tmp_path / "part.tar", members)


PAIR = {"image": "{key}.jpg", "text": "{key}.txt"}


def test_sample_archive_missing_error_names_keys_pattern_and_number(incomplete):
    with pytest.raises(LabelError) as caught:
        SampleArchive(incomplete, fields=PAIR)
    text = str(caught.value)
    assert "6 of 8 samples have no member for the field 'text' ('{key}.txt'" in text
    assert "'1', '2', '4', '5', '6'" in text
    assert "'7'" not in text
    assert "missing='skip'" in text


def test_sample_archive_missing_skip_counts_and_none_gives_none(incomplete, caplog):
    dataset = SampleArchive(incomplete, fields=PAIR, missing="skip")
    assert [sample["__key__"] for sample in dataset] == ["0", "3"]
    assert dataset.skipped == 6
    assert "6 samples are left out" in caplog.text
    dataset = SampleArchive(incomplete, fields=PAIR, missing="none")
    assert [sample["text"] for sample in dataset] == ["text", None, None, "text"] + [None] * 4


def test_sample_archive_missing_none_with_keys_of_nothing_is_an_error(incomplete):
    with pytest.raises(LabelError, match="1 key of keys= have no member in any field, such as 'x'"):
        SampleArchive(incomplete, fields=PAIR, keys=["0", "x"], missing="none")


def test_sample_archive_several_members_for_one_part_raise(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"1", "a.png": b"2", "b.jpg": b"3"})
    with pytest.raises(LabelError, match=r"1 sample have several.*'a' has 'a.jpg' and 'a.png'"):
        SampleArchive(path, fields={"image": "{key}.jpg|png"})
    # Only for those that are asked for.
    assert len(SampleArchive(path, fields={"image": "{key}.jpg|png"}, keys=["b"])) == 1


def test_sample_archive_equal_keys_of_several_archives_do_not_join_another(shards, tmp_path):
    other = write_tar(tmp_path / "other.tar", {"d/0.cls": b"1", "d/1.cls": b"1", "d/2.cls": b"1"})
    with pytest.raises(LabelError, match="3 keys occur in several archives, such as 'd/0'"):
        SampleArchive(shards, fields={"image": "{key}.jpg", "label": (other, "{key}.cls")})
    with pytest.raises(LabelError, match="several members for the field"):
        SampleArchive(shards, fields={"image": "{key}.jpg"}, keys=["d/0"])


def test_sample_archive_pattern_that_matches_nothing_lists_members(voc):
    with pytest.raises(LabelError, match=r"no member matches.*'VOC/ImageSets/train.txt'"):
        SampleArchive(voc, fields={"image": "images/{key}.jpg"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, "fields must map names"),
        ({}, "fields must map names"),
        ({"__key__": "{key}.jpg"}, "name of a field"),
        ({"image": 3}, "must be a pattern"),
        ({"image": Image()}, "has no pattern"),
        ({"image": "image.jpg"}, "has no {key}"),
        ({"image": "{key}.jpg|"}, "alternative ''"),
        ({"image": "{key}|jpg"}, "alternative 'jpg'"),
        ({"image": "{key}_{id}.jpg"}, "only placeholder"),
        ({"image": "{key}" * 9}, "more than 8"),
        ({"x": "{key}.xyz"}, "there is no codec"),
        ({"x": "{key}"}, "no extension"),
        ({"x": "{key}.jpg|txt"}, "different kinds, Image and Text"),
        ({"boxes": Boxes("{key}.txt", relative=True)}, "no field of the kind Image"),
        ({"boxes": Boxes("{key}.txt", labels=["a", "b"])}, "'a' and 'b'"),
        ({"boxes": Boxes("{key}.txt", image="x")}, "names the image 'x'"),
        ({"a": Npz("{key}.npz", kinds={"b": Array()}), "b": "{key}.txt"}, "the entry 'b'"),
    ],
)
def test_sample_archive_wrong_fields_raise_option_error(tmp_path, fields, message):
    path = write_tar(tmp_path / "a.tar", {"a.txt": b"", "a.npz": b""})
    with pytest.raises((OptionError, OptionTypeError), match=message):
        SampleArchive(path, fields=fields)


@pytest.mark.parametrize("name", ["missing", "first_dot", "transform", "keys"])
def test_sample_archive_wrong_options_raise_option_error(voc, name):
    with pytest.raises((OptionError, OptionTypeError), match=name):
        SampleArchive(voc, fields=VOC, **{name: 3.5})


def test_sample_archive_without_any_archive_raises(tmp_path):
    with pytest.raises(OptionError, match="the field 'image' names no archive"):
        SampleArchive(fields={"image": "{key}.jpg"})


# --- kinds --------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path):
    """Writes an archive of one sample: its image, 40 x 30 pixels, and further members."""

    def write(**members):
        files = {"k.jpg": encoded_image(0)} | {
            f"k.{name.replace('_', '.')}": data for name, data in members.items()
        }
        return write_tar(tmp_path / "one.tar", files)

    return write


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


# --- as the other datasets ----------------------------------------------------------------------


def test_sample_archive_is_a_sequence(voc):
    dataset = SampleArchive(voc, fields=VOC)
    assert dataset[-1]["__key__"] == "2007_3"
    assert [s["__key__"] for s in dataset.__getitems__([2, 0, -1])] == [
        "2007_2",
        "2007_0",
        "2007_3",
    ]
    for index in (4, -5):
        with pytest.raises(SampleIndexError):
            dataset[index]
    with pytest.raises(OptionTypeError):
        dataset[1.5]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def read_all(dataset):
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sample_archive_in_other_processes_gives_the_same_samples(voc, method):
    dataset = SampleArchive(voc, fields=VOC, open_after_fork=method == "fork")
    with multiprocessing.get_context(method).Pool(1) as pool:
        for a, b in zip(pool.apply(read_all, (dataset,)), dataset, strict=True):
            same(a, b)


def test_sample_archive_pickle_is_small_and_notices_another_archive(voc, tmp_path):
    dataset = SampleArchive(voc, fields=VOC, keys=["2007_1"])
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    same(pickle.loads(data)[0], dataset[0])
    write_tar(voc, {"VOC/JPEGImages/2007_1.jpg": b"1", "VOC/Masks/2007_1.png": b"2"})
    with pytest.raises(StaleIndexError, match="changed since the dataset was pickled"):
        pickle.loads(data)


def test_sample_archive_threads_read_the_same_samples(voc):
    dataset = SampleArchive(voc, fields=VOC, cache_size=2)
    wanted = read_all(dataset)
    with ThreadPoolExecutor(4) as pool:
        for index, sample in pool.map(lambda i: (i % 4, dataset[i % 4]), range(200)):
            same(sample, wanted[index])


def test_sample_archive_cache_keeps_copies(voc):
    dataset = SampleArchive(voc, fields=VOC, cache_size=4)
    first = dataset[0]
    first["mask"][:] = 9
    again = dataset[0]
    np.testing.assert_array_equal(again["mask"], MASKS[0])
    assert isinstance(again, Sample)


def test_sample_archive_transform_gets_the_sample(voc):
    dataset = SampleArchive(voc, fields=VOC, transform=lambda sample: sample["mask"].max())
    assert dataset[0] == 255


def test_combined_dataset_of_sample_archives_has_their_samples(voc, shards):
    a, b = SampleArchive(voc, fields=VOC), SampleArchive(shards, fields=WEB)
    combined = CombinedLazyDataset([a, b])
    assert len(combined) == 10
    assert [s["__key__"] for s in combined.__getitems__([5, 0])] == ["d/1", "2007_0"]


def test_sample_archive_in_torch_loader_workers_and_subset(voc):
    data = pytest.importorskip("torch.utils.data")
    dataset = SampleArchive(voc, fields=VOC)
    loader = data.DataLoader(
        data.Subset(dataset, [3, 1]),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert [sample["__key__"] for sample in loader] == ["2007_3", "2007_1"]


def test_sample_archive_data_order_is_that_of_the_first_field(voc):
    assert SampleArchive(voc, fields=VOC).data_order() is None
    keys = ["2007_3", "2007_0", "2007_2"]
    assert SampleArchive(voc, fields=VOC, keys=keys).data_order().tolist() == [1, 2, 0]


def test_compressed_sample_archive_in_blocks_has_every_sample_once(voc, tmp_path):
    import tarfile

    path = tmp_path / "voc.tar.gz"
    with tarfile.open(voc) as source, tarfile.open(path, "w:gz") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
    dataset = SampleArchive(path, fields=VOC)
    images = SampleArchive(path, fields={"image": VOC["image"]})
    loader = imagearchive.DataLoader(
        images, 2, shuffle="blocks", block_size=2, blocks_per_window=1, image_size=8
    )
    keys = [key for batch in loader for key in batch["__key__"]]
    assert sorted(keys) == [f"2007_{i}" for i in range(4)]
    same(dataset[2], SampleArchive(voc, fields=VOC)[2])


# --- the saved pairing --------------------------------------------------------------------------


def count_pairings(monkeypatch):
    calls = []
    from imagearchive.datasets.samples import open_fields as module

    original = module.pair_members

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, "pair_members", counted)
    return calls


def test_pairing_is_saved_and_mapped_and_made_again_when_the_archive_changes(voc, monkeypatch):
    calls = count_pairings(monkeypatch)
    SampleArchive(voc, fields=VOC)
    same(SampleArchive(voc, fields=VOC)[2], SampleArchive(voc, fields=VOC)[2])
    assert len(calls) == 1
    SampleArchive(voc, fields=VOC, keys=["2007_1"])
    SampleArchive(voc, fields={"image": VOC["image"]})
    assert len(calls) == 3
    write_tar(voc, {"VOC/JPEGImages/x.jpg": encoded_image(5), "VOC/Masks/x.png": encoded(MASKS[1])})
    dataset = SampleArchive(voc, fields=VOC)
    assert (dataset.key(0), len(dataset), len(calls)) == ("x", 1, 4)
    # The new one has replaced the old one.
    assert len(list(voc.parent.glob("voc.*.idx.npy"))) == 3


def test_pairing_of_several_archives_is_saved_in_the_cache(shards, monkeypatch):
    calls = count_pairings(monkeypatch)
    for _ in range(2):
        assert len(SampleArchive(shards, fields=WEB)) == 6
    assert len(calls) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_damaged_pairing_file_is_made_again(voc, damage):
    SampleArchive(voc, fields=VOC)
    (saved,) = voc.parent.glob("voc.*.idx.npy")
    data = saved.read_bytes()
    if damage == "cut":
        saved.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        saved.write_bytes(b"")
    else:
        np.save(saved, np.arange(5.0))
    assert len(SampleArchive(voc, fields=VOC)) == 4


def test_pairing_file_of_positions_beyond_the_archive_is_refused(voc):
    from imagearchive.errors import CorruptIndexError

    SampleArchive(voc, fields=VOC)
    (saved,) = voc.parent.glob("voc.*.idx.npy")
    data = bytearray(saved.read_bytes())
    array = np.load(io.BytesIO(bytes(data)))
    start = data.index(array.tobytes())
    data[start : start + array.nbytes] = np.full_like(array, 1000).tobytes()
    saved.write_bytes(bytes(data))
    with pytest.raises(CorruptIndexError, match="delete it"):
        SampleArchive(voc, fields=VOC)[0]


# --- against a slow twin ------------------------------------------------------------------------


def pair_slowly(names, suffixes, first_dot):
    """Pair by dictionaries: ``{key: position}`` of each suffix; None where members collide."""
    found = []
    for suffix in suffixes:
        keys = {}
        for position, name in enumerate(names):
            if not name.lower().endswith(suffix) or len(name) == len(suffix):
                continue
            key = name[: -len(suffix)]
            last = key.rpartition("/")[2]
            if first_dot and not found:
                top = name.partition("/")[0] if "/" in name else ""
                reserved = len(top) >= 4 and top.startswith("__") and top.endswith("__")
                if "." in last[1:] or last.startswith(".") or reserved:
                    continue
            keys.setdefault(key, []).append(position)
        found.append(keys)
    asked = [found[suffix].get(key, []) for suffix in (0, 1) for key in found[0]]
    if any(len(positions) > 1 for positions in asked):
        return None
    found = [{key: one[0] for key, one in keys.items()} for keys in found]
    return [[position, found[1].get(key, -1)] for key, position in found[0].items()]


part = st.text("ab._", min_size=1, max_size=3).filter(lambda text: text.strip("."))
member = st.builds(
    lambda folder, stem, end: "/".join([*folder, stem + end]),
    st.lists(part, max_size=1),
    part,
    st.sampled_from([".jpg", ".JPG", ".png", ".b.jpg", ""]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(member, unique=True, min_size=1, max_size=12), st.booleans())
def test_pairing_agrees_with_dictionaries(tmp_path_factory, names, first_dot):
    names = [name for name in names if not any(other.startswith(name + "/") for other in names)]
    path = write_tar(tmp_path_factory.mktemp("pairs") / "a.tar", dict.fromkeys(names, b"x"))
    wanted = pair_slowly(names, [".jpg", ".png"], first_dot)
    fields = {"a": Bytes("{key}.jpg"), "b": Bytes("{key}.png")}
    options = {"fields": fields, "missing": "none", "first_dot": first_dot}
    if not wanted:
        # Members collide, or there are none.
        with pytest.raises(LabelError, match=r"several members|no member matches"):
            SampleArchive(path, **options)
        return
    dataset = SampleArchive(path, **options)
    assert [
        [names.index(name) if (name := dataset.member(i, field)) else -1 for field in "ab"]
        for i in range(len(dataset))
    ] == wanted
