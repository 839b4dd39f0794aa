"""Arguments of commands as values."""

import argparse

import pytest

from imagearchive.cli.argument_types import byte_size


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
