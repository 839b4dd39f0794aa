"""What `NpzWriter` writes, as `numpy.load` reads it."""

import io
import os
import random
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.npz_rows import load, write

from imagearchive.arrays.npy import parse_header
from imagearchive.containers.npz.direct_column import crc32_combine
from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.containers.zip import scan as scanner
from imagearchive.containers.zip import stream
from imagearchive.errors import ClosedError, OptionError, OptionTypeError
from imagearchive.storage.local import MemoryStorage


def aligned(path):
    """Whether all data of stored arrays start on a multiple of 64 bytes."""
    storage = MemoryStorage(path.read_bytes())
    rows = scanner.scan(storage)
    for entry in rows.entries[: rows.rows]:
        header = parse_header(storage, int(entry["offset"]), int(entry["size"]), where="x")
        if (int(entry["offset"]) + header.data_offset) % 64:
            return False
    return True


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


BOTH = pytest.mark.parametrize("compress", [False, True])


@BOTH
def test_writer_detector_data_is_read_back(path, compress):
    rng = np.random.default_rng(0)
    samples = [
        {
            "images": rng.integers(0, 256, (24, 32, 3), np.uint8),
            "bboxes": [[int(x) for x in rng.integers(0, 99, 4)] for _ in range(count)],
            "image_paths": f"raw/é{number}.jpg",
            "label": number,
        }
        for number, count in enumerate([0, 2, 1, 0, 5])
    ]
    arrays, rows = write(path, samples, compress=compress)
    assert {key: (array.dtype.str, array.shape) for key, array in arrays.items()} == {
        "images": ("|u1", (5, 24, 32, 3)),
        "bboxes.values": ("<i8", (8, 4)),
        "bboxes.offsets": ("<i8", (6,)),
        "image_paths": ("<U10", (5,)),
        "label": ("<i8", (5,)),
    }
    for number, sample in enumerate(samples):
        assert np.array_equal(rows["images"][number], sample["images"])
        assert rows["bboxes"][number].tolist() == sample["bboxes"]
        assert rows["bboxes"][number].shape == (len(sample["bboxes"]), 4)
        assert rows["image_paths"][number] == sample["image_paths"]
        assert rows["label"][number] == number
    split = np.split(arrays["bboxes.values"], arrays["bboxes.offsets"][1:-1])
    assert [part.tolist() for part in split] == [sample["bboxes"] for sample in samples]
    assert compress or aligned(path)


@BOTH
def test_writer_images_of_several_sizes_store_shapes(path, compress):
    shapes = [(4, 5, 3), (4, 5, 3), (4, 6, 3), (0, 2, 3), (7, 1, 3)]
    images = [np.full(shape, number, np.uint8) for number, shape in enumerate(shapes)]
    arrays, rows = write(path, [{"images": one} for one in images], compress=compress)
    assert sorted(arrays) == ["images.offsets", "images.shapes", "images.values"]
    assert arrays["images.values"].ndim == 1
    assert arrays["images.shapes"].tolist() == [list(shape) for shape in shapes]
    for found, image in zip(rows["images"], images):
        assert np.array_equal(found, image)
        assert found.shape == image.shape


def test_writer_rows_of_different_length_store_no_shapes(path):
    images = [np.full((height, 6, 3), height, np.uint8) for height in (4, 4, 9, 1)]
    arrays, rows = write(path, [{"images": one} for one in images])
    assert arrays["images.values"].shape == (18, 6, 3)
    assert arrays["images.offsets"].tolist() == [0, 4, 8, 17, 18]
    assert all(map(np.array_equal, rows["images"], images))


ELEMENTS = st.sampled_from(
    ["u1", "<i4", ">i2", "f4", ">f8", "?", "c8", "M8[s]", "m8[D]", "U3", "S2"]
)
STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8", (2,)), ("c", "U2")])


