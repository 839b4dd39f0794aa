"""How much of a Zstandard file is read to find its frames."""

import random

import pytest
import zstandard

from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.zstd import ZstdFormat


def counted_stream(data, size):
    """Return a stream, and the list of the sizes of its reads."""
    reads = []

    class Counting(MemoryStorage):
        def read(self, offset, size):
            reads.append(size)
            return super().read(offset, size)

    return ZstdFormat().stream(Counting(data, "x"), 0, len(data), size, "x"), reads


@pytest.mark.parametrize("count", [1000, 4000])
def test_zstd_stream_of_empty_blocks_is_read_in_few_reads(count):
    # Each block has a header of three bytes.
    head = b"\x28\xb5\x2f\xfd\x00\x58"
    blocks = bytes(3) * count + (len(b"alpha") << 3 | 1).to_bytes(3, "little") + b"alpha"
    data = head + blocks
    stream, reads = counted_stream(data, 5)
    assert stream.whole() == b"alpha"
    assert len(reads) < 30
    assert sum(reads) < 4 * len(data)


def test_zstd_stream_of_long_blocks_reads_little_more_than_their_headers():
    data = zstandard.compress(random.Random(1).randbytes(4_000_000), 1)
    stream, reads = counted_stream(data, 4_000_000)
    assert stream.span == 4_000_000
    assert sum(reads) < 5000
