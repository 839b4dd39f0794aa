"""`write_split_data`: the files of the package `splitdataloader`, whole or not at all."""

from __future__ import annotations

import filecmp
import importlib
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import files_left
from support.bins import folder_content, packets

from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader
from imagearchive.errors import (
    ArchiveNotFoundError,
    LimitError,
    OptionError,
    OptionTypeError,
    TargetExistsError,
)

if sys.version_info < (3, 11):
    pytest.skip("splitdataloader imports a name that is new in 3.11", allow_module_level=True)
peer = importlib.import_module("splitdataloader")


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=50), max_size=60), st.integers(1, 70))
def test_write_split_data_makes_the_files_of_the_original(tmp_path_factory, data, splits):
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    write_split_data(ours / "x", iter(data), splits)
    peer.write_split_data(str(theirs / "x"), data, splits)
    assert folder_content(ours / "x") == folder_content(theirs / "x")
    reader = peer.SplitDataLoader(str(ours / "x"))
    assert [reader[i] for i in range(len(reader))] == data
    with SplitDataLoader(theirs / "x") as loader:
        assert list(loader) == data
        assert list(loader.iterate_binwise()) == list(reader.iterate_binwise())
        assert sorted(loader.iterate_binwise(shuffle=True)) == sorted(data)


def test_write_split_data_shuffle_changes_bins_but_not_indices(tmp_path):
    data = packets()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_split_data(tmp_path / name, data, splits=20, shuffle=True, seed=seed)
    first, again, other = (folder_content(tmp_path / name) for name in "abc")
    assert first == again != other
    reader = peer.SplitDataLoader(str(tmp_path / "c"))
    assert [reader[i] for i in range(len(reader))] == data
    assert len({len(data) for data in other.values()}) > 2


def test_write_split_data_takes_anything_bytes_like(tmp_path):
    array = np.arange(20, dtype="<u4")
    given = [b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], array, array[::3], array[:0]]
    write_split_data(tmp_path / "x", given, splits=2)
    expected = [b"a", b"b", b"c", array.tobytes(), array[::3].tobytes(), b""]
    assert list(SplitDataLoader(tmp_path / "x")) == expected


@pytest.mark.parametrize("wrong", ["text", None, 5, [1], np.array([None])])
def test_write_split_data_other_type_raises_with_number_of_packet(tmp_path, wrong):
    with pytest.raises(OptionTypeError, match="packet 3 "):
        write_split_data(tmp_path / "x", [b"", b"", b"", wrong])
    assert not (tmp_path / "x").exists()


def test_write_split_data_wrong_options_raise(tmp_path):
    for options in ({"splits": 0}, {"splits": 1.5}, {"splits": True}):
        with pytest.raises((OptionError, OptionTypeError), match="splits"):
            write_split_data(tmp_path / "x", [], **options)
    for source in (b"one packet, not many", 7, None):
        with pytest.raises(OptionTypeError, match="data_source must be an iterable of packets"):
            write_split_data(tmp_path / "x", source)
    with pytest.raises(OptionError, match="choose one"):
        write_split_data(tmp_path / "x", [], start_clean=True, append=True)
    assert not (tmp_path / "x").exists()


def test_write_split_data_existing_set_raises_and_stays(split_set):
    folder, _ = split_set
    before = folder_content(folder)
    with pytest.raises(TargetExistsError, match=r"already holds a set.*start_clean.*append"):
        write_split_data(folder, [b"new"])
    os.unlink(os.path.join(folder, "index.dat"))
    with pytest.raises(TargetExistsError, match="interrupted write"):
        write_split_data(folder, [b"new"])
    with pytest.raises(TargetExistsError, match=r"no index\.dat to append to"):
        write_split_data(folder, [b"new"], append=True)
    del before["index.dat"]
    assert folder_content(folder) == before


def test_write_split_data_start_clean_removes_only_the_set(split_set):
    folder, _ = split_set
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


def test_write_split_data_append_continues_the_set(tmp_path):
    data = packets(200)
    write_split_data(tmp_path / "whole", data, splits=7)
    write_split_data(tmp_path / "parts", data[:50], splits=7)
    for start, stop in ((50, 51), (51, 51), (51, 130), (130, 200)):
        with SplitDataLoader(tmp_path / "parts") as loader:
            assert len(loader) == start
        write_split_data(tmp_path / "parts", data[start:stop], splits=7, append=True)
    assert folder_content(tmp_path / "parts") == folder_content(tmp_path / "whole")
    write_split_data(tmp_path / "parts", [b"x"] * 40, splits=30, append=True)
    assert list(SplitDataLoader(tmp_path / "parts")) == data + [b"x"] * 40
    reader = peer.SplitDataLoader(str(tmp_path / "parts"))
    assert sorted(reader.iterate_binwise()) == sorted(data + [b"x"] * 40)
    write_split_data(tmp_path / "started", data, splits=7, append=True)
    assert folder_content(tmp_path / "started") == folder_content(tmp_path / "whole")


def failing(count, error):
    for number in range(count):
        yield b"packet %d" % number * 50
    raise error


@pytest.mark.parametrize("error", [ValueError("source"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("mode", ["fresh", "start_clean", "append"])
def test_write_split_data_failing_source_changes_nothing(split_set, mode, error):
    folder, _ = split_set
    before = folder_content(folder)
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
    assert folder_content(folder) == before


def test_write_split_data_full_disk_changes_nothing(split_set, monkeypatch):
    folder, _ = split_set
    before = folder_content(folder)
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
        assert folder_content(folder) == before


@pytest.mark.parametrize("options", [{}, {"append": True}, {"start_clean": True}])
def test_write_split_data_too_few_descriptors_changes_nothing(split_set, options):
    folder, data = split_set
    folder = folder if options else folder + "2"
    before = folder_content(folder) if options else None
    for left in range(3):
        with files_left(left), pytest.raises(OSError, match=f"Too many open files: '{folder}"):
            write_split_data(folder, data, splits=3, **options)
        assert (folder_content(folder) if os.path.exists(folder) else None) == before
    with files_left(6):
        write_split_data(folder, data, splits=3, **options)
    assert list(SplitDataLoader(folder)) == (data + data if "append" in options else data)


def test_write_split_data_os_error_names_the_file(tmp_path):
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
def test_write_split_data_interrupted_renaming_leaves_a_whole_set(
    split_set, monkeypatch, mode, when, done
):
    folder, data = split_set
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


def test_write_split_data_completes_short_writes(tmp_path, monkeypatch):
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
def test_write_split_data_killed_leaves_no_set_that_looks_whole(tmp_path, split_set, mode):
    folder, data = split_set
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


def test_write_split_data_more_bins_than_descriptors(tmp_path):
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
    assert folder_content(tmp_path / "x") == folder_content(tmp_path / "y")
    assert list(SplitDataLoader(tmp_path / "x")) == data


def test_write_split_data_bin_of_4_gib_raises_limit_error(tmp_path):
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


def test_write_split_data_needs_bounded_memory(tmp_path):
    code = """
import resource, sys
from imagearchive.containers.bins.writer import write_split_data
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_split_data(sys.argv[1], (bytes(1000) for _ in range(100_000)), splits=50)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "x")])
    assert int(out) < 20_000  # kB, for 100 MB of packets


def test_write_split_data_shuffle_that_is_not_a_bool_is_refused(tmp_path):
    with pytest.raises(OptionTypeError, match=r"^shuffle "):
        write_split_data(tmp_path / "set", [b"a"], shuffle="no")
    assert not (tmp_path / "set").exists()
