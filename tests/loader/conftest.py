"""Fixtures for the tests of the loader."""

import gc
import json
import multiprocessing
import os

import numpy as np
import pytest
from support.archives import write_tar
from support.sample_archives import npy
from support.samples import FILES, loader_threads


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert loader_threads() == []


@pytest.fixture
def no_child_is_left():
    """Nor a descriptor of one."""
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert not multiprocessing.active_children()
    # The fork server and the resource tracker keep one or two of their own.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3


@pytest.fixture
def tar(tmp_path):
    """The path of a TAR of FILES in four class directories."""
    members = {
        f"class_{index % 4}/{index:03d}.{'png' if index % 5 == 4 else 'jpg'}": data
        for index, data in enumerate(FILES)
    }
    return str(write_tar(tmp_path / "images.tar", members))


@pytest.fixture
def npz(tmp_path):
    """The path of an NPZ of images and labels, its images, and its labels."""
    path = tmp_path / "arrays.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 20, 24, 3), np.uint8)
    labels = rng.integers(0, 10, 40)
    np.savez(path, images=images, labels=labels)
    return str(path), images, labels


@pytest.fixture
def boxes_npz(npz, tmp_path):
    """The path of an NPZ of four columns, of which boxes are ragged."""
    _, images, labels = npz
    rng = np.random.default_rng(1)
    path = tmp_path / "boxes.npz"
    boxes = np.empty(40, object)
    boxes[:] = [rng.random((k % 3, 4)) for k in range(40)]
    np.savez(path, images=images, labels=labels, extra=np.arange(40.0), bboxes=boxes)
    return str(path)


@pytest.fixture
def small_npz(tmp_path):
    """The path of an NPZ of twelve images, whose labels are their indices."""
    path = tmp_path / "small.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(12))
    return str(path)


@pytest.fixture
def web(tmp_path):
    """Samples with a caption, a label, an array, a vector of its own length, and a document."""
    members = {}
    for i in range(12):
        members[f"{i:02}.jpg"] = FILES[5 * (i // 4) + i % 4]
        members[f"{i:02}.txt"] = b"text" if i % 2 else b"longer text"
        members[f"{i:02}.cls"] = str(i).encode()
        members[f"{i:02}.npy"] = npy(np.full((2, 3), i, np.float32))
        members[f"{i:02}.vec.npy"] = npy(np.arange(1 + i // 6))
        members[f"{i:02}.json"] = json.dumps({"i": i}).encode()
    return write_tar(tmp_path / "web.tar", members)
