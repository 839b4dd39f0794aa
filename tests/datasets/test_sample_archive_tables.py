"""`SampleArchive` with fields from the columns of a table."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from support.archives import write_tar
from support.samples import encoded_image

import imagearchive
from imagearchive import Array, Boxes, Json, Keypoints, Label, Mask, SampleArchive, Text
from imagearchive.datasets.samples import table_annotations
from imagearchive.errors import (
    CorruptIndexError,
    DecodeError,
    LabelError,
    OptionError,
    OptionTypeError,
    StaleIndexError,
)
from imagearchive.index import file_format
from imagearchive.storage.location import locate

IMAGE = "images/{key}.jpg"
# In another order than in the archive; names as `ImageArchive` takes them.
TABLE = {
    "id": ["003", "001.jpg", "images/000", "002"],
    "caption": ["three", "one", "zero", "two"],
    "breed": ["manx", "poodle", "manx", "boxer"],
    "size": [3, 1, 0, 2],
    "boxes": [[[1, 2, 3, 4]], [], [[0, 0, 5, 5], [1, 1, 2, 2]], [[2, 2, 4, 4]]],
    "fold": ["a", "b", "a", "b"],
}
FIELDS = {
    "image": IMAGE,
    "caption": Text(column="caption"),
    "label": Label(column="breed"),
    "size": Label(column="size"),
    "boxes": Boxes(column="boxes"),
}
KEYS = ["000", "001", "002", "003"]


@pytest.fixture
def images(tmp_path):
    members = {f"images/{key}.jpg": encoded_image(i) for i, key in enumerate(KEYS)}
    return write_tar(tmp_path / "a.tar", members)


def open_table(path, table=TABLE, fields=FIELDS, **options):
    options = options or {"image": "id"}
    return SampleArchive(path, fields, table=table, **options)


def columns_of(dataset, *names):
    return [tuple(sample[name] for name in names) for sample in dataset]


def in_rows(table):
    return [dict(zip(table, row)) for row in zip(*table.values())]


def write_forms(folder):
    """Write the same table as several kinds of files; return them, and it in memory."""
    text = "id;caption;breed;size;boxes;fold\n" + "".join(
        ";".join(cell if isinstance(cell, str) else json.dumps(cell) for cell in row) + "\n"
        for row in zip(*TABLE.values())
    )
    files = {
        "t.csv": text,
        "columns.json": json.dumps(TABLE),
        "t.jsonl": "\n".join(map(json.dumps, in_rows(TABLE))),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    arrays = {name: np.array(column) for name, column in TABLE.items() if name != "boxes"}
    arrays["boxes"] = [np.array(cell).reshape(-1, 4) for cell in TABLE["boxes"]]
    return {
        **{name: folder / name for name in files},
        "dict": TABLE,
        "records": in_rows(TABLE),
        "arrays": arrays,
    }


@pytest.mark.parametrize("form", ["t.csv", "columns.json", "t.jsonl", "dict", "records", "arrays"])
def test_table_columns_become_fields_of_the_samples_of_their_images(images, tmp_path, form):
    dataset = open_table(images, write_forms(tmp_path)[form])
    assert [dataset.key(i) for i in range(4)] == KEYS
    assert columns_of(dataset, "caption", "label", "size") == [
        ("zero", 1, 0),
        ("one", 2, 1),
        ("two", 0, 2),
        ("three", 1, 3),
    ]
    assert type(dataset[0]["label"]) is type(dataset[0]["size"]) is int
    assert dataset[0]["boxes"].tolist() == [[0, 0, 5, 5], [1, 1, 2, 2]]
    assert (dataset[1]["boxes"].shape, dataset[1]["boxes"].dtype) == ((0, 4), np.float32)
    assert dataset.classes == ["boxer", "manx", "poodle"]
    assert dataset.class_names == {"label": ["boxer", "manx", "poodle"]}
    assert dict(dataset.fields)["caption"] == Text(column="caption")


def test_table_in_parquet_with_lists_of_lists_gives_boxes(images, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(TABLE), tmp_path / "t.parquet")
    dataset = open_table(images, tmp_path / "t.parquet")
    assert [sample["boxes"].tolist() for sample in dataset] == [
        TABLE["boxes"][row] for row in (2, 1, 3, 0)
    ]


def test_table_inside_the_archive_is_found_by_its_name(tmp_path):
    members = {"000.jpg": encoded_image(0), "meta/t.csv": b"id,caption\n000.jpg,hello\n"}
    path = write_tar(tmp_path / "a.tar", members)
    fields = {"image": "{key}.jpg", "caption": Text(column="caption")}
    assert open_table(path, "meta/t.csv", fields)[0]["caption"] == "hello"


def test_table_column_of_keys_gives_the_samples_in_its_order(images):
    table = {**TABLE, "id": ["003", "001", "000", "002"]}
    dataset = open_table(images, table, keys="id")
    assert [dataset.key(i) for i in range(4)] == table["id"]
    assert columns_of(dataset, "caption") == [("three",), ("one",), ("zero",), ("two",)]
    fold = open_table(images, table, keys="id", split="b", split_column="fold")
    assert columns_of(fold, "__key__", "caption") == [("001", "one"), ("002", "two")]
    numbered = {"id": [3, 1], "caption": ["three", "one"]}
    path = images.parent / "numbers.tar"
    write_tar(path, {f"{i}.jpg": encoded_image(i) for i in range(4)})
    fields = {"image": "{key}.jpg", "caption": Text(column="caption")}
    assert [s["__key__"] for s in open_table(path, numbered, fields, keys="id")] == ["3", "1"]


def test_table_split_leaves_out_images_of_other_rows_whatever_they_lack(tmp_path):
    members = {f"images/{key}.jpg": encoded_image(i) for i, key in enumerate(KEYS)}
    # Only the images of fold a have masks, and the others need none.
    members |= {f"masks/{key}.png": encoded_image(0, "PNG") for key in ("000", "003")}
    path = write_tar(tmp_path / "a.tar", members)
    fields = {**FIELDS, "mask": Mask("masks/{key}.png")}
    dataset = open_table(path, fields=fields, image="id", split="a", split_column="fold")
    assert [dataset.key(i) for i in range(len(dataset))] == ["000", "003"]
    assert (dataset.skipped, dataset.classes) == (0, ["boxer", "manx", "poodle"])
    with pytest.raises(LabelError, match=r"the field 'mask' .* has no member for 2 of 2 samples"):
        open_table(path, fields=fields, image="id", split="b", split_column="fold")
    with pytest.raises(LabelError, match="no row has the value 'c' of split=; found 'a', 'b'"):
        open_table(path, image="id", split="c", split_column="fold")


def test_table_rows_of_a_split_whose_images_are_elsewhere_are_no_error(images):
    table = {"id": ["000", "999"], "caption": ["zero", "other"], "split": ["train", "val"]}
    fields = {"image": IMAGE, "caption": Text(column="caption")}
    options = {"image": "id", "missing": "skip"}
    assert len(open_table(images, table, fields, split="train", **options)) == 1
    with pytest.raises(LabelError, match="1 of 1 names fit no member: '999'"):
        open_table(images, table, fields, split="val", **options)


@pytest.mark.parametrize("missing", ["error", "skip", "none"])
def test_table_cells_and_rows_that_are_missing_follow_missing(images, missing):
    table = {
        "id": ["000", "001", "002"],
        "caption": ["zero", None, "two"],
        "size": [1.0, 2.0, float("nan")],
    }
    fields = {"image": IMAGE, "caption": Text(column="caption"), "size": Label(column="size")}
    if missing == "error":
        with pytest.raises(LabelError) as error:
            open_table(images, table, fields)
        assert (
            "column 'caption': no value for the field 'caption' in 2 of 4 samples, such as "
            "'001', '003'"
        ) in str(error.value)
        assert (
            "for the field 'size' in 2 of 4 samples, such as '002', '003'; pass missing='skip'"
            in str(error.value)
        )
        return
    dataset = open_table(images, table, fields, image="id", missing=missing)
    found = columns_of(dataset, "caption", "size")
    if missing == "skip":
        assert (found, dataset.skipped) == ([("zero", 1.0)], 3)
    else:
        assert found == [("zero", 1.0), (None, 2.0), ("two", None), (None, None)]
        assert dataset.optional_fields() == {"caption", "size"}


def test_table_of_text_with_empty_cells_keeps_integers_and_drops_no_empty_text(images, tmp_path):
    (tmp_path / "t.csv").write_text("id,size,caption\n000,7,\n001,,x\n002,5,y\n003,6,z\n")
    fields = {"image": IMAGE, "size": Label(column="size")}
    dataset = open_table(images, tmp_path / "t.csv", fields, image="id", missing="none")
    assert [sample["size"] for sample in dataset] == [7, None, 5, 6]
    assert type(dataset[0]["size"]) is int
    # In memory, empty text is text.
    table = {"id": KEYS, "caption": ["", "x", "y", "z"]}
    fields = {"image": IMAGE, "caption": Text(column="caption")}
    assert open_table(images, table, fields)[0]["caption"] == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["000", "001", "a", "b", "c", "d", "e", "f"],
         r"column 'id': 6 of 8 names fit no member: 'a', 'b', 'c', 'd', 'e'; a member is called "
         r"'images/000\.jpg'; pass missing='skip'"),
        (["000", "001", "000.jpg"], "several rows are of the same image: '000.jpg'"),
    ],
)  # fmt: skip
def test_table_names_that_do_not_fit_raise_with_the_first_five(images, names, message):
    table = {"id": names, "caption": names}
    fields = {"image": IMAGE, "caption": Text(column="caption")}
    with pytest.raises(LabelError, match=message):
        open_table(images, table, fields)


def test_table_names_that_fit_several_members_raise(tmp_path):
    members = {f"{folder}/0.jpg": encoded_image(0) for folder in "ab"}
    path = write_tar(tmp_path / "a.tar", members)
    fields = {"image": "{key}.jpg", "caption": Text(column="caption")}
    with pytest.raises(LabelError, match=r"1 of 1 names fit several members: '0' \(such as 'a/0"):
        open_table(path, {"id": ["0"], "caption": ["x"]}, fields)


def test_table_rows_that_fit_no_image_are_logged_with_skip(images, caplog):
    table = {"id": [*KEYS, "x"], "caption": list("01234")}
    fields = {"image": IMAGE, "caption": Text(column="caption")}
    dataset = open_table(images, table, fields, image="id", missing="skip")
    assert len(dataset) == 4
    assert "1 of 5 names fit no member: 'x'" in caplog.text


def test_table_kinds_take_lists_text_and_documents(images):
    table = {
        "id": KEYS,
        "points": [[[1, 2], [3, 4]]] * 4,
        "yolo": ["7 0.5 0.5 1 1\n8 0.5 0.5 0.5 0.5"] * 4,
        "meta": ['{"a": [1]}', {"a": [1]}, [1, 2], "3"],
        "vector": [[1, 2, 3], np.array([4, 5, 6]), (7, 8, 9), "[1, 2, 3]"],
        "hot": [[0, 1]] * 4,
    }
    fields = {
        "image": IMAGE,
        "points": Keypoints(column="points"),
        "boxes": Boxes(column="yolo", format="cxcywh", relative=True, labels="classes"),
        "meta": Json(column="meta"),
        "vector": Array(column="vector"),
        "hot": Label(column="hot"),
    }
    dataset = open_table(images, table, fields)
    sample = dataset[1]
    height, width = sample["image"].shape[:2]
    assert sample["points"].tolist() == [[1, 2], [3, 4]]
    assert sample["boxes"][0].tolist() == [0, 0, width, height]
    assert sample["classes"].tolist() == [7, 8]
    assert [one["meta"] for one in dataset] == [{"a": [1]}, {"a": [1]}, [1, 2], 3]
    vectors = [one["vector"].tolist() for one in dataset]
    assert vectors == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]]
    assert sample["vector"].dtype == np.int64
    assert sample["hot"].tolist() == [0.0, 1.0]
    assert open_table(images, {**table, "points": list(np.zeros((4, 2, 2)))}, fields)[0][
        "points"
    ].shape == (2, 2)


def test_table_cell_of_a_wrong_kind_names_field_key_column_and_row(images):
    table = {**TABLE, "boxes": [[[1, 2, 3, 4]], [[1, 2, 3]], "x", [["a", 0, 0, 0]]]}
    dataset = open_table(images, table)
    with pytest.raises(DecodeError, match=r"field 'boxes' of sample '001' \(table: column 'boxes'"):
        dataset[1]
    for number in (0, 2):
        with pytest.raises(DecodeError):
            dataset[number]
    with pytest.raises(LabelError, match="column 'caption': row 1: expected text, got"):
        open_table(images, {**TABLE, "caption": ["a", [1], "b", "c"]})
    with pytest.raises(LabelError, match="row 0: expected numbers, text, or lists"):
        open_table(images, {**TABLE, "boxes": [[object()], 1, 2, 3]})


def test_label_column_takes_the_numbers_of_other_datasets(images):
    numbers = {"poodle": 5, "manx": 7, "boxer": 9, "pug": 1}
    fields = {"image": IMAGE, "label": Label(column="breed", class_to_idx=numbers)}
    dataset = open_table(images, fields=fields)
    assert [sample["label"] for sample in dataset] == [7, 5, 9, 7]
    assert dataset.classes == ["pug", "poodle", "manx", "boxer"]
    fields["label"] = Label(column="breed", class_to_idx={"manx": 0})
    with pytest.raises(LabelError, match="class_to_idx has no number for 2 of"):
        open_table(images, fields=fields)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"table": None}, OptionError, "'caption' is the column 'caption' of table=, which is"),
        ({"image": None}, OptionError, "table= needs the column that says which sample a row"),
        ({"image": None, "keys": ["000"]}, OptionError, "table= needs the column"),
        ({"image": "nothing"}, LabelError, "no column is called 'nothing'; the columns are 'id'"),
        ({"split": "x"}, LabelError, "no column is called 'split'.*; pass split_column to name"),
        ({"image": 3.5}, OptionTypeError, "a column of table= is named by a string or a number"),
        ({"table": 3}, OptionTypeError, "table must be a dict of columns"),
        ({"table": {**TABLE, "caption": ["x"]}}, LabelError, "1 value, but the column 'id' has 4"),
        ({"fields": {"image": IMAGE}, "table": None}, OptionError, "image= and split= are columns"),
        ({"fields": {"caption": Text(column="caption")}}, OptionError, "no field has a pattern"),
        ({"fields": {"text": "{key}.txt", "caption": Text(column="caption")}}, OptionError,
         "image= names images, and there is no field of the kind Image"),
    ],
)  # fmt: skip
def test_table_arguments_that_contradict_raise(images, arguments, kind, message):
    arguments = {"fields": FIELDS, "table": TABLE, "image": "id", **arguments}
    with pytest.raises(kind, match=message):
        SampleArchive(images, **arguments)


def test_column_argument_of_a_kind_excludes_a_pattern():
    assert repr(Text(column="caption")) == "Text(column='caption')"
    for wrong in ({"column": 1.5}, {"column": True}):
        with pytest.raises(OptionTypeError, match="column= of Boxes must be the name"):
            Boxes(**wrong)
    with pytest.raises(OptionError, match="a pattern, with decoder= if you like, or column="):
        Text("{key}.txt", column="caption")
    with pytest.raises(OptionError, match="class_to_idx= numbers the classes in column="):
        Label("{key}.cls", class_to_idx={})


def test_table_sample_order_is_that_of_keys_list_where_both_are_given(images):
    dataset = open_table(images, image="id", keys=["002", "000"])
    assert columns_of(dataset, "__key__", "caption") == [("002", "two"), ("000", "zero")]


def test_table_fields_are_transformed_and_batched_as_those_of_members(images):
    fields = {**FIELDS, "boxes": Boxes(column="boxes", min_size=0)}
    loader = imagearchive.DataLoader(open_table(images, fields=fields), 4, image_size=16)
    batch = next(iter(loader))
    assert batch["caption"] == ["zero", "one", "two", "three"]
    assert np.asarray(batch["label"]).tolist() == [1, 2, 0, 1]
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 0, 1, 1]
    flipped = imagearchive.Compose([imagearchive.RandomHorizontalFlip(1.0)])
    sample = flipped(open_table(images)[0])
    width = sample["image"].shape[1]
    assert sample["boxes"][0].tolist() == [width - 5, 0, width, 5]


def send(connection, dataset):
    connection.send([(s["caption"], s["label"], s["boxes"].tolist()) for s in dataset])


@pytest.mark.parametrize("form", ["t.csv", "dict"])
def test_table_dataset_in_a_spawned_process_is_the_same(images, tmp_path, form, monkeypatch):
    dataset = open_table(images, write_forms(tmp_path)[form])
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=send, args=(theirs, dataset))
    process.start()
    expected = [(s["caption"], s["label"], s["boxes"].tolist()) for s in dataset]
    assert ours.poll(60)
    assert ours.recv() == expected
    process.join(60)
    assert not process.exitcode


def count_reads(monkeypatch):
    calls = []
    original = table_annotations.read_columns
    monkeypatch.setattr(
        table_annotations, "read_columns", lambda *args: calls.append(args) or original(*args)
    )
    return calls


def test_table_file_is_parsed_once_and_again_when_it_changes(images, tmp_path, monkeypatch):
    calls = count_reads(monkeypatch)
    table = write_forms(tmp_path)["t.csv"]
    first, again = open_table(images, table), open_table(images, table)
    assert len(calls) == 1
    assert columns_of(first, "caption", "label") == columns_of(again, "caption", "label")
    pickled = pickle.dumps(again)
    assert pickle.loads(pickled)[0]["caption"] == "zero"
    assert len(calls) == 1
    text = table.read_text()
    table.write_text(text.replace("zero", "null"))
    os.utime(table, ns=(1, 1))
    assert open_table(images, table)[0]["caption"] == "null"
    assert len(calls) == 2
    with pytest.raises(StaleIndexError, match="changed since the dataset was pickled"):
        pickle.loads(pickled)


def test_table_columns_that_were_saved_and_damaged_raise(images, tmp_path):
    """Whatever is written into the saved arrays, reading raises an error of ours."""
    table = write_forms(tmp_path)["t.csv"]
    open_table(images, table)
    saved = [path for path in tmp_path.glob("a.*.idx.npy")
             if "chosen" in file_format.load(locate(path)).sections]  # fmt: skip
    assert len(saved) == 1
    found = file_format.load(locate(saved[0]))
    meta = {name: value for name, value in found.meta.items() if name != "sections"}
    whole = {name: array.copy() for name, array in found.sections.items()}
    for name in ("caption.offsets", "boxes.offsets"):
        for value in (-1, 1 << 40):
            sections = {**whole, name: np.full_like(whole[name], value)}
            sections[name][::2] = 0
            file_format.save(locate(saved[0]), sections, meta)
            dataset = open_table(images, table)
            with pytest.raises(CorruptIndexError, match="the saved columns are damaged"):
                for sample in dataset:
                    del sample
    # Arrays of other types are computed anew.
    file_format.save(locate(saved[0]), {**whole, "chosen": np.zeros(9)}, meta)
    assert open_table(images, table)[0]["caption"] == "zero"
