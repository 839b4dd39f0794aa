"""Archives and arrays of the same images, in every format."""

import zipfile

import numpy as np
import pytest

import imagearchive
from support.archives import write_tar
from support.barecat_archives import write_barecat
from support.images import encode, photo

COUNT = 60

IMAGES = {f"{i % 3}/{i:03d}.jpg": encode(photo(64, 64, i), quality=95) for i in range(COUNT)}

ROWS = np.random.default_rng(0).integers(0, 256, (COUNT, 96, 96, 3), np.uint8)


def tar(folder):
    return write_tar(folder / "a.tar", IMAGES)


def deflated_zip(folder):
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in IMAGES.items():
            target.writestr(name, data)
    return folder / "a.zip"


def stored_zip(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as target:
        for name, data in IMAGES.items():
            target.writestr(name, data)
    return folder / "a.zip"


def npz(folder, save=np.savez):
    save(folder / "a.npz", images=ROWS, labels=np.arange(COUNT))
    return folder / "a.npz"


def deflated_npz(folder):
    return npz(folder, np.savez_compressed)


def object_npz(folder):
    boxes = np.empty(COUNT, object)
    boxes[:] = [np.arange(4.0 * (i + 500)).reshape(-1, 4) for i in range(COUNT)]
    np.savez(folder / "a.npz", images=ROWS, bboxes=boxes)
    return folder / "a.npz"


def object_only_npz(folder):
    texts = np.empty(COUNT, object)
    texts[:] = [f"caption {i} " * 500 for i in range(COUNT)]
    np.savez(folder / "a.npz", texts=texts)
    return folder / "a.npz"


def lone_npy(folder):
    np.save(folder / "a.npy", ROWS)
    return folder / "a.npy"


def bins(folder):
    imagearchive.write_split_data(str(folder / "bins"), list(IMAGES.values()), splits=1)
    return folder / "bins" / "bin00000000.dat"


def barecat(folder):
    pytest.importorskip("barecat")
    write_barecat(folder / "a.barecat", IMAGES)
    return folder / "a.barecat-shard-00000"
