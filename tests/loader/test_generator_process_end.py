"""`MpQItr`: failures of the generator, and the end of the child process."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import pytest
from support.generators import METHODS, count, identity
from support.scripts import wait_until_gone

from imagearchive.errors import ClosedError, OptionError, OptionTypeError, WorkerError
from imagearchive.loader.generator_process import MpQItr

pytestmark = pytest.mark.usefixtures("no_child_is_left")


class OddError(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def forever():
    number = 0
    while True:
        yield number
        number += 1


def raises(n, error):
    yield from range(n)
    raise error


def raises_from(n):
    try:
        yield from range(n)
        raise KeyError("inner detail")
    except KeyError as error:
        raise OSError(28, "No space left") from error


def leaves(n, status):
    yield from range(n)
    os._exit(status)


def is_killed(n, number):
    yield from range(n)
    # Its traceback in the log would pass for one of the tests.
    faulthandler.disable()
    os.kill(os.getpid(), number)
    time.sleep(60)


def exits(n):
    yield from range(n)
    sys.exit("enough")


def interrupts(n):
    yield from range(n)
    raise KeyboardInterrupt


def unpicklable():
    yield 1
    yield threading.Lock()


def tells_pid():
    yield os.getpid()
    yield from forever()


def sleeps_after_one():
    yield os.getpid()
    time.sleep(600)


def cleans_up(path):
    try:
        yield 0
        time.sleep(600)
    finally:
        with open(path, "w") as file:
            file.write("cleaned up")


def ignores_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield os.getpid()
    while True:
        time.sleep(600)


def nests():
    yield from MpQItr(count, 5)


@pytest.mark.parametrize("method", METHODS)
def test_mpqitr_exception_is_raised_with_its_traceback(method):
    iterator = iter(MpQItr(raises, 3, ValueError("bad batch"), mp_context=method))
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad batch") as caught:
        next(iterator)
    shown = "".join(traceback.format_exception(caught.value))
    assert "in raises" in shown
    assert "raise error" in shown
    with pytest.raises(StopIteration):
        next(iterator)


def test_mpqitr_exception_keeps_its_cause_as_text():
    with pytest.raises(OSError, match="No space left") as caught:
        list(MpQItr(raises_from, 2))
    assert caught.value.errno == 28
    assert "inner detail" in str(caught.value.__cause__)


def test_mpqitr_unpicklable_exception_becomes_worker_error():
    with pytest.raises(WorkerError, match="OddError: one and two"):
        list(MpQItr(raises, 2, OddError("one", "two"), mp_context="fork"))


@pytest.mark.parametrize("function", [exits, interrupts])
def test_mpqitr_exit_of_the_generator_becomes_worker_error(function):
    with pytest.raises(WorkerError, match=r"SystemExit: enough|KeyboardInterrupt"):
        list(MpQItr(function, 2))


def test_mpqitr_unpicklable_item_raises():
    iterator = iter(MpQItr(unpicklable))
    assert next(iterator) == 1
    with pytest.raises(TypeError, match="pickle"):
        next(iterator)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_mpqitr_killed_child_raises(method, number):
    found = []
    with pytest.raises(WorkerError, match=f"is_killed was killed by {number.name}.*after 20 items"):
        found.extend(MpQItr(is_killed, 20, number, mp_context=method))
    assert found == list(range(20))


@pytest.mark.parametrize("status", [0, 3])
def test_mpqitr_exiting_child_raises(status):
    with pytest.raises(WorkerError, match=f"exit status {status} after 20 items"):
        list(MpQItr(leaves, 20, status))


def test_mpqitr_child_killed_while_waiting_raises():
    iterator = iter(MpQItr(sleeps_after_one))
    pid = next(iterator)
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerError, match="SIGKILL"):
        next(iterator)


def test_mpqitr_killed_child_with_living_grandchild_raises():
    def forks():
        if os.fork() == 0:
            time.sleep(4)
            os._exit(0)
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match="SIGKILL"):
        list(MpQItr(forks, mp_context="fork"))


def test_mpqitr_spawn_of_unpicklable_function_raises():
    with pytest.raises(OptionTypeError, match=r"top level of a module, or use mp_context=.fork"):
        iter(MpQItr(lambda: [1], mp_context="spawn"))
    with pytest.raises(OptionTypeError, match="cannot be pickled"):
        iter(MpQItr(identity, threading.Lock(), mp_context="spawn"))


def test_mpqitr_wrong_arguments_raise():
    with pytest.raises(OptionTypeError, match="generator_function must be callable"):
        MpQItr(count(3))
    with pytest.raises(OptionError, match="qsize must be at least 1, got 0"):
        MpQItr(count, 3, qsize=0)
    with pytest.raises(OptionError, match=r"mp_context must be .*, got 'thread'"):
        MpQItr(count, 3, mp_context="thread")
    with pytest.raises(TypeError, match="positional argument"):
        list(MpQItr(count))


@pytest.mark.parametrize("method", METHODS)
def test_mpqitr_break_ends_the_child(method):
    pids = []
    for pid in MpQItr(tells_pid, mp_context=method):
        pids.append(pid)
        break
    wait_until_gone(*pids)


def test_mpqitr_exception_in_the_loop_ends_the_child():
    pids = []
    with pytest.raises(ZeroDivisionError):
        for pid in MpQItr(tells_pid):
            pids.append(pid)
            1 / 0
    wait_until_gone(*pids)


def test_mpqitr_close_and_with_end_the_child():
    with MpQItr(tells_pid) as iterable:
        one, two = iter(iterable), iter(iterable)
        pids = [next(one), next(two)]
        one.close()
        wait_until_gone(pids[0])
        with pytest.raises(ClosedError):
            next(one)
        assert next(two) == 0
    wait_until_gone(pids[1])
    iterable.close()
    with pytest.raises(ClosedError):
        next(two)
    with pytest.raises(ClosedError):
        iter(iterable)


def test_mpqitr_close_wakes_a_waiting_thread():
    iterator = iter(MpQItr(sleeps_after_one))
    pid = next(iterator)
    threading.Timer(0.2, iterator.close).start()
    with pytest.raises(ClosedError):
        next(iterator)
    wait_until_gone(pid)


def test_mpqitr_close_runs_finally_blocks(tmp_path):
    iterator = iter(MpQItr(cleans_up, str(tmp_path / "done")))
    next(iterator)
    iterator.close()
    assert (tmp_path / "done").read_text() == "cleaned up"


def test_mpqitr_child_ignoring_sigterm_is_killed():
    iterator = iter(MpQItr(ignores_sigterm))
    pid = next(iterator)
    iterator.close()
    wait_until_gone(pid)


def test_mpqitr_generator_may_have_children():
    assert list(MpQItr(nests)) == [0, 1, 2, 3, 4]


def test_mpqitr_forked_copy_raises():
    iterator = iter(MpQItr(count, 10))
    assert next(iterator) == 0
    if (pid := os.fork()) == 0:
        try:
            next(iterator)
        except WorkerError:
            iterator.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert list(iterator) == list(range(1, 10))


def test_mpqitr_forked_copy_raises_while_a_thread_of_the_parent_waits():
    iterator = iter(MpQItr(forever))

    def wait():
        with contextlib.suppress(ClosedError):
            while True:
                next(iterator)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    if (pid := os.fork()) == 0:
        signal.alarm(30)
        try:
            next(iterator)
        except WorkerError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    iterator.close()
    waiting.join()


SCRIPT = """
import os, sys, time
sys.path[:0] = {path!r}
from imagearchive.loader.generator_process import MpQItr

