"""`DataProcessor` with other executors, and when something fails while it runs."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from support.annotated_images import (
    digests,
    make_detector,
    make_landmarker,
    process,
    rows,
)
from support.scripts import script

from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.errors import (
    WorkerError,
)
from imagearchive.storage.process_pool import WorkerPool
from imagearchive.storage.staged_files import StagedFiles


# What goes wrong while it runs
class Failing(Executor):
    """Runs tasks at once, and from a certain one on does something else."""

    def __init__(self, after, action):
        self.left = after
        self.action = action

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.left -= 1
        if self.left < 0:
            self.action(future)
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("how", ["cancelled", "broken", "unexpected"])
def test_processor_failing_worker_raises(tmp_path, how):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 12)
    actions = {
        "cancelled": lambda future: (future.cancel(), future.set_running_or_notify_cancel()),
        "broken": lambda future: future.set_exception(MemoryError()),
        "unexpected": lambda future: future.set_exception(ZeroDivisionError("bug")),
    }
    with pytest.raises(WorkerError, match="a worker failed on one of the 2 images from"):
        process(
            raw, out, image_size=8, batch_size=2, executor=Failing(2, actions[how])
        ).process_detector()
    assert os.listdir(out) == []


def test_processor_executor_that_is_shut_down_raises(tmp_path):
    make_detector(tmp_path / "raw")
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(WorkerError, match="accepts no more tasks: cannot schedule"):
        process(tmp_path / "raw", tmp_path / "out", executor=pool).process_detector()


def killer(pool):
    """An executor that kills one of the pool's processes at its fourth task."""

    class Killing(Executor):
        count = 0

        def submit(self, fn, /, *args, **kwargs):
            self.count += 1
            if self.count == 4:
                pids = pool.pids if isinstance(pool, WorkerPool) else list(pool._processes)
                os.kill(pids[0], signal.SIGKILL)
            return pool.submit(fn, *args, **kwargs)

    return Killing()


@pytest.mark.parametrize("kind", ["ours", "concurrent.futures"])
def test_processor_killed_worker_raises_and_keeps_old_files(tmp_path, kind):
    import multiprocessing

    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 40)
    process(raw, out, image_size=8).process_detector()
    before = digests(out)
    context = multiprocessing.get_context("spawn")
    pool = WorkerPool(2) if kind == "ours" else ProcessPoolExecutor(2, mp_context=context)
    with pool, pytest.raises(WorkerError, match=r"died|terminated"):
        process(
            raw, out, image_size=8, batch_size=1, num_workers=2, executor=killer(pool), seed=3
        ).process_detector()
    # What was there before is there still, and nothing else.
    assert digests(out) == before
    assert len(os.listdir(out)) == 3


def test_processor_full_disk_raises_with_the_file(tmp_path):
    """A limit on the size of files makes writing fail in the same way."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 40)
    code = f"""
        import errno, resource, signal
        from imagearchive.processing.processor import DataProcessor
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        processor = DataProcessor({str(raw)!r}, {str(out)!r}, 2, 1, 1, image_size=200)
        try:
            processor.process_detector()
        except OSError as error:
            print(error.errno == errno.EFBIG, error)
    """
    done = subprocess.run(script(tmp_path, code), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("True ")
    assert "train_detector" in done.stdout
    assert os.listdir(out) == []


def test_processor_error_of_the_writer_is_raised(tmp_path, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 40)

    extend, calls = NpzWriter.extend, []

    def broken(writer, **columns):
        calls.append(writer)
        if len(calls) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        extend(writer, **columns)

    monkeypatch.setattr(NpzWriter, "extend", broken)
    with pytest.raises(OSError, match="No space left") as caught:
        process(raw, out, batch_size=1, flush_every=1).process_detector()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith("train_detector.npz")
    assert os.listdir(out) == []
    assert not [thread for thread in threading.enumerate() if "npz-writer" in thread.name]


def test_processor_images_in_memory_are_bounded(tmp_path, monkeypatch):
    """With a slow disk, the number of images in memory does not grow with the dataset."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 120, size=(20, 20))
    state = {"submitted": 0, "written": 0, "most": 0}

    extend = NpzWriter.extend

    def slow(writer, **columns):
        time.sleep(0.005)
        extend(writer, **columns)
        state["written"] += len(columns["images"])

    class Counting(Executor):
        def submit(self, fn, jobs, *args):
            state["submitted"] += len(jobs)
            state["most"] = max(state["most"], state["submitted"] - state["written"])
            future = Future()
            future.set_result(fn(jobs, *args))
            return future

    monkeypatch.setattr(NpzWriter, "extend", slow)
    process(
        raw, out, image_size=8, batch_size=2, flush_every=2, executor=Counting(), num_workers=2
    ).process_detector()
    # Tasks of two images: five in flight; groups of four: filling, waiting, being written, and
    # one more of the file before, while that is completed.
    assert 0 < state["most"] <= 5 * 2 + 4 * 4
    state.update(submitted=0, written=0, most=0)
    # Four images of this size are enough for a group.
    make_detector(tmp_path / "fewer", 40, size=(20, 20))
    process(
        tmp_path / "fewer", out, image_size=1450, batch_size=2, flush_every=99,
        executor=Counting(), num_workers=2,
    ).process_detector(1.0)  # fmt: skip
    assert 0 < state["most"] <= 5 * 2 + 4 * 4


