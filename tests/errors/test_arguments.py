"""`imagearchive.errors.arguments`: what each check returns, and the message when it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import (
    check_callable,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_path,
    check_sequence,
    is_number,
)


def message(error, check, *args, **options):
    with pytest.raises(error) as caught:
        check(*args, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_check_integer_returns_python_int(value):
    result = check_integer("n", value, 3, 3)
    assert result == 3
    assert type(result) is int


def test_check_integer_out_of_range_names_the_bound():
    assert message(OptionError, check_integer, "batch_size", 0, 1) == (
        "batch_size must be at least 1, got 0"
    )
    assert message(OptionError, check_integer, "qsize", 9, 1, 8) == "qsize must be at most 8, got 9"
    assert check_integer("seed", -(2**70)) == -(2**70)


@pytest.mark.parametrize("value", [2.0, "2", None, True, np.True_, np.float64(2), [2], (1, 2)])
def test_check_integer_refuses_other_types(value):
    text = message(OptionTypeError, check_integer, "n", value)
    assert text == f"n must be an integer, got {value!r}"


@pytest.mark.parametrize(
    ("value", "kind"), [(2, int), (np.int32(2), int), (2.0, float), (np.float32(2), float)]
)
def test_check_number_keeps_whole_numbers_whole(value, kind):
    result = check_number("p", value, 0, 2)
    assert result == 2
    assert type(result) is kind


def test_check_number_out_of_range_names_the_bound():
    assert message(OptionError, check_number, "p", 1.5, 0, 1) == "p must be at most 1, got 1.5"
    assert message(OptionError, check_number, "p", -1, 0, 1) == "p must be at least 0, got -1"
    assert message(OptionError, check_number, "ratio", 0.0, above=0) == (
        "ratio must be greater than 0, got 0.0"
    )


def test_check_number_infinite_only_where_allowed():
    assert message(OptionError, check_number, "p", math.inf) == "p must be a finite number, got inf"
    assert check_number("max_size", math.inf, above=0, finite=False) == math.inf
    for finite in (True, False):
        text = message(OptionError, check_number, "p", math.nan, finite=finite)
        assert text.endswith("number, got nan")


@pytest.mark.parametrize("value", ["2", None, True, np.True_, 1j, [2]])
def test_check_number_refuses_other_types(value):
    assert not is_number(value)
    assert (
        message(OptionTypeError, check_number, "p", value) == f"p must be a number, got {value!r}"
    )


def test_check_choice_returns_the_choice():
    assert check_choice("output", "torch", ("numpy", "torch")) == "torch"
    assert type(check_choice("output", np.str_("torch"), ("numpy", "torch"))) is str
    assert check_choice("output", None, (None, "torch")) is None
    assert type(check_choice("channels", np.int64(3), (1, 3))) is int
    with pytest.raises(OptionError):
        check_choice("channels", True, (1, 3))


@pytest.mark.parametrize("value", ["c", 1, None, ["a"], np.array(["a", "b"])])
def test_check_choice_lists_the_choices(value):
    text = message(OptionError, check_choice, "mode", value, ("a", "b", True))
    assert text == f"mode must be 'a', 'b' or True, got {value!r}"


@pytest.mark.parametrize("value", [True, 1, np.True_, np.int64(1)])
def test_check_flag_true(value):
    assert check_flag("shuffle", value) is True
    assert check_flag("shuffle", type(value)(0)) is False


@pytest.mark.parametrize("value", ["no", None, 2, 0.0, [], np.ones(2)])
def test_check_flag_refuses_other_types(value):
    text = message(OptionTypeError, check_flag, "shuffle", value)
    assert text == f"shuffle must be True or False, got {value!r}"


def test_check_path_returns_text():
    for path in ("a/b", b"a/b", Path("a/b")):
        assert check_path("apath", path) == "a/b"


def test_check_path_refuses_what_cannot_name_a_file():
    assert message(OptionTypeError, check_path, "apath", 3) == "apath must be a path, got 3"
    assert message(OptionError, check_path, "apath", "") == (
        "apath must be a path, got an empty string"
    )
    assert message(OptionError, check_path, "apath", "a\0b") == (
        "apath must be a path without null characters, got 'a\\x00b'"
    )


def test_check_callable():
    assert check_callable("loader", len) is len
    assert check_callable("loader", dict) is dict
    assert message(OptionTypeError, check_callable, "loader", 3) == "loader must be callable, got 3"


def test_check_sequence_returns_a_tuple():
    assert check_sequence("keys", iter("ab")) == ("a", "b")
    assert check_sequence("keys", np.arange(2)) == (0, 1)


@pytest.mark.parametrize("value", ["ab", b"ab", 3, None])
def test_check_sequence_refuses_text_and_scalars(value):
    text = message(OptionTypeError, check_sequence, "keys", value, "a sequence of names")
    assert text == f"keys must be a sequence of names, got {value!r}"


def test_messages_cut_long_values():
    text = message(OptionTypeError, check_integer, "n", "x" * 10_000)
    assert text.startswith("n must be an integer, got 'xxx")
    assert len(text) < 300
