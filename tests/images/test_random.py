"""Random streams."""

import numpy as np
import pytest

from imagearchive.errors import OptionError
from imagearchive.images.random import Stream, philox_block


def test_philox_block_known_answers():
    """The vectors published with Random123."""
    ones = 0xFFFFFFFF
    assert philox_block((0,) * 4, (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox_block((ones,) * 4, (ones,) * 2) == (
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    )  # fmt: skip
    assert philox_block(
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    ) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def test_stream_depends_on_every_part_of_the_key():
    keys = [
        (s, e, i, p) for s in (0, 1, 2**63) for e in (0, 1) for i in (0, 1, 2**40) for p in (0, 1)
    ]
    first = {Stream(*key).random() for key in keys}
    assert len(first) == len(keys)
    assert Stream(5, 6, 7, 8).random() == Stream(5, 6, 7, 8).random()


def test_stream_distributions():
    stream = Stream(1, 2, 3, 4)
    numbers = np.array([stream.random() for _ in range(20000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    counts = np.bincount([stream.below(7) for _ in range(21000)], minlength=7)
    assert ((counts - 3000) ** 2 / 3000).sum() < 22.5  # chi-square, 6 degrees, p = 0.001
    assert len(counts) == 7
    normal = np.array([stream.normal() for _ in range(10000)])
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05
    assert sorted(stream.permutation(9)) == list(range(9))
    assert stream.below(1) == 0
    for n in (0, 2**32, -1):
        with pytest.raises((OptionError, OverflowError)):
            stream.below(n)
    assert stream.generator().random() != stream.generator().random()
