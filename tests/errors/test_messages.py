"""Messages are short, whatever they quote."""

import copy
import io
import pickle

import pytest
from support.archives import write_tar

import imagearchive
from imagearchive import errors
from imagearchive.errors import (
    CorruptArchiveError,
    MemberNotFoundError,
    OptionError,
    OptionTypeError,
    WorkerError,
)
from imagearchive.errors.hints import Hint

OPENERS = [
    imagearchive.open,
    imagearchive.ImageArchive,
    imagearchive.LazyNPZDataset,
    imagearchive.DataLoader,
    imagearchive.SplitDataLoader,
]


KINDS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not WorkerError])
def test_message_of_any_length_is_capped(kind):
    error = kind("begin " + "x" * 1_000_000 + " end", hints=[Hint("a=1", "to try")])
    for one in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        text = str(one)
        assert len(text) < 2100
        assert "begin" in text
        assert text.endswith(" end; pass a=1 to try")
        assert len(repr(one)) < 2200


def test_message_of_the_longest_length_is_kept():
    assert str(CorruptArchiveError("x" * 2000)) == "x" * 2000


def test_missing_member_with_long_name_is_capped(tmp_path):
    archive = imagearchive.open(write_tar(tmp_path / "a.tar", {"a": b"1"}))
    with pytest.raises(MemberNotFoundError) as caught:
        archive["n" * 1_000_000]
    assert len(str(caught.value)) <= 2000


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("content", [b"PK\3\4" + bytes(300_000), b"\xfe" * 300_000])
def test_open_bytes_is_one_short_line(opener, content):
    with pytest.raises(OptionTypeError, match="must be a path, got 300000 bytes") as caught:
        opener(content[:300_000])
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opener", OPENERS)
def test_open_file_object_is_one_short_line(opener, tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a": b"1"})
    with open(path, "rb") as file:
        for one in (file, io.BytesIO(b"x" * 100_000)):
            with pytest.raises(OptionTypeError, match=r"must be a path.*got ") as caught:
                opener(one)
            assert len(str(caught.value)) < 400
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opener", OPENERS)
def test_open_path_longer_than_any_is_one_short_line(opener):
    with pytest.raises(OptionError, match="no path has more than 4096") as caught:
        opener("a/" * 100_000)
    assert len(str(caught.value)) < 400
