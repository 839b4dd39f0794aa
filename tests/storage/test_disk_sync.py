"""Files and folders are put on disk."""

import errno
import os

import pytest

from imagearchive.storage.disk_sync import sync_files, sync_folder


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def test_sync_files_names_the_file_that_fails(tmp_path, monkeypatch):
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        with open(path, "w"):
            pass
    sync_files(paths)

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        sync_files(paths)
    assert caught.value.filename == paths[0]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_sync_folder_forgives_only_file_systems_that_cannot(tmp_path, monkeypatch, code):
    before = descriptors()

    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output") as caught:
            sync_folder(str(tmp_path))
        assert caught.value.filename == str(tmp_path)
    else:
        sync_folder(str(tmp_path))
    assert descriptors() == before
