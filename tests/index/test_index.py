"""The index on disk: its format, its freshness, and what happens when it cannot be written."""

import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from support.archives import write_tar

from imagearchive.archive.archive import Archive
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.containers.tar import TarContainer
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    OptionError,
    StaleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.index import file_format as index_file
from imagearchive.index import table as index
from imagearchive.index.index_locations import cache_location, index_beside
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate

MEMBERS = {f"{name}/{i}.txt": b"%d" % i * (i + 1) for name in ("b", "a", "a-b") for i in range(5)}


def default_path(path):
    return index_beside(locate(path)).path


@pytest.fixture
def tar(tmp_path):
    return str(write_tar(tmp_path / "data.tar", MEMBERS))


def contents(table):
    return {table.name(i): bytes(read(table, i)) for i in range(len(table))}


def read(table, position):
    entry = table.entries[position]
    with open(table.files[entry["shard"]], "rb") as file:
        file.seek(int(entry["offset"]))
        return file.read(int(entry["size"]))


def sections(path):
    arrays = []
    with open(path, "rb") as file:
        while file.peek(1):
            arrays.append(np.load(file))
    return arrays


# --- format -------------------------------------------------------------------------------------


def test_index_beside_replaces_the_last_extension():
    assert default_path("/path/to/my/archive.tar") == "/path/to/my/archive.idx.npy"
    assert default_path("/path/to/bins/") == "/path/to/bins.idx.npy"


def test_index_file_is_consecutive_npy_arrays(tar):
    table = IndexTable.open(tar)
    assert table.path == default_path(tar)
    entries, label_values, label_offsets, names, name_offsets, name_order, meta = sections(
        table.path
    )
    # Plain NumPy reads the table of offsets and sizes.
    np.testing.assert_array_equal(np.load(table.path), entries)
    assert entries.dtype == ENTRY_DTYPE
    assert entries["index"].tolist() == list(range(len(MEMBERS)))
    with tarfile.open(tar) as archive:
        assert [m.name for m in archive] == [
            names[int(a) : int(b)].tobytes().decode()
            for a, b in zip(name_offsets, name_offsets[1:])
        ]
        assert entries["offset"].tolist() == [m.offset_data for m in archive.getmembers()]
        assert entries["size"].tolist() == [m.size for m in archive.getmembers()]
    assert label_values.dtype == np.float64
    assert label_offsets.tolist() == list(range(len(MEMBERS) + 1))
    # Classes sort as names do: a, a-b, b.
    assert label_values.tolist() == [2] * 5 + [0] * 5 + [1] * 5
    assert [list(MEMBERS)[row] for row in name_order] == sorted(MEMBERS)
    description = json.loads(meta.tobytes())
    assert description["format"] == "imagearchive-index"
    assert description["archives"][0]["size"] == os.path.getsize(tar)


def test_index_file_sections_are_aligned_and_mapped(tar):
    IndexTable.open(tar)
    table = IndexTable.open(tar)
    base = table.entries
    while getattr(base, "base", None) is not None:
        base = base.base
    assert not table.entries.flags.writeable
    addresses = [getattr(table, name).ctypes.data for name in index.COLUMNS]
    assert all(address % 64 == 0 for address in addresses)


def test_index_round_trip_keeps_all_columns(tar):
    built = IndexTable.build(tar)
    opened = IndexTable.open(tar)
    again = IndexTable.open(tar)
    for name in index.COLUMNS:
        np.testing.assert_array_equal(getattr(built, name), getattr(opened, name))
        np.testing.assert_array_equal(getattr(built, name), getattr(again, name))
    assert contents(again) == MEMBERS
    again.check()


def test_index_built_twice_is_the_same_bytes(tar):
    table = IndexTable.open(tar)
    first = Path(table.path).read_bytes()
    os.unlink(table.path)
    IndexTable.open(tar)
    assert Path(table.path).read_bytes() == first


def test_index_extra_sections_are_kept(tar):
    table = IndexTable.open(tar)
    table.add_extra({"checkpoints": np.arange(10, dtype=np.uint8)})
    again = IndexTable.open(tar)
    assert again.extra["checkpoints"].tolist() == list(range(10))
    assert contents(again) == MEMBERS