def tells_pid():
    yield os.getpid()
    while True:
        yield 0

if __name__ == "__main__":
    iterator = iter(MpQItr(tells_pid, mp_context={method!r}))
    print(next(iterator), flush=True)
    {then}
"""


def script(then, method="fork"):
    text = textwrap.dedent(SCRIPT).format(path=[p for p in sys.path if p], method=method, then=then)
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("pass", 0),
        ("sys.exit(5)", 5),
        ("1 / 0", 1),
        ("os._exit(6)", 6),
        ("os.kill(os.getpid(), 9)", -9),
    ],
)
def test_mpqitr_end_of_the_interpreter_ends_the_child(then, status):
    process = script(then)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert ("ZeroDivisionError" in err) == (status == 1)
    assert "Exception ignored" not in err
    wait_until_gone(int(out))


def test_mpqitr_interrupt_ends_the_loop_and_not_the_child():
    then = """
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print(next(iterator), flush=True)
    """
    text = textwrap.dedent(then).strip().replace("\n", "\n    ")
    process = script(text)
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "ready\n"
    # As a terminal does: to every process of the foreground.
    os.kill(pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("0\n", "")
    wait_until_gone(pid)


def test_mpqitr_interrupt_while_waiting_loses_no_item():
    reader, writer = os.pipe()

    def waits():
        yield 1
        os.read(reader, 1)
        yield 2

    iterator = iter(MpQItr(waits, mp_context="fork"))
    assert next(iterator) == 1
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
        next(iterator)
    os.write(writer, b"x")
    assert list(iterator) == [2]
    os.close(reader)
    os.close(writer)


def test_iter_without_descriptors_leaves_none_open():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    with open(os.devnull) as file:
        lowest = file.fileno()
    items = MpQItr(count, 3, mp_context="fork")
    for free in range(6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, limit[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                iter(items)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        gc.collect()
        assert os.listdir("/proc/self/fd") == before
    assert list(items) == [0, 1, 2]
