"""`SplitDataLoader`: by index, bin after bin, in threads and processes."""

from __future__ import annotations

import os
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.threads import run_in_threads

import imagearchive
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader
from imagearchive.datasets.permutation import Permutation
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
)


def test_split_data_loader_index_negative_and_wrong(split_set):
    folder, data = split_set
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


def test_split_data_loader_binwise_order_depends_on_seed_and_epoch(split_set):
    folder, data = split_set
    with SplitDataLoader(folder) as loader:
        plain = list(loader.iterate_binwise())
        assert plain == [data[i] for b in range(13) for i in range(b, 300, 13)]
        one, two = (list(loader.iterate_binwise(shuffle=True, seed=s)) for s in (1, 2))
        assert one == list(loader.iterate_binwise(True, 1))
        assert one != two != plain != one
        assert one != list(loader.iterate_binwise(True, 1, epoch=1))
        assert sorted(one) == sorted(two) == sorted(data)


def test_split_data_loader_binwise_each_bin_and_epoch_has_own_order(split_set):
    folder, _ = split_set
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


def test_split_data_loader_binwise_reads_each_bin_once(split_set):
    folder, _ = split_set
    # Packets are told apart by their index.
    write_split_data(folder, [b"%d" % i for i in range(300)], 13, start_clean=True)
    with SplitDataLoader(folder) as loader:
        bins = [int(packet) % 13 for packet in loader.iterate_binwise(shuffle=True, seed=3)]
        changes = [a for a, b in zip(bins, [*bins[1:], None]) if a != b]
        assert sorted(changes) == list(range(13))
        assert changes != list(range(13))


@pytest.mark.parametrize(("count", "bins"), [(0, 3), (7, 5), (90, 60), (20_000, 1)])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (-5, 3), (2**70, 2**66)])
def test_split_data_loader_binwise_order_is_that_of_permutation(tmp_path, count, bins, seed, epoch):
    write_split_data(tmp_path / "set", [b"%d" % i for i in range(count)], splits=bins)
    expected: list[bytes] = []
    for number in Permutation(min(count, bins), seed, epoch << 64):
        rows = range(number, count, bins)
        inner = Permutation(len(rows), seed, (epoch << 64) + number + 1)
        expected += [b"%d" % rows[i] for i in inner]
    with SplitDataLoader(tmp_path / "set") as loader:
        assert list(loader.iterate_binwise(True, seed, epoch=epoch)) == expected


def test_split_data_loader_binwise_small_bin_is_one_read(tmp_path, monkeypatch):
    data = [b"%d" % i for i in range(300)]
    write_split_data(tmp_path / "set", data, splits=20)
    reads = []
    pread = os.pread

    def counted(descriptor, size, offset):
        reads.append(size)
        return pread(descriptor, size, offset)

    with SplitDataLoader(tmp_path / "set") as loader:
        monkeypatch.setattr(os, "pread", counted)
        assert sorted(loader.iterate_binwise(shuffle=True)) == sorted(data)
    assert len(reads) == 20


@settings(max_examples=20)
@given(workers=st.integers(1, 20), shuffle=st.booleans(), seed=st.none() | st.integers())
def test_split_data_loader_binwise_workers_share_the_bins(tmp_path_factory, workers, shuffle, seed):
    folder = tmp_path_factory.getbasetemp() / "shared_bins"
    if not folder.exists():
        write_split_data(folder, [b"%d" % i for i in range(100)], splits=13)
    with SplitDataLoader(folder) as loader:
        parts = [
            list(loader.iterate_binwise(shuffle, seed, worker=worker, num_workers=workers))
            for worker in range(workers)
        ]
    assert sorted(int(packet) for part in parts for packet in part) == list(range(100))


def test_split_data_loader_binwise_wrong_workers_raise(split_set):
    with SplitDataLoader(split_set[0]) as loader:
        for options in ({"worker": 1}, {"num_workers": 2}, {"worker": 2, "num_workers": 2}):
            with pytest.raises(OptionError, match="give both"):
                loader.iterate_binwise(**options)