def test_index_names_that_are_not_utf8_are_kept(tmp_path):
    path = write_tar(tmp_path / "odd.tar", {"a/\udcff\udcfe.png": b"1", "a/é.png": b"2"})
    IndexTable.open(path)
    table = IndexTable.open(path)
    assert table.find("a/\udcff\udcfe.png") == 0
    assert table.find("a/é.png") == 1
    assert table.name_bytes(0) == b"a/\xff\xfe.png"


def test_index_of_an_empty_archive_is_empty(tmp_path):
    path = write_tar(tmp_path / "empty.tar", {})
    assert len(IndexTable.open(path)) == 0
    assert len(IndexTable.open(path)) == 0


def test_index_of_the_original_image_archive_loads(tmp_path, tar):
    with tarfile.open(tar) as archive:
        rows = [[i, m.offset_data, m.size, i % 3, 0.5] for i, m in enumerate(archive)]
    np.save(tmp_path / "old.npy", np.array(rows))
    table = IndexTable.open(tar, tmp_path / "old.npy")
    assert [bytes(read(table, i)) for i in range(len(table))] == list(MEMBERS.values())
    assert table.labels(4).tolist() == [1, 0.5]
    assert table.name(4) == "00000004"


# --- freshness ----------------------------------------------------------------------------------


