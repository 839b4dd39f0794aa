"""Images, datasets, and transforms for the tests of the loader."""

import io
import threading

import numpy as np
from PIL import Image

from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    ColorJitter,
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)
from support.images import encode

COUNT = 53

TRAINING = Compose([RandomResizedCrop(16), RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()])
# Not compiled into one native pass, since color changes between the two stages.
MIXED = Compose(
    [RandomResizedCrop(16), ColorJitter(0.4, 0.4, 0.4, 0.1), ImageNetNormalize(), ToTensor()]
)


def smooth_image(index, size=None):
    """An RGB image whose content depends on `index`, smooth enough for JPEG."""
    width, height = size or (40 + index % 7, 30 + index % 5)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [x * 200, y * 200, np.full_like(x, index * 4 % 256)]
    return np.stack(planes, -1).astype(np.uint8)


def encoded_image(index, fmt="JPEG"):
    """The bytes of `smooth_image`."""
    return encode(smooth_image(index), fmt, **({"quality": 95} if fmt == "JPEG" else {}))


FILES = [encoded_image(i, "PNG" if i % 5 == 4 else "JPEG") for i in range(COUNT)]


def damaged():
    """FILES, of which those in `DAMAGED` are broken."""
    files = list(FILES)
    files[7] = b"not an image"
    files[8] = FILES[8][: len(FILES[8]) // 2]
    files[20] = b""
    files[33] = FILES[33][:-1]
    return files


def in_stripes(data):
    """A JPEG whose data are damaged, which Pillow decodes without a word."""
    middle = len(data) * 3 // 4
    return data[:middle] + b"\xff\xd0" * 8 + data[middle + 16 :]


DAMAGED = {7, 8, 20, 33}


class Encoded:
    """The least that a dataset of encoded images offers."""

    def __init__(self, files=FILES):
        self.files = list(files)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Image.open(io.BytesIO(self.files[index])), self.label(index)

    def read(self, index):
        return self.files[index]

    def label(self, index):
        return index * 3

    def labels(self, index):
        return np.array([index * 3.0])

    def name(self, index):
        return f"{index % 4}/{index:03d}.jpg"

    def prefetch(self, indices):
        pass

    def check_unchanged(self):
        pass

    def encoded_images(self):
        return self


class Rows(list):
    """A dataset of the samples in a list."""


class Numbered:
    """Samples that are cheap to make, and whose pixels and label tell their index."""

    def __init__(self, count=COUNT):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((4, 5, 3), index % 251, np.uint8), index


def labels_of(loader):
    """The labels of each batch of an epoch."""
    return [batch[1].tolist() for batch in loader]


def all_labels(source):
    """The labels of an epoch without shuffling."""
    return [label for batch in labels_of(DataLoader(source, 5, image_size=8)) for label in batch]


def same_batches(first, second):
    """Whether two lists of batches are equal, bit by bit."""
    return len(first) == len(second) and all(
        np.array_equal(a, b) for x, y in zip(first, second) for a, b in zip(x, y)
    )


def loader_threads():
    """The running threads of all loaders."""
    return [t for t in threading.enumerate() if t.name.startswith("imagearchive-loader")]
