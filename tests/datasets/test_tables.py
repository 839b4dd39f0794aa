"""`ImageArchive` with labels and selections from tables and lists of names."""

import csv
import io
import json
import math
import multiprocessing
import pickle
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import write_tar

from imagearchive import DataLoader, ImageArchive
from imagearchive.datasets.table_columns import Column
from imagearchive.errors import (
    LabelError,
    MissingDependencyError,
    OptionError,
    OptionTypeError,
)

# In another order than in the archive, and not all of its images.
TABLE = {
    "id": ["dog/3.png", "cat/1", "cat-b/0.png", "./dog/0.png"],
    "breed": ["poodle", "manx", "manx", "boxer"],
    "size": [3, 1, 2, 3],
    "weight": [30.5, 4.25, 4.0, 28.0],
    "fold": ["a", "a", "b", "b"],
}
NAMES = ["dog/3.png", "cat/1.png", "cat-b/0.png", "dog/0.png"]


def records(table=TABLE):
    return [dict(zip(table, row)) for row in zip(*table.values())]


def csv_text(table=TABLE, delimiter=","):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(table)
    writer.writerows(zip(*table.values()))
    return file.getvalue()


FILES = {
    "table.csv": csv_text(),
    "semicolon.csv": "\ufeff" + csv_text(delimiter=";").replace("\r\n", "\n\n"),
    "table.tsv": csv_text(delimiter="\t"),
    "table.txt": csv_text(delimiter=" ").replace("\r", ""),
    "columns.json": json.dumps(TABLE),
    "records.json": json.dumps(records()),
    "table.jsonl": "\n".join(map(json.dumps, records())),
}


class Frame:
    """A dataframe as pandas and polars have them."""

    def __init__(self, columns):
        self.columns = list(columns)
        self._columns = columns

    def __getitem__(self, name):
        return np.array(self._columns[name])


def tables(tmp_path):
    """The same table in every form."""
    found = {"dict": TABLE, "records": records(), "frame": Frame(TABLE)}
    found["arrays"] = {name: np.array(column) for name, column in TABLE.items()}
    found["structured"] = np.array(
        list(zip(*TABLE.values())), [("id", "U20"), ("breed", "U20"), ("size", "i2"),
                                     ("weight", "f8"), ("fold", "O")]
    )  # fmt: skip
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found[name] = tmp_path / name
    return found


FORMS = ["dict", "records", "frame", "arrays", "structured", *FILES]


@pytest.mark.parametrize("form", FORMS)
def test_table_rows_become_samples_in_their_order(image_tar, tmp_path, form, caplog):
    table = tables(tmp_path)[form]
    dataset = ImageArchive(image_tar, table=table, image="id", label="breed")
    assert [name for name, _ in dataset.samples] == NAMES
    assert dataset.classes == ["boxer", "manx", "poodle"]
    assert dataset.class_to_idx == {"boxer": 0, "manx": 1, "poodle": 2}
    assert dataset.targets.tolist() == [2, 1, 1, 0]
    assert dataset.targets.dtype == np.int64
    assert [type(label) for _, label in dataset.samples] == [int] * 4
    assert [label for _, label in dataset] == [2, 1, 1, 0]
    assert dataset.labels(0).tolist() == [2.0]
    assert not caplog.records
    numbers = ImageArchive(image_tar, table=table, image="id", label="size")
    assert (numbers.targets.tolist(), numbers.targets.dtype) == (TABLE["size"], np.int64)
    assert numbers.classes == []
    floats = ImageArchive(image_tar, table=table, image="id", label="weight")
    assert (floats[0][1], type(floats[0][1])) == (30.5, float)
    several = ImageArchive(image_tar, table=table, image="id", label=["size", "weight"])
    assert several[1][1].tolist() == [1, 4.25]
    assert several.targets.shape == (4, 2)
    integers = ImageArchive(image_tar, table=table, image="id", label=["size", "size"])
    assert integers[1][1].dtype == np.int64


