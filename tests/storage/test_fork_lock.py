"""`ForkSafeLock`: exclusion between threads, and none left over from a parent process."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from imagearchive.storage.fork_lock import ForkSafeLock


def test_fork_lock_excludes_other_threads() -> None:
    lock, inside = ForkSafeLock(), []

    def work(_: int) -> int:
        with lock.of_process():
            inside.append(1)
            count = len(inside)
            inside.pop()
        return count

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(2000))) == {1}


def test_fork_lock_is_released_after_error() -> None:
    lock = ForkSafeLock()
    for _ in range(2):
        try:
            with lock.of_process():
                raise KeyError
        except KeyError:
            pass


def test_fork_lock_held_in_parent_is_free_in_child() -> None:
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock.of_process():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    pid = os.fork()
    if pid == 0:
        with lock.of_process():
            os._exit(7)
    status = os.waitpid(pid, 0)[1]
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_fork_lock_reentrant_can_be_taken_again_by_its_thread() -> None:
    lock = ForkSafeLock(reentrant=True)
    with lock.of_process(), lock.of_process():
        pass
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.of_process().acquire).result(60)
