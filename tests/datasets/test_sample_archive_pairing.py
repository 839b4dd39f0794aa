"""`SampleArchive`: which members make a sample, and what errors say where they do not."""

import logging
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import encoded, write_tar
from support.images import decode_by_pillow
from support.sample_archives import MASKS, VOC, WEB
from support.samples import encoded_image

from imagearchive import Bytes, Image, Mask, Sample, SampleArchive
from imagearchive.errors import LabelError


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
        (
            ["2007_0", "2007_9", "x"],
            r"the field 'image' .* has no member for 2 of 3 samples, such as .*2007_9",
        ),
        (["2007_0", "2007_0"], "1 key twice, such as '2007_0'"),
        ([], "no keys"),
        ("nowhere.txt", "nowhere.txt: no such file"),
    ],
)
def test_sample_archive_wrong_keys_raise_label_error(voc, keys, message):
    with pytest.raises(LabelError, match=message):
        SampleArchive(voc, fields=VOC, keys=keys)


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
    assert "the field 'text' ('{key}.txt' in " in text
    assert ") has no member for 6 of 8 samples, such as" in text
    assert "'1', '2', '4', '5', '6'" in text
    assert "'7'" not in text
    assert "missing='skip'" in text


def test_sample_archive_missing_skip_counts_and_none_gives_none(incomplete, caplog):
    dataset = SampleArchive(incomplete, fields=PAIR, missing="skip")
    assert [sample["__key__"] for sample in dataset] == ["0", "3"]
    assert dataset.skipped == 6
    assert "samples that lack a part are left out: 6" in caplog.text
    dataset = SampleArchive(incomplete, fields=PAIR, missing="none")
    assert [sample["text"] for sample in dataset] == ["text", None, None, "text"] + [None] * 4


def test_sample_archive_missing_none_with_keys_of_nothing_is_an_error(incomplete):
    with pytest.raises(LabelError, match="no field has a member for 1 key of keys=, such as 'x'"):
        SampleArchive(incomplete, fields=PAIR, keys=["0", "x"], missing="none")


def test_sample_archive_several_members_for_one_part_raise(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"1", "a.png": b"2", "b.jpg": b"3"})
    with pytest.raises(LabelError, match=r"1 sample has several.*'a' has 'a.jpg' and 'a.png'"):
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


@settings(max_examples=150)
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
