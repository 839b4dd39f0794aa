"""`MpQItr`: its items and its queue."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import scripts
from support.generators import METHODS, count, identity

from imagearchive.loader.generator_process import MpQItr

pytestmark = pytest.mark.usefixtures("no_child_is_left")
Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Batch:
    images: np.ndarray
    labels: object
    extra: dict


def arrays(n, shape, dtype="u1"):
    for number in range(n):
        yield np.full(shape, number % 251, dtype)


def counts_in_file(path):
    with open(path, "ab", buffering=0) as file:
        for number in range(10_000):
            file.write(b".")
            yield number


@pytest.mark.parametrize("method", METHODS)
def test_mpqitr_yields_every_item_in_order(method):
    assert list(MpQItr(count, 1000, 5, mp_context=method, step=2)) == list(range(5, 2005, 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3,), (64, 64, 3), (512, 512, 3)])
def test_mpqitr_arrays_arrive_writable_and_equal(method, shape):
    n = 40 if shape != (3,) else 500
    for number, found in enumerate(MpQItr(arrays, n, shape, mp_context=method)):
        assert found.shape == shape
        assert found.dtype == np.uint8
        assert (found == number % 251).all()
        found += 1
    assert number == n - 1


def test_mpqitr_seed_example_runs():
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


def test_mpqitr_kept_arrays_keep_their_values():
    kept = list(MpQItr(arrays, 200, (300, 300)))
    assert [int(array[7, 7]) for array in kept] == [n % 251 for n in range(200)]
    assert all((array == array[0, 0]).all() for array in kept)


def test_mpqitr_kept_slices_keep_their_values():
    parts = [array[5:7, ::2] for array in MpQItr(arrays, 100, (300, 300))]
    assert [int(part[0, 0]) for part in parts] == [n % 251 for n in range(100)]


def test_mpqitr_shared_memory_is_reused():
    addresses = {array.ctypes.data for array in MpQItr(arrays, 300, (300, 300), qsize=4)}
    assert len(addresses) < 60


def test_mpqitr_items_of_varying_size_arrive():
    sizes = [1 << n for n in (*range(10, 22), *range(21, 9, -1))] * 3
    sizes += list(np.random.default_rng(0).integers(1, 1 << 21, 60))

    def grow():
        for size in sizes:
            yield np.full(size, size % 251, np.uint8)

    for size, array in zip(sizes, MpQItr(grow, qsize=3, mp_context="fork")):
        assert len(array) == size
        assert (array == size % 251).all()


@pytest.mark.needs_torch
def test_mpqitr_nested_items_arrive():
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
def test_mpqitr_array_of_every_kind_arrives(kind):
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


@pytest.mark.needs_torch
# Some releases of torch warn of every sparse tensor that they unpickle.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("kind", TENSORS.split())
def test_mpqitr_tensor_of_every_kind_arrives(kind):
    import torch

    tensor = tensor_of(kind)
    (found,) = MpQItr(identity, tensor, mp_context="fork")
    assert type(found) is type(tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.requires_grad == tensor.requires_grad
    assert torch.equal(found.to_dense(), tensor.to_dense())


@pytest.mark.needs_torch
def test_mpqitr_tensors_are_writable_and_outlive_the_child():
    import torch

    kept = list(MpQItr(identity, torch.zeros(100_000), mp_context="fork"))
    kept[0] += 1
    assert kept[0].sum() == 100_000


@settings(max_examples=15)
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
def test_mpqitr_any_items_any_qsize_arrive(items, qsize):
    assert list(MpQItr(iter, items, qsize=qsize, mp_context="fork")) == items


def test_mpqitr_full_queue_stops_the_generator(tmp_path):
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


def test_mpqitr_slow_consumer_has_whole_batches_waiting(tmp_path):
    """Large items wait in shared memory, not in the generator that yields them."""

    def batches(path):
        with open(path, "ab", buffering=0) as file:
            for number in range(100):
                file.write(b".")
                yield np.full(1 << 20, number, np.uint8)

    path = tmp_path / "made"
    iterator = iter(MpQItr(batches, str(path), qsize=5, mp_context="fork"))
    assert next(iterator)[0] == 0
    deadline = time.monotonic() + 10
    # One taken, five waiting, one in the making.
    while path.stat().st_size < 7:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [int(next(iterator)[0]) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    iterator.close()


def test_mpqitr_without_shared_memory_yields_the_same(monkeypatch):
    # As on systems that have no anonymous files.
    monkeypatch.delattr(os, "memfd_create", raising=False)
    for number, array in enumerate(MpQItr(arrays, 40, (300, 300), mp_context="fork")):
        assert (array == number).all()
    assert number == 39


def test_mpqitr_file_size_limit_yields_the_same(tmp_path):
    """A limit on the size of files keeps the shared memory from being made."""
    code = """
        import resource
        import numpy as np
        from imagearchive import MpQItr
        if __name__ == "__main__":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
            print(sum(int(a[0]) for a in MpQItr(map, np.array, [[1] * 100_000] * 3)))
    """
    command = scripts.script(tmp_path, code)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_mpqitr_kept_array_does_not_keep_the_memory_of_the_others():
    before = psutil.Process().memory_info().shared
    kept = [array for array in MpQItr(arrays, 20, (4 << 20,), qsize=4) if array.max() == 7]
    assert (kept[0] == 7).all()
    # The one that is kept, and what else the process happens to share.
    assert psutil.Process().memory_info().shared - before < 8 << 20


def test_mpqitr_arrays_dropped_after_the_end_give_their_memory_back():
    before = psutil.Process().memory_info().shared
    kept = list(MpQItr(arrays, 10, (4 << 20,), qsize=4))
    assert [int(array.max()) for array in kept] == list(range(10))
    assert psutil.Process().memory_info().shared - before > 36 << 20
    del kept[1:]
    assert psutil.Process().memory_info().shared - before < 8 << 20
    assert (kept[0] == 0).all()


@pytest.mark.parametrize("qsize", [1, 2, 3, 1000])
def test_mpqitr_any_qsize_yields_everything(qsize):
    assert list(MpQItr(count, 3000, qsize=qsize)) == list(range(3000))
    assert len(list(MpQItr(arrays, 30, (200, 200), qsize=qsize))) == 30


def test_mpqitr_second_loop_starts_again():
    iterable = MpQItr(count, 3)
    assert [list(iterable), list(iterable)] == [[0, 1, 2], [0, 1, 2]]
    assert [(a, b) for a in iterable for b in iterable] == [
        (a, b) for a in range(3) for b in range(3)
    ]


def test_mpqitr_exhausted_iterator_stays_exhausted():
    iterator = iter(MpQItr(count, 1))
    assert next(iterator) == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


def test_mpqitr_iterator_shared_by_threads_yields_each_item_once():
    iterator = iter(MpQItr(count, 2000))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(iterator)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(2000))


def test_mpqitr_pickled_copy_starts_again():
    iterable = MpQItr(functools.partial(count, step=3), 4, qsize=2)
    assert next(iter(iterable)) == 0
    assert list(pickle.loads(pickle.dumps(iterable))) == [0, 3, 6, 9]
