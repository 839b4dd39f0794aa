"""`Buffers`: memory is used again when nothing can see it, and never before."""

import gc
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from imagearchive.loader.buffers import Buffers
from imagearchive.loader.data_loader import DataLoader

SHAPE = (4, 3, 5)


class Viewed(np.ndarray):
    pass


def tensor_of(array):
    return pytest.importorskip("torch").from_numpy(array)


KEPT = {
    "array": lambda array: array,
    "slice": lambda array: array[1:],
    "item": lambda array: array[2, 1],
    "slice of slice": lambda array: array[1:][::-1][:2, 1],
    "reshaped": lambda array: array.reshape(-1)[5:9],
    "transposed": lambda array: array.transpose(2, 0, 1)[3:],
    "other dtype": lambda array: array.view(np.uint8)[:1],
    "subclass": lambda array: array[1:].view(Viewed)[1:],
    "broadcast": lambda array: np.broadcast_to(array[0], (2, 3, 5)),
    "memoryview": lambda array: memoryview(array[1:]),
    "iterator": lambda array: array.flat,
    "out-of-band pickle": lambda array: out_of_band(array[1:]),
    "tensor": tensor_of,
    "slice of tensor": lambda array: tensor_of(array)[1:, 0],
    "tensor of slice": lambda array: tensor_of(array[1:]),
    "array of tensor": lambda array: tensor_of(array[1:])[1:].numpy(),
    "permuted tensor": lambda array: tensor_of(array).permute(2, 0, 1)[1:],
    "detached tensor": lambda array: tensor_of(array).requires_grad_().detach()[0],
    "graph": lambda array: (tensor_of(array).requires_grad_() ** 2).sum(),
    "storage of tensor": lambda array: tensor_of(array).untyped_storage(),
    "from_dlpack": lambda array: np.from_dlpack(array[1:]),
}


def out_of_band(array):
    buffers = []
    data = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=buffers)


@pytest.mark.parametrize("kind", KEPT)
def test_buffers_while_a_view_is_left_are_not_used_again(kind):
    buffers = Buffers(2)
    array = buffers.take(SHAPE, np.float32)
    address = array.ctypes.data
    kept = KEPT[kind](array)
    del array
    gc.collect()
    for _ in range(3):
        other = buffers.take(SHAPE, np.float32)
        assert other.ctypes.data != address
        del other
    del kept
    gc.collect()
    taken = [buffers.take(SHAPE, np.float32) for _ in range(2)]
    assert address in [array.ctypes.data for array in taken]


def test_buffers_keep_more_after_keep():
    buffers = Buffers(1)
    buffers.keep(3)
    arrays = [buffers.take(SHAPE, np.float32) for _ in range(3)]
    addresses = {array.ctypes.data for array in arrays}
    del arrays
    arrays = [buffers.take(SHAPE, np.float32) for _ in range(3)]
    assert {array.ctypes.data for array in arrays} == addresses


def test_buffers_after_a_pickle_are_used_again():
    buffers = Buffers(2)
    array = buffers.take(SHAPE, np.float32)
    array[:] = 7
    address = array.ctypes.data
    copy = pickle.loads(pickle.dumps(array))
    del array
    other = buffers.take(SHAPE, np.float32)
    assert other.ctypes.data == address
    other[:] = 8
    assert (copy == 7).all()


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 3, 224, 224)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_buffers_begin_at_a_cache_line(shape, dtype):
    arrays = [Buffers(2).take(shape, dtype) for _ in range(4)]
    assert {(array.shape, array.dtype) for array in arrays} == {(shape, np.dtype(dtype))}
    assert not any(array.ctypes.data % 64 for array in arrays if array.size)


def test_buffers_of_another_size_are_dropped():
    buffers = Buffers(2)
    buffers.take(SHAPE, np.float32)
    assert buffers.take((4, 2), np.uint8).shape == (4, 2)
    for dtype in (np.uint8, np.float16, np.float32):
        array = buffers.take(SHAPE, dtype)
        assert (array.shape, array.dtype) == (SHAPE, dtype)
        assert array.flags.writeable
        assert array.flags.aligned


def test_buffers_outlived_by_an_array_leave_it_alone():
    array = Buffers(2).take(SHAPE, np.float32)
    array[:] = 7
    gc.collect()
    assert (array == 7).all()


def test_buffers_of_many_arrays_keep_no_more_than_their_limit():
    buffers = Buffers(3)
    tracemalloc.start()
    try:
        arrays = [buffers.take((1 << 16,), np.uint8) for _ in range(50)]
        assert tracemalloc.get_traced_memory()[0] >= 50 << 16
        del arrays
        assert 3 << 16 <= tracemalloc.get_traced_memory()[0] < 4 << 16
    finally:
        tracemalloc.stop()


def test_buffers_in_many_threads_are_never_shared():
    buffers = Buffers(4)
    wrong = []

    def work(number):
        for turn in range(300):
            array = buffers.take(SHAPE, np.int64)
            array[:] = number * 1000 + turn
            view = array[1:, 1]
            del array
            buffers.take(SHAPE, np.int64)[:] = -1
            if not (view == number * 1000 + turn).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Numbers:
    """Images that are cheap to make and tell their index."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((4, 5, 3), index % 251, np.uint8), index


@pytest.mark.parametrize("output", ["numpy", pytest.param("torch", marks=pytest.mark.needs_torch)])
@pytest.mark.parametrize("num_workers", [0, 3])
def test_batches_that_are_kept_in_part_are_never_overwritten(num_workers, output):
    loader = DataLoader(
        Numbers(251), 8, image_size=(5, 4), num_workers=num_workers, shuffle=True, output=output
    )
    kept = []
    for _ in range(3):
        for images, labels in loader:
            kept.append((images[1:, 0, 0, 0], labels[1:]))
    # An iterator that is dropped with batches ahead returns their memory.
    iterator = iter(loader)
    images, labels = next(iterator)
    kept.append((images[1:, 0, 0, 0], labels[1:]))
    del iterator, images
    list(loader)
    for values, labels in kept:
        assert values.tolist() == labels.tolist()


@pytest.mark.parametrize("num_workers", [0, 3])
def test_batches_that_are_dropped_take_no_new_memory(num_workers):
    loader = DataLoader(
        Numbers(600), 4, image_size=(64, 64), num_workers=num_workers, output="numpy",
        prefetch_batches=2,
    )  # fmt: skip
    addresses = {images.ctypes.data for _ in range(3) for images, _ in loader}
    # Two ahead, one at the consumer, and those that threads are about to begin or let go.
    assert len(addresses) <= 8