@settings(max_examples=80)
@given(st.data(), st.booleans(), st.integers(0, 7))
def test_writer_any_columns_are_read_back(tmp_path_factory, data, compress, count):
    path = tmp_path_factory.getbasetemp() / "any_columns.npz"
    samples = [{} for _ in range(count)]
    dtypes = {}
    for name in data.draw(st.sets(st.sampled_from(["a", "b/c", "é", "d.e"]), min_size=1)):
        kind = data.draw(st.sampled_from(["fixed", "ragged", "scalar", "text", "bytes", "struct"]))
        dtype = STRUCTURED if kind == "struct" else np.dtype(data.draw(ELEMENTS))
        dimensions = data.draw(st.integers(1, 3))
        fixed = data.draw(hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4))
        dtypes[name] = dtype if kind not in {"text", "bytes"} else None
        for sample in samples:
            if kind == "text":
                sample[name] = data.draw(st.text(max_size=9))
            elif kind == "bytes":
                sample[name] = data.draw(st.binary(max_size=9))
            else:
                shape = {"scalar": (), "ragged": None}.get(kind, fixed)
                if shape is None:
                    side = st.tuples(*[st.integers(0, 3)] * dimensions)
                    shape = data.draw(side)
                noise = random.Random(len(sample)).randbytes(dtype.itemsize * int(np.prod(shape)))
                array = np.frombuffer(bytes(byte & 1 for byte in noise), "u1")
                if dtype.kind == "U" or kind == "struct":
                    array = np.zeros(shape, dtype)
                    array[...] = "xy" if dtype.kind == "U" else (3, (1, 2), "z")
                sample[name] = array.view(dtype).reshape(shape)
    if not samples:
        return
    _, rows = write(path, samples, compress=compress)
    for name, dtype in dtypes.items():
        for sample, found in zip(samples, rows[name]):
            if dtype is None:
                assert found == sample[name]
                continue
            expected = sample[name]
            assert found.tobytes() == expected.tobytes()
            if expected.shape != (0,):
                assert found.shape == expected.shape
            if expected.size:
                assert found.dtype == dtype
    assert compress or aligned(path)


def test_extend_writes_the_bytes_of_append(tmp_path):
    rng = np.random.default_rng(1)
    columns = {
        "images": rng.integers(0, 256, (20, 8, 8, 3), np.uint8),
        "boxes": [rng.random((number % 3, 4)) for number in range(20)],
        "names": np.array([f"{number}" for number in range(20)]),
        "label": list(range(20)),
        "blob": [bytes(number) for number in range(20)],
        "any": np.array([[1, 2]] * 19 + [[3, 4]], dtype=object),
    }
    columns["any"] = np.array([1.5, *range(19)], dtype=object)
    for compress in (False, True):
        one, other = tmp_path / "one.npz", tmp_path / "other.npz"
        with NpzWriter(one, compress=compress) as writer:
            for row in range(20):
                writer.append(**{name: values[row] for name, values in columns.items()})
        with NpzWriter(other, compress=compress) as writer:
            writer.extend(**{name: values[:0] for name, values in columns.items()})
            for start in range(0, 20, 7):
                writer.extend(**{k: values[start : start + 7] for k, values in columns.items()})
        assert one.read_bytes() == other.read_bytes()


def test_writer_numbers_are_promoted_as_in_one_array(path):
    for compress in (False, True):
        values = [True, 7, -(2**40), 2.5, 1 + 2j]
        samples = [{"x": value, "image": np.zeros(9, np.uint8)} for value in values]
        _, rows = write(path, samples, compress=compress)
        assert np.array(rows["x"]).tolist() == np.array(values).tolist()
    # Also in the column that is written straight into the file, over many pieces.
    for compress in (False, True):
        blocks = [np.full((3, 100_000), number, np.uint8) for number in range(5)]
        blocks += [np.full((3, 100_000), 0.5, np.float32)]
        with NpzWriter(path, compress=compress) as writer:
            for block in blocks:
                writer.extend(x=block, label=np.zeros(3))
        found = load(path)["x"]
        assert found.dtype == np.float32
        assert np.array_equal(found, np.concatenate(blocks))


def test_writer_strings_are_read_back(path):
    wide = ["short"] * 400 + ["x" * 5000]
    for values, key in (
        (["a", "", "日本"], "s"),
        (["trailing\0", "b"], "s.utf8"),
        (["inner\0nul"], "s"),
        (["\udcff lone surrogate"], "s"),
        (["\udcff lone\0"], "s.utf8"),
        (wide, "s.utf8"),
        ([""], "s"),
    ):
        arrays, rows = write(path, [{"s": value} for value in values])
        assert key in arrays
        assert rows["s"] == values