def test_split_data_loader_binwise_large_and_overlapping_packets(tmp_path):
    data = [os.urandom(size) for size in (2_000_000, 10, 700_000, 16_384, 16_383, 0, 600_000)] * 3
    write_split_data(tmp_path / "x", data, splits=2)
    with SplitDataLoader(tmp_path / "x") as loader:
        assert list(loader.iterate_binwise()) == data[::2] + data[1::2]
        assert sorted(loader.iterate_binwise(shuffle=True)) == sorted(data)
    # Two entries for one packet are odd, but mean something.
    index = (tmp_path / "x" / "index.dat").read_bytes()
    (tmp_path / "x" / "index.dat").write_bytes(index + index[:24])
    loader = SplitDataLoader(tmp_path / "x")
    assert list(loader) == data + data[:2]
    assert sorted(loader.iterate_binwise()) == sorted(data + data[:2])


def test_split_data_loader_pickle_holds_no_data(split_set):
    folder, data = split_set
    loader = SplitDataLoader(folder, cache_size=50)
    list(loader)
    pickled = pickle.dumps(loader)
    assert len(pickled) < 1000
    assert list(pickle.loads(pickled)) == data


def test_split_data_loader_forks_and_threads_read_the_right_packets(split_set):
    folder, data = split_set
    loader = SplitDataLoader(folder, cache_size=10)
    loader[0]
    pids = []
    for seed in range(4):
        if (pid := os.fork()) == 0:
            order = random.Random(seed).choices(range(300), k=2000)
            os._exit(0 if all(loader[i] == data[i] for i in order) else 1)
        pids.append(pid)

    def wrong_reads(seed):
        order = random.Random(seed).choices(range(300), k=2000)
        return [i for i in order if loader[i] != data[i]]

    assert run_in_threads(wrong_reads) == [[]] * 4
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4


def test_split_data_loader_cached_packet_is_not_read_again(split_set, monkeypatch):
    folder, data = split_set
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


def test_split_data_loader_open_after_fork_opens_at_first_read(split_set):
    folder, data = split_set
    loader = SplitDataLoader(folder + "-later", open_after_fork=True)
    with pytest.raises(ArchiveNotFoundError):
        loader[0]
    write_split_data(folder + "-later", data)
    assert loader[4] == data[4]


def test_split_data_loader_reads_grown_or_replaced_set(split_set):
    folder, data = split_set
    assert len(SplitDataLoader(folder)) == 300
    write_split_data(folder, [b"more"], append=True)
    assert SplitDataLoader(folder)[300] == b"more"
    write_split_data(folder, data[::-1], splits=13, start_clean=True)
    assert list(SplitDataLoader(folder)) == data[::-1]


def test_split_data_loader_set_replaced_while_open_raises_stale_index(tmp_path):
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


def test_split_data_loader_set_growing_while_open(tmp_path):
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


def test_split_data_loader_relative_path_survives_chdir(split_set, tmp_path, monkeypatch):
    _, data = split_set
    monkeypatch.chdir(tmp_path)
    loader = SplitDataLoader("set", open_after_fork=True)
    assert repr(loader) == "SplitDataLoader('set')"
    monkeypatch.chdir("/")
    assert list(loader) == list(pickle.loads(pickle.dumps(loader))) == data
    assert list(SplitDataLoader(os.fsencode(tmp_path / "set"))) == data


def test_split_data_loader_more_bins_than_stay_open(tmp_path):
    data = [b"%d" % i for i in range(1200)]
    write_split_data(tmp_path / "x", data, splits=600)
    with SplitDataLoader(tmp_path / "x") as loader:
        assert [loader[i] for i in range(1200)] == data
    with SplitDataLoader(tmp_path / "x", storage="pread") as loader:
        # The index is open, and no bin.
        before = len(os.listdir("/dev/fd"))
        assert [loader[i] for i in range(1200)] == data
        assert len(os.listdir("/dev/fd")) <= before + 512