def append(tar):
    with tarfile.open(tar, "a") as archive:
        info = tarfile.TarInfo("c/new.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"new"))


def test_open_appended_archive_is_indexed_again(tar, caplog):
    IndexTable.open(tar)
    append(tar)
    with caplog.at_level(logging.INFO, "imagearchive.index.table"):
        table = IndexTable.open(tar)
    assert table.find("c/new.txt") == len(MEMBERS)
    assert "building the index again" in caplog.text


def test_open_replaced_archive_of_the_same_size_is_indexed_again(tar):
    IndexTable.open(tar)
    renamed = {name.replace("b/", "q/"): data for name, data in MEMBERS.items()}
    size = os.path.getsize(tar)
    write_tar(tar, renamed)
    assert os.path.getsize(tar) == size
    os.utime(tar, ns=(1, 1))
    assert set(contents(IndexTable.open(tar))) == set(renamed)


def count_builds(monkeypatch):
    builds = []
    original = IndexTable.build.__func__
    monkeypatch.setattr(
        IndexTable,
        "build",
        classmethod(lambda cls, *a, **k: builds.append(a) or original(cls, *a, **k)),
    )
    return builds


def test_open_touched_archive_keeps_its_index(tar, monkeypatch):
    IndexTable.open(tar)
    os.utime(tar, ns=(5, 5))
    builds = count_builds(monkeypatch)
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert not builds


def test_open_copied_archive_keeps_its_index(tar, tmp_path, monkeypatch):
    IndexTable.open(tar)
    (tmp_path / "copy").mkdir()
    shutil.copyfile(tar, tmp_path / "copy" / "renamed.tar")
    shutil.copyfile(default_path(tar), tmp_path / "copy" / "renamed.idx.npy")
    builds = count_builds(monkeypatch)
    table = IndexTable.open(tmp_path / "copy" / "renamed.tar")
    assert not builds
    assert table.files == [str(tmp_path / "copy" / "renamed.tar")]
    assert contents(table) == MEMBERS


def test_open_given_index_is_used_or_refused(tar, tmp_path):
    ipath = tmp_path / "mine"
    IndexTable.open(tar, ipath)
    assert not os.path.exists(default_path(tar))
    assert contents(IndexTable.open(tar, ipath)) == MEMBERS
    append(tar)
    with pytest.raises(StaleIndexError, match=r"mine.*overwrite_index"):
        IndexTable.open(tar, ipath)
    with pytest.raises(RuntimeError):
        IndexTable.open(tar, ipath)
    assert len(IndexTable.open(tar, ipath, overwrite=True)) == len(MEMBERS) + 1
    assert len(IndexTable.open(tar, ipath)) == len(MEMBERS) + 1


def test_open_with_overwrite_builds_again(tar, monkeypatch):
    IndexTable.open(tar)
    builds = count_builds(monkeypatch)
    IndexTable.open(tar, overwrite=True)
    assert len(builds) == 1


def test_open_archives_that_differ_only_in_extension_have_their_own_index(tmp_path):
    import zipfile

    tar = write_tar(tmp_path / "data.tar", MEMBERS)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("only.txt", b"zip")
    for _ in range(2):
        assert contents(IndexTable.open(tar)) == MEMBERS
        assert contents(IndexTable.open(tmp_path / "data.zip")) == {"only.txt": b"zip"}


def test_open_leaves_a_foreign_file_alone(tar):
    np.save(default_path(tar), np.arange(5))
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert np.load(default_path(tar)).tolist() == [0, 1, 2, 3, 4]


def tar_of(path, names):
    """A deterministic archive: no times, all members of one size."""
    return write_tar(path, dict.fromkeys(names, b"x" * 100))


def test_open_notices_a_renamed_member(tmp_path):
    names = [f"cat/{i:05d}.png" for i in range(3000)]
    path = tar_of(tmp_path / "a.tar", names)
    assert IndexTable.open(path).find("dog/00501.png") == -1
    names[501] = "dog/00501.png"
    size = path.stat().st_size
    tar_of(path, names)
    assert path.stat().st_size == size
    assert IndexTable.open(path).find("dog/00501.png") == 501


def test_open_notices_a_member_appended_after_directories(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a/1"))
        for name in "bcd":
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    assert len(IndexTable.open(path)) == 1
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("a/2"))
    assert len(IndexTable.open(path)) == 2


def test_open_saves_the_identity_of_a_touched_archive(tar):
    IndexTable.open(tar)
    os.utime(tar, ns=(77, 77))
    IndexTable.open(tar)
    table = IndexTable.load(default_path(tar), tar)
    assert table.meta["archives"][0]["identity"] == locate(tar).status().identity
    assert contents(table) == MEMBERS


def test_open_does_not_save_the_index_of_an_archive_that_changes(tar, monkeypatch):
    original, changes = TarContainer.scan_location, []

    def scan(container, location, strict):
        found = original(container, location, strict)
        if len(changes) < limit:
            changes.append(1)
            append(tar)
        return found

    monkeypatch.setattr(TarContainer, "scan_location", scan)
    limit = 1
    table = IndexTable.open(tar)
    assert len(table) == len(MEMBERS) + 1
    assert table.path is not None
    os.unlink(table.path)
    limit = 99
    for ipath in (None, tar + ".index"):
        with pytest.warns(RuntimeWarning, match="changes while it is read"):
            table = IndexTable.open(tar, ipath)
        assert table.path is None
    assert not os.path.exists(tar + ".index")


def test_open_archives_of_one_stem_keep_their_indexes(tar, tmp_path, monkeypatch):
    stem = os.path.splitext(tar)[0]
    write_split_data(stem, [b"x" * i for i in range(9)], splits=3)
    first, second = IndexTable.open(stem), IndexTable.open(tar)
    assert first.path == stem + ".idx.npy"
    assert second.path != first.path
    builds = count_builds(monkeypatch)
    assert len(IndexTable.open(stem)) == 9
    assert len(IndexTable.open(tar)) == len(MEMBERS)
    assert not builds


def test_open_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedArchiveError, match="regular file"):
        IndexTable.open(tmp_path / "pipe")


def test_open_after_a_scanner_update_builds_again(tar, shards, monkeypatch):
    IndexTable.open(tar)
    Archive(shards)
    builds = count_builds(monkeypatch)
    monkeypatch.setattr(TarContainer, "version", TarContainer.version + 1)
    IndexTable.open(tar)
    assert len(builds) == 1
    Archive(shards)
    assert len(builds) == 4


# --- damage -------------------------------------------------------------------------------------


