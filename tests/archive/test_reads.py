"""What `Archive` reads and prefetches, and which members it refuses."""

import gc
import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from support import tar_cases
from support.archives import write_tar
from support.containers import CONTAINERS, MEMBERS, make_directory, make_shards, make_zip

from imagearchive import Archive
from imagearchive.containers.zip.stream import MemberHeader, ZipStream
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
    UnsupportedMemberError,
)
from imagearchive.storage import local, mapping
from imagearchive.storage.local import open_storage
from imagearchive.storage.location import LocalLocation


def test_read_many_keeps_the_order_of_keys(archive):
    names = list(MEMBERS)
    random = np.random.default_rng(1)
    wanted = [
        names[i] if i % 2 else int(archive.position(names[i])) for i in random.integers(0, 9, 40)
    ]
    got = [bytes(data) for data in archive.read_many(wanted)]
    assert got == [bytes(archive.read(key)) for key in wanted]
    assert archive.read_many([]) == []
    with pytest.raises(OptionTypeError, match="one name"):
        archive.read_many("README")
    with pytest.raises(KeyError):
        archive.read_many(["README", "nothing"])


class Recorder:
    """A storage that tells what is asked of it."""

    def __init__(self, storage, calls):
        self.storage, self.calls = storage, calls

    def __getattr__(self, name):
        return getattr(self.storage, name)

    def read(self, offset, size):
        self.calls.append(("read", self.storage.path, offset, size))
        return self.storage.read(offset, size)

    def prefetch(self, offset, size):
        self.calls.append(("prefetch", self.storage.path, offset, size))


@pytest.fixture
def calls(monkeypatch):
    recorded = []
    monkeypatch.setattr(
        LocalLocation,
        "open",
        lambda location, kind="auto": Recorder(open_storage(location.path, kind), recorded),
    )
    return recorded


@pytest.mark.parametrize("kind", ["tar", "deflated zip", "barecat", "shards"])
def test_read_many_reads_in_the_order_of_offsets(tmp_path, calls, kind):
    archive = Archive(CONTAINERS[kind](tmp_path))
    calls.clear()
    wanted = [*reversed(MEMBERS), "README", 3, -1]
    got = archive.read_many(wanted)
    expected = [bytes(archive.read(key)) for key in wanted]
    assert [bytes(data) for data in got] == expected
    reads = [call[1:] for call in calls[: len(wanted)]]
    assert reads == sorted(reads)
    assert [call[1:] for call in calls[len(wanted) :]] != sorted(reads)


@pytest.mark.parametrize("kind", ["tar", "deflated zip", "shards"])
def test_prefetch_requests_the_stored_ranges_without_reading(tmp_path, calls, kind):
    archive = Archive(CONTAINERS[kind](tmp_path))
    wanted = ["images/cat/1.jpg", "README", 3, -2]
    infos = [archive.info(key) for key in wanted]
    ranges = {(info.archive, info.offset, info.offset + info.stored_size) for info in infos}
    calls.clear()
    archive.prefetch(wanted)
    assert len(calls) == len({info.archive for info in infos}), "neighbors were asked for alone"
    for _, path, offset, size in calls:
        inside = {one for one in ranges if one[0] == path}
        assert (offset, offset + size) == (min(o for _, o, _ in inside), max(e for *_, e in inside))
    calls.clear()
    archive.prefetch([])
    assert not calls
    with pytest.raises(KeyError):
        archive.prefetch(["nothing"])


@pytest.mark.parametrize("keys", [np.zeros((2, 2), np.int64), np.array(1)])
def test_prefetch_array_that_is_not_a_list_of_positions_is_an_error(tmp_path, keys):
    with pytest.raises(OptionTypeError):
        Archive(CONTAINERS["tar"](tmp_path)).prefetch(keys)


def test_prefetch_array_equals_list_of_positions(tmp_path, calls):
    archive = Archive(CONTAINERS["shards"](tmp_path))
    calls.clear()
    archive.prefetch([4, 2, 0])
    expected = calls.copy()
    calls.clear()
    archive.prefetch(np.array([4, 9, 2, 9, 0, 9])[::2])
    assert calls == expected != []
    with pytest.raises(SampleIndexError, match="position 999 of 9 members"):
        archive.prefetch(np.array([0, 999]))


