"""Object arrays and their pickles for tests."""

import pickle
import struct

import numpy as np

from imagearchive.arrays.objects.array import ObjectArray
from imagearchive.storage.local import MemoryStorage

PROTOCOLS = [2, 3, 4, 5]


def objects(values, shape=None, order="C"):
    """Return an object array of exactly these values."""
    flat = np.empty(len(values), object)
    for i, value in enumerate(values):
        flat[i : i + 1] = [value] if not isinstance(value, np.ndarray) else _wrapped(value)
    return flat if shape is None else flat.reshape(shape).copy(order)


def _wrapped(value):
    cell = np.empty(1, object)
    cell[0] = value
    return cell


def open_stream(stream, shape):
    """Return the `ObjectArray` of a pickle."""
    return ObjectArray(MemoryStorage(stream), 0, shape, "file.npz: 'x.npy'")


def open_array(array, protocol):
    """Pickle an array and return its `ObjectArray`."""
    return open_stream(pickle.dumps(array, protocol=protocol), array.shape)


def same(a, b):
    """Whether two values are equal in type, dtype, shape and value at every level, NaN included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype == object:
            return all(same(x, y) for x, y in zip(a.ravel(), b.ravel()))
        return a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(
            same(x, y) for x, y in zip(a.values(), b.values())
        )
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return repr(a) == repr(b) if isinstance(a, complex) else a == b


def crafted(body, count=1, protocol=4):
    """Return the pickle of an object array whose elements are these opcodes."""
    stream = pickle.dumps(objects([None] * count), protocol=protocol)
    if protocol >= 4:
        stream = stream[:2] + stream[11:]  # without its frame
    tail = stream.index(b"]\x94") + 2
    if count == 1:
        assert stream[tail : tail + 2] == b"Na"
        return stream[:tail] + b"(" + body + b"e" + stream[tail + 2 :]
    return stream[:tail] + b"(" + body + stream[tail + 1 + count :]