def test_open_damaged_index_is_rebuilt_or_refused(tar, tmp_path):
    for ipath in (None, tmp_path / "given"):
        table = IndexTable.open(tar, ipath)
        data = Path(table.path).read_bytes()
        for length in [*range(0, len(data), 97), len(data) - 1]:
            with open(table.path, "wb") as file:
                file.write(data[:length])
            if ipath is None:
                assert contents(IndexTable.open(tar)) == MEMBERS
            else:
                with pytest.raises(CorruptIndexError, match="given"):
                    IndexTable.open(tar, ipath)


def test_open_index_with_flipped_bytes_raises_or_reads_right(tar, tmp_path):
    ipath = tmp_path / "given"
    IndexTable.open(tar, ipath)
    data = Path(ipath).read_bytes()
    for position in range(0, len(data), 13):
        flipped = bytearray(data)
        flipped[position] ^= 0x55
        with open(ipath, "wb") as file:
            file.write(flipped)
        try:
            with Archive(tar, ipath) as archive:
                for name in MEMBERS:
                    archive.get(name)
                for row in range(len(archive)):
                    archive.read(row)
                    archive.table.labels(row)
                archive.listdir("a")
            table = IndexTable.load(str(ipath), tar)
            table.check()
        except (CorruptIndexError, CorruptArchiveError, StaleIndexError, NotImplementedError):
            continue
        except KeyError:
            continue
        assert contents(table) == MEMBERS


def test_open_index_of_a_newer_format_says_so(tar, tmp_path):
    table = IndexTable.build(tar)
    columns = {name: getattr(table, name) for name in index.COLUMNS}
    newer = index_file.VERSION
    try:
        index_file.VERSION = 99
        index_file.save(locate(tmp_path / "new"), columns, table.meta)
    finally:
        index_file.VERSION = newer
    with pytest.raises(CorruptIndexError, match="newer release"):
        IndexTable.open(tar, tmp_path / "new")


def test_open_damaged_archive_raises_unless_not_strict(tar):
    os.truncate(tar, 6000)
    with pytest.raises(CorruptArchiveError, match=r"data\.tar.*\d+"):
        IndexTable.open(tar)
    table = IndexTable.open(tar, strict=False)
    assert 0 < len(table) < len(MEMBERS)
    assert contents(table).items() <= MEMBERS.items()
    # What was built without strict does not satisfy who asks for a whole archive.
    with pytest.raises(CorruptArchiveError):
        IndexTable.open(tar)
    assert len(IndexTable.open(tar, strict=False)) == len(table)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", UnsupportedArchiveError, "complete"),
        (b"hello", UnsupportedArchiveError, "hello"),
        (b"\x1f\x8b\x08\x00" * 200, UnsupportedArchiveError, "gunzip|gzip"),
        (b"PK\x03\x04" + b"x" * 600, (CorruptArchiveError, UnsupportedArchiveError), "broken"),
    ],
)
def test_open_file_that_is_not_an_archive_says_what_it_is(tmp_path, data, error, message):
    path = tmp_path / "broken.tar"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        IndexTable.open(path)
    assert "broken.tar" in str(caught.value)


def test_open_missing_archive_raises(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=r"missing\.tar"):
        IndexTable.open(tmp_path / "missing.tar")


# --- writing ------------------------------------------------------------------------------------


def unwritable(monkeypatch, *folders):
    """Refuse to write below some directories; permissions do not stop root."""
    original = index_file.save

    def save(place, *rest):
        if any(place.path.startswith(str(folder)) for folder in folders):
            raise PermissionError(13, "Permission denied", place.path)
        return original(place, *rest)

    monkeypatch.setattr(index_file, "save", save)


def test_open_unwritable_directory_saves_in_the_cache(tar, tmp_path, monkeypatch):
    unwritable(monkeypatch, tmp_path)
    table = IndexTable.open(tar)
    assert table.path == cache_location([tar], locate(tar)).path
    assert table.path.startswith(platformdirs.user_cache_dir("imagearchive", appauthor=False))
    builds = count_builds(monkeypatch)
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert not builds


