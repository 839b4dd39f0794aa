"""Exceptions that cross from a child process to its parent, through `dump_exception`."""

from __future__ import annotations

import pickle
import sys
import traceback

import pytest

from imagearchive import errors
from imagearchive.errors import ArchiveNotFoundError, ImageArchiveError, OptionError, WorkerError
from imagearchive.errors.hints import Hint
from imagearchive.errors.transport import MAX_TEXT, dump_exception, load_exception


class OtherArgumentsError(Exception):
    """Cannot be called with its `args`."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class PrefixError(Exception):
    """Changes its message each time that it is rebuilt from its `args`."""

    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code


class TextError(Exception):
    """Has no text."""

    def __str__(self):
        raise LookupError("no text")


class OnlyOnceError(Exception):
    """Can be unpickled in the process that pickled it, and nowhere else."""

    here = True

    def __setstate__(self, state):
        if not self.here:
            raise LookupError("not here")


def raised(error, cause=None):
    """Raise the exception, so that it has a traceback, and return it."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def carried(error):
    return load_exception(dump_exception(raised(error)), "make_batches")


def every_error():
    return [getattr(errors, name) for name in errors.__all__]


def test_transport_keeps_type_arguments_and_attributes():
    error = OSError(28, "No space left on device", "a.tar")
    error.extra = [1, 2]
    found = carried(error)
    assert type(found) is OSError
    assert (found.args, found.errno, found.filename) == (error.args, 28, "a.tar")
    assert found.extra == [1, 2]
    assert str(found) == str(error)


def test_transport_puts_the_traceback_into_the_cause():
    found = carried(ValueError("bad batch"))
    assert isinstance(found.__cause__, WorkerError)
    shown = "".join(traceback.format_exception(found))
    assert "in the child process of make_batches:" in shown
    assert "in raised" in shown
    assert "raise error from cause" in shown


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_transport_keeps_errors_of_ours(kind):
    found = carried(kind("a.tar: broken"))
    assert type(found) is kind
    assert str(found) == "a.tar: broken"


def test_transport_keeps_hints():
    error = OptionError("a.tar exists", hints=[Hint("overwrite=True", "to replace it")])
    found = carried(error)
    assert found.hints == error.hints
    assert str(found) == str(error)


def test_transport_keeps_errno_of_an_error_of_ours():
    found = carried(ArchiveNotFoundError(2, "No such file", "a.tar"))
    assert (type(found), found.errno, found.filename) == (ArchiveNotFoundError, 2, "a.tar")


def test_transport_of_unpicklable_type_becomes_worker_error():
    class LocalError(ImageArchiveError):
        pass

    found = carried(LocalError("what"))
    assert type(found) is WorkerError
    assert str(found).startswith("make_batches raised ")
    assert str(found).endswith("LocalError: what")
    assert "LocalError: what" in str(found.__cause__)


def test_transport_of_unpicklable_argument_becomes_worker_error():
    found = carried(ValueError("lambda", lambda: 1))
    assert type(found) is WorkerError
    assert "ValueError: ('lambda', <function" in str(found)


def test_transport_of_other_constructor_arguments_becomes_worker_error():
    found = carried(OtherArgumentsError("one", "two"))
    assert type(found) is WorkerError
    assert str(found) == "make_batches raised OtherArgumentsError: one and two"


def test_transport_of_changing_message_keeps_the_first():
    found = carried(PrefixError(5))
    assert type(found) is PrefixError
    assert (str(found), found.code) == ("code 5", 5)


def test_transport_of_error_that_cannot_be_unpickled_becomes_worker_error(monkeypatch):
    error = OnlyOnceError("what")
    error.attribute = 1
    data = dump_exception(error)
    monkeypatch.setattr(OnlyOnceError, "here", False)
    found = load_exception(data, "make_batches")
    assert type(found) is WorkerError
    assert "OnlyOnceError: what (OnlyOnceError cannot be rebuilt here: LookupError(" in str(found)


def test_transport_of_broken_str_becomes_text():
    found = carried(TextError())
    assert type(found) is TextError
    assert "TextError: <exception str() failed>" in str(found.__cause__)
    local = type("LocalError", (TextError,), {})
    assert str(carried(local())).endswith("LocalError: <str() raised LookupError>")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit("enough"), "make_batches raised SystemExit: enough"),
        (KeyboardInterrupt(), "make_batches raised KeyboardInterrupt: "),
        (GeneratorExit(), "make_batches raised GeneratorExit: "),
    ],
)
def test_transport_of_base_exception_becomes_worker_error(error, text):
    found = carried(error)
    assert type(found) is WorkerError
    assert str(found) == text


def test_transport_keeps_causes_and_contexts_as_text():
    inner = raised(KeyError("inner detail"))
    found = load_exception(dump_exception(raised(OSError(5, "outer"), inner)), "make_batches")
    assert found.errno == 5
    assert "inner detail" in str(found.__cause__)
    assert "direct cause" in str(found.__cause__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in Python 3.11")
def test_transport_keeps_notes():
    error = ValueError("bad")
    error.add_note("while reading a.tar")
    found = carried(error)
    assert found.__notes__ == ["while reading a.tar"]
    assert "while reading a.tar" in str(found.__cause__)


def test_transport_of_huge_traceback_is_bounded():
    error = ValueError("first")
    for number in range(400):
        error = raised(ValueError(f"{number} " + "x" * 200), error)
    data = dump_exception(error)
    assert len(data) < 3 * MAX_TEXT
    text = str(load_exception(data, "make_batches").__cause__)
    # Both ends are the ones that tell: where it began, and what was raised at last.
    assert "ValueError: first" in text
    assert "characters left out" in text
    assert text.rstrip().endswith("399 " + "x" * 200)


def test_transport_of_huge_message_is_bounded():
    class LocalError(Exception):
        pass

    data = dump_exception(LocalError("x" * 10_000_000))
    assert len(data) < 3 * MAX_TEXT
    assert "characters left out" in str(load_exception(data, "make_batches"))


def test_transport_of_recursion_error():
    def recurse():
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    found = load_exception(dump_exception(caught.value), "make_batches")
    assert type(found) is RecursionError
    assert len(str(found.__cause__)) < 2 * MAX_TEXT


def test_transport_of_surrogates_in_the_message():
    assert str(carried(ValueError("a\udcff.jpg"))) == "a\udcff.jpg"


def test_transport_result_can_be_pickled_again():
    found = carried(ValueError("bad"))
    assert type(pickle.loads(pickle.dumps(found))) is ValueError
