"""The files that an index was built from, read from its section when they are asked for."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagearchive.index.recorded_files import FILES, RecordedFiles, describe_files

# What may be in a path, an identity, or a URL; os.fsencode takes surrogates for other bytes.
TEXT = st.text(st.sampled_from("ab/é\udc80\U0001f600.\n"), max_size=6)
STATES = st.tuples(st.integers(0, 10**19 - 1), TEXT)


@given(st.dictionaries(TEXT, STATES, max_size=30), st.randoms())
def test_recorded_files_are_those_that_were_described(expected, chosen):
    found = RecordedFiles({FILES: describe_files(expected)})
    assert dict(found) == expected
    assert [*found] == [*expected]
    for path in chosen.sample([*expected], len(expected)):
        assert found[path] == expected[path]
    assert found.get("none") is None
    assert found.get("") == expected.get("")


def test_recorded_files_more_than_are_taken_apart_at_a_time_are_found():
    expected = {f"/{i:05}.tar": (i, f"etag{i}") for i in range(9000)}
    found = RecordedFiles({FILES: describe_files(expected)})
    assert dict(found) == expected
    backwards = dict(reversed(expected.items()))
    found = RecordedFiles({FILES: describe_files(backwards)})
    assert found["/00000.tar"] == (0, "etag0")
    assert found["/08999.tar"] == (8999, "etag8999")
    assert [*found] == [*backwards]


def test_recorded_files_of_no_section_are_none():
    assert not RecordedFiles({})


@given(st.binary(max_size=60))
@example(b"a\x001\x00b\x00c\x00no number\x00d\x00e\x001\x00f\x00")
@example(b"a\x001\x00b\x00c\x00" + b"9" * 30 + b"\x00d\x00")
@example(b"a\x00\xb2\x00b\x00")
def test_recorded_files_of_any_bytes_are_records_before_the_first_that_is_none(data):
    found = RecordedFiles({FILES: np.frombuffer(data, np.uint8)})
    parts = data.split(b"\0")[:-1]
    count = 0
    for size in parts[1 : len(parts) // 3 * 3 : 3]:
        if not (size.isdigit() and len(size) < 20):
            break
        count += 1
    assert len([*found]) == len(found) == count
    for path in found:
        assert found[path][0] < 10**19


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_])
def test_recorded_files_of_another_type_are_bytes(dtype):
    RecordedFiles({FILES: np.ones((2, 8), dtype)})
