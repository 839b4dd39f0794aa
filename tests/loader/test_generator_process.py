"""`MpQItr`: what the child yields arrives, and what befalls the child is told."""

from __future__ import annotations

import collections
import dataclasses
import faulthandler
import functools
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT

from imagearchive.errors import ClosedError, OptionError, OptionTypeError, WorkerError
from imagearchive.loader.generator_process import MpQItr

METHODS = multiprocessing.get_all_start_methods()
Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Batch:
    images: np.ndarray
    labels: object
    extra: dict


class OddError(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def count(n, start=0, *, step=1):
    yield from range(start, start + n * step, step)


def forever():
    number = 0
    while True:
        yield number
        number += 1


def arrays(n, shape, dtype="u1"):
    for number in range(n):
        yield np.full(shape, number % 251, dtype)


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


def identity(item):
    yield item


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


def counts_in_file(path):
    with open(path, "ab", buffering=0) as file:
        for number in range(10_000):
            file.write(b".")
            yield number


def nests():
    yield from MpQItr(count, 5)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def importable_by_children(monkeypatch):
    # What spawn and forkserver pickle is this module's name in the test run: tests.test_prefetch.
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(autouse=True)
def nothing_left_behind():
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert not multiprocessing.active_children()
    # The fork server and the resource tracker keep one or two of their own.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3


# --- items ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_yields_everything_in_order(method):
    assert list(MpQItr(count, 1000, 5, mp_context=method, step=2)) == list(range(5, 2005, 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3,), (64, 64, 3), (512, 512, 3)])
def test_arrays_cross(method, shape):
    n = 40 if shape != (3,) else 500
    for number, found in enumerate(MpQItr(arrays, n, shape, mp_context=method)):
        assert found.shape == shape
        assert found.dtype == np.uint8
        assert (found == number % 251).all()
        found += 1
    assert number == n - 1


def test_the_users_code():
    # a tuple, class, or whatever that handles the batch
    class BatchType: ...

    # a generator function that produces the batches
    def batch_generator(n) -> Iterator[BatchType]:
        for number in range(n):
            yield (number, np.zeros(number))

    done = []
    do_something_with = done.append

    def batch_wise_processing(args):
        # Multi-processing queue based iterator
        queued_batch_iterator = MpQItr[BatchType](
            batch_generator,  # the generator function
            args,  # args or kwargs to the generator function
            mp_context="fork",  # the functions of this test are local to it
        )
        for batch in queued_batch_iterator:
            do_something_with(batch)

    batch_wise_processing(7)
    assert [len(values) for _, values in done] == list(range(7))


def test_kept_arrays_keep_their_values():
    kept = list(MpQItr(arrays, 200, (300, 300)))
    assert [int(array[7, 7]) for array in kept] == [n % 251 for n in range(200)]
    assert all((array == array[0, 0]).all() for array in kept)


def test_kept_part_of_an_item_keeps_its_value():
    parts = [array[5:7, ::2] for array in MpQItr(arrays, 100, (300, 300))]
    assert [int(part[0, 0]) for part in parts] == [n % 251 for n in range(100)]


def test_memory_is_reused():
    addresses = {array.ctypes.data for array in MpQItr(arrays, 300, (300, 300), qsize=4)}
    assert len(addresses) < 60


def test_items_of_growing_and_shrinking_size():
    sizes = [1 << n for n in (*range(10, 22), *range(21, 9, -1))] * 3
    sizes += list(np.random.default_rng(0).integers(1, 1 << 21, 60))

    def grow():
        for size in sizes:
            yield np.full(size, size % 251, np.uint8)

    for size, array in zip(sizes, MpQItr(grow, qsize=3, mp_context="fork")):
        assert len(array) == size
        assert (array == size % 251).all()


def test_nested_structures():
    import torch

    item = Batch(
        images=np.arange(200_000, dtype=np.float32).reshape(2, 100_000),
        labels=torch.arange(40_000),
        extra={"names": ["a", None, b"\0" * 100_000], "point": Point(1.5, np.int16(3)), "set": {1}},
    )
    (found,) = MpQItr(identity, item)
    assert isinstance(found, Batch)
    np.testing.assert_array_equal(found.images, item.images)
    assert torch.equal(found.labels, item.labels)
    assert found.extra == item.extra
    assert isinstance(found.extra["point"], Point)


