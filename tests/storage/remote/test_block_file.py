"""Parts of a block, read natively, against the block that was described."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.storage.remote.block_file import (
    BLOCK,
    BlockReader,
    describe_block,
    header_size,
)

DIGEST = bytes(range(32))
PAGE = 16 << 10


@pytest.fixture(scope="module")
def data():
    return os.urandom(BLOCK)


@pytest.fixture(scope="module")
def write(tmp_path_factory, data):
    """Write a block of the first bytes of `data`; return its path."""
    folder = tmp_path_factory.mktemp("blocks")

    def written(length, number=7):
        path = folder / f"{length}-{number}"
        header = describe_block(DIGEST, number, memoryview(data)[:length])
        assert len(header) == header_size(length)
        path.write_bytes(header + data[:length])
        return str(path)

    return written


NEAR_PAGES = st.builds(
    lambda page, by: min(max(page * PAGE + by, 0), BLOCK),
    st.integers(0, BLOCK // PAGE),
    st.integers(-2, 2),
)


@given(st.lists(NEAR_PAGES | st.integers(0, BLOCK), min_size=3, max_size=3))
def test_block_reader_any_part_is_that_of_the_data(write, data, places):
    start, stop, length = sorted(places)
    path = write(length)
    if start == stop:
        with pytest.raises(ValueError, match="no part of a block"):
            BlockReader(BLOCK).add(path, DIGEST, 7, start, stop)
        return
    reader = BlockReader(stop - start)
    modified = reader.add(path, DIGEST, 7, start, stop)
    assert modified == int(os.stat(path).st_mtime)
    assert reader.result() == data[start:stop]


def test_block_reader_parts_follow_each_other(write, data):
    reader = BlockReader(1300)
    assert reader.add(write(BLOCK, 1), DIGEST, 1, BLOCK - 1000, BLOCK) is not None
    with pytest.raises(ValueError, match="1000 bytes of 1300"):
        reader.result()
    with pytest.raises(ValueError, match="more than are left"):
        reader.add(write(BLOCK, 2), DIGEST, 2, 0, 301)
    assert reader.add(write(BLOCK, 2), DIGEST, 2, 0, 300) is not None
    assert reader.result() == data[-1000:] + data[:300]


@pytest.mark.parametrize(("number", "digest"), [(8, DIGEST), (7, bytes(32))])
def test_block_reader_of_another_block_is_none(write, number, digest):
    assert BlockReader(10).add(write(BLOCK), digest, number, 0, 10) is None


def test_block_reader_part_after_the_end_is_none(write):
    assert BlockReader(10).add(write(100), DIGEST, 7, 91, 101) is None


def test_block_reader_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        BlockReader(10).add(str(tmp_path / "absent"), DIGEST, 7, 0, 10)
    with pytest.raises(IsADirectoryError):
        BlockReader(10).add(str(tmp_path), DIGEST, 7, 0, 10)


@given(st.integers(0, header_size(5 * PAGE) + 5 * PAGE - 1), st.integers(0, 7))
def test_block_reader_any_flipped_bit_that_matters_is_noticed(write, data, place, bit):
    length, start, stop = 5 * PAGE, PAGE + 100, 3 * PAGE + 100
    path = write(length)
    with open(path, "r+b") as file:
        content = bytearray(file.read())
        content[place] ^= 1 << bit
        file.seek(0)
        file.write(content)
    reader = BlockReader(stop - start)
    found = reader.add(path, DIGEST, 7, start, stop)
    # Pages that are not read are not checked.
    inside = place - header_size(length)
    if 0 <= inside < PAGE or inside >= 4 * PAGE:
        assert found is not None
        assert reader.result() == data[start:stop]
    else:
        assert found is None
