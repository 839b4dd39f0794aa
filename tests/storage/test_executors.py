"""`run_tasks` and `run_all`: with our processes, with threads, and with executors that fail."""

import pickle
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest
from support import tasks
from support.scripts import wait_until_gone

from imagearchive.errors import (
    CorruptArchiveError,
    IncompleteError,
    OptionError,
    OptionTypeError,
    WorkerError,
)
from imagearchive.storage.executors import open_executor, run_all, run_tasks


@pytest.fixture(params=["processes", "threads"])
def executor(request):
    if request.param == "processes":
        with open_executor(2) as pool:
            yield pool
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


def test_run_tasks_yields_every_outcome(executor):
    outcomes = list(run_tasks(tasks.fail_for_three, range(7), executor))
    assert sorted(one.item for one in outcomes) == list(range(7))
    for item, result, error in outcomes:
        if item == 3:
            assert result is None
            assert isinstance(error, CorruptArchiveError)
        else:
            assert (result, error) == (item, None)


def test_run_tasks_in_order_yields_in_the_order_of_the_items():
    class Backwards(Executor):
        """Completes two tasks the wrong way round when it gets the third."""

        def __init__(self):
            self.waiting = []

        def submit(self, function, /, item):
            future = Future()
            self.waiting.append((future, function(item)))
            if len(self.waiting) == 3:
                for place in (1, 0, 2):
                    self.waiting[place][0].set_result(self.waiting[place][1])
                self.waiting.clear()
            return future

    ordered = run_tasks(tasks.double, range(9), Backwards(), in_flight=4, in_order=True)
    assert [one.result for one in ordered] == [2 * number for number in range(9)]
    assert [one.item for one in run_tasks(tasks.double, range(3), Backwards())] == [1, 0, 2]


@pytest.mark.parametrize("in_order", [False, True])
def test_run_tasks_in_flight_limits_what_is_taken(in_order):
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        outcomes = run_tasks(tasks.double, items(), pool, in_flight=5, in_order=in_order)
        for count, _ in enumerate(outcomes, 1):
            assert len(taken) <= count - 1 + 5
    assert taken == list(range(50))


def test_run_tasks_closed_cancels_what_has_not_begun():
    release, begun = threading.Event(), []

    def work(item):
        begun.append(item)
        if item:
            release.wait(10)
        return item

    with ThreadPoolExecutor(1) as pool:
        outcomes = run_tasks(work, range(20), pool)
        assert next(outcomes).item == 0
        outcomes.close()
        release.set()
    assert len(begun) <= 2


def test_run_tasks_executor_that_is_shut_down_raises():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(WorkerError, match="accepts no more tasks: cannot schedule"):
        list(run_tasks(tasks.double, range(3), pool))


def test_run_all_returns_results_in_order(executor):
    seen = []
    results = run_all(
        tasks.double, [5, 1, 4], executor, name=str, what="numbers", progress=seen.append
    )
    assert results == [10, 2, 8]
    assert sorted(seen) == [2, 8, 10]


def test_run_all_failures_are_named_and_the_rest_is_done(executor):
    seen = []
    with pytest.raises(IncompleteError) as caught:
        run_all(
            tasks.fail_for_three,
            [1, 3, 2, 3],
            executor,
            name=lambda item: {3: "three"}[item],
            what="numbers",
            progress=seen.append,
        )
    assert sorted(seen) == [1, 2]
    assert [name for name, _ in caught.value.failures] == ["three", "three"]
    assert caught.value.summary == "2 of 4 numbers failed, the others are done"
    assert str(caught.value).endswith("done; the first that failed: three: it is damaged")
    assert pickle.loads(pickle.dumps(caught.value)).summary == caught.value.summary


def test_run_all_killed_process_is_replaced(tmp_path):
    items = [(tmp_path / "died", number) for number in range(6)]
    assert run_all(tasks.die_once, items, 2, name=str, what="items") == list(range(6))


def test_open_executor_after_an_error_interrupts_the_processes(tmp_path):
    with pytest.raises(KeyError), open_executor(1) as pool:
        pool.submit(tasks.wait_for_interrupt, tmp_path / "task")
        while not (tmp_path / "task.started").exists():
            time.sleep(0.01)
        raise KeyError("in the block")
    assert (tmp_path / "task.interrupted").exists()
    for pid in pool.pids:
        wait_until_gone(pid)


@pytest.mark.parametrize(("wrong", "error"), [(0, OptionError), ("4", OptionTypeError)])
def test_open_executor_wrong_argument_raises(wrong, error):
    with pytest.raises(error, match="executor must be"), open_executor(wrong):
        pass