@pytest.mark.parametrize("form", FORMS)
def test_table_split_takes_rows_and_numbers_all_classes(image_tar, tmp_path, form):
    table = tables(tmp_path)[form]
    options = {"table": table, "image": "id", "label": "breed"}
    parts = [
        ImageArchive(image_tar, **options, split=split, split_column="fold")
        for split in ("a", "b", ["a", "b"])
    ]
    assert [part.classes for part in parts] == [["boxer", "manx", "poodle"]] * 3
    assert [part.targets.tolist() for part in parts] == [[2, 1], [1, 0], [2, 1, 1, 0]]
    for split in (3, "3", 3.0, [3]):
        sized = ImageArchive(image_tar, **options, split=split, split_column="size")
        assert [name for name, _ in sized.samples] == ["dog/3.png", "dog/0.png"]
    with pytest.raises(LabelError, match="no row has the value 'c' of split=; found 'a', 'b'"):
        ImageArchive(image_tar, **options, split="c", split_column="fold")


def test_table_without_label_selects_and_directories_label(image_tar):
    dataset = ImageArchive(image_tar, table=TABLE, image="id", split="a", split_column="fold")
    assert (dataset.classes, dataset.targets.tolist()) == (["cat", "cat-b", "dog"], [2, 0])


def test_table_with_rows_of_one_image_has_a_sample_for_each(image_tar):
    table = {"id": ["dog/3", "dog/3"], "breed": ["b", "a"]}
    dataset = ImageArchive(image_tar, table=table, image="id", label="breed")
    assert (dataset.name(0), dataset.name(1), dataset.targets.tolist()) == (
        "dog/3.png",
        "dog/3.png",
        [1, 0],
    )


def test_table_file_inside_archives(tmp_path, pictures):
    text = csv_text().encode()
    members = {"data/train.csv": text, "train.csv": text, **pictures}
    path = write_tar(tmp_path / "own.tar", members)
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sets/train.csv", text)
    for table in (
        f"{path}/data/train.csv",
        path / "train.csv",
        "train.csv",
        "data/train.csv",
        tmp_path / "kaggle.zip/sets/train.csv",
    ):
        dataset = ImageArchive(path, table=table, image="id", label="breed")
        assert dataset.targets.tolist() == [2, 1, 1, 0]
    with pytest.raises(LabelError, match=r"test\.csv: no such file"):
        ImageArchive(path, table="test.csv", image="id")
    with pytest.raises(LabelError, match=r"kaggle\.zip/test\.csv: .*no member"):
        ImageArchive(path, table=tmp_path / "kaggle.zip/test.csv", image="id")


def test_table_file_in_the_current_directory_comes_first(image_tar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("id,label\ncat/1,7\n")
    dataset = ImageArchive(image_tar, table="train.csv", image="id", label="label")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(dataset)).targets.tolist() == [7]


def test_table_text_file_without_header_has_numbered_columns(image_tar, tmp_path):
    for name, separator in (("list.txt", "  "), ("list.csv", ","), ("list.tsv", "\t")):
        (tmp_path / name).write_text(
            f"dog/1{separator}12{separator}x\ncat/0{separator}3{separator}y\n"
        )
        dataset = ImageArchive(image_tar, table=tmp_path / name, image=0, label=1)
        assert (dataset.targets.tolist(), dataset.name(1)) == ([12, 3], "cat/0.png")
        named = ImageArchive(image_tar, table=tmp_path / name, image=0, label=2)
        assert named.classes == ["x", "y"]
    with pytest.raises(OptionError, match=r"name all columns, or number all of.* got 0, 'label'"):
        ImageArchive(image_tar, table=tmp_path / name, image=0, label="label")


@pytest.mark.parametrize("form", FORMS)
def test_table_without_the_column_of_split_says_how_to_name_it(image_tar, tmp_path, form):
    table = tables(tmp_path)[form]
    with pytest.raises(LabelError) as caught:
        ImageArchive(image_tar, table=table, image="id", split="a")
    assert "'split'" in str(caught.value)
    assert "'fold'; pass split_column to name the column" in str(caught.value)
    with pytest.raises(LabelError) as caught:
        ImageArchive(image_tar, table=table, image="nothing", split="a", split_column="fold")
    assert "split_column" not in str(caught.value)


