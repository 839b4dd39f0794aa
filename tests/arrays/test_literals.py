"""The parser of `.npy` headers, against `ast.literal_eval`."""

import ast
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagearchive.arrays.literals import parse_literal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**20 - 1) | st.text(),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner, max_size=4)
    ),
)
TOKENS = ["'a'", '"b"', "u'c'", "0", "12", "True", "None", *"()[]{},:", " ", "\n", r"'\x41\''"]


@given(VALUES)
@example("\U0001f600\ud800\x00\x7f'\"\\\n\r\t")
def test_parse_literal_of_what_python_writes_is_the_value(value):
    assert parse_literal(repr(value)) == value
    assert parse_literal(ascii(value)) == value


@given(st.lists(st.sampled_from(TOKENS)).map("".join))
@example("{'a':1,}")
@example("{'a',}")
@example("(1)")
@example("(1,)")
@example("(,)")
@example("[1,,2]")
@example("{'a':1 'b':2}")
def test_parse_literal_of_tokens_is_what_ast_says(text):
    try:
        expected = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError):
        expected = None
    try:
        found = parse_literal(text)
    except ValueError:
        return
    assert (found, repr(found)) == (expected, repr(expected))


@pytest.mark.parametrize("text", ["{'a': [(u'b', 1L)], \"c\": (2), 'd': ()}", " [ ]\n", "{}"])
def test_parse_literal_unusual_spelling_is_accepted(text):
    assert parse_literal(text) == ast.literal_eval(text.strip().replace("1L", "1"))


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "1,", "1 2", "'a' 'b'", "01", "1_0", "0x1", "-1", "1.5", "1e3", "b'a'", "x",
     "Truer", "[", "]", "(]", "[1:2]", "{1: 2}", "{(): 2}", "{'a'}", "{'a': }", "{'a': 1, 'b'}",
     "{'a', 1}", "'\\N{DIGIT ONE}'", "'\\0'", "'\\xg0'", "'\\U00110000'", "'a\nb'", "'''a'''",
     "9" * 21, "[" * 49 + "]" * 49, "a()", "'a'.b", "[1 for x in y]", "\0", "\xa01"],
)  # fmt: skip
def test_parse_literal_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"unexpected|unsupported|too large|nested|not a string"):
        parse_literal(text)


def count_lines(function):
    """Run a function, and count the lines of Python that it runs."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize(
    "unit", ["1,", "[],", "{},", "('a','B'),", "{'a':1},", "(1),", "[[]],", "{'a':{}},"]
)
def test_parse_literal_does_work_in_proportion_to_the_text(unit):
    def work(repeats):
        return count_lines(lambda: parse_literal("[" + unit * repeats + "]"))

    assert work(400) < 2.2 * work(200)


def test_parse_literal_quotes_without_end_are_refused_at_once():
    # Each escaped quote could begin a string that runs to the end of the text.
    with pytest.raises(ValueError, match="character 0"):
        parse_literal("'" + "\\'" * 60_000)
