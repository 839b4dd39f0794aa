"""Split bins: written and read by us and by the package `splitdataloader`, whole or not at all."""

from __future__ import annotations

import filecmp
import logging
import os
import pathlib
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable

import numpy as np
import pytest
import splitdataloader as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import files_left

import imagearchive
from imagearchive.compat import splitdataloader as compat
from imagearchive.containers.bins import BinsContainer
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    ImageArchiveError,
    LimitError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
    TargetExistsError,
)
from imagearchive.storage.location import locate

BINS = BinsContainer()


def scan_path(path, strict=True):
    rows, files = BINS.scan_location(locate(path), strict)
    return rows, [file.path for file in files]


def sniff(path):
    location = locate(path)
    return location.exists() and BINS.sniff_location(location, location.status())


def packets(count=300, seed=0):
    rng = random.Random(seed)
    return [rng.randbytes(rng.choice([0, 1, 5, 300, 20_000])) for _ in range(count)]


@pytest.fixture
def written(tmp_path):
    data = packets()
    write_split_data(tmp_path / "set", data, splits=13)
    return str(tmp_path / "set"), data


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


# --- the original as oracle -------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=60), st.integers(1, 70))
def test_the_files_are_those_of_the_original(tmp_path_factory, data, splits):
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    write_split_data(ours / "x", iter(data), splits)
    peer.write_split_data(str(theirs / "x"), data, splits)
    assert content(ours / "x") == content(theirs / "x")
    reader = peer.SplitDataLoader(str(ours / "x"))
    assert [reader[i] for i in range(len(reader))] == data
    with SplitDataLoader(theirs / "x") as loader:
        assert list(loader) == data
        assert list(loader.iterate_binwise()) == list(reader.iterate_binwise())
        assert sorted(loader.iterate_binwise(shuffle=True)) == sorted(data)


def test_shuffle_changes_the_bins_and_not_the_indices(tmp_path):
    data = packets()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_split_data(tmp_path / name, data, splits=20, shuffle=True, seed=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    reader = peer.SplitDataLoader(str(tmp_path / "c"))
    assert [reader[i] for i in range(len(reader))] == data
    assert len({len(peer_bin) for peer_bin in content(tmp_path / "c").values()}) > 2


def test_the_users_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = []

    def some_source():
        return (b"packet %d" % i for i in range(500))

    def do_something(data):
        done.append(data)

    from imagearchive.compat.splitdataloader import write_split_data

    def example_writer(*_):
        # Get the data source
        data_source: Iterable[bytes] = some_source()
        target_dir = "tmp/training_data"
        write_split_data(target_dir, data_source, splits=128)

    from imagearchive.compat.splitdataloader import SplitDataLoader

    def example_loader(*_):
        # Get the data source
        data_dir = "tmp/training_data"
        loader = SplitDataLoader(data_dir)
        # Supports len()
        print(len(loader))
        # Supports indexing
        data = loader[2]
        assert data == b"packet 2"
        # Supports iteration
        for data in loader.iterate_binwise(shuffle=True):
            do_something(data)

    example_writer()
    example_loader()
    assert sorted(done) == sorted(some_source())
    assert compat.MpQItr is imagearchive.MpQItr
    assert len(list(pathlib.Path("tmp/training_data").glob("bin*.dat"))) == 128


def test_it_is_an_archive_as_well(written):
    folder, data = written
    assert sniff(folder)
    with imagearchive.open(folder) as archive:
        assert archive["00000007"] == data[7]
        assert [bytes(archive.read(i)) for i in range(len(archive))] == data
        assert archive.listdir() == [f"{i:08d}" for i in range(len(data))]


# --- writing ----------------------------------------------------------------------------------


def test_anything_bytes_like(tmp_path):
    array = np.arange(20, dtype="<u4")
    given = [b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], array, array[::3], array[:0]]
    write_split_data(tmp_path / "x", given, splits=2)
    expected = [b"a", b"b", b"c", array.tobytes(), array[::3].tobytes(), b""]
    assert list(SplitDataLoader(tmp_path / "x")) == expected


@pytest.mark.parametrize("wrong", ["text", None, 5, [1], np.array([None])])
def test_what_is_not_bytes_is_refused_by_number(tmp_path, wrong):
    with pytest.raises(OptionTypeError, match="packet 3 "):
        write_split_data(tmp_path / "x", [b"", b"", b"", wrong])
    assert not (tmp_path / "x").exists()