def test_writer_byte_strings_are_read_back(path):
    values = [b"", b"\xff\xd8jpeg\0", bytearray(b"x"), memoryview(b"yz"), np.bytes_(b"q")]
    arrays, rows = write(path, [{"jpeg": value} for value in values])
    assert sorted(arrays) == ["jpeg.bytes", "jpeg.offsets"]
    assert rows["jpeg"] == [bytes(value) for value in values]


@BOTH
def test_writer_encoded_images_are_the_first_array(path, compress):
    rng = random.Random(3)
    values = [rng.randbytes(rng.randrange(1, 300_000)) for _ in range(20)]
    samples = [{"label": number, "jpeg": value} for number, value in enumerate(values)]
    arrays, rows = write(path, samples, compress=compress)
    assert next(iter(arrays)) == "jpeg.bytes"
    assert rows["jpeg"] == values
    assert compress or aligned(path)


def test_writer_empty_lists_take_the_shape_of_the_others(path):
    arrays, rows = write(path, [{"b": []}, {"b": []}])
    assert arrays["b"].shape == (2, 0)
    arrays, rows = write(path, [{"b": []}, {"b": [[1, 2]]}, {"b": np.zeros((0, 2), np.int8)}])
    assert arrays["b.values"].dtype == np.int64
    assert [row.shape for row in rows["b"]] == [(0, 2), (1, 2), (0, 2)]
    arrays, rows = write(path, [{"b": [[1, 2]]}, {"b": []}])
    assert [row.shape for row in rows["b"]] == [(1, 2), (0, 2)]
    arrays, rows = write(path, [{"b": [1]}, {"b": []}, {"b": [2, 3]}])
    assert [row.tolist() for row in rows["b"]] == [[1], [], [2, 3]]


def test_writer_ragged_option_makes_a_column_ragged(path):
    arrays, rows = write(path, [{"b": [[1, 2]]}, {"b": [[3, 4]]}], ragged=["b"])
    assert sorted(arrays) == ["b.offsets", "b.values"]
    assert [row.tolist() for row in rows["b"]] == [[[1, 2]], [[3, 4]]]
    with pytest.raises(OptionError, match="single numbers"):
        write(path, [{"b": 1}], ragged="b")


def test_writer_without_samples_writes_an_empty_file(path):
    with NpzWriter(path):
        pass
    assert load(path) == {}
    with NpzWriter(path) as writer:
        writer.extend(x=np.zeros((0, 3)), s=[])
    assert {key: array.shape for key, array in load(path).items()} == {"x": (0, 0), "s": (0, 0)}


@pytest.mark.parametrize(
    ("first", "second", "error", "match"),
    [
        ({"a": 1}, {"b": 1}, OptionError, "differ from those of the first"),
        ({"a": 1}, {}, OptionError, "differ"),
        ({"a": [1, 2]}, {"a": 3}, OptionError, "shape"),
        ({"a": 3}, {"a": []}, OptionError, "shape"),
        ({"a": []}, {"a": 3}, OptionError, "empty lists"),
        ({"a": [[1, 2]]}, {"a": [1, 2]}, OptionError, "column 'a'"),
        ({"a": "x"}, {"a": 3}, OptionTypeError, "numbers after strings"),
        ({"a": 3}, {"a": b"x"}, OptionTypeError, "byte strings after numbers"),
        ({"a": [1]}, {"a": ["x"]}, OptionTypeError, "column 'a'"),
        ({"a": 1}, {"a": None}, OptionTypeError, "objects"),
        ({"a": [1]}, {"a": [[1], [2, 3]]}, OptionTypeError, "differ in length"),
        ({"a": 1}, {"a": {"x": 1}}, OptionTypeError, "objects"),
        ({"a": np.zeros(1, STRUCTURED)}, {"a": [1]}, OptionTypeError, "column 'a'"),
    ],
)
def test_append_sample_that_does_not_fit_changes_nothing(path, first, second, error, match):
    with NpzWriter(path) as writer:
        writer.append(big=np.zeros(99), **first)
        with pytest.raises(error, match=match):
            writer.append(big=np.ones(99), **second)
        writer.append(big=np.zeros(99), **first)
    assert load(path)["big"].shape == (2, 99)
    assert not load(path)["big"].any()


def test_extend_columns_of_different_lengths_raise(path):
    with NpzWriter(path) as writer:
        with pytest.raises(OptionError, match="different lengths"):
            writer.extend(a=[1, 2], b=[1])
        for value in (3, np.float64(3), np.array(3)):
            with pytest.raises(OptionTypeError, match="no rows"):
                writer.extend(a=value)
        writer.extend(a=[1], b=[2])