def test_processor_killed_at_any_moment_leaves_complete_files(tmp_path):
    """A file under its final name is complete, and the next run removes the others."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 60)
    code = f"""
        from imagearchive.processing.processor import DataProcessor
        processor = DataProcessor({str(raw)!r}, {str(out)!r}, 4, 1, 1, image_size=64)
        print("ready", flush=True)
        for seed in range(100):
            processor.seed = seed
            processor.process_detector()
    """
    command = script(tmp_path, code)
    generator = random.Random(5)
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.0, 1.0))
            child.kill()
        for name in ("train_detector.npz", "val_detector.npz"):
            if (out / name).exists():
                data = rows(out / name)
                assert len(data["images"]) == (48 if name.startswith("train") else 12)
    process(raw, out, image_size=8).process_detector()
    assert sorted(os.listdir(out)) == [
        "report_detector.json",
        "train_detector.npz",
        "val_detector.npz",
    ]


def test_processor_run_keeps_files_of_a_running_one(tmp_path):
    make_detector(tmp_path / "raw", 6)
    out = tmp_path / "out"
    out.mkdir()
    with StagedFiles(str(out), ".processing_detector.") as other:
        process(tmp_path / "raw", out, image_size=8).process_detector()
        assert os.path.isdir(os.path.dirname(other.path("x")))
    assert len(os.listdir(out)) == 3


# Executors
def test_processor_workers_in_another_directory_write_the_same_bytes(tmp_path, monkeypatch):
    class Elsewhere(Executor):
        """Runs tasks at once, in the root directory."""

        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            os.chdir("/")
            future.set_result(fn(*args, **kwargs))
            os.chdir(tmp_path)
            return future

    monkeypatch.chdir(tmp_path)
    make_detector(tmp_path / "raw", 8)
    (tmp_path / "raw" / "detector" / "more" / "7.png").unlink()
    reports = [
        # A thread writes there meanwhile, and all threads share the working directory.
        process("raw", tmp_path / name, image_size=8, executor=executor).process_detector()
        for name, executor in (("here", None), ("there", Elsewhere()))
    ]
    assert reports[0].skipped == reports[1].skipped
    assert len(reports[0].skipped) == 1
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_processor_dask_executor_writes_the_same_bytes(tmp_path):
    raw = tmp_path / "raw"
    make_detector(raw, 30)
    make_landmarker(raw)
    process(raw, tmp_path / "here", image_size=20).process_all()
    code = f"""
        import warnings
        from distributed import Client, LocalCluster
        from imagearchive.processing.processor import DataProcessor

        if __name__ == "__main__":
            with LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster, Client(cluster) as client:
                processor = DataProcessor(
                    {str(raw)!r}, {str(tmp_path / "there")!r}, 3, 2, image_size=20,
                    executor=client.get_executor(),
                )
                processor.process_all()
                # The executor is still usable.
                assert client.get_executor().submit(divmod, 7, 2).result() == (3, 1)
                workers = client.run(lambda: __import__("os").getpid())
            print(len(set(workers.values())))
    """
    done = subprocess.run(script(tmp_path, code), capture_output=True, text=True, timeout=120)
    assert done.stdout == "2\n", done.stderr
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
