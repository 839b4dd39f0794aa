"""Layouts in which images and labels are arrays."""

import gzip
import pickle
import struct

import numpy as np

from support.layouts.files import layout, mat, write_tar, write_zip


def python_2_pickle(value):
    """A pickle of protocol 2 as Python 2 writes it: its text is the opcode U, not X."""
    data = pickle.dumps(value, 2)
    for text in (*value, *value.get("filenames", ())):
        modern = b"X" + struct.pack("<I", len(text)) + text.encode()
        data = data.replace(modern, b"U" + bytes([len(text)]) + text.encode())
    return data


def write_cifar(path, member, labels):
    pixels = np.repeat(np.arange(4, dtype=np.uint8)[:, None] * 8, 3072, 1)
    files = [f"leptodactylus_{i}.png" for i in range(4)]
    batch = {"batch_label": "training batch", "data": pixels, "filenames": files, **labels}
    write_tar(path, {member: python_2_pickle(batch)}, "gz")


@layout("CIFAR-10")
def cifar_10(folder):
    member = "cifar-10-batches-py/data_batch_1"
    write_cifar(folder / "cifar-10-python.tar.gz", member, {"labels": [6, 9, 9, 4]})
    return {"labels": [6, 9, 9, 4]}


@layout("CIFAR-100")
def cifar_100(folder):
    labels = {"fine_labels": [19, 29, 0, 11], "coarse_labels": [11, 15, 4, 14]}
    write_cifar(folder / "cifar-100-python.tar.gz", "cifar-100-python/train", labels)
    return {"labels": [19, 29, 0, 11]}


def idx(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.astype(np.uint8).tobytes()


def gray(count, height=28, width=28):
    return np.arange(count, dtype=np.uint8)[:, None, None] * 8 + np.zeros((height, width), np.uint8)


@layout("MNIST, Fashion-MNIST, and KMNIST")
def mnist(folder):
    for name, array in (("images-idx3", gray(3)), ("labels-idx1", np.array([5, 0, 4]))):
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return {"labels": [5, 0, 4]}


@layout("EMNIST")
def emnist(folder):
    files = {"images-idx3": gray(2), "labels-idx1": np.array([23, 7])}
    members = {
        f"gzip/emnist-letters-train-{name}-ubyte.gz": gzip.compress(idx(array))
        for name, array in files.items()
    }
    write_zip(folder / "gzip.zip", members)
    return {"labels": [23, 7]}


@layout("STL-10")
def stl_10(folder):
    pixels = np.zeros((2, 3, 96, 96), np.uint8)
    # Channel, column, row: the first row of the first image is bright.
    pixels[0, :, :, 0] = 200
    members = {
        "stl10_binary/class_names.txt": b"airplane\n",
        "stl10_binary/fold_indices.txt": b"0 1\n",
        "stl10_binary/train_X.bin": pixels.tobytes(),
        "stl10_binary/train_y.bin": bytes([2, 10]),
    }
    write_tar(folder / "stl10_binary.tar.gz", members, "gz")
    return {"labels": [1, 9]}


@layout("Arrays as a dataset")
def arrays(folder):
    return {}


@layout("SVHN")
def svhn(folder):
    pixels = np.moveaxis(np.repeat(gray(2, 32, 32)[..., None], 3, 3), 0, 3)
    (folder / "train_32x32.mat").write_bytes(mat(X=pixels, y=np.array([[1], [10]], np.uint8)))
    return {"labels": [1, 0]}
