"""Arguments of commands as values."""

import argparse

import pytest

from imagearchive.cli.argument_types import byte_size, merge_options, storage_option
from imagearchive.errors import OptionError


def test_byte_size_units_are_powers_of_1024():
    for given, expected in (
        ("4096", 4096),
        ("64k", 65536),
        ("1.5M", 1572864),
        ("1GiB", 2**30),
        ("2TB", 2**41),
        ("7b", 7),
    ):
        assert byte_size(given) == expected


def test_byte_size_wrong_text_is_refused():
    for wrong in ("", "k", "-1", "1x", "1 000"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a size"):
            byte_size(wrong)


def test_storage_options_with_dots_are_groups_at_any_depth():
    given = ["region=x", "client_options.default_headers.X-Token=a=b", "retry.max_retries=2"]
    merged = merge_options([storage_option(text) for text in [*given, "client_options.http=True"]])
    assert merged == {
        "region": "x",
        "client_options": {"default_headers": {"X-Token": "a=b"}, "http": True},
        "retry": {"max_retries": "2"},
    }


@pytest.mark.parametrize("given", [["a=1", "a.b=2"], ["a.b=2", "a=1"], ["a.b=2", "a.b.c=hidden"]])
def test_storage_option_that_is_a_value_and_a_group_is_an_error(given):
    with pytest.raises(OptionError, match="is a value, and also a group") as caught:
        merge_options([storage_option(text) for text in given])
    assert "hidden" not in str(caught.value)