def test_open_without_a_writable_directory_warns(tar, monkeypatch):
    unwritable(monkeypatch, "/")
    with pytest.warns(RuntimeWarning, match="cannot be saved"):
        table = IndexTable.open(tar)
    assert table.path is None
    assert contents(table) == MEMBERS
    with pytest.raises(OptionError, match="cannot write the index"):
        IndexTable.open(tar, "/nowhere/x.npy")


def test_open_read_only_directory_saves_in_the_cache(tar):
    """As an ordinary user meets it: in a child that gave up root, where the tests run as root."""
    folder = os.path.dirname(tar)
    code = f"""
import os, sys, tempfile
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
if os.getuid() == 0:
    os.chmod(os.environ["XDG_CACHE_HOME"], 0o777)
    import imagearchive.index.table, imagearchive.containers.tar.scan
    os.setuid(65534)
from imagearchive.index.table import IndexTable
table = IndexTable.open({tar!r})
assert table.path.startswith(os.environ["XDG_CACHE_HOME"]), table.path
assert len(table) == {len(MEMBERS)}
"""
    os.chmod(folder, 0o555)
    parents = []
    while (folder := os.path.dirname(folder)) != "/":
        mode = os.stat(folder).st_mode
        parents.append((folder, mode))
        os.chmod(folder, mode | 0o055)
    try:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    finally:
        for folder, mode in parents:
            os.chmod(folder, mode)
        os.chmod(os.path.dirname(tar), 0o755)


def open_and_count(tar, barrier, results):
    barrier.wait()
    for _ in range(20):
        table = IndexTable.open(tar, overwrite=True)
        results.put(contents(table) == MEMBERS)


def test_open_in_several_processes_at_once_builds_whole_indexes(tar):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    builders = [
        context.Process(target=open_and_count, args=(tar, barrier, results)) for _ in range(3)
    ]
    for process in builders:
        process.start()
    assert all(results.get(timeout=60) for _ in range(60))
    for process in builders:
        process.join()
        assert process.exitcode == 0
    assert [name for name in os.listdir(os.path.dirname(tar)) if name.endswith(".part")] == []


def test_save_that_fails_leaves_the_old_index(tar, monkeypatch):
    table = IndexTable.open(tar)
    before = Path(table.path).read_bytes()

    def crash(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="No space"):
            table.save(table.path)
    assert Path(table.path).read_bytes() == before
    assert sorted(os.listdir(os.path.dirname(tar))) == ["data.idx.npy", "data.tar"]


