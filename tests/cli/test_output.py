"""How names, sizes, times, and permissions are printed."""

import subprocess

import pytest

from imagearchive.cli.output import (
    escape_message,
    escape_name,
    format_permissions,
    format_size,
    format_time,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain.jpg", "plain.jpg"),
        ("größe 日本", "größe 日本"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[0m", "\\x1b[0m"),
        ("\udcff", "\\xff"),
        ("a\\n", "a\\\\n"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_escape_name_takes_one_line(name, expected):
    assert escape_name(name) == expected
    assert escape_message(name) == expected.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0"), (1023, "1023"), (1024, "1.0K"), (1025, "1.1K"), (10 * 1024, "10K"),
        (10 * 1024 + 1, "11K"), (1023 * 1024, "1023K"), (1024**2 - 1, "1.0M"),
        (5 * 1024**3, "5.0G"), (2**63, "8.0E"), (2**64 - 1, "16E"),
    ],
)  # fmt: skip
def test_format_size_human_is_that_of_ls(size, expected, tmp_path):
    assert format_size(size, True) == expected
    assert format_size(size, False) == str(size)
    if size < 2**40:
        with open(tmp_path / "f", "wb") as file:
            file.truncate(size)
        listed = subprocess.run(["ls", "-lh", tmp_path / "f"], capture_output=True, check=True)
        assert listed.stdout.split()[4].decode() == expected


def test_format_time_is_utc_or_a_mark():
    assert format_time(1_600_000_000 * 10**9) == "2020-09-13 12:26:40"
    assert format_time(0).strip() == "-"
    assert format_time(-(2**63)).strip()


def test_format_permissions_is_that_of_ls():
    assert format_permissions(0o755) == "-rwxr-xr-x"
    assert format_permissions(0o755, directory=True) == "drwxr-xr-x"
