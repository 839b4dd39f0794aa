"""Members as file objects."""

import array
import copy
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagearchive import Archive


def test_open_member_works_as_a_file(archive):
    with archive.open("images/cat/0.png") as file:
        assert isinstance(file, io.BufferedIOBase)
        np.testing.assert_array_equal(
            np.asarray(Image.open(file)), np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
        )
    assert json.load(archive.open("labels.json")) == {"a": 1}
    with io.TextIOWrapper(archive.open("README")) as text:
        assert text.readlines() == ["read me\n", "please\n"]
    with pytest.raises(io.UnsupportedOperation):
        archive.open("README").write(b"x")


@pytest.mark.parametrize(
    "use",
    [
        lambda file: file.read(), lambda file: file.read1(), lambda file: file.peek(),
        lambda file: file.readline(), lambda file: file.tell(), lambda file: file.seek(0),
        lambda file: file.readable(), lambda file: file.seekable(), lambda file: next(file),
        lambda file: file.readinto(bytearray(3)), lambda file: file.__enter__(),
    ],
)  # fmt: skip
def test_open_member_closed_file_raises(file_archive, use):
    file = file_archive.open("text")
    with pytest.raises((ValueError, io.UnsupportedOperation), match="closed"):
        with file:
            file.read(10)
        use(file)
    file.close()
    assert file.closed


@pytest.mark.parametrize(
    "buffer",
    [bytearray(100), array.array("I", range(30)), np.zeros((4, 6), np.float32), memoryview(b"")],
)
def test_open_member_readinto_takes_any_buffer(file_archive, buffer):
    expected = io.BytesIO(b"line one\nline two\n" * 4000)
    mine, theirs = (copy.copy(buffer) if len(buffer) else bytearray() for _ in range(2))
    for file, target in ((file_archive.open("text"), mine), (expected, theirs)):
        file.seek(7)
        assert file.readinto(target) == memoryview(buffer).nbytes
    assert bytes(memoryview(mine)) == bytes(memoryview(theirs))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 90_000)),
        st.tuples(st.just("read1"), st.integers(0, 5000)),
        st.tuples(st.just("readline"), st.integers(-1, 50)),
        st.tuples(st.just("readinto"), st.integers(0, 9000)),
        st.tuples(st.just("seek"), st.integers(-80_000, 80_000), st.integers(0, 2)),
        st.tuples(st.just("tell")),
    ),
    max_size=20,
)


@given(OPERATIONS)
def test_open_member_behaves_as_bytesio(file_archive, operations):
    data = b"line one\nline two\n" * 4000
    file, oracle = file_archive.open("text"), io.BytesIO(data)
    for name, *arguments in operations:
        if name == "read1":
            # How much one system call returns is its own business.
            got = file.read1(*arguments)
            assert oracle.read(len(got)) == got
            assert got or not arguments[0] or file.tell() >= len(data)
            continue
        if name == "readinto":
            mine, theirs = bytearray(arguments[0]), bytearray(arguments[0])
            assert file.readinto(mine) == oracle.readinto(theirs)
            assert mine == theirs
            continue
        try:
            expected = getattr(oracle, name)(*arguments)
        except ValueError:
            with pytest.raises(ValueError, match="seek"):
                getattr(file, name)(*arguments)
            continue
        if name == "seek" and arguments[1] and oracle.tell() == 0:
            # BytesIO stops at the start where a file refuses.
            file.seek(0)
            continue
        assert getattr(file, name)(*arguments) == expected
        assert file.tell() == oracle.tell()


@pytest.fixture(scope="module")
def file_archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "f.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text", b"line one\nline two\n" * 4000)
    return Archive(path)


def test_open_member_rebuilds_damaged_checkpoints(tmp_path, caplog):
    path = tmp_path / "big.zip"
    content = np.random.default_rng(0).integers(0, 9, 5 << 20, np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", content)
    with Archive(path) as opened:
        opened.table.add_extra({"checkpoints/0/points": np.zeros(100, np.uint8)})
    for expected in (["they are built again"], []):
        caplog.clear()
        with Archive(path) as opened, opened.open("big") as file:
            file.seek(4 << 20)
            assert file.read(100) == content[4 << 20 :][:100]
            # What was built once is kept in the index.
            assert len(opened.table.extra["checkpoints/0/points"]) > 32 << 10
        assert [text in caplog.text for text in expected] == [True] * len(expected)
        assert bool(caplog.records) == bool(expected)