def test_prefetch_members_far_apart_are_requested_alone(tmp_path, calls):
    members = {f"{n}": bytes(100 if n % 2 else 200_000) for n in range(7)}
    archive = Archive(write_tar(tmp_path / "gaps.tar", members))
    calls.clear()
    archive.prefetch(["5", "1", "3"])
    infos = [archive.info(name) for name in ("1", "3", "5")]
    assert [call[2:] for call in calls] == [(info.offset, info.size) for info in infos]


def test_prefetch_opens_no_files_that_cannot_stay_open(tmp_path, calls):
    archives = [Archive(make_directory(tmp_path)), Archive(make_shards(tmp_path), max_open=2)]
    calls.clear()
    for archive in archives:
        archive.prefetch(MEMBERS)
    assert calls == []


@pytest.fixture
def told(monkeypatch):
    """The ranges that the kernel is asked for."""
    told = []

    class RecordingMapping(mapping.Mapping):
        def prefetch_all(self, offsets, ends):
            told.extend(zip(offsets.tolist(), ends.tolist()))
            return super().prefetch_all(offsets, ends)

    def fadvise(fd, offset, size, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        told.append((offset, offset + size))

    monkeypatch.setattr(local, "Mapping", RecordingMapping)
    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    return told


@pytest.mark.parametrize("storage", ["pread", "mmap"])
def test_prefetch_advises_the_kernel(tmp_path, told, storage):
    with Archive(CONTAINERS["tar"](tmp_path), storage=storage) as archive:
        info = archive.info("images/cat/1.jpg")
        archive.prefetch(["images/cat/1.jpg"])
    assert told == [(info.offset, info.offset + info.size)]


@pytest.mark.parametrize(("storage", "times"), [("pread", 2), ("mmap", 1)])
def test_prefetch_again_asks_for_members_not_requested_before(tmp_path, told, storage, times):
    with Archive(CONTAINERS["tar"](tmp_path), storage=storage) as archive:
        ranges = [(info.offset, info.offset + info.size) for info in map(archive.info, (1, 2))]
        archive.prefetch([1])
        archive.prefetch(np.array([1]))
        assert told == [ranges[0]] * times
        told.clear()
        archive.prefetch([1, 2])
        assert told == [(ranges[0][0], ranges[1][1])]
        told.clear()
        archive.prefetch([])
        archive.prefetch([2, 1])
        assert bool(told) == (times > 1)
    with Archive(CONTAINERS["tar"](tmp_path), storage=storage) as again:
        told.clear()
        again.prefetch([1])
        assert told == [ranges[0]]


def test_read_file_of_a_directory_that_grew_is_refused(tmp_path):
    tree = make_directory(tmp_path)
    archive = Archive(tree)
    (tree / "README").write_bytes(b"longer than it was when listed")
    with pytest.raises(StaleIndexError, match="README"):
        archive["README"]


def test_read_unsupported_method_is_refused(tmp_path):
    path = tmp_path / "methods.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good", b"good", zipfile.ZIP_DEFLATED)
        archive.writestr("lzma", b"lzma" * 50, zipfile.ZIP_LZMA)
    opened = Archive(path)
    assert opened["good"] == b"good"
    with pytest.raises(UnsupportedMemberError, match=r"methods\.zip.*lzma.*method 14"):
        opened["lzma"]
    with pytest.raises(NotImplementedError):
        opened.open("lzma")


def test_read_damaged_deflated_member_is_refused(tmp_path):
    path = make_zip(tmp_path, zipfile.ZIP_DEFLATED)
    archive = Archive(path)
    info = archive.info("images/cat/1.jpg")
    archive.close()
    data = bytearray(path.read_bytes())
    data[info.offset + info.stored_size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CorruptArchiveError, match=r"images/cat/1\.jpg"):
        Archive(path)["images/cat/1.jpg"]


def test_read_member_that_expands_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    with open(path, "wb") as file:
        stream = ZipStream(file)
        stream.add(b"zeros", [bytes(1 << 20)], level=9)
        header = MemberHeader(b"bomb", file.tell(), deflated=True)
        header.size, header.stored_size = 65 << 26, 65 * len(packed) + 2
        # The empty block that ends the stream.
        file.write(header.local() + 65 * packed + b"\3\0")
        stream.add_record(header)
        stream.finish()
    opened = Archive(path)
    assert opened["zeros"] == bytes(1 << 20)
    with pytest.raises(LimitError, match=r"bomb\.zip: 'bomb': 4362076160 bytes, .*open\(\)"):
        opened["bomb"]
    assert opened.open("bomb").read(100) == bytes(100)


