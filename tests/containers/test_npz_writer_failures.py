"""`NpzWriter` when it fails, is given up, or is killed."""

import multiprocessing
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
from support.npz_rows import load, write
from support.peak_memory import peak_memory_of

from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.errors import ClosedError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


BOTH = pytest.mark.parametrize("compress", [False, True])


def test_writer_file_appears_when_closed(path):
    path.write_bytes(b"old")
    with NpzWriter(path) as writer:
        writer.append(a=1)
        assert path.read_bytes() == b"old"
        assert len(os.listdir(path.parent)) == 2
    assert load(path)["a"].tolist() == [1]
    assert os.listdir(path.parent) == ["data.npz"]
    writer.close()
    with pytest.raises(ClosedError):
        writer.append(a=1)


def test_writer_closed_last_wins(path):
    first, second = NpzWriter(path), NpzWriter(path)
    first.extend(a=np.zeros(100_000))
    second.extend(a=np.ones(70_000))
    second.close()
    assert load(path)["a"].tolist() == [1] * 70_000
    first.close()
    assert load(path)["a"].tolist() == [0] * 100_000
    assert os.listdir(path.parent) == ["data.npz"]


def test_abort_leaves_no_file(path):
    with pytest.raises(ZeroDivisionError), NpzWriter(path) as writer:
        writer.append(a=np.zeros(9))
        1 / 0
    assert os.listdir(path.parent) == []
    writer = NpzWriter(path)
    writer.append(a=1)
    del writer
    assert os.listdir(path.parent) == []


def _in_child(function):
    """Run in a forked child, and return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()
    return process.exitcode


@BOTH
def test_writer_full_disk_leaves_the_old_file(path, compress):
    path.write_bytes(b"old")

    def work():
        # The limit of the file size stands for a full disk; without a handler it would kill.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        rng = np.random.default_rng(0)
        try:
            with NpzWriter(path, compress=compress) as writer:
                for _ in range(50):
                    writer.append(a=rng.integers(0, 256, 1 << 20, np.uint8), b="x")
        except OSError:
            os._exit(7)

    assert _in_child(work) == 7
    assert os.listdir(path.parent) == ["data.npz"]
    assert path.read_bytes() == b"old"


def test_writer_failed_write_is_final(path):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        writer = NpzWriter(path)
        with pytest.raises(OSError, match="File too large"):
            while True:
                writer.append(a=np.zeros(9), b=np.zeros(1 << 16))
        with pytest.raises(ClosedError, match="failed"):
            writer.append(a=np.zeros(9), b=np.zeros(1 << 16))
        with pytest.raises(ClosedError, match="failed"):
            writer.close()
        assert os.listdir(path.parent) == []

    assert _in_child(work) == 0


def test_abort_in_a_forked_child_leaves_the_file(path):
    writer = NpzWriter(path)
    writer.append(a=1)
    assert _in_child(writer.abort) == 0
    writer.append(a=2)
    writer.close()
    assert load(path)["a"].tolist() == [1, 2]


def _write_for_ever(path):
    rng = random.Random(os.getpid())
    while True:
        count = rng.randrange(1, 60)
        with NpzWriter(path, compress=rng.random() < 0.3) as writer:
            for number in range(count):
                writer.append(
                    images=np.full((60, 60, 3), number, np.uint8),
                    boxes=[[number] * 4] * (number % 3),
                    count=count,
                )


def test_writer_killed_at_any_moment_leaves_whole_files(path):
    rng = random.Random(11)
    context = multiprocessing.get_context("fork")
    seen = 0
    for _ in range(15):
        process = context.Process(target=_write_for_ever, args=(path,))
        process.start()
        time.sleep(rng.uniform(0.01, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        left = [name for name in os.listdir(path.parent) if name != "data.npz"]
        assert len(left) <= 1
        if path.exists():
            arrays = load(path)
            seen += 1
            count = len(arrays["count"])
            assert arrays["count"].tolist() == [count] * count
            assert arrays["images"][:, 0, 0, 0].tolist() == list(range(count))
    assert seen
    # The next writer starts clean.
    write(path, [{"a": 1}])
    assert os.listdir(path.parent) == ["data.npz"]


@BOTH
def test_writer_memory_does_not_grow(path, compress):
    def write_images(count):
        image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
        with NpzWriter(path, compress=compress, level=1) as writer:
            for number in range(count):
                writer.append(a=image[: number % 50 + 50], b=image, c=[[1.0, 2]] * (number % 5))

    few, many = (peak_memory_of(write_images, count) for count in (100, 800))
    # 800 samples are 42 MB.
    assert many < few + (10 << 20)