def test_wrong_options(tmp_path):
    for options in ({"splits": 0}, {"splits": 1.5}, {"splits": True}):
        with pytest.raises(OptionError, match="splits"):
            write_split_data(tmp_path / "x", [], **options)
    for source in (b"one packet, not many", 7, None):
        with pytest.raises(OptionTypeError, match="data_source is"):
            write_split_data(tmp_path / "x", source)
    with pytest.raises(OptionError, match="choose one"):
        write_split_data(tmp_path / "x", [], start_clean=True, append=True)
    assert not (tmp_path / "x").exists()


def test_an_existing_set_is_not_touched_unless_asked(written):
    folder, _ = written
    before = content(folder)
    with pytest.raises(TargetExistsError, match=r"already holds a set.*start_clean.*append"):
        write_split_data(folder, [b"new"])
    os.unlink(os.path.join(folder, "index.dat"))
    with pytest.raises(TargetExistsError, match="interrupted write"):
        write_split_data(folder, [b"new"])
    with pytest.raises(TargetExistsError, match=r"no index\.dat to append to"):
        write_split_data(folder, [b"new"], append=True)
    del before["index.dat"]
    assert content(folder) == before


def test_start_clean_removes_the_set_and_nothing_else(written):
    folder, _ = written
    for name in ("notes.txt", "bin.dat", "binary.dat"):
        pathlib.Path(folder, name).write_text("mine")
    write_split_data(folder, [b"new", b"er"], splits=3, start_clean=True)
    assert set(os.listdir(folder)) == {
        "notes.txt",
        "bin.dat",
        "binary.dat",
        "index.dat",
        "bin00000000.dat",
        "bin00000001.dat",
    }
    assert list(SplitDataLoader(folder)) == [b"new", b"er"]


def test_append_goes_on_where_the_set_ended(tmp_path):
    data = packets(200)
    write_split_data(tmp_path / "whole", data, splits=7)
    write_split_data(tmp_path / "parts", data[:50], splits=7)
    for start, stop in ((50, 51), (51, 51), (51, 130), (130, 200)):
        with SplitDataLoader(tmp_path / "parts") as loader:
            assert len(loader) == start
        write_split_data(tmp_path / "parts", data[start:stop], splits=7, append=True)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    write_split_data(tmp_path / "parts", [b"x"] * 40, splits=30, append=True)
    assert list(SplitDataLoader(tmp_path / "parts")) == data + [b"x"] * 40
    reader = peer.SplitDataLoader(str(tmp_path / "parts"))
    assert sorted(reader.iterate_binwise()) == sorted(data + [b"x"] * 40)
    write_split_data(tmp_path / "started", data, splits=7, append=True)
    assert content(tmp_path / "started") == content(tmp_path / "whole")


def failing(count, error):
    for number in range(count):
        yield b"packet %d" % number * 50
    raise error


