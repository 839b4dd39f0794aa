"""Worker processes: what they answer that cannot be used, and what is left of them."""

import gc
import os
import sys

import psutil
import pytest
from support.archives import files_left

from imagearchive.errors import WorkerError
from imagearchive.processing.process_pool import WorkerPool

ANSWERS = """
import os

PARENT = os.getppid()


class Picky:
    def __setstate__(self, state):
        if os.getpid() == state["parent"]:
            raise LookupError("not here")


def picky():
    answer = Picky()
    answer.parent = PARENT
    return answer


def unpicklable():
    return lambda: None


def leave():
    os._exit(3)
"""


@pytest.fixture
def answers(tmp_path, monkeypatch):
    (tmp_path / "answers.py").write_text(ANSWERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import answers

    yield answers
    del sys.modules["answers"]


def test_answers_that_cannot_be_used_are_errors_and_not_silence(answers):
    with WorkerPool(1) as pool:
        with pytest.raises(LookupError, match="not here"):
            pool.submit(answers.picky).result(10)
        with pytest.raises(Exception, match="pickle"):
            pool.submit(answers.unpicklable).result(10)
        # And the worker goes on.
        assert pool.submit(os.getpid).result(10) == pool.pids[0]


def test_nothing_is_left_of_a_pool_that_could_not_start():
    with WorkerPool(1) as pool:
        pool.submit(os.getpid).result(10)
    before = len(os.listdir("/dev/fd"))
    children = {child.pid for child in psutil.Process().children()}
    for left in range(8):
        with files_left(left), pytest.raises(OSError, match="Too many open files"):
            WorkerPool(4)
    # An unclosed socket warns, and warnings are errors.
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before
    assert {child.pid for child in psutil.Process().children()} == children


def test_what_was_cancelled_does_not_disturb_a_pool_whose_worker_is_gone(answers):
    with WorkerPool(1) as pool:
        gone = pool.submit(answers.leave)
        waiting = [pool.submit(os.getpid) for _ in range(5)]
        waiting[0].cancel()
        with pytest.raises(WorkerError):
            gone.result(10)
        for future in waiting[1:]:
            with pytest.raises(WorkerError):
                future.result(10)
        assert waiting[0].cancelled()
