"""`run_in_threads`: every position is visited once, and no thread outlives the call."""

import signal
import threading
import time

import pytest

from imagearchive.archive.threads import Chunks, StoppedError, run_in_threads
from imagearchive.errors import OptionError


def test_threads_chunks_cover_every_position_once():
    for count, chunk, threads in ((0, 5, 3), (1, 5, 3), (99, 7, 4), (64, 64, None), (100, 1, 2)):
        seen = []
        run_in_threads(
            lambda chunks, seen=seen: [seen.extend(part) for part in chunks], count, chunk, threads
        )
        assert sorted(seen) == list(range(count))


def test_threads_first_error_stops_the_others():
    started = threading.Barrier(2)

    def work(chunks: Chunks):
        for part in chunks:
            started.wait(60)
            if part.start == 0:
                raise KeyError("cause")
            try:
                while True:
                    chunks.check()
                    time.sleep(0.01)
            except StoppedError:
                stopped.append(part.start)
                raise

    stopped = []
    with pytest.raises(KeyError, match="cause"):
        run_in_threads(work, 2, 1, 2)
    assert stopped == [1]


@pytest.mark.parametrize("granted", [0, 1])
def test_threads_that_cannot_start_are_done_without(monkeypatch, granted):
    real = threading.Thread.start
    left = [granted]
    seen = set()
    done = []

    def start(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        real(thread)

    def work(chunks):
        seen.add(threading.get_ident())
        for part in chunks:
            done.extend(part)

    monkeypatch.setattr(threading.Thread, "start", start)
    run_in_threads(work, 10, 1, 4)
    assert sorted(done) == [*range(10)]
    assert len(seen) == 1
    assert (seen == {threading.get_ident()}) == (granted == 0)


def test_threads_interrupted_while_they_start_stop_the_first(monkeypatch):
    real, started, done = threading.Thread.start, [], []
    at_work = threading.Event()

    def start(thread):
        real(thread)
        started.append(thread)
        if len(started) == 2:
            at_work.wait()
            raise KeyboardInterrupt

    def work(chunks):
        for _ in chunks:
            at_work.set()
            done.append(1)
            time.sleep(0.001)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        run_in_threads(work, 5000, 1, 2)
    assert len(done) < 5000


def test_threads_repeated_interrupts_leave_none_at_work():
    """The caller closes the files that the threads write."""
    at_work, pressed = threading.Barrier(3), threading.Event()
    ended = []

    def work(chunks):
        for _ in chunks:
            at_work.wait(60)
            while not chunks.stopped:
                time.sleep(0.01)
            # Otherwise the last interrupt could come after the test.
            pressed.wait()
        ended.append(1)

    def press():
        at_work.wait(60)
        for _ in range(3):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
        pressed.set()

    keys = threading.Thread(target=press)
    keys.start()
    with pytest.raises(KeyboardInterrupt):
        run_in_threads(work, 2, 1, 2)
    assert len(ended) == 2
    keys.join()


def test_threads_less_than_one_raises():
    with pytest.raises(OptionError, match="threads must be at least 1, got 0"):
        run_in_threads(lambda chunks: None, 1, 1, 0)
