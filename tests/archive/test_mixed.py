"""Archives of several formats read as one: each file answers for itself, in any order."""

import itertools
import os
import zipfile

import numpy as np
import pytest
from support.archives import write_tar

import imagearchive
from imagearchive.archive.convert import convert
from imagearchive.archive.extract import extract, refused_members
from imagearchive.archive.verify import verify
from imagearchive.containers.registry import container_named, find_container
from imagearchive.errors import CorruptArchiveError
from imagearchive.storage.location import locate


@pytest.fixture
def paths(tmp_path):
    import barecat

    write_tar(tmp_path / "a.tar", {"tar/1": b"one"})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("zip/stored", b"two, which is stored")
        archive.writestr("zip/deflated", b"three" * 100, zipfile.ZIP_DEFLATED)
    np.savez(tmp_path / "c.npz", images=np.arange(6))
    with barecat.Barecat(str(tmp_path / "d"), readonly=False) as archive:
        archive["barecat/4"] = b"four"
    imagearchive.write_split_data(tmp_path / "e", [b"five"], splits=1)
    (tmp_path / "f" / "directory").mkdir(parents=True)
    (tmp_path / "f" / "directory" / "6").write_bytes(b"six")
    os.mkfifo(tmp_path / "f" / "pipe")
    return [tmp_path / name for name in ("a.tar", "b.zip", "c.npz", "d", "e", "f")]


ORDERS = [*itertools.islice(itertools.permutations(range(6)), 0, 720, 97)]


@pytest.mark.parametrize("order", ORDERS)
def test_mixed_list_in_any_order_has_the_same_content_and_checks(paths, order):
    ordered = [paths[place] for place in order]
    with imagearchive.open(ordered) as archive:
        alone = [dict(imagearchive.open(path)) for path in ordered]
        assert dict(archive) == {name: data for one in alone for name, data in one.items()}
        formats = ["tar", "zip", "zip", "barecat", "bins", "directory"]
        assert {container.name for container in archive.table.containers} == set(formats)
        found = verify(archive)
        assert (found.failures, found.checked) == ([], 4)
        assert [refused.name for refused in refused_members(archive)] == ["pipe"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_stored_zip_member_in_a_list_is_compared_with_its_checksum(paths, tmp_path, order):
    damaged = paths[1].read_bytes().replace(b"which is stored", b"which WAS stored"[:15])
    paths[1].write_bytes(damaged)
    archive = imagearchive.open([paths[place] for place in order])
    with pytest.raises(CorruptArchiveError, match="zip/stored"):
        extract(archive, tmp_path / "out")
    with pytest.raises(CorruptArchiveError, match="zip/stored"):
        convert(archive, tmp_path / "out.tar")
    assert [failure.name for failure in verify(archive).failures] == ["zip/stored"]


@pytest.mark.parametrize("order", [(0, 5), (5, 0)])
def test_refused_members_of_a_tar_and_a_directory_do_not_depend_on_their_order(paths, order):
    import tarfile

    with tarfile.open(paths[0], "a") as archive:
        fifo = tarfile.TarInfo("fifo in the tar")
        fifo.type = tarfile.FIFOTYPE
        archive.addfile(fifo)
    archive = imagearchive.open([paths[place] for place in order])
    assert {refused.name for refused in refused_members(archive)} == {"fifo in the tar", "pipe"}


def test_joined_index_of_mixed_formats_keeps_the_format_of_each_file(paths, tmp_path):
    wanted = [paths[0], paths[1], paths[2], paths[0]]
    built = imagearchive.open(wanted, ipath=tmp_path / "joined.idx.npy")
    loaded = imagearchive.open(wanted, ipath=tmp_path / "joined.idx.npy")
    for archive in (built, loaded):
        names = [archive.table.container(shard).name for shard in range(4)]
        assert names == ["tar", "zip", "zip", "tar"]


@pytest.mark.parametrize("name", ["a.zip", "b.npz", "c.barecat", "d.tar", "e"])
def test_find_container_goes_by_content_and_not_by_name(paths, tmp_path, name):
    for path, expected in zip(paths[:3], ("tar", "zip", "zip")):
        os.replace(path, tmp_path / "renamed" if name == "e" else tmp_path / name)
        here = tmp_path / "renamed" if name == "e" else tmp_path / name
        assert find_container(locate(here)) is container_named(expected)
        os.unlink(here)


def test_container_that_fails_while_it_is_asked_hides_no_other(paths, monkeypatch):
    from imagearchive.containers.barecat import BarecatContainer
    from imagearchive.containers.tar.tar_container import TarContainer

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(BarecatContainer, "sniff_location", fail)
    monkeypatch.setattr(TarContainer, "sniff", fail)
    assert find_container(locate(paths[1])).name == "zip"
    with pytest.raises(OSError, match="Input/output error"):
        find_container(locate(paths[0]))