def test_save_that_is_killed_leaves_no_broken_index(tar, tmp_path):
    code = f"""
import os, signal
import imagearchive.index.file_format as f
os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
from imagearchive.index.table import IndexTable
IndexTable.open({tar!r})
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not os.path.exists(default_path(tar))
    assert contents(IndexTable.open(tar)) == MEMBERS


def test_open_without_a_home_directory_works(tar, monkeypatch):
    def nowhere(*_, **__):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_dir", nowhere)
    assert contents(IndexTable.open(tar)) == MEMBERS
    os.unlink(default_path(tar))
    unwritable(monkeypatch, "/")
    with pytest.warns(RuntimeWarning, match="no cache directory|cannot be saved"):
        assert contents(IndexTable.open(tar)) == MEMBERS


def test_open_with_overwrite_replaces_only_indexes(tar, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for ipath in (tar, tmp_path / "notes.txt", tmp_path):
        with pytest.raises((OptionError, index_file.NotAnIndexError)):
            IndexTable.open(tar, ipath, overwrite=True)
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(OptionError, match="directory"):
        IndexTable.open(tmp_path, tmp_path / "index")


@pytest.mark.parametrize(
    "change",
    [
        {"archives": 5}, {"archives": ["x"]}, {"archives": [{}]}, {"directories": 5},
        {"directories": [5]}, {"archives": [{"path": "data.tar", "size": "x"}]},
        {"containers": 7}, {"containers": []}, {"containers": [{"name": "tar", "version": 1}]},
        {"containers": [{"name": "tar", "version": 1, "first_file": 3}]},
        {"containers": [{"name": "rar", "version": 1, "first_file": 0}]},
    ],
)  # fmt: skip
def test_open_index_with_malformed_metadata_builds_again(tar, change):
    table = IndexTable.open(tar)
    columns = {name: getattr(table, name) for name in index.COLUMNS}
    index_file.save(locate(table.path), columns, {**table.meta, **change})
    assert contents(IndexTable.open(tar)) == MEMBERS


# --- several archives ---------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        write_tar(
            tmp_path / f"train-{number:04d}.tar",
            {f"{name}/{number}-{i}.txt": b"%d %d" % (number, i) for name in "ab" for i in range(4)},
        )
    return str(tmp_path / "train-{0000..0002}.tar")


def test_concatenate_shards_are_one_archive(shards, monkeypatch):
    archive = Archive(shards)
    assert len(archive) == 24
    assert archive["b/2-3.txt"] == b"2 3"
    assert archive.table.entries["shard"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    # Each archive has its own index; their sum is mapped from the cache.
    assert os.path.exists(shards.replace("{0000..0002}", "0001")[:-4] + ".idx.npy")
    builds = count_builds(monkeypatch)
    again = Archive(shards)
    assert again.table.path is not None
    assert not builds
    assert dict(again) == dict(archive)


def test_concatenate_notices_a_changed_shard(shards):
    Archive(shards)
    path = shards.replace("{0000..0002}", "0001")
    time.sleep(0.01)
    append(path)
    assert Archive(shards)["c/new.txt"] == b"new"


def test_concatenate_many_shards_keep_few_files_open(tmp_path):
    for number in range(60):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})
    archive = Archive(str(tmp_path / "s-{0..59}.tar"), max_open=4, storage="pread")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number in range(60):
            assert archive[f"{number}.txt"] == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) - before <= 4


def test_concatenate_given_index_is_used_or_refused(shards, tmp_path):
    ipath = tmp_path / "joined"
    assert len(Archive(shards, ipath)) == 24
    assert len(Archive(shards, ipath)) == 24
    append(shards.replace("{0000..0002}", "0000"))
    with pytest.raises(StaleIndexError):
        Archive(shards, ipath)


def test_concatenate_index_of_other_shards_is_refused(shards, tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"val-{number}.tar", {f"a/{number}.txt": b"val"})
    ipath = tmp_path / "joined"
    Archive(shards, ipath)
    with pytest.raises(StaleIndexError, match="built for others"):
        Archive(str(tmp_path / "val-{0..2}.tar"), ipath)
    with pytest.raises(OptionError):
        Archive(shards, shards.replace("{0000..0002}", "0001"), overwrite_index=True)


def test_concatenate_damaged_shard_raises_unless_not_strict(shards, tmp_path):
    os.truncate(shards.replace("{0000..0002}", "0001"), 3000)
    for ipath in (None, tmp_path / "joined"):
        with pytest.raises(CorruptArchiveError):
            Archive(shards, ipath)
        assert 0 < len(Archive(shards, ipath, strict=False)) < 24
        with pytest.raises((CorruptArchiveError, StaleIndexError)):
            Archive(shards, ipath)


def test_concatenate_many_shards_under_a_low_limit_of_files(tmp_path):
    code = f"""
import resource, warnings
warnings.simplefilter("error")
import imagearchive
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
archive = imagearchive.open({str(tmp_path)!r} + "/s-{{0..199}}.tar")
assert all(archive[f"{{i}}.txt"] == b"%d" % i for i in range(200))
"""
    for number in range(200):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert len(list(tmp_path.glob("s-*.idx.npy"))) == 200


def test_read_from_a_replaced_file_raises(tar, shards):
    archive, joined = Archive(tar), Archive(shards)
    for path in (tar, shards.replace("{0000..0002}", "0001")):
        write_tar(path + ".new", {"q": b"other"})
        os.replace(path + ".new", path)
    with pytest.raises(StaleIndexError, match="open the archive again"):
        archive["a/1.txt"]
    assert joined["a/0-1.txt"] == b"0 1"
    with pytest.raises(StaleIndexError):
        joined["a/1-1.txt"]


def test_pickle_of_an_archive_has_no_table(shards):
    assert len(pickle.dumps(Archive(shards))) < 1000