def test_table_names_keep_leading_zeros_of_text_files(tmp_path, pictures):
    images = dict(zip(["007.png", "7.png"], pictures.values()))
    path = write_tar(tmp_path / "x.tar", images)
    (tmp_path / "t.csv").write_text("id,label\n007,1\n7,0\n")
    dataset = ImageArchive(path, table=tmp_path / "t.csv", image="id", label="label")
    assert [dataset.name(0), dataset.name(1)] == ["007.png", "7.png"]
    dataset = ImageArchive(path, table={"id": [7]}, image="id")
    assert dataset.name(0) == "7.png"


def test_table_missing_member_raises_or_is_dropped(image_tar, caplog):
    table = {"id": [f"x{i}" for i in range(7)] + ["cat/1"], "label": list("abcdefgh")}
    with pytest.raises(LabelError, match=r"7 of 8 names fit no member: 'x0', .*'x4'; .* called"):
        ImageArchive(image_tar, table=table, image="id", label="label")
    with pytest.raises(LabelError, match=r"pass missing='drop' to leave them out"):
        ImageArchive(image_tar, table=table, image="id")
    dataset = ImageArchive(image_tar, table=table, image="id", label="label", missing="drop")
    assert (len(dataset), dataset.classes, dataset.targets.tolist()) == (1, list("abcdefgh"), [7])
    assert "7 of 8 names fit no member" in caplog.text
    with pytest.raises(LabelError, match=r"1 of 1 names fit no member: 'x'; a member is .*png'$"):
        ImageArchive(image_tar, table={"id": ["x"]}, image="id", missing="drop")