@pytest.mark.parametrize("names", [["a", "a.values"], [""], ["x\0y"], ["n" * 60001]])
def test_append_name_that_cannot_be_a_column_raises(path, names):
    with NpzWriter(path) as writer, pytest.raises(OptionError, match="column"):
        writer.append(**dict.fromkeys(names, 1))


def test_append_unusual_names_are_kept(path):
    names = ["self", "file", "a.npy", "x/y", "日本", "values", ".offsets", "n" * 60000]
    arrays, _ = write(path, [dict.fromkeys(names, 5)])
    assert set(arrays) >= set(names) - {"a.npy"}
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{name}.npy" for name in names]


@BOTH
def test_writer_same_samples_give_the_same_bytes(tmp_path, compress):
    samples = [{"a": np.arange(number), "b": f"{number}"} for number in range(50)]
    first, second = tmp_path / "1.npz", tmp_path / "2.npz"
    write(first, samples, compress=compress)
    os.utime(first, (0, 0))
    write(second, samples, compress=compress)
    assert first.read_bytes() == second.read_bytes()


@BOTH
def test_writer_zip64_file_is_read_back(path, compress, monkeypatch):
    samples = [{"a": np.arange(500), "b": "x" * 400} for _ in range(3)]
    monkeypatch.setattr(stream, "ZIP64_LIMIT", 300)
    _, rows = write(path, samples, compress=compress)
    assert b"PK\6\6" in path.read_bytes()
    assert np.array_equal(rows["a"], [sample["a"] for sample in samples])
    storage = MemoryStorage(path.read_bytes())
    assert scanner.scan(storage).rows == 2


def test_writer_header_longer_than_a_deflate_block_is_read_back(path):
    dtype = np.dtype([(f"column number {number}", "<f4") for number in range(3000)])
    write_rows = [{"table": np.ones((), dtype)} for _ in range(3)]
    with NpzWriter(path, compress=True) as writer:
        for row in write_rows:
            writer.append(**row)
    with np.load(path, max_header_size=200_000) as file:
        assert file["table"].dtype == dtype
        assert file["table"].tobytes() == np.ones(3, dtype).tobytes()


def test_writer_long_columns_are_read_back(path):
    rows = 300_000
    with NpzWriter(path) as writer:
        writer.append(image=np.zeros(4000, np.uint8), box=[], name="", label=0)
        count = np.arange(rows) % 2 + 1
        for start in range(0, rows, 50_000):
            part = range(start, start + 50_000)
            writer.extend(
                image=np.zeros((50_000, 0), np.uint8),
                box=np.ones((50_000, 2), np.int16),
                name=["abc"] * 50_000,
                label=np.array(part),
            )
    arrays = load(path)
    assert len(count) == rows
    assert arrays["label"].tolist() == [0, *range(rows)]
    assert arrays["box.offsets"][-1] == 2 * rows
    assert arrays["box.values"].sum() == 2 * rows
    assert np.all(arrays["name"][1:] == "abc")


def test_crc32_combine_equals_the_crc_of_both():
    rng = random.Random(4)
    for size in (0, 1, 2, 5, 1000, 65537):
        first, second = rng.randbytes(17), rng.randbytes(size)
        combined = crc32_combine(zlib.crc32(first), zlib.crc32(second), size)
        assert combined == zlib.crc32(first + second)


def test_writer_level_out_of_range_raises(path):
    for level in (0, 10):
        with pytest.raises(OptionError, match="level"):
            NpzWriter(path, compress=True, level=level)
    assert os.listdir(path.parent) == []


def test_writer_file_is_read_from_a_file_object(path):
    write(path, [{"a": number} for number in range(3)])
    with np.load(io.BytesIO(path.read_bytes())) as file:
        assert file["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("options", [{"level": "a"}, {"level": 1.5}, {"compress": "gzip"}])
def test_writer_option_of_a_wrong_type_raises(path, options):
    (name,) = options
    with pytest.raises(OptionTypeError, match=f"^{name} "):
        NpzWriter(path, **options)
    assert not os.path.lexists(path)


def test_writer_append_after_close_says_that_it_is_closed(path):
    writer = NpzWriter(path)
    writer.append(a=1)
    writer.close()
    with pytest.raises(ClosedError, match="the writer is closed"):
        writer.append(a=2)
