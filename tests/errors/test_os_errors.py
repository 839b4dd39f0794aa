"""Errors of the operating system: which get the name of the file."""

import errno
import os

import pytest

from imagearchive.errors import ArchiveNotFoundError
from imagearchive.errors.os_errors import name_in_os_errors, os_errors_for, set_file_name


def test_os_errors_for_sets_the_missing_file_name():
    with pytest.raises(OSError, match=r"No space left.*a\.tar") as caught, os_errors_for("a.tar"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == "a.tar"


def test_os_errors_for_keeps_a_file_name():
    with pytest.raises(OSError, match=r"b\.tar") as caught, os_errors_for("a.tar"):
        raise OSError(errno.ENOSPC, "No space left on device", "b.tar")
    assert caught.value.filename == "b.tar"


@pytest.mark.parametrize("error", [ArchiveNotFoundError("no such archive"), OSError("plain")])
def test_os_errors_for_keeps_a_message_without_number(error):
    with pytest.raises(OSError, match=r"^(no such archive|plain)$"), os_errors_for("elsewhere"):
        raise error


def test_set_file_name_replaces_both_names():
    for error in (
        FileNotFoundError(2, "No such file", "a.part", None, "a"),
        OSError(28, "No space left"),
    ):
        set_file_name(error, "b.tar")
        assert str(error) == f"[Errno {error.errno}] {error.strerror}: 'b.tar'"
        assert error.filename2 is None


def test_name_in_os_errors_replaces_the_names_of_a_rename():
    with pytest.raises(FileNotFoundError) as caught, name_in_os_errors("a.tar"):
        os.rename("missing.part", "a.tar")
    assert (caught.value.filename, caught.value.filename2) == ("a.tar", None)
