"""One contract for `Archive` as a mapping, run over every container."""

import difflib
import os
import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from support.archives import write_tar
from support.containers import MEMBERS

import imagearchive
from imagearchive import Archive, write_split_data
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    MemberNotFoundError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
)


def test_archive_is_a_mapping_of_names_to_bytes(archive):
    assert dict(archive) == MEMBERS
    assert len(archive) == len(MEMBERS)
    assert set(archive.keys()) == set(MEMBERS)
    for name, data in MEMBERS.items():
        assert archive[name] == data
        assert type(archive[name]) is bytes
        assert name in archive
    assert "images" not in archive
    assert 5 not in archive
    assert archive.get("nothing") is None


def test_read_by_position_returns_the_member(archive):
    for position, name in enumerate(archive):
        assert archive.name(position) == name
        assert bytes(archive.read(position)) == MEMBERS[name]
        assert bytes(archive.read(position - len(archive))) == MEMBERS[name]
        assert bytes(archive.read(np.int64(position))) == MEMBERS[name]
        assert archive.position(name) == position
    for position in (len(archive), -len(archive) - 1):
        with pytest.raises(SampleIndexError, match=str(len(archive))):
            archive.read(position)
    for position in (2**70, -(2**70)):
        with pytest.raises(SampleIndexError):
            archive.read(position)
        with pytest.raises(SampleIndexError):
            archive.info(position)
    with pytest.raises(OptionTypeError):
        archive.read(1.5)


@pytest.mark.parametrize("key", [0, None, b"README", Path("README"), 1.5, "\ud800", "R\0"])
def test_archive_key_that_is_not_a_name_is_missing(archive, key):
    assert key not in archive
    assert archive.get(key, "default") == "default"
    with pytest.raises(KeyError):
        archive[key]


def test_archive_lone_surrogate_is_missing(archive):
    assert not archive.exists("images/\ud800")
    assert archive.glob("\ud800") == []
    with pytest.raises(KeyError):
        archive.listdir("\ud800")


def test_missing_name_error_suggests_the_closest(archive):
    with pytest.raises(MemberNotFoundError, match=r"images/cat/0\.png"):
        archive["images/cat/O.png"]
    with pytest.raises(KeyError, match="directory"):
        archive["images/cat"]


def test_missing_name_error_searches_only_when_it_is_read(archive, monkeypatch):
    def compared(*args):
        raise RuntimeError("compared")

    with monkeypatch.context() as patch:
        patch.setattr(difflib, "get_close_matches", compared)
        with pytest.raises(KeyError) as missing:
            archive["images/cat/O.png"]
        with pytest.raises(KeyError) as folder:
            archive.listdir("images/cot")
        assert archive.get("images/cat/O.png") is None
        assert "images/cat/O.png" not in archive
    for error, text in ((missing.value, "images/cat/0.png"), (folder.value, "mean 'images/cat'?")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) is MemberNotFoundError
        assert text in str(error) == str(again) == again.args[0]
        assert text in repr(error)


def test_missing_name_error_shortens_long_names(tmp_path):
    names = ["d" * 60_000 + str(number) for number in range(50)]
    archive = Archive(write_tar(tmp_path / "long.tar", dict.fromkeys(names, b"x")))
    assert archive[names[7]] == b"x"
    for read in (archive.__getitem__, archive.listdir):
        for name in (names[0] + "0", "d" * 70_000):
            with pytest.raises(KeyError) as missing:
                read(name)
            assert len(str(missing.value)) < 500
    with pytest.raises(KeyError, match=f"no member '{'d' * 300}'$"):
        archive["d" * 300]


def test_archive_takes_paths_of_other_types(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/b": b"1"})
    archive = Archive(os.fsencode(path))
    assert archive.listdir(Path("a")) == ["b"]
    assert archive.isdir(Path("a"))
    assert archive.exists(Path("a/b"))
    assert len(pickle.loads(pickle.dumps(Archive(tmp_path.glob("*.tar"))))) == 1
    with pytest.raises(OptionError, match="mmpa"):
        Archive(path, storage="mmpa")


def test_archive_relative_path_survives_chdir(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", {"a/b": b"1"})
    monkeypatch.chdir(tmp_path)
    archive = Archive("a.tar")
    data = pickle.dumps(archive)
    monkeypatch.chdir("/")
    assert archive["a/b"] == b"1"
    assert pickle.loads(data)["a/b"] == b"1"


def test_unpickle_changed_archive_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/b": b"1"})
    data = pickle.dumps(Archive(path))
    write_tar(path, {"a/b": b"1", "a/c": b"2"})
    with pytest.raises(StaleIndexError, match="pickled"):
        pickle.loads(data)


def test_archive_of_split_bins_reads_by_position(tmp_path):
    packets = [b"%d" % i * (i % 7) for i in range(50)]
    write_split_data(tmp_path / "bins", packets, splits=4)
    archive = imagearchive.open(tmp_path / "bins")
    assert [bytes(archive.read(i)) for i in range(50)] == packets
    assert [archive[name] for name in sorted(archive)] == packets


def test_close_keeps_views_and_refuses_reads(open_container):
    archive = open_container()
    view = archive.read("README")
    archive.close()
    archive.close()
    assert bytes(view) == MEMBERS["README"]
    assert archive.closed
    with pytest.raises(ClosedError):
        archive.read("README")


def test_unpickle_reopens_the_archive(archive):
    data = pickle.dumps(archive)
    assert len(data) < 1500
    assert dict(pickle.loads(data)) == MEMBERS


def test_archive_is_shared_by_threads(archive):
    failures = []
    names = list(MEMBERS)

    def work(seed):
        random = np.random.default_rng(seed)
        chosen = [names[i] for i in random.integers(0, len(names), 300)]
        failures.extend(name for name in chosen if archive[name] != MEMBERS[name])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_archive_is_shared_by_forked_children(archive):
    archive.read(0)
    children = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            good = all(archive[name] == data for _ in range(30) for name, data in MEMBERS.items())
            os._exit(0 if good else 1)
        children.append(pid)
    assert all(archive[name] == data for _ in range(30) for name, data in MEMBERS.items())
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]


def test_archive_expands_patterns(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=r"missing-01\.tar"):
        Archive(str(tmp_path / "missing-{01..03}.tar"))
    with pytest.raises(OptionError, match="range"):
        Archive(str(tmp_path / "x-{9..1}.tar"))
    with pytest.raises(OptionError, match="empty"):
        Archive([])
    with pytest.raises(OptionError, match="100000000 archives"):
        Archive(str(tmp_path / "x-{0000..9999}-{0000..9999}.tar"))
    for digits in (7, 18, 30):
        with pytest.raises((ArchiveNotFoundError, OptionError)):
            Archive(str(tmp_path / ("x-{0..%s}.tar" % ("9" * digits))))
    write_tar(tmp_path / "odd{1..2}.tar", {"a": b"1"})
    assert Archive(tmp_path / "odd{1..2}.tar")["a"] == b"1"
    for name in "xy":
        write_tar(tmp_path / f"{name}-1.tar", {name: b"1"})
    assert set(Archive(str(tmp_path / "{x,y}-{1..1}.tar"))) == {"x", "y"}


def test_archive_compares_by_identity(open_container):
    one, other = open_container(), open_container()
    assert one == one  # noqa: PLR0124
    assert one != other
    assert one != dict(one)
    assert len({one, other, one}) == 2
    assert weakref.ref(one)() is one