def test_table_name_of_several_members_raises(image_tar):
    with pytest.raises(
        LabelError, match=r"2 of 3 names fit several .*'0' \(such as 'dog/0\.png'\)"
    ):
        ImageArchive(image_tar, table={"id": ["0", "1.png", "cat/0"]}, image="id")
    dataset = ImageArchive(image_tar, root="cat-b", table={"id": ["0", "1.png"]}, image="id")
    assert dataset.name(1) == "cat-b/1.png"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": ["a"]}, "no column is called 'id'; the columns are 'x'"),
        ({"id": ["cat/0", "cat/1"], "label": [1]}, "1 value, but the column 'id' has 2"),
        ({"id": ["cat/0", None], "label": [1, 2]}, "no value in 1 of 2 rows: row 1, counted"),
        (
            {"id": ["cat/0", "cat/1"], "label": [1, None]},
            "no value in 1 of 2 rows: row 1, counted",
        ),
        (
            {"id": ["cat/0", "cat/1"], "label": ["x", ""]},
            "no value in 1 of 2 rows: row 1, counted",
        ),
        ({"id": ["cat/0"], "label": [[1, 2]]}, "expected text or a number, got"),
        ({"id": ["cat/0", "cat/1"], "label": ["x", 2]}, "row 1: expected text .*got the number 2"),
        ({"id": ["cat/0"], "label": [1 << 64]}, "larger than int64"),
        ({"id": ["cat/0"], "label": np.array([1 << 63], np.uint64)}, "larger than int64"),
        ({"id": [1.5], "label": [1]}, "expected text or integers, got numbers such as 1.5"),
        ([{"id": "cat/0"}], "row 0 has no 'label'; it has 'id'"),
        ([3], "row 0: expected a dict, got 3"),
    ],
)
def test_table_that_does_not_fit_raises(image_tar, table, message):
    with pytest.raises(LabelError, match=message):
        ImageArchive(image_tar, table=table, image="id", label="label")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", b"id label\ncat/0 1\n", r"no column is called 'id'.*rename it to end in \.txt"),
        ("t.csv", b"id,label\ncat/0\n", r"t\.csv: line 2: expected at least 2 cells, got 1"),
        ("t.csv", b"", "no column is called 'id'"),
        ("t.csv", b"id,id,label\n", "several columns are called 'id'"),
        ("t.csv", b"id,label\ncat/0," + b"x" * 200000, "line 2: not a table of cells"),
        ("t.csv", b"id,label\n\xff,1\n", r"not UTF-8 text"),
        ("t.json", b"[" * 100000, "nested more than"),
        ("t.json", b"{", "not valid JSON"),
        ("t.json", b'{"id": 3}', "must be a list of objects"),
        ("t.json", b"3", "must be a list of objects"),
        ("t.jsonl", b'{"id": "cat/0", "label": 1}\n{"id"', r"t\.jsonl: line 2: not valid JSON"),
    ],
)
def test_table_file_that_is_damaged_raises(image_tar, tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(LabelError, match=message):
        ImageArchive(image_tar, table=tmp_path / name, image="id", label="label")


def test_table_of_unknown_kind_raises(image_tar, tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(OptionError, match=r"\.csv, \.tsv"):
        ImageArchive(image_tar, table=tmp_path / "t.xlsx", image="id")
    for table in (3, iter([]), io.BytesIO()):
        with pytest.raises(OptionTypeError, match="table must be"):
            ImageArchive(image_tar, table=table, image="id")
    lazy = Frame({"id": []})
    lazy.columns.append("label")
    with pytest.raises(OptionTypeError, match="column 'label' cannot be read: 'label'"):
        ImageArchive(image_tar, table=lazy, image="id", label="label")
    with pytest.raises(LabelError, match="expected text or a number, got array"):
        ImageArchive(image_tar, table={"id": np.zeros((2, 2))}, image="id")


def test_table_in_parquet_without_pyarrow_names_the_package(image_tar, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        ImageArchive(image_tar, table=tmp_path / "t.parquet", image="id")


def test_table_in_parquet_is_read_by_pyarrow(image_tar, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({**TABLE, "breed": pa.array(TABLE["breed"]).dictionary_encode()})
    parquet.write_table(table, tmp_path / "t.parquet")
    for source in (tmp_path / "t.parquet", table):
        dataset = ImageArchive(image_tar, table=source, image="id", label="breed")
        assert dataset.targets.tolist() == [2, 1, 1, 0]
        dataset = ImageArchive(image_tar, table=source, image="id", label=["size", "weight"])
        assert dataset[0][1].tolist() == [3, 30.5]
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(LabelError, match="not a Parquet file"):
        ImageArchive(image_tar, table=tmp_path / "bad.parquet", image="id")


def test_table_of_pandas(image_tar):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLE)
    for label, expected in (("breed", [2, 1, 1, 0]), ("size", TABLE["size"])):
        dataset = ImageArchive(image_tar, table=frame, image="id", label=label)
        assert dataset.targets.tolist() == expected
        assert dataset.targets.dtype == np.int64
    holes = pandas.DataFrame({"id": ["cat/0", None], "label": ["x", "y"]})
    with pytest.raises(LabelError, match="no value in 1 of 2 rows: row 1, counted"):
        ImageArchive(image_tar, table=holes, image="id", label="label")


def test_table_options_that_do_not_fit_raise(image_tar):
    for options in (
        {"table": TABLE},
        {"image": "id"},
        {"label": "breed"},
        {"split": "train"},
        {"missing": "skip"},
        {"table": TABLE, "image": "id", "members": ["cat/0"]},
        {"table": TABLE, "image": "id", "mode": "multi"},
        {"table": TABLE, "image": "id", "index_file": "x"},
        {"table": TABLE, "image": "id", "label": "size", "label_extension": "cls"},
        {"table": TABLE, "image": "id", "label": [None]},
        {"classes_from": "file"},
        {"class_to_idx": ["cat"]},
        {"class_to_idx": {"cat": 1.5}},
    ):
        with pytest.raises((OptionError, OptionTypeError)):
            ImageArchive(image_tar, **options)


def test_table_dataset_pickles_without_the_table(image_tar, tmp_path):
    (tmp_path / "t.csv").write_text(csv_text())
    dataset = ImageArchive(
        image_tar,
        table=tmp_path / "t.csv",
        image="id",
        label="breed",
        split_mask=[1, 1, 0, 1],
    )
    (tmp_path / "t.csv").unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        names = pool.apply(list, (dataset.samples,))
    assert names == [("dog/3.png", 2), ("cat/1.png", 1), ("dog/0.png", 0)]


def test_table_labels_reach_the_loader_as_int64(image_tar):
    dataset = ImageArchive(image_tar, table=TABLE, image="id", label="breed")
    (batch,) = DataLoader(dataset, 4, image_size=8, output="numpy")
    assert (batch[1].dtype, batch[1].tolist()) == (np.int64, [2, 1, 1, 0])


LISTS = {
    "list": NAMES,
    "dict": {"x": NAMES[:2], "y": NAMES[2:]},
    "list.json": json.dumps(NAMES),
    "dict.json": json.dumps({"x": ["dog/3", "cat/1"], "y": NAMES[2:]}),
    "list.txt": "\n".join(NAMES) + "\n\n",
}


@pytest.mark.parametrize("form", LISTS)
def test_members_select_samples_in_their_order(image_tar, tmp_path, form, caplog):
    members = LISTS[form]
    if "." in form:
        (tmp_path / form).write_text(members)
        members = tmp_path / form
    dataset = ImageArchive(image_tar, members=members)
    assert [name for name, _ in dataset.samples] == NAMES
    assert dataset.classes == ["cat", "cat-b", "dog"]
    assert dataset.targets.tolist() == [2, 0, 1, 2]
    assert not caplog.records
    if "dict" in form:
        part = ImageArchive(image_tar, members=members, split="y")
        assert [name for name, _ in part.samples] == NAMES[2:]
        with pytest.raises(LabelError, match="no list is called 'z'; the lists are 'x', 'y'"):
            ImageArchive(image_tar, members=members, split="z")
    else:
        with pytest.raises(OptionError, match="there is only one list"):
            ImageArchive(image_tar, members=members, split="y")


def test_members_combine_with_a_label_file(image_tar, tmp_path):
    (tmp_path / "labels.txt").write_text("cat/0.png 5\ndog/2.png 6\n")
    dataset = ImageArchive(
        image_tar, members=["dog/2", "cat/0"], label_file=tmp_path / "labels.txt"
    )
    assert dataset.targets.tolist() == [6, 5]


def test_members_that_do_not_fit_raise(image_tar, caplog):
    with pytest.raises(LabelError, match=r"2 members are named more than once: 'dog/1\.png', "):
        ImageArchive(image_tar, members=["cat/0", "cat/0.png", "dog/1", "dog/1.png"])
    with pytest.raises(LabelError, match="1 of 2 names fit no member: 'x'"):
        ImageArchive(image_tar, members=["x", "cat/0"])
    assert len(ImageArchive(image_tar, members=["x", "cat/0"], missing="drop")) == 1
    for members in (3, [3], {"x": 3}):
        with pytest.raises(OptionTypeError):
            ImageArchive(image_tar, members=members)


def test_table_pickle_holds_a_position_and_a_number_for_each_row(tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": b"" for i in range(3)})
    table = {"id": ["0", "1", "2"] * 20000, "label": ["a", "b", "c"] * 20000}
    dataset = ImageArchive(path, table=table, image="id", label="label")
    small = ImageArchive(path, table={"id": ["0"], "label": ["a"]}, image="id", label="label")
    grown = len(pickle.dumps(dataset)) - len(pickle.dumps(small))
    assert len(dataset) == 60000
    assert grown < 60000 * 17


CELLS = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(allow_nan=False), st.text("ab1_ .e-", max_size=4)
)


@given(st.lists(CELLS, min_size=1, max_size=4))
def test_table_csv_column_is_numbers_only_if_all_cells_are(values):
    cells = [str(value) for value in values]
    numbers = Column("x", cells, is_typed=False).numbers()
    if numbers is None:
        return
    for cell, number in zip(cells, numbers.tolist()):
        assert math.isnan(number) if cell == "" else float(cell) == pytest.approx(number)
