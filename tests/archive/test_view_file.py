"""The file object over mapped bytes, against `io.BytesIO` and the libraries that take files."""

import io
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.archives import encoded

from imagearchive.archive.view_file import ViewFile

DATA = b"line one\n\nline three is longer\nno end" * 40

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "read1"]), st.integers(-1, 900) | st.none()),
        st.tuples(st.just("readline"), st.integers(-1, 40) | st.none()),
        st.tuples(st.just("readlines"), st.integers(-1, 90)),
        st.tuples(st.just("seek"), st.integers(-1600, 1600), st.integers(0, 2)),
        st.tuples(
            st.sampled_from(["tell", "getvalue", "readable", "seekable", "isatty", "__next__"])
        ),
    ),
    max_size=25,
)


@given(st.sampled_from([DATA, b"", b"\n", b"x"]), OPERATIONS)
def test_it_behaves_as_bytesio(data, operations):
    file, oracle = ViewFile(memoryview(data)), io.BytesIO(data)
    for name, *arguments in operations:
        try:
            expected = getattr(oracle, name)(*arguments)
        except (ValueError, StopIteration) as error:
            with pytest.raises(type(error)):
                getattr(file, name)(*arguments)
            continue
        assert getattr(file, name)(*arguments) == expected
        assert file.tell() == oracle.tell()


def test_readinto():
    file, oracle = ViewFile(DATA), io.BytesIO(DATA)
    for size in (0, 7, 5000, 3):
        mine, theirs = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        assert file.readinto(mine) == oracle.readinto(theirs)
        assert np.array_equal(mine, theirs)
    assert file.peek() == b""
    file.seek(3)
    assert file.peek(4) == DATA[3:7]
    assert file.tell() == 3


def test_it_cannot_be_written_and_has_no_descriptor():
    file = ViewFile(DATA)
    assert isinstance(file, io.BufferedIOBase)
    assert not file.writable()
    for operation in (lambda: file.write(b"x"), lambda: file.truncate(0), file.fileno):
        with pytest.raises(io.UnsupportedOperation):
            operation()
    with pytest.raises(TypeError):
        ViewFile("text")


def test_closed():
    with ViewFile(DATA) as file:
        pass
    assert file.closed
    file.close()
    for operation in (file.read, file.tell, file.readline, lambda: file.seek(0), file.__enter__):
        with pytest.raises(ValueError, match="closed"):
            operation()


def test_it_keeps_the_mapping_alive(tmp_path):
    (tmp_path / "data").write_bytes(DATA)
    with open(tmp_path / "data", "rb") as source:
        mapping = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    file = ViewFile(memoryview(mapping)[5:20])
    with pytest.raises(BufferError):
        mapping.close()
    assert file.read() == DATA[5:20]
    file.close()
    mapping.close()


def test_libraries_that_take_files():
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    image = Image.open(ViewFile(memoryview(encoded(pixels))))
    assert np.array_equal(np.asarray(image), pixels)
    saved = io.BytesIO()
    np.save(saved, pixels)
    assert np.array_equal(np.load(ViewFile(saved.getvalue())), pixels)
    assert io.TextIOWrapper(ViewFile(DATA)).readline() == "line one\n"
    assert [line for line in ViewFile(b"a\nb")] == [b"a\n", b"b"]  # noqa: C416
