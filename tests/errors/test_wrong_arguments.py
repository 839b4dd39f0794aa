"""Wrong values for the arguments of public functions raise errors of ours."""

import io
from functools import partial

import numpy as np
import pytest
from support.archives import write_tar
from support.samples import FILES

import imagearchive
from imagearchive import (
    Archive,
    CombinedLazyDataset,
    DataLoader,
    DataProcessor,
    ImageArchive,
    LazyNPZDataset,
    NpzWriter,
    SplitDataLoader,
    TarWriter,
    ZipWriter,
    convert,
    extract,
    pack,
    verify,
    write_split_data,
)
from imagearchive.errors import ImageArchiveError, OptionTypeError

# Anything but text, numbers, and None.
OBJECTS = [io.BytesIO(b"x"), object(), 2.5]
NOT_PATHS = [None, 3, True, *OBJECTS, [], "", "\0"]
NOT_FLAGS = [None, "no", 2, *OBJECTS, []]
NOT_FUNCTIONS = [3, True, "", *OBJECTS]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "a.tar", {f"x/{k}.jpg": FILES[k] for k in range(3)})
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 5, 6, 3), np.uint8), labels=np.arange(4))


@pytest.fixture
def archive(folder):
    return imagearchive.open("a.tar")


def refuses(function, value):
    """Whether a call raises an error of ours that is a TypeError or a ValueError, on one line."""
    try:
        function(value)
    except ImageArchiveError as error:
        return isinstance(error, TypeError | ValueError) and "\n" not in str(error)
    return False


def keyword(function, name, *arguments, **others):
    return lambda value: function(*arguments, **others, **{name: value})


@pytest.mark.parametrize(
    "function",
    [
        imagearchive.open,
        SplitDataLoader,
        LazyNPZDataset,
        TarWriter,
        ZipWriter,
        NpzWriter,
        lambda path: write_split_data(path, [b"1"]),
        lambda path: pack("x", path),
        lambda path: pack(["a.tar"], "b.tar", root=path),
        lambda path: convert(imagearchive.open("a.tar"), path),
        lambda path: extract(imagearchive.open("a.tar"), path),
        lambda path: DataProcessor(path, "out"),
        lambda path: DataProcessor("raw", path),
    ],
)
def test_wrong_path_raises(function):
    assert [value for value in NOT_PATHS if not refuses(function, value)] == []


@pytest.mark.parametrize(
    "function",
    [
        keyword(Archive, "ipath", "a.tar"),
        keyword(ImageArchive, "ipath", "a.tar"),
        keyword(ImageArchive, "index_file", "a.tar"),
        keyword(ImageArchive, "label_file", "a.tar"),
        keyword(LazyNPZDataset, "ipath", "a.npz"),
    ],
)
def test_wrong_optional_path_raises(function):
    assert [value for value in NOT_PATHS[1:] if not refuses(function, value)] == []


@pytest.mark.parametrize(
    "function",
    [
        *(keyword(Archive, name, "a.tar") for name in ("strict", "overwrite_index")),
        *(
            keyword(ImageArchive, name, "a.tar")
            for name in ("strict", "data_in_memory", "open_after_fork", "overwrite_index")
        ),
        *(keyword(LazyNPZDataset, name, "a.npz") for name in ("copy", "open_after_fork")),
        *(
            keyword(DataLoader, name, "a.tar")
            for name in (
                "shuffle",
                "drop_last",
                "channels_last",
                "pin_memory",
                "return_indices",
                "exif_transpose",
                "split_torch_workers",
            )
        ),
        keyword(TarWriter, "overwrite", "b.tar"),
        keyword(ZipWriter, "overwrite", "b.zip"),
        keyword(pack, "overwrite", ["a.tar"], "b.tar"),
        keyword(write_split_data, "start_clean", "out", [b"1"]),
        keyword(write_split_data, "append", "out", [b"1"]),
    ],
)
def test_wrong_flag_raises(function):
    assert [value for value in NOT_FLAGS if not refuses(function, value)] == []


@pytest.mark.parametrize(
    "function",
    [
        *(
            keyword(ImageArchive, name, "a.tar")
            for name in (
                "loader",
                "transform",
                "target_transform",
                "index_transform",
                "is_valid_file",
            )
        ),
        keyword(LazyNPZDataset, "transform", "a.npz"),
        keyword(DataLoader, "collate_fn", "a.tar"),
    ],
)
def test_wrong_function_raises(function):
    assert [value for value in NOT_FUNCTIONS if not refuses(function, value)] == []


@pytest.mark.parametrize(
    "function",
    [
        keyword(Archive, "max_open", "a.tar"),
        keyword(pack, "shards", ["a.tar"], "b.tar"),
        keyword(pack, "shard_size", ["a.tar"], "b.tar"),
        keyword(pack, "mtime", ["a.tar"], "b.tar"),
        keyword(write_split_data, "splits", "out", [b"1"]),
    ],
)
def test_wrong_number_raises(function):
    wrong = [True, "", "3", *OBJECTS, []]
    assert [value for value in wrong if not refuses(function, value)] == []


def test_splits_of_numpy_are_a_number():
    write_split_data("out", [b"1", b"2"], splits=np.int64(2))
    assert len(SplitDataLoader("out")) == 2


def test_wrong_names_in_an_archive_raise(archive):
    functions = [
        archive.exists,
        archive.listdir,
        archive.glob,
        archive.samples,
        archive.read,
        lambda name: list(archive.walk(name)),
        partial(ImageArchive, "a.tar"),
    ]
    wrong = [2.5, object(), io.BytesIO(b""), []]
    for function in functions:
        assert [value for value in wrong if not refuses(function, value)] == []


def test_wrong_sequences_raise(archive):
    functions = [
        archive.read_many,
        archive.prefetch,
        partial(extract, archive, "out"),
        lambda value: pack(value, "b.tar"),
        CombinedLazyDataset,
        keyword(ImageArchive, "extensions", "a.tar"),
    ]
    for function in functions:
        assert [value for value in (3, True, object()) if not refuses(function, value)] == []
    for function in functions[1:3]:
        assert refuses(function, "a.jpg")
    assert refuses(partial(extract, archive, "out"), ["x/0.jpg"])
    assert refuses(CombinedLazyDataset, b"a.npz")


def test_wrong_limits_raise(archive):
    functions = [
        keyword(extract, "limits", archive, "out"),
        keyword(convert, "limits", archive, "b.zip"),
        keyword(verify, "limits", archive, decode=True),
    ]
    for function in functions:
        assert [value for value in (3, True, [], "", {}) if not refuses(function, value)] == []


def test_packets_that_are_one_packet_raise():
    for value in (b"1", bytearray(b"1"), memoryview(b"1"), "1"):
        with pytest.raises(OptionTypeError, match=r"iterable of packets, .*pass a list of it"):
            write_split_data("out", value)


def test_extract_positions_count_from_the_end_and_once(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {f"{number}.txt": b"%d" % number})
    with imagearchive.open([tmp_path / "0.tar", tmp_path / "1.tar"]) as archive:
        done = extract(archive, tmp_path / "out", [-1, 1, np.int64(-1)])
    assert (done.files, done.skipped) == (1, 0)
    assert (tmp_path / "out/1.txt").read_bytes() == b"1"