def test_read_huge_sparse_member_is_refused(tmp_path):
    path = tmp_path / "sparse.tar"
    size = (1 << 40) + 4
    path.write_bytes(
        tar_cases.pax_sparse(b"holes", [(1 << 40, 4)], size, b"data", "1.0") + tar_cases.END
    )
    opened = Archive(path)
    with pytest.raises(LimitError, match=r"sparse\.tar: 'holes': 1099511627780 .*member\(\)"):
        opened["holes"]
    with opened.open("holes") as file:
        assert file.read(5) == bytes(5)
        assert file.seek(-6, io.SEEK_END) == size - 6
        assert file.read() == b"\0\0data"


def test_member_ranges_outside_are_refused(archive):
    for name, data in MEMBERS.items():
        member = archive.member(name)
        assert member.size == len(data)
        assert bytes(member.read(0, len(data))) == data
        for offset, size in ((0, len(data) + 1), (len(data), 1), (-1, 1), (1, len(data)), (0, -1)):
            with pytest.raises(CorruptArchiveError, match="is not within"):
                member.read(offset, size)
        for offset, size in ((0, len(data) + 1), (len(data), 1), (-1, 1)):
            with pytest.raises(CorruptArchiveError, match="is not within"):
                member.readinto(offset, bytearray(size))


def test_read_encrypted_or_multi_disk_member_is_refused(tmp_path):
    path = tmp_path / "parts.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good", "locked", "elsewhere"):
            archive.writestr(name, name.encode())
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    third = data.index(b"PK\1\2", second + 4)
    # The flag of encryption in both headers; the number of the part in the directory.
    data[second + 8] |= 1
    data[data.index(b"PK\3\4", 4) + 6] |= 1
    data[third + 34] = 1
    path.write_bytes(data)
    opened = Archive(path)
    assert opened["good"] == b"good"
    for read in (opened.read, opened.open, opened.member, opened.__getitem__):
        with pytest.raises(UnsupportedMemberError, match=r"parts\.zip: 'locked': encrypted"):
            read("locked")
        with pytest.raises(UnsupportedMemberError, match="'elsewhere': is on another part"):
            read("elsewhere")


def test_archive_max_open_keeps_the_most_recent_files(tmp_path, monkeypatch):
    archive = Archive(make_shards(tmp_path), max_open=2, storage="pread")
    opened = []
    monkeypatch.setattr(
        LocalLocation,
        "open",
        lambda location, kind: opened.append(location.path) or open_storage(location.path, kind),
    )
    paths = archive.table.files
    first = {archive.info(name).archive: name for name in MEMBERS}
    for shard in (0, 1, 0, 2, 0, 1):
        name = first[paths[shard]]
        assert archive[name] == MEMBERS[name]
    assert [paths.index(path) for path in opened] == [0, 1, 2, 1]
    with pytest.raises(OptionError, match="max_open must be at least 1, got 0"):
        Archive(paths[0], max_open=0)


def test_archive_in_memory_is_not_read_again(tmp_path):
    for make in (make_shards, make_directory):
        place = make(tmp_path)
        archive = Archive(place, storage="memory", max_open=1)
        for path in [*tmp_path.glob("*.tar"), *filter(Path.is_file, tmp_path.rglob("tree/**/*"))]:
            path.unlink()
        assert dict(archive) == MEMBERS


@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_archive_files_close_with_their_last_user(tmp_path, storage):
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(3 << 20))
    paths = make_zip(tmp_path, zipfile.ZIP_STORED), path
    before = len(os.listdir("/dev/fd"))
    gc.disable()
    try:
        for one in paths:
            archive = Archive(one, storage=storage)
            file = archive.open(archive.name(0))
            assert file.read(5)
            with pytest.raises(KeyError):
                archive["nothing"]
            assert len(os.listdir("/dev/fd")) > before
            del archive, file
            assert len(os.listdir("/dev/fd")) == before
    finally:
        gc.enable()
