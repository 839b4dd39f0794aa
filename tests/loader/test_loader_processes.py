"""The loader across forks, and at the end of a program."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import chain

import pytest
from support.samples import TRAINING, Encoded, Numbered, labels_of, same_batches
from support.threads import collide

from imagearchive.loader.data_loader import DataLoader


def test_fork_during_an_epoch_continues_in_parent_and_child():
    loader = DataLoader(Encoded(), 6, shuffle=True, transform=TRAINING, num_workers=2)
    expected = [list(loader), list(loader)]
    loader.set_epoch(0)
    iterator = iter(loader)
    first = [next(iterator), next(iterator)]
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            rest = list(iterator)
            again = list(loader)
            sender.send((same_batches(first + rest, expected[0]), same_batches(again, expected[1])))
            status = 0
        finally:
            os._exit(status)
    assert receiver.poll(60)
    assert receiver.recv() == (True, True)
    os.waitpid(pid, 0)
    assert same_batches(first + list(iterator), expected[0])


def succeeds_in_a_child(check):
    """Whether `check()` is true in a forked child, which is given a minute."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@pytest.mark.parametrize("count", [8, 20], ids=["begin", "wait"])
def test_fork_while_another_thread_begins_or_waits_does_not_hang(count):
    parent, begun, go_on = os.getpid(), threading.Event(), threading.Event()

    class Blocking(Numbered):
        def blocked(self):
            if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
                begun.set()
                go_on.wait()

        def __len__(self):
            # Called while an epoch begins.
            if self.count < 9:
                self.blocked()
            return self.count

        def __getitem__(self, index):
            if index >= 4:
                self.blocked()
            return super().__getitem__(index)

    loader = DataLoader(Blocking(count), 4, image_size=4, num_workers=1)
    iterator = iter(loader)
    first = [next(iterator)] if count > 8 else []
    # Holds the lock of the loader or of the iterator until it may go on.
    other = threading.Thread(target=list, args=(iterator,))
    other.start()
    begun.wait()
    assert succeeds_in_a_child(lambda: len(first + list(iterator)) == count // 4)
    assert succeeds_in_a_child(lambda: len(labels_of(loader)) == count // 4)
    go_on.set()
    other.join()


def test_threads_of_a_forked_child_share_the_rest_of_an_epoch(monkeypatch):
    def getpid(function=os.getpid):
        # Another thread goes on meanwhile.
        time.sleep(0.0005)
        return function()

    iterators = [
        iter(DataLoader(Numbered(32), 4, image_size=4, num_workers=1, output="numpy"))
        for _ in range(5)
    ]
    for iterator in iterators:
        next(iterator)

    def check():
        monkeypatch.setattr(os, "getpid", getpid)
        for iterator in iterators:
            # All threads find out about the fork at once.
            found = collide(lambda _, one=iterator: [labels.tolist() for _, labels in one], 4)
            labels = [*chain.from_iterable(chain.from_iterable(found))]
            if sorted(labels) != [*range(4, 32)]:
                return False
        return True

    assert succeeds_in_a_child(check)


def test_exit_with_running_iterators_is_silent(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import numpy as np
            from imagearchive.loader.data_loader import DataLoader

            class Numbered:
                def __len__(self):
                    return 10_000
                def __getitem__(self, index):
                    return np.zeros((4, 4, 3), np.uint8), index

            iterator = iter(DataLoader(Numbered(), 4, image_size=4, num_workers=4, output="numpy"))
            next(iterator)
            print("done")
            """
        )
    )
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "done\n"
    assert ended.stderr == ""


def test_interrupt_in_a_loop_stops_the_threads(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import os, signal, threading, time
            import numpy as np
            from imagearchive.loader.data_loader import DataLoader

            class Slow:
                def __len__(self):
                    return 10_000
                def __getitem__(self, index):
                    time.sleep(0.01)
                    return np.zeros((4, 4, 3), np.uint8), index

            main = threading.main_thread().ident
            loader = DataLoader(Slow(), 500, image_size=4, num_workers=2, output="numpy")
            timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
            try:
                timer.start()
                for _ in loader:
                    pass
            except KeyboardInterrupt:
                timer.join()
                print(threading.active_count())
            """
        )
    )
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "1\n"


SLOW = """
import os, signal, sys, threading, time
import numpy as np
from imagearchive.loader.data_loader import DataLoader

class Slow:
    # Like a thread in a library that decodes a very large image.
    def __len__(self):
        return 100
    def __getitem__(self, index):
        if index:
            time.sleep(600)
        return np.zeros((4, 4, 3), np.uint8), index

main = threading.main_thread().ident
loader = DataLoader(Slow(), 1, image_size=4, num_workers=2, output="numpy")
iterator = iter(loader)
next(iterator)
interrupt = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
"""


@pytest.mark.parametrize(
    "rest",
    [
        "pass",
        "del iterator",
        """
        try:
            interrupt.start()
            next(iterator)
        except KeyboardInterrupt:
            pass
        """,
        """
        try:
            interrupt.start()
            with loader:
                time.sleep(600)
        except KeyboardInterrupt:
            pass
        """,
    ],
    ids=["exit", "forgotten", "interrupted", "interrupted-in-with"],
)
def test_exit_during_a_slow_sample_does_not_wait(tmp_path, rest):
    program = tmp_path / "program.py"
    program.write_text(SLOW + textwrap.dedent(rest) + "\nprint('done')\n")
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "done\n"
    assert ended.stderr == ""
