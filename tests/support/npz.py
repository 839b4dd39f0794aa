"""NPZ files for the tests."""

import os

import numpy as np

from support.object_arrays import objects

SAVERS = {"stored": np.savez, "deflated": np.savez_compressed}
STORAGES = ["mmap", "pread", "memory"]


def boxes_of(count):
    """Return lists of 0 to 3 boxes."""
    return [[[float(i), 2.0, 3.0, float(k)] for k in range(i % 4)] for i in range(count)]


def make_detector(path, count=24, save=np.savez, size=8):
    """Write an NPZ as a detector is trained on; return its arrays."""
    rng = np.random.default_rng(count)
    data = {
        "images": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "bboxes": objects(boxes_of(count)),
        "image_paths": np.array([f"raw/{i:05}.jpg" for i in range(count)]),
    }
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    save(path, **data)
    return data


def equal(a, b):
    """Equal in dtype, shape and value; NaN equals itself, padding of records does not matter."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype.names != b.dtype.names:
        return False
    if a.dtype.names:
        return all(equal(a[name], b[name]) for name in a.dtype.names)
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()
