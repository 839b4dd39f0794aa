"""Errors that carry hints: what they print, and that the hints are not lost on the way."""

import copy
import pickle

import pytest

from imagearchive import errors
from imagearchive.errors.hints import Hint
from imagearchive.errors.transport import dump_exception, load_exception

REPLACE = Hint("existing='replace'", "to replace it")
SKIP = Hint("existing='skip'", "to keep it")
CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES)
def test_error_str_appends_hints(kind):
    error = kind("a.tar exists", hints=[REPLACE, SKIP])
    assert error.message == "a.tar exists"
    assert error.args == ("a.tar exists",)
    assert str(error) == (
        "a.tar exists; pass existing='replace' to replace it or existing='skip' to keep it"
    )
    assert str(kind("a.tar exists")) == "a.tar exists"
    assert kind("a.tar exists").hints == ()
    assert str(kind()) == ""


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        lambda error: pickle.loads(pickle.dumps(error)),
        lambda error: load_exception(dump_exception(error), "a worker"),
    ],
    ids=["copy", "pickle", "transport"],
)
def test_error_copy_keeps_hints(kind, copied):
    error = copied(kind("a.tar exists", hints=[SKIP]))
    assert type(error) is kind
    assert (error.message, error.hints) == ("a.tar exists", (SKIP,))


def test_error_raised_again_keeps_hints():
    error = errors.LimitError("too large", hints=[Hint("max_size", "to raise the limit")])
    again = type(error)(f"a.gz: {error.message}", hints=error.hints)
    assert str(again) == "a.gz: too large; pass max_size to raise the limit"


def test_target_exists_error_is_file_exists_error():
    error = errors.TargetExistsError("a.tar exists")
    assert isinstance(error, FileExistsError)
    assert error.errno is None
