"""Archives on file systems of fsspec."""

import pickle

import pytest

import imagearchive
from imagearchive.errors import ArchiveNotFoundError, RemoteError
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory(image_tar):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/set/images-0.tar", image_tar.read_bytes())
    yield filesystem
    filesystem.store.clear()


def test_archive_on_a_file_system_has_the_members_of_the_file(memory, pictures):
    with imagearchive.open("memory://set/images-0.tar", filesystem=memory) as archive:
        assert dict(archive) == pictures
        assert dict(pickle.loads(pickle.dumps(archive))) == pictures


def test_pattern_on_a_file_system_matches_what_is_listed(memory, pictures):
    with imagearchive.open("memory://set/images-*.tar", filesystem=memory) as archive:
        assert dict(archive) == pictures


def test_missing_file_on_a_file_system_is_not_found(memory):
    with pytest.raises(ArchiveNotFoundError, match=r"memory://set/none\.tar"):
        imagearchive.open("memory://set/none.tar", filesystem=memory)


def test_directory_on_a_file_system_lists_its_files(memory):
    location = locate(add_options("memory://set", filesystem=memory))
    assert location.status().is_directory
    assert [entry.name for entry in location.list()] == ["images-0.tar"]


def test_failure_of_a_file_system_names_the_file(memory, monkeypatch):
    with imagearchive.open("memory://set/images-0.tar", filesystem=memory) as archive:

        def fail(*args, **kwargs):
            raise TimeoutError("no answer")

        monkeypatch.setattr(memory, "cat_file", fail)
        with pytest.raises(RemoteError, match=r"memory://set/images-0\.tar: no answer"):
            archive.read(0)
