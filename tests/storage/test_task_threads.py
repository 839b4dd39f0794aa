"""`TaskThreads`: results and errors in any order, limits, and what closing waits for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from imagearchive.errors import WorkerError
from imagearchive.storage.task_threads import TaskThreads


def test_task_threads_return_results_and_raise_errors_again() -> None:
    with TaskThreads(3) as threads:
        tasks = [threads.submit(divmod, i, 3) for i in range(9)]
        broken = threads.submit(divmod, 1, 0)
        assert [task.result() for task in reversed(tasks)] == [divmod(i, 3) for i in range(9)][::-1]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                broken.result()
        assert isinstance(broken.exception(), ZeroDivisionError)
        assert tasks[0].exception() is None


def test_task_threads_run_as_many_tasks_as_the_limit() -> None:
    meet = threading.Barrier(3)
    with TaskThreads(3) as threads:
        tasks = [threads.submit(meet.wait, 10) for _ in range(3)]
        assert sorted(task.result() for task in tasks) == [0, 1, 2]
        names = {threads.submit(threading.get_ident).result() for _ in range(20)}
    assert len(names) <= 3


def test_task_threads_close_cancels_what_has_not_begun() -> None:
    begun, go = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        go.wait(10)
        return 7

    threads = TaskThreads(1)
    first = threads.submit(work)
    second = threads.submit(work)
    begun.wait(10)
    threads.close(wait=False)
    go.set()
    threads.close()
    assert first.result() == 7
    with pytest.raises(WorkerError, match="cancelled before it began"):
        second.result()
    threads.close()


def test_task_threads_without_threads_run_in_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with TaskThreads(4) as threads:
        assert threads.submit(threading.get_ident).result() == threading.get_ident()


def test_task_threads_left_open_finish_their_task_before_the_program_ends() -> None:
    code = (
        "import threading, time\n"
        "from imagearchive.storage.task_threads import TaskThreads\n"
        "threads, begun = TaskThreads(1), threading.Event()\n"
        "threads.submit(lambda: (begun.set(), time.sleep(0.3), print('done', flush=True)))\n"
        "begun.wait()\n"
        "threads.close(wait=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "done\n"
