"""One contract, three backends, the same bytes."""

import errno
import mmap
import multiprocessing
import os
import pickle
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    OptionError,
    StaleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.storage import local
from imagearchive.storage.local import (
    MemoryStorage,
    MmapStorage,
    PreadStorage,
    open_storage,
    storage_kind,
)
from imagearchive.storage.mapping import Mapping
from imagearchive.storage.protocol import Storage
from imagearchive.storage.slice import SliceStorage

DATA = np.random.default_rng(0).bytes(100_003)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("storage") / "data.bin"
    file.write_bytes(DATA)
    return str(file)


@pytest.fixture(params=["mmap", "pread", "memory"])
def storage(request, path):
    opened = open_storage(path, request.param)
    yield opened
    opened.close()


def test_storage_follows_the_protocol(storage, path):
    assert isinstance(storage, Storage)
    assert storage.size == len(DATA)
    assert storage.path == path


def test_storage_zero_copy_is_true_for_views(storage):
    assert storage.zero_copy == isinstance(storage.read(10, 10), memoryview)
    part = SliceStorage(storage, 5, 100, "part")
    assert isinstance(part, Storage)
    assert part.zero_copy == storage.zero_copy


@given(offset=st.integers(0, len(DATA)), size=st.integers(0, len(DATA)))
def test_storage_kinds_return_the_same_bytes(path, offset, size):
    for kind in ("mmap", "pread", "memory"):
        with open_storage(path, kind) as storage:
            if offset + size > len(DATA):
                with pytest.raises(CorruptArchiveError, match=r"data\.bin.*offset"):
                    storage.read(offset, size)
                continue
            assert bytes(storage.read(offset, size)) == DATA[offset : offset + size]
            buffer = bytearray(size)
            assert storage.readinto(offset, buffer) == size
            assert buffer == DATA[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (0, -1), (0, len(DATA) + 1), (2**63, 1)])
def test_storage_ranges_outside_are_refused(storage, offset, size):
    with pytest.raises(CorruptArchiveError):
        storage.read(offset, size)
    if size > 0:
        with pytest.raises(CorruptArchiveError):
            storage.readinto(offset, bytearray(min(size, len(DATA) + 1)))


def test_storage_read_is_read_only(storage):
    with pytest.raises(TypeError):
        memoryview(storage.read(0, 10))[0] = 1


def test_storage_readinto_takes_arrays(storage):
    array = np.zeros((5, 4), "<u2")
    assert storage.readinto(7, array) == 40
    assert array.tobytes() == DATA[7:47]


def test_mmap_state_is_empty_while_a_change_may_leave_it_as_it_is(path):
    def changed_now():
        os.utime(path)
        return storage.state

    with open_storage(path, "mmap") as storage:
        # On a busy machine, some time may pass between the two.
        assert any(changed_now() == "" for _ in range(20))
        time.sleep(0.05)
        before = storage.state
        assert before
        status = os.stat(path)
        with open(path, "r+b") as file:
            file.write(DATA)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        time.sleep(0.05)
        assert storage.state not in ("", before)
    assert storage.state == ""


def test_storage_prefetch_never_fails(storage):
    for offset, size in [(0, 10), (99_000, 10**6), (0, 0), (10**9, 5), (-5, 10), (5, -10)]:
        storage.prefetch(offset, size)
    assert bytes(storage.read(5, 10)) == DATA[5:15]
    storage.close()
    storage.prefetch(0, 10)


def test_storage_closed_refuses_reads(storage):
    view = storage.read(5, 10)
    storage.close()
    storage.close()
    assert bytes(view) == DATA[5:15]
    with pytest.raises(ClosedError, match="open the archive again"):
        storage.read(0, 1)


def check_reads(storage, failures):
    random = np.random.default_rng(os.getpid() + threading.get_ident() % 1000)
    for offset in random.integers(0, len(DATA) - 50, 2000).tolist():
        if bytes(storage.read(offset, 50)) != DATA[offset : offset + 50]:
            failures.append(offset)


def test_storage_is_shared_by_threads(storage):
    failures = []
    threads = [threading.Thread(target=check_reads, args=(storage, failures)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def child(storage):
    failures = []
    check_reads(storage, failures)
    os._exit(1 if failures else 0)


def test_storage_is_shared_by_forked_children(storage):
    storage.read(100, 100)
    children = [
        multiprocessing.get_context("fork").Process(target=child, args=(storage,)) for _ in range(3)
    ]
    for process in children:
        process.start()
    check = []
    check_reads(storage, check)
    for process in children:
        process.join()
    assert not check
    assert [process.exitcode for process in children] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["mmap", "pread", "memory"])
def test_storage_of_an_empty_file_is_empty(tmp_path, kind):
    (tmp_path / "empty").write_bytes(b"")
    with open_storage(tmp_path / "empty", kind) as storage:
        assert storage.size == 0
        assert bytes(storage.read(0, 0)) == b""
        with pytest.raises(CorruptArchiveError):
            storage.read(0, 1)


@pytest.mark.parametrize("kind", ["auto", "mmap", "pread", "memory"])
def test_open_storage_refuses_missing_and_irregular_files(tmp_path, kind):
    with pytest.raises(ArchiveNotFoundError, match=r"nothing\.tar"):
        open_storage(tmp_path / "nothing.tar", kind)
    with pytest.raises(FileNotFoundError):
        open_storage(tmp_path / "nothing.tar", kind)
    with pytest.raises(UnsupportedArchiveError):
        open_storage(tmp_path, kind)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnsupportedArchiveError):
        open_storage(tmp_path / "fifo", kind)