ODD_ARRAYS = {
    "empty": np.empty((0, 3)),
    "scalar": np.array(2.5),
    "strided": np.arange(100_000)[::3],
    "reversed": np.arange(100_000)[::-1],
    "transposed": np.arange(90_000).reshape(300, 300).T,
    "fortran": np.asfortranarray(np.arange(90_000).reshape(300, 300)),
    "broadcast": np.broadcast_to(np.arange(300), (300, 300)),
    "big_endian": np.arange(50_000, dtype=">u4"),
    "text": np.array(["a", "äöü"] * 10_000),
    "dates": np.arange(50_000).astype("datetime64[s]"),
    "structured": np.zeros(20_000, [("a", "u1"), ("b", "f8", 2)]),
    "objects": np.array([None, {"a": 1}, "x"], dtype=object),
    "bool": np.arange(50_000) % 3 == 0,
    "masked": np.ma.masked_array(np.arange(50_000), np.arange(50_000) % 2),
}


@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_arrays_of_every_kind(kind):
    array = ODD_ARRAYS[kind]
    (found,) = MpQItr(identity, array, mp_context="fork")
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def tensor_of(kind):
    # Not imported by the module: children that import it would take seconds to start.
    import torch

    return {
        "float": lambda: torch.rand(100, 1000),
        "bfloat16": lambda: torch.rand(100, 1000).bfloat16(),
        "bool": lambda: torch.arange(100_000) % 3 == 0,
        "complex": lambda: torch.complex(torch.rand(50_000), torch.rand(50_000)),
        "scalar": lambda: torch.tensor(3),
        "empty": lambda: torch.empty(0, 4, dtype=torch.int16),
        "strided": lambda: torch.arange(100_000)[::3],
        # Copied by several threads where there are several.
        "transposed": lambda: torch.rand(600, 700).t(),
        "parameter": lambda: torch.nn.Parameter(torch.rand(10_000)),
        "leaf": lambda: torch.rand(20_000, requires_grad=True),
        "conjugate": lambda: torch.complex(torch.rand(5_000), torch.rand(5_000)).conj(),
        "sparse": lambda: torch.eye(10).to_sparse(),
    }[kind]()


TENSORS = (
    "float bfloat16 bool complex scalar empty strided transposed parameter leaf conjugate sparse"
)


@pytest.mark.parametrize("kind", TENSORS.split())
def test_tensors_of_every_kind(kind):
    import torch

    tensor = tensor_of(kind)
    (found,) = MpQItr(identity, tensor, mp_context="fork")
    assert type(found) is type(tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.requires_grad == tensor.requires_grad
    assert torch.equal(found.to_dense(), tensor.to_dense())


def test_tensors_are_writable_and_outlive_the_child():
    import torch

    kept = list(MpQItr(identity, torch.zeros(100_000), mp_context="fork"))
    kept[0] += 1
    assert kept[0].sum() == 100_000


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
        ),
        max_size=40,
    ),
    st.integers(1, 20),
)
def test_any_items_any_queue(items, qsize):
    assert list(MpQItr(iter, items, qsize=qsize, mp_context="fork")) == items


# --- the queue --------------------------------------------------------------------------------


def test_the_child_stops_when_the_queue_is_full(tmp_path):
    path = tmp_path / "made"
    iterator = iter(MpQItr(counts_in_file, str(path), qsize=5))
    assert next(iterator) == 0
    made = 0
    for _ in range(100):
        time.sleep(0.02)
        before, made = made, path.stat().st_size
        if before == made > 0:
            break
    # One taken, five waiting, one in the making.
    assert made <= 7
    assert next(iterator) == 1
    iterator.close()


@pytest.mark.parametrize("qsize", [1, 2, 3, 1000])
def test_queue_sizes(qsize):
    assert list(MpQItr(count, 3000, qsize=qsize)) == list(range(3000))
    assert len(list(MpQItr(arrays, 30, (200, 200), qsize=qsize))) == 30


def test_iterating_again_starts_again():
    iterable = MpQItr(count, 3)
    assert [list(iterable), list(iterable)] == [[0, 1, 2], [0, 1, 2]]
    assert [(a, b) for a in iterable for b in iterable] == [
        (a, b) for a in range(3) for b in range(3)
    ]


def test_exhausted_stays_exhausted():
    iterator = iter(MpQItr(count, 1))
    assert next(iterator) == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


def test_threads_share_an_iterator():
    iterator = iter(MpQItr(count, 2000))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(iterator)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(2000))


def test_pickled_it_starts_afresh():
    iterable = MpQItr(functools.partial(count, step=3), 4, qsize=2)
    assert next(iter(iterable)) == 0
    assert list(pickle.loads(pickle.dumps(iterable))) == [0, 3, 6, 9]


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_generators_exception_is_raised(method):
    iterator = iter(MpQItr(raises, 3, ValueError("bad batch"), mp_context=method))
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad batch") as caught:
        next(iterator)
    shown = "".join(traceback.format_exception(caught.value))
    assert "in raises" in shown
    assert "raise error" in shown
    with pytest.raises(StopIteration):
        next(iterator)


