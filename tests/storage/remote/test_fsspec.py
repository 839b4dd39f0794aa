"""Archives on file systems of fsspec."""

import pickle

import pytest

import imagearchive
from imagearchive.errors import ArchiveNotFoundError, RemoteError, StaleIndexError
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


@pytest.mark.parametrize("joined", ["all.idx.npy", "memory://set/all.idx.npy"])
def test_joined_index_of_an_object_that_was_replaced_is_an_error_when_it_is_read(
    memory, pictures, image_tar, tmp_path, monkeypatch, joined
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory.pipe_file("/set/images-1.tar", image_tar.read_bytes())
    pattern = "memory://set/images-{0..1}.tar"
    imagearchive.open(pattern, ipath=joined, filesystem=memory).close()
    # Longer, so that every member is within it.
    other = bytes(image_tar.stat().st_size) + image_tar.read_bytes()
    memory.pipe_file("/set/images-1.tar", other)
    with imagearchive.open(pattern, ipath=joined, filesystem=memory) as archive:
        assert archive.read(0) == next(iter(pictures.values()))
        with pytest.raises(StaleIndexError, match=r"images-1\.tar.*overwrite_index"):
            archive.read(len(pictures))
    memory.rm_file("/set/images-1.tar")
    with (
        imagearchive.open(pattern, ipath=joined, filesystem=memory) as archive,
        pytest.raises(ArchiveNotFoundError, match=r"images-1\.tar"),
    ):
        archive.read(len(pictures))


def test_failure_of_a_file_system_names_the_file(memory, monkeypatch):
    with imagearchive.open("memory://set/images-0.tar", filesystem=memory) as archive:

        def fail(*args, **kwargs):
            raise TimeoutError("no answer")

        monkeypatch.setattr(memory, "cat_file", fail)
        with pytest.raises(RemoteError, match=r"memory://set/images-0\.tar: no answer"):
            archive.read(0)