def test_pread_descriptor_is_not_reused_during_a_read(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a" * 100)
    (tmp_path / "b").write_bytes(b"b" * 100)
    storage = PreadStorage(tmp_path / "a")
    pread, others = os.pread, []

    def slow(*arguments):
        # What another thread may do just now: close the file, and open one of the same number.
        storage.close()
        others.append(PreadStorage(tmp_path / "b"))
        return pread(*arguments)

    number = storage.fileno()
    monkeypatch.setattr(os, "pread", slow)
    assert storage.read(10, 20) == b"a" * 20
    monkeypatch.undo()
    with PreadStorage(tmp_path / "a") as last:
        assert last.fileno() == number, "the descriptor was let go of"
    with pytest.raises(ClosedError):
        storage.read(0, 1)
    others[0].close()


def test_storage_system_errors_name_the_file(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"a" * 100)

    def failing(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    with PreadStorage(file) as storage:
        monkeypatch.setattr(os, "pread", failing)
        monkeypatch.setattr(os, "preadv", failing)
        for read in (lambda: storage.read(0, 10), lambda: storage.readinto(0, bytearray(10))):
            with pytest.raises(OSError, match=r"Input/output error: '.*a'"):
                read()
    monkeypatch.setattr(local, "Mapping", failing)
    with pytest.raises(OSError, match=r"Input/output error: '.*a'"):
        MmapStorage(file)


def test_pread_truncated_file_raises(tmp_path):
    file = tmp_path / "shrinks"
    file.write_bytes(DATA)
    with PreadStorage(file) as storage:
        os.truncate(file, 1000)
        with pytest.raises(StaleIndexError, match=r"changed while open: .* truncated to 1000 of"):
            storage.read(500, 1000)


def test_mmap_replaced_file_stays_readable(tmp_path):
    file = tmp_path / "replaced"
    file.write_bytes(DATA)
    with MmapStorage(file) as storage:
        (tmp_path / "new").write_bytes(b"x")
        os.replace(tmp_path / "new", file)
        assert bytes(storage.read(0, len(DATA))) == DATA


def test_memory_storage_takes_any_buffer():
    storage = MemoryStorage(np.arange(10, dtype="<u4"))
    assert bytes(storage.read(4, 4)) == b"\1\0\0\0"


def test_open_storage_unknown_kind_is_refused():
    with pytest.raises(OptionError, match="pread"):
        open_storage(__file__, "zip")


MOUNTS = (("/", "ext4"), ("/data", "nfs4"), ("/data/local disk", "xfs"), ("/mnt/share", "cifs"))


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("/home/a.tar", "mmap"),
        ("/data/a.tar", "pread"),
        ("/data/local disk/a.tar", "mmap"),
        ("/database/a.tar", "mmap"),
        ("/mnt/share/x/a.tar", "pread"),
    ],
)
def test_storage_kind_auto_maps_only_local_files(where, kind):
    assert storage_kind(where, MOUNTS) == kind


def test_storage_pickle_is_refused(path):
    with PreadStorage(path) as storage, pytest.raises(TypeError, match="path"):
        pickle.dumps(storage)
    with MmapStorage(path) as storage, pytest.raises(TypeError, match="path"):
        pickle.dumps(storage)


def test_mapping_prefetch_asks_once_for_each_page(tmp_path):
    page = mmap.PAGESIZE
    path = tmp_path / "pages"
    path.write_bytes(bytes(10 * page))
    with path.open("rb") as file:
        mapping = Mapping(file.fileno(), 10 * page - 5)
    assert mapping.prefetch(2 * page, 2 * page)
    assert not mapping.prefetch(2 * page + 7, page)
    assert mapping.prefetch(3 * page, page + 1), "the last byte is on a new page"
    assert not mapping.prefetch(2 * page, 3 * page)
    assert mapping.prefetch(9 * page + 3, 10**6)
    assert not mapping.prefetch(10 * page - 6, 1)
    assert not mapping.prefetch(10 * page - 5, 1), "outside"
    assert not mapping.prefetch(-1, 5)


def test_mapping_prefetch_all_asks_for_every_range(tmp_path):
    page = mmap.PAGESIZE
    path = tmp_path / "a"
    path.write_bytes(bytes(10 * page))
    with path.open("rb") as file:
        mapping = Mapping(file.fileno(), 10 * page)
    offsets = np.array([0, 3 * page, -5, 20 * page, 7], np.int64)
    ends = np.array([page, 5 * page, 9, 21 * page, 7], np.int64)
    mapping.prefetch_all(offsets, ends)
    assert [mapping.prefetch(number * page, 1) for number in range(6)] == [
        False, True, True, False, False, True,
    ]  # fmt: skip
    with pytest.raises(OptionError, match="2 offsets and 5 ends"):
        mapping.prefetch_all(offsets[:2], ends)