def test_the_cause_is_told_too():
    with pytest.raises(OSError, match="No space left") as caught:
        list(MpQItr(raises_from, 2))
    assert caught.value.errno == 28
    assert "inner detail" in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_pickled():
    with pytest.raises(WorkerError, match="OddError: one and two"):
        list(MpQItr(raises, 2, OddError("one", "two"), mp_context="fork"))


@pytest.mark.parametrize("function", [exits, interrupts])
def test_exits_do_not_end_the_parent(function):
    with pytest.raises(WorkerError, match=r"SystemExit: enough|KeyboardInterrupt"):
        list(MpQItr(function, 2))


def test_an_item_that_cannot_be_pickled():
    iterator = iter(MpQItr(unpicklable))
    assert next(iterator) == 1
    with pytest.raises(TypeError, match="pickle"):
        next(iterator)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_child_is_noticed(method, number):
    found = []
    with pytest.raises(WorkerError, match=f"is_killed was killed by {number.name}.*after 20 items"):
        found.extend(MpQItr(is_killed, 20, number, mp_context=method))
    assert found == list(range(20))


@pytest.mark.parametrize("status", [0, 3])
def test_a_child_that_leaves_is_noticed(status):
    with pytest.raises(WorkerError, match=f"exit status {status} after 20 items"):
        list(MpQItr(leaves, 20, status))


def test_a_child_killed_from_outside_while_waited_for():
    iterator = iter(MpQItr(sleeps_after_one))
    pid = next(iterator)
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerError, match="SIGKILL"):
        next(iterator)


def test_a_killed_child_is_noticed_though_its_own_child_lives():
    def forks():
        if os.fork() == 0:
            time.sleep(4)
            os._exit(0)
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match="SIGKILL"):
        list(MpQItr(forks, mp_context="fork"))


def test_local_functions_cannot_be_spawned():
    with pytest.raises(OptionTypeError, match=r"top level of a module, or use mp_context=.fork"):
        iter(MpQItr(lambda: [1], mp_context="spawn"))
    with pytest.raises(OptionTypeError, match="cannot be pickled"):
        iter(MpQItr(identity, threading.Lock(), mp_context="spawn"))


def test_wrong_arguments():
    with pytest.raises(OptionTypeError, match="not callable"):
        MpQItr(count(3))
    with pytest.raises(OptionError, match="qsize=0"):
        MpQItr(count, 3, qsize=0)
    with pytest.raises(OptionError, match="mp_context='thread'"):
        MpQItr(count, 3, mp_context="thread")
    with pytest.raises(TypeError, match="positional argument"):
        list(MpQItr(count))


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_leaving_the_loop_ends_the_child(method):
    pids = []
    for pid in MpQItr(tells_pid, mp_context=method):
        pids.append(pid)
        break
    wait_until_gone(*pids)


def test_an_exception_in_the_loop_ends_the_child():
    pids = []
    with pytest.raises(ZeroDivisionError):
        for pid in MpQItr(tells_pid):
            pids.append(pid)
            1 / 0
    wait_until_gone(*pids)


def test_close_and_with_end_the_child():
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


def test_close_wakes_a_waiting_thread():
    iterator = iter(MpQItr(sleeps_after_one))
    pid = next(iterator)
    threading.Timer(0.2, iterator.close).start()
    with pytest.raises(ClosedError):
        next(iterator)
    wait_until_gone(pid)


def test_finally_blocks_run(tmp_path):
    iterator = iter(MpQItr(cleans_up, str(tmp_path / "done")))
    next(iterator)
    iterator.close()
    assert (tmp_path / "done").read_text() == "cleaned up"


def test_a_child_that_will_not_end_is_killed():
    iterator = iter(MpQItr(ignores_sigterm))
    pid = next(iterator)
    iterator.close()
    wait_until_gone(pid)


def test_generators_may_have_children():
    assert list(MpQItr(nests)) == [0, 1, 2, 3, 4]


def test_not_to_be_used_after_fork():
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
def test_the_end_of_the_interpreter_ends_the_child(then, status):
    process = script(then)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert ("ZeroDivisionError" in err) == (status == 1)
    assert "Exception ignored" not in err
    wait_until_gone(int(out))


def test_ctrl_c_interrupts_the_loop_and_not_the_child():
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


def test_ctrl_c_while_waiting_can_be_taken_up_again():
    def slowly():
        yield 1
        time.sleep(0.6)
        yield 2

    iterator = iter(MpQItr(slowly, mp_context="fork"))
    assert next(iterator) == 1
    threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    assert list(iterator) == [2]
