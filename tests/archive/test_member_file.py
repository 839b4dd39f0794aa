"""Bytes in memory as a binary file, against `io.BytesIO` and the libraries that take files."""

import io
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.archives import encoded

from imagearchive.archive.member_file import MemberFile, open_bytes
from imagearchive.storage.local import MemoryStorage

LINES = b"line one\n\nline three is longer\nno end" * 40
LARGE = LINES * 900

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "read1"]), st.integers(-1, 900)),
        st.tuples(st.just("readline"), st.integers(-1, 40)),
        st.tuples(st.just("readlines")),
        st.tuples(st.just("seek"), st.integers(0, 1600)),
        st.tuples(st.just("seek"), st.integers(-1600, 0), st.just(2)),
        st.tuples(st.sampled_from(["tell", "readable", "seekable", "isatty", "read"])),
    ),
    max_size=25,
)


CONTENTS = {"lines": LINES, "large": LARGE, "empty": b"", "line end": b"\n"}


@given(st.sampled_from(list(CONTENTS)), OPERATIONS)
def test_open_bytes_behaves_as_bytesio(content, operations):
    data = CONTENTS[content]
    file, expected = open_bytes(memoryview(data)), io.BytesIO(data)
    for name, *arguments in operations:
        if name == "seek" and len(arguments) == 2:
            # From the end; BytesIO stops at the start, other files refuse to go before it.
            arguments[0] = max(arguments[0], -len(data))
        result = getattr(file, name)(*arguments)
        if name != "read1":
            assert result == getattr(expected, name)(*arguments)
        else:
            # May return less than was asked for.
            assert result == expected.read(len(result))
        assert file.tell() == expected.tell()


@pytest.mark.parametrize("data", [LINES, LARGE], ids=["small", "large"])
def test_open_bytes_readinto_fills_buffers(data):
    file, expected = open_bytes(memoryview(data)), io.BytesIO(data)
    for size in (0, 7, 5000, len(data), 3):
        mine, theirs = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        assert file.readinto(mine) == expected.readinto(theirs)
        assert np.array_equal(mine, theirs)


def test_open_bytes_large_view_is_not_copied_but_kept_alive(tmp_path):
    (tmp_path / "data").write_bytes(LARGE)
    with open(tmp_path / "data", "rb") as source:
        mapping = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    file = open_bytes(memoryview(mapping)[5:-5])
    with pytest.raises(BufferError):
        mapping.close()
    assert file.read() == LARGE[5:-5]
    file.close()
    del file
    mapping.close()


@pytest.mark.parametrize("side", [10, 700])
def test_open_bytes_is_read_by_pillow_numpy_and_text_wrappers(side):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    image = Image.open(open_bytes(memoryview(encoded(pixels))))
    assert np.array_equal(np.asarray(image), pixels)
    saved = io.BytesIO()
    np.save(saved, pixels)
    assert np.array_equal(np.load(open_bytes(saved.getbuffer())), pixels)
    text = LINES * side
    assert io.TextIOWrapper(open_bytes(memoryview(text))).readline() == "line one\n"


def test_member_file_read_to_the_end_reads_once():
    class CountingStorage(MemoryStorage):
        reads = 0

        def read(self, offset, size):
            self.reads += 1
            return super().read(offset, size)

    storage = CountingStorage(LARGE)
    file = io.BufferedReader(MemberFile(storage, "data"))
    file.seek(7)
    assert file.read() == LARGE[7:]
    assert storage.reads == 1
    assert file.read() == b""