@pytest.mark.parametrize("error", [ValueError("source"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("mode", ["fresh", "start_clean", "append"])
def test_a_failing_source_leaves_everything_as_it_was(written, mode, error):
    folder, _ = written
    before = content(folder)
    options = {} if mode == "fresh" else {mode: True}
    if mode == "fresh":
        folder += "2/inner/most"
    with pytest.raises(type(error)):
        write_split_data(folder, failing(100, error), splits=40, **options)
    if mode == "fresh":
        assert os.listdir(pathlib.Path(folder, "../../..").resolve()) == ["set"]
        os.makedirs(folder)
        before = {}
        with pytest.raises(type(error)):
            write_split_data(folder, failing(100, error), splits=40)
    assert content(folder) == before


def test_a_full_disk_leaves_everything_as_it_was(written, monkeypatch):
    folder, _ = written
    before = content(folder)
    calls = []

    def full(fd, buffers, real=os.writev):
        calls.append(fd)
        if len(calls) == 30:
            raise OSError(28, "No space left on device")
        return real(fd, buffers)

    monkeypatch.setattr(os, "writev", full)
    for options in ({"append": True}, {"start_clean": True}):
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            write_split_data(folder, packets(100, 1), **options)
        assert content(folder) == before


@pytest.mark.parametrize("options", [{}, {"append": True}, {"start_clean": True}])
def test_too_few_files_leave_everything_as_it_was(written, options):
    folder, data = written
    folder = folder if options else folder + "2"
    before = content(folder) if options else None
    for left in range(3):
        with files_left(left), pytest.raises(OSError, match=f"Too many open files: '{folder}"):
            write_split_data(folder, data, splits=3, **options)
        assert (content(folder) if os.path.exists(folder) else None) == before
    with files_left(6):
        write_split_data(folder, data, splits=3, **options)
    assert list(SplitDataLoader(folder)) == (data + data if "append" in options else data)


def test_errors_of_the_disk_name_the_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*bin00000001\.dat'"):
            write_split_data(tmp_path / "x", [b"", b"a" * 60_000], splits=2)
        with pytest.raises(OSError, match=r"File too large: '.*index\.dat'"):
            write_split_data(tmp_path / "x", [b""] * 6000, splits=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "x").exists()


# Five bins and the index, or the index alone.
@pytest.mark.parametrize(
    ("mode", "when"), [("append", 1), *(("start_clean", when) for when in range(1, 7))]
)
@pytest.mark.parametrize("done", [False, True])
def test_an_interrupt_while_names_are_given(written, monkeypatch, mode, when, done):
    folder, data = written
    new = packets(60, 3)
    calls = []

    def interrupted(*args, real=os.replace):
        calls.append(args)
        if len(calls) != when:
            return real(*args)
        if done:
            real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_split_data(folder, new, splits=5, **{mode: True})
    monkeypatch.undo()
    expected = data + new if mode == "append" else new
    assert list(SplitDataLoader(folder)) == expected
    assert sorted(peer.SplitDataLoader(folder).iterate_binwise()) == sorted(expected)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_short_writes_are_completed(tmp_path, monkeypatch):
    def short(fd, buffers):
        return os.write(fd, b"".join(buffers)[:3])

    def slow(fd, data, real=os.write):
        return real(fd, bytes(data)[:1000])

    data = [b"abc", b"d" * 5000, b""]
    monkeypatch.setattr(os, "writev", short)
    monkeypatch.setattr(os, "write", slow)
    write_split_data(tmp_path / "x", data, splits=2)
    monkeypatch.undo()
    assert list(SplitDataLoader(tmp_path / "x")) == data


KILLED = """
import os, sys
from imagearchive.containers.bins.writer import write_split_data

def source():
    for number in range(50):
        yield b"new" * 100
    os.kill(os.getpid(), 9)

write_split_data(sys.argv[1], source(), splits=13, **{sys.argv[2]: True})
"""


@pytest.mark.parametrize("mode", ["append", "start_clean"])
def test_a_killed_writer_never_leaves_what_looks_whole(tmp_path, written, mode):
    folder, data = written
    fresh = str(tmp_path / "fresh")
    for target in (folder, fresh):
        process = subprocess.run([sys.executable, "-c", KILLED, target, mode], check=False)
        assert process.returncode == -signal.SIGKILL
    with pytest.raises(ArchiveNotFoundError, match="interrupted"):
        SplitDataLoader(fresh)
    with pytest.raises(FileNotFoundError):
        len(peer.SplitDataLoader(fresh))
    assert list(SplitDataLoader(folder)) == data
    # Appending cuts off what the killed one left behind the last packet.
    write_split_data(folder, [b"after"], splits=13, append=True)
    assert list(SplitDataLoader(folder)) == [*data, b"after"]
    reader = peer.SplitDataLoader(folder)
    bins = sorted(reader.iterate_binwise())
    if mode == "start_clean":
        assert bins == sorted([*data, b"after"])
    write_split_data(folder, data, start_clean=True)
    write_split_data(fresh, data, start_clean=True)
    assert filecmp.dircmp(folder, fresh).left_only == filecmp.dircmp(folder, fresh).right_only == []
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_more_bins_than_files_may_be_open(tmp_path):
    data = packets(700)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 80, hard))
    try:
        write_split_data(tmp_path / "x", data, splits=300)

        def opens_files():
            # Leaves the writer fewer files than it counted on.
            files = [os.open(os.devnull, os.O_RDONLY) for _ in range(60)]
            yield from data
            for file in files:
                os.close(file)

        write_split_data(tmp_path / "y", opens_files(), splits=300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert content(tmp_path / "x") == content(tmp_path / "y")
    assert list(SplitDataLoader(tmp_path / "x")) == data


def test_bins_end_at_4_gib(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    # A bin whose last packet starts 20 bytes before the limit; all before it is a hole.
    start = 2**32 - 20
    with open(folder / "bin00000000.dat", "wb") as file:
        file.seek(start)
        file.write(struct.pack("<I", 3) + b"old")
    (folder / "index.dat").write_bytes(struct.pack("<III", 0, start, 3))
    given = iter([b"fits", b"crosses the limit, which it may", b"refused", b"never asked for"])
    with pytest.raises(LimitError, match=r"packet 2 of 7 bytes would start at 4294967326 of bin0"):
        write_split_data(folder, given, splits=1, append=True)
    assert next(given) == b"never asked for"
    expected = [b"old", b"fits", b"crosses the limit, which it may"]
    with SplitDataLoader(folder) as loader:
        assert list(loader) == list(loader.iterate_binwise()) == expected
        assert sorted(loader.iterate_binwise(shuffle=True)) == sorted(expected)
    reader = peer.SplitDataLoader(str(folder))
    assert [reader[i] for i in range(3)] == expected
    with pytest.raises(LimitError):
        write_split_data(folder, [b""], splits=1, append=True)
    assert len(SplitDataLoader(folder)) == 3


def test_memory_does_not_grow_with_the_data(tmp_path):
    code = """
import resource, sys
from imagearchive.containers.bins.writer import write_split_data
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_split_data(sys.argv[1], (bytes(1000) for _ in range(100_000)), splits=50)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "x")])
    assert int(out) < 20_000  # kB, for 100 MB of packets


# --- reading ----------------------------------------------------------------------------------


def test_indices(written):
    folder, data = written
    with SplitDataLoader(folder) as loader:
        assert loader[-1] == data[-1]
        assert loader[np.int64(3)] == data[3]
        assert type(loader[5]) is bytes
        view = loader.read(-2)
        assert memoryview(view).readonly
        with pytest.raises(SampleIndexError):
            loader.read(300)
        assert loader.__getitems__([9, -1, 9, 0]) == [data[9], data[-1], data[9], data[0]]
        for index in (300, -301):
            with pytest.raises(SampleIndexError):
                loader[index]
            with pytest.raises(IndexError):
                loader.__getitems__([index])
        for index in ("1", 1.0, None, slice(3)):
            with pytest.raises(OptionTypeError):
                loader[index]
    assert view == data[-2]
    with pytest.raises(ClosedError):
        loader[0]
    with pytest.raises(ClosedError):
        len(loader)
    with pytest.raises(ClosedError):
        next(iter(loader))
    loader.close()


def test_binwise_order(written):
    folder, data = written
    with SplitDataLoader(folder) as loader:
        plain = list(loader.iterate_binwise())
        assert plain == [data[i] for b in range(13) for i in range(b, 300, 13)]
        one, two = (list(loader.iterate_binwise(shuffle=True, seed=s)) for s in (1, 2))
        assert one == list(loader.iterate_binwise(True, 1))
        assert one != two != plain != one
        assert one != list(loader.iterate_binwise(True, 1, epoch=1))
        assert sorted(one) == sorted(two) == sorted(data)


def test_every_bin_and_epoch_has_an_order_of_its_own(written):
    folder, _ = written
    write_split_data(folder, [b"%d" % i for i in range(13 * 20)], 13, start_clean=True)
    with SplitDataLoader(folder) as loader:
        orders = set()
        bins = set()
        for epoch in range(3):
            found = [divmod(int(p), 13) for p in loader.iterate_binwise(True, 5, epoch=epoch)]
            bins.add(tuple(dict.fromkeys(number for _, number in found)))
            orders |= {tuple(row for row, b in found if b == number) for number in range(13)}
    assert len(bins) == 3
    assert len(orders) == 3 * 13


def test_every_bin_is_read_once_and_whole(written):
    folder, _ = written
    # Packets are told apart by their index.
    write_split_data(folder, [b"%d" % i for i in range(300)], 13, start_clean=True)
    with SplitDataLoader(folder) as loader:
        bins = [int(packet) % 13 for packet in loader.iterate_binwise(shuffle=True, seed=3)]
        changes = [a for a, b in zip(bins, [*bins[1:], None]) if a != b]
        assert sorted(changes) == list(range(13))
        assert changes != list(range(13))


@settings(max_examples=20, deadline=None)
@given(workers=st.integers(1, 20), shuffle=st.booleans(), seed=st.none() | st.integers())
def test_workers_share_the_bins(tmp_path_factory, workers, shuffle, seed):
    folder = tmp_path_factory.getbasetemp() / "shared_bins"
    if not folder.exists():
        write_split_data(folder, [b"%d" % i for i in range(100)], splits=13)
    with SplitDataLoader(folder) as loader:
        parts = [
            list(loader.iterate_binwise(shuffle, seed, worker=worker, num_workers=workers))
            for worker in range(workers)
        ]
    assert sorted(int(packet) for part in parts for packet in part) == list(range(100))


def test_wrong_workers(written):
    with SplitDataLoader(written[0]) as loader:
        for options in ({"worker": 1}, {"num_workers": 2}, {"worker": 2, "num_workers": 2}):
            with pytest.raises(OptionError, match="give both"):
                loader.iterate_binwise(**options)


def test_large_and_overlapping_packets(tmp_path):
    data = [os.urandom(size) for size in (2_000_000, 10, 700_000, 16_384, 16_383, 0, 600_000)] * 3
    write_split_data(tmp_path / "x", data, splits=2)
    with SplitDataLoader(tmp_path / "x") as loader:
        assert list(loader.iterate_binwise()) == data[::2] + data[1::2]
        assert sorted(loader.iterate_binwise(shuffle=True)) == sorted(data)
    # Two entries for one packet are odd, but mean something.
    index = (tmp_path / "x" / "index.dat").read_bytes()
    (tmp_path / "x" / "index.dat").write_bytes(index + index[:24])
    assert list(SplitDataLoader(tmp_path / "x")) == data + data[:2]


class Stream:
    """An iterable dataset over a loader, as a worker of PyTorch sees it."""

    def __init__(self, folder):
        self.loader = SplitDataLoader(folder, open_after_fork=True)

    def __iter__(self):
        return self.loader.iterate_binwise(shuffle=True, seed=4)


def test_workers_of_a_data_loader(written):
    from torch.utils.data import DataLoader, IterableDataset

    folder, data = written
    dataset = type("Dataset", (Stream, IterableDataset), {})(folder)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(loader) == sorted(data)
    loader = DataLoader(
        SplitDataLoader(folder, open_after_fork=True),
        batch_size=32,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context="spawn",
        worker_init_fn=opens,
    )
    assert [packet for batch in loader for packet in batch] == data


def opens(worker_id):
    # Called by a forked or spawned worker; only the hook's existence matters to the user.
    from torch.utils.data import get_worker_info

    get_worker_info().dataset.worker_open_archive(worker_id)


def test_pickles_hold_no_data(written):
    folder, data = written
    loader = SplitDataLoader(folder, cache_size=50)
    list(loader)
    pickled = pickle.dumps(loader)
    assert len(pickled) < 1000
    assert list(pickle.loads(pickled)) == data


def test_forks_and_threads(written):
    folder, data = written
    loader = SplitDataLoader(folder, cache_size=10)
    loader[0]
    pids = []
    for seed in range(4):
        if (pid := os.fork()) == 0:
            order = random.Random(seed).choices(range(300), k=2000)
            os._exit(0 if all(loader[i] == data[i] for i in order) else 1)
        pids.append(pid)
    wrong: list[int] = []

    def read(seed):
        order = random.Random(seed).choices(range(300), k=2000)
        wrong.extend(i for i in order if loader[i] != data[i])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4


def test_cached_packets_cost_no_read(written, monkeypatch):
    folder, data = written
    loader = SplitDataLoader(folder, cache_size=2)
    assert (loader[0], loader[1]) == (data[0], data[1])
    reads = []
    read = imagearchive.Archive.read
    monkeypatch.setattr(
        imagearchive.Archive, "read", lambda self, i: reads.append(i) or read(self, i)
    )
    assert (loader[1], loader[0], loader[2], loader[0], loader[1]) == tuple(
        data[i] for i in (1, 0, 2, 0, 1)
    )
    assert reads == [2, 1]
    with pytest.raises(OptionError):
        SplitDataLoader(folder, cache_size=-1)


def test_opened_late(written):
    folder, data = written
    loader = SplitDataLoader(folder + "-later", open_after_fork=True)
    with pytest.raises(ArchiveNotFoundError):
        loader[0]
    write_split_data(folder + "-later", data)
    assert loader[4] == data[4]


def test_sets_that_grew_or_were_replaced(written):
    folder, data = written
    assert len(SplitDataLoader(folder)) == 300
    write_split_data(folder, [b"more"], append=True)
    assert SplitDataLoader(folder)[300] == b"more"
    write_split_data(folder, data[::-1], splits=13, start_clean=True)
    assert list(SplitDataLoader(folder)) == data[::-1]


def test_a_set_that_is_replaced_under_a_reader(tmp_path):
    write_split_data(tmp_path / "set", [b"old%d" % i for i in range(40)], splits=4)
    for path in (tmp_path / "set").iterdir():
        # File systems count time in milliseconds, and what follows may take less.
        os.utime(path, (1e9, 1e9))
    loader, pickled = SplitDataLoader(tmp_path / "set"), SplitDataLoader(tmp_path / "set")
    text = pickle.dumps(pickled)
    passed_on = pickle.dumps(pickle.loads(text))
    bins = loader.iterate_binwise()
    assert next(bins) == b"old0"
    # The same sizes, so that nothing but the time of the files tells.
    write_split_data(
        tmp_path / "set", [b"new%d" % i for i in range(40)], splits=4, start_clean=True
    )
    with pytest.raises(StaleIndexError):
        list(bins)
    with pytest.raises(StaleIndexError):
        loader[0]
    write_split_data(tmp_path / "set", [b"new"], splits=4, start_clean=True)
    for state in (text, passed_on):
        with pytest.raises(StaleIndexError):
            len(pickle.loads(state))


def test_a_reader_of_a_set_that_grows(tmp_path):
    data = [b"old%d" % i for i in range(40)]
    write_split_data(tmp_path / "set", data, splits=4)
    before = SplitDataLoader(tmp_path / "set", storage="memory")

    def source():
        yield from data
        meanwhile = SplitDataLoader(tmp_path / "set")
        assert list(meanwhile) == data
        assert sorted(meanwhile.iterate_binwise()) == sorted(data)

    write_split_data(tmp_path / "set", source(), splits=4, append=True)
    # What is in memory is not read again, in either way.
    assert list(before) == data
    assert sorted(before.iterate_binwise()) == sorted(before.iterate_binwise(True)) == sorted(data)
    assert list(SplitDataLoader(tmp_path / "set")) == data + data


def test_relative_paths_survive_a_change_of_directory(written, tmp_path, monkeypatch):
    _, data = written
    monkeypatch.chdir(tmp_path)
    loader = SplitDataLoader("set", open_after_fork=True)
    assert repr(loader) == "SplitDataLoader('set')"
    monkeypatch.chdir("/")
    assert list(loader) == list(pickle.loads(pickle.dumps(loader))) == data
    assert list(SplitDataLoader(os.fsencode(tmp_path / "set"))) == data


def test_more_bins_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("imagearchive.datasets.bins._MAX_OPEN", 5)
    data = packets(200)
    write_split_data(tmp_path / "x", data, splits=40)
    with SplitDataLoader(tmp_path / "x") as loader:
        assert [loader[i] for i in range(200)] == data
    with SplitDataLoader(tmp_path / "x", storage="pread") as loader:
        # The index is open, and no bin.
        before = len(os.listdir("/dev/fd"))
        assert [loader[i] for i in range(200)] == data
        assert len(os.listdir("/dev/fd")) <= before + 5


# --- damage -----------------------------------------------------------------------------------


def triplets(folder):
    return np.fromfile(os.path.join(folder, "index.dat"), "<u4").reshape(-1, 3)


DAMAGE = {
    "length in the index": (lambda t: t.__setitem__((50, 2), t[50, 2] + 1), "packet 50 at offset"),
    "position": (lambda t: t.__setitem__((50, 1), t[50, 1] + 1), "packet 50 at offset"),
    "beyond the bin": (
        lambda t: t.__setitem__((50, 1), 2**32 - 1),
        "packet 50 at offset 4294967295",
    ),
    "huge length": (lambda t: t.__setitem__((50, 2), 2**32 - 1), "packet 50 at offset"),
    "no such bin": (lambda t: t.__setitem__((50, 0), 777), r"bin00000777\.dat: no such bin"),
    "huge bin": (lambda t: t.__setitem__((50, 0), 2**32 - 1), "bin4294967295"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_index_that_lies(written, kind, caplog):
    folder, data = written
    change, message = DAMAGE[kind]
    table = triplets(folder)
    change(table)
    table.tofile(os.path.join(folder, "index.dat"))
    with pytest.raises(CorruptArchiveError, match=message):
        SplitDataLoader(folder)
    with caplog.at_level(logging.WARNING), SplitDataLoader(folder, strict=False) as loader:
        assert list(loader) == data[:50]
    assert "the 50 packets before are served" in caplog.text


def test_truncated_and_missing_files(written):
    folder, data = written
    index = os.path.join(folder, "index.dat")
    os.truncate(index, 12 * 300 - 5)
    with pytest.raises(CorruptArchiveError, match="entry 299 at offset 3588 is cut"):
        SplitDataLoader(folder)
    with pytest.raises(CorruptArchiveError, match="cannot be appended to"):
        write_split_data(folder, [b""], append=True)
    with SplitDataLoader(folder, strict=False) as loader:
        assert list(loader) == data[:299]
    os.truncate(index, 12 * 299)
    last = os.path.join(folder, "bin00000003.dat")
    os.truncate(last, os.path.getsize(last) - 1)
    with pytest.raises(CorruptArchiveError, match=r"bin00000003\.dat: packet \d+ at offset"):
        SplitDataLoader(folder)
    with pytest.raises(CorruptArchiveError, match=r"bin00000003\.dat.*cannot be appended"):
        write_split_data(folder, [b""] * 20, splits=13, append=True)
    for name in os.listdir(folder):
        if name.startswith("bin"):
            os.unlink(os.path.join(folder, name))
    with pytest.raises(CorruptArchiveError, match="no such bin"):
        SplitDataLoader(folder)


def test_what_is_no_set(tmp_path):
    with pytest.raises(ArchiveNotFoundError):
        SplitDataLoader(tmp_path / "missing")
    with pytest.raises(ArchiveNotFoundError, match=r"no index\.dat"):
        SplitDataLoader(tmp_path)
    with pytest.raises(ArchiveNotFoundError):
        scan_path(tmp_path)
    assert not sniff(tmp_path)
    assert not sniff(tmp_path / "missing")
    (tmp_path / "index.dat").touch()
    assert sniff(tmp_path)
    assert (
        list(SplitDataLoader(tmp_path)) == list(SplitDataLoader(tmp_path).iterate_binwise()) == []
    )
    (tmp_path / "other").touch()
    assert not sniff(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_ends_in_an_error_of_ours(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged_bins"
    if not folder.exists():
        write_split_data(folder, packets(40, 3), splits=4)
        for path in list(folder.iterdir()):
            path.rename(folder / ("good-" + path.name))
    for path in folder.glob("good-*"):
        (folder / path.name[5:]).write_bytes(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(sorted(folder.glob("[!g]*.dat"))))
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(content)))
            content[place : place + 3] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del content[data.draw(st.integers(0, len(content))) :]
        path.write_bytes(content)
    try:
        rows, files = scan_path(folder)
    except ImageArchiveError:
        pass
    else:
        sizes = np.array([os.path.getsize(file) for file in files])
        entries = rows.entries[: rows.rows]
        assert (entries["offset"] + entries["size"] <= sizes[entries["shard"]]).all()
    rows, _ = scan_path(folder, strict=False)
    assert rows.rows <= 41


def test_scanning_windows_and_far_prefixes(tmp_path, monkeypatch):
    data = [bytes(n % 97) for n in range(3000)] + [bytes(20_000)] * 50
    write_split_data(tmp_path / "x", data, splits=2)
    whole = scan_path(tmp_path / "x")[0]
    for near, window in ((0, 1), (1 << 30, 64), (1 << 30, 1 << 22)):
        monkeypatch.setattr("imagearchive.containers.bins.scan._NEAR", near)
        monkeypatch.setattr("imagearchive.containers.bins.scan._WINDOW", window)
        rows, _ = scan_path(tmp_path / "x")
        assert (rows.entries[: rows.rows] == whole.entries[: whole.rows]).all()
