"""`WorkerPool`: results, exceptions, and what is left of the processes."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import psutil
import pytest
from support import tasks
from support.archives import files_left
from support.scripts import script, wait_until_gone

from imagearchive.errors import WorkerError
from imagearchive.storage.process_pool import WorkerPool

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


def raise_local():
    class LocalError(Exception):
        pass

    raise LocalError("what")


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


def test_pool_returns_the_result_of_each_task():
    with WorkerPool(2) as pool:
        tasks = [pool.submit(divmod, i, 2) for i in range(9)]
        assert [task.result() for task in tasks] == [divmod(i, 2) for i in range(9)]
        assert pool.submit(os.getpid).result() in pool.pids


def test_pool_returns_writable_arrays():
    with WorkerPool(1) as pool:
        array = pool.submit(np.full, (3, 1000, 1000), 7, np.uint8).result()
        array += 1
        assert array.min() == array.max() == 8
        assert pool.submit(np.empty, (0, 4)).result().shape == (0, 4)


def test_pool_exception_has_its_type_and_the_traceback_of_the_worker():
    with WorkerPool(1) as pool, pytest.raises(ZeroDivisionError) as caught:
        pool.submit(divmod, 1, 0).result()
    assert "in the child process of divmod" in "".join(traceback.format_exception(caught.value))


def test_pool_exception_that_cannot_be_pickled_becomes_worker_error(answers):
    with WorkerPool(1) as pool, pytest.raises(WorkerError, match="LocalError: what"):
        pool.submit(answers.raise_local).result()


def test_pool_function_that_cannot_be_pickled_fails():
    with WorkerPool(1) as pool:
        with pytest.raises(Exception, match="pickle"):
            pool.submit(lambda: 1).result()
        assert pool.submit(os.getpid).result() == pool.pids[0]


def test_pool_result_that_cannot_be_pickled_or_unpickled_fails(answers):
    with WorkerPool(1) as pool:
        with pytest.raises(LookupError, match="not here"):
            pool.submit(answers.picky).result()
        with pytest.raises(Exception, match=r"pickle|local object"):
            pool.submit(answers.unpicklable).result()
        # And the worker goes on.
        assert pool.submit(os.getpid).result() == pool.pids[0]


def test_pool_submit_after_close_fails():
    with WorkerPool(1) as pool:
        pass
    with pytest.raises(WorkerError, match="closed"):
        pool.submit(os.getpid)


def test_pool_close_cancels_tasks_and_ends_the_workers(tmp_path):
    pool = WorkerPool(1)
    first = pool.submit(tasks.wait_for_file, tmp_path / "task")
    others = [pool.submit(os.getpid) for _ in range(5)]
    while not (tmp_path / "task.started").exists():
        time.sleep(0.01)
    closing = threading.Thread(target=pool.close)
    closing.start()
    while not pool.closed:
        time.sleep(0.01)
    # Until it waits for the first task.
    time.sleep(0.1)
    (tmp_path / "task").touch()
    closing.join()
    assert first.result() is None
    for task in others:
        with pytest.raises(WorkerError, match="cancelled"):
            task.result()
    for pid in pool.pids:
        wait_until_gone(pid)


def test_pool_start_that_fails_leaves_nothing_behind():
    with WorkerPool(1) as pool:
        pool.submit(os.getpid).result()
    # What other tests have left is closed now, and not while descriptors are counted.
    gc.collect()
    before = {*os.listdir("/dev/fd")}
    children = {child.pid for child in psutil.Process().children()}
    for left in range(8):
        with files_left(left), pytest.raises(OSError, match="Too many open files"):
            WorkerPool(4)
    # An unclosed socket warns, and warnings are errors.
    gc.collect()
    # Others may have closed some meanwhile.
    assert {*os.listdir("/dev/fd")} <= before
    assert {child.pid for child in psutil.Process().children()} == children


def test_pool_killed_worker_fails_its_task_and_the_next():
    with WorkerPool(2) as pool:
        running = pool.submit(time.sleep, 60)
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="killed by signal 9"):
            running.result()
        with pytest.raises(WorkerError, match="killed by signal 9"):
            pool.submit(os.getpid)


def test_pool_dead_worker_fails_waiting_tasks(answers):
    with WorkerPool(1) as pool:
        gone = pool.submit(answers.leave)
        waiting = [pool.submit(os.getpid) for _ in range(5)]
        with pytest.raises(WorkerError, match="exit status 3"):
            gone.result()
        for task in waiting:
            with pytest.raises(WorkerError, match="exit status 3"):
                task.result()


def test_pool_replace_dead_runs_the_task_again(tmp_path):
    with WorkerPool(1, replace_dead=True) as pool:
        (first,) = pool.pids
        done = [pool.submit(tasks.die_once, (tmp_path / "died", number)) for number in range(3)]
        assert [task.result() for task in done] == [0, 1, 2]
        assert pool.pids != [first]


def test_pool_replace_dead_fails_only_the_task_that_kills():
    with WorkerPool(1, replace_dead=True) as pool:
        done = [
            pool.submit(tasks.double, 1),
            pool.submit(tasks.die, 2),
            pool.submit(tasks.double, 3),
        ]
        assert done[0].result() == 2
        with pytest.raises(WorkerError, match="killed by signal 9"):
            done[1].result()
        assert done[2].result() == 6


def test_pool_terminate_interrupts_the_running_task(tmp_path):
    with WorkerPool(2, replace_dead=True) as pool:
        running = pool.submit(tasks.wait_for_interrupt, tmp_path / "task")
        while not (tmp_path / "task.started").exists():
            time.sleep(0.01)
        pool.terminate()
        assert (tmp_path / "task.interrupted").exists()
        with pytest.raises(WorkerError):
            running.result()
        for pid in pool.pids:
            wait_until_gone(pid)


def test_pool_workers_end_when_the_parent_is_killed(tmp_path):
    code = """
        import os, time
        from imagearchive.storage.process_pool import WorkerPool
        pool = WorkerPool(2)
        pool.submit(os.getpid).result()
        print(*pool.pids, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(script(tmp_path, code), stdout=subprocess.PIPE, text=True) as child:
        pids = [int(pid) for pid in child.stdout.readline().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
        child.kill()
    for pid in pids:
        wait_until_gone(pid)


def test_pool_interrupt_ends_parent_and_workers_quietly(tmp_path):
    code = """
        import os, signal, time
        from imagearchive.storage.process_pool import WorkerPool
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with WorkerPool(2) as pool:
                # Both are up.
                for task in [pool.submit(time.sleep, 0.1) for _ in range(2)]:
                    task.result()
                pool.submit(time.sleep, 60)
                print(*pool.pids, flush=True)
                time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = script(tmp_path, code)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        pids = [int(pid) for pid in child.stdout.readline().split()]
        # As a terminal does: to every process in the foreground.
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert (out, err) == ("interrupted\n", "")
    for pid in pids:
        wait_until_gone(pid)
