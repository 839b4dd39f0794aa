"""Mosaic, MixUp, and CutMix in the loader: the same for any number of threads, and resumed."""

import io

import numpy as np
import pytest
from support.images import encode
from support.samples import Rows

from imagearchive import Boxes, DataLoader, Image, Label, Mask, SampleArchive, TarWriter
from imagearchive.transforms import (
    Compose,
    CutMix,
    MixUp,
    Mosaic,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
)

COUNT = 23
FIELDS = {
    "image": "{key}.png",
    "mask": Mask("{key}.mask.png"),
    "boxes": Boxes("{key}.boxes.npy", labels="classes"),
    "classes": Label("{key}.classes.npy", ragged=True),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "scenes.tar"
    rng = np.random.default_rng(0)
    with TarWriter(path) as writer:
        for number in range(COUNT):
            x, y = (int(v) for v in rng.integers(0, 20, 2))
            image = np.zeros((32, 40, 3), np.uint8)
            image[y : y + 12, x : x + 12] = 10 * (number + 1)
            mask = (image[:, :, 0] // 10).astype(np.uint8)
            writer.add(f"{number:02}.png", encode(image, "PNG"))
            writer.add(f"{number:02}.mask.png", encode(mask[:, :, None], "PNG"))
            for name, array in (("boxes", [[x, y, x + 12, y + 12]]), ("classes", [number])):
                file = io.BytesIO()
                np.save(file, np.asarray(array, np.float32))
                writer.add(f"{number:02}.{name}.npy", file.getvalue())
            writer.add(f"{number:02}.cls", str(number % 3).encode())
    return path


def loader(archive, step, workers=2):
    """A shuffled loader; Mosaic takes masks and boxes, the others class labels."""
    pairs = {"image": "{key}.png", "label": Label("{key}.cls")}
    fields = FIELDS if isinstance(step, Mosaic) else pairs
    return DataLoader(
        SampleArchive(archive, fields=fields),
        4,
        shuffle=True,
        seed=3,
        num_workers=workers,
        output="numpy",
        transform=Compose([Resize(24, 24), RandomHorizontalFlip(), step]),
    )


def assert_same(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            for a, b in zip(value, other[name], strict=True):
                np.testing.assert_array_equal(a, b)


STEPS = [Mosaic(32), MixUp(num_classes=3), CutMix(num_classes=3)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_mixed_batches_do_not_depend_on_the_number_of_threads(step, archive):
    batches = list(loader(archive, step))
    for workers in (0, 1, 4):
        assert_same(list(loader(archive, step, workers)), batches)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_mixed_batches_are_the_same_after_resuming(step, archive):
    straight = loader(archive, step)
    expected = [*straight, *straight]
    first = loader(archive, step, 1)
    list(first)
    batches = iter(first)
    head = [next(batches), next(batches)]
    state = first.state_dict()
    rest = loader(archive, step, 4)
    rest.load_state_dict(state)
    length = len(straight)
    assert_same(head, expected[length : length + 2])
    assert_same(list(rest), expected[length + 2 :])
    # Another epoch takes other samples.
    assert not np.array_equal(expected[0]["image"], expected[length]["image"])


def test_mosaic_boxes_and_masks_follow_the_pixels(archive):
    several = 0
    for batch in loader(archive, Mosaic(64)):
        for mask, boxes, classes in zip(batch["mask"], batch["boxes"], batch["classes"]):
            assert len(boxes) == len(classes)
            several += len(boxes) > 1
            numbers = [int(number) for number in np.ravel(classes)]
            assert len(set(numbers)) == len(numbers)
            for box, number in zip(boxes, numbers):
                rows, columns = np.nonzero(mask == number + 1)
                around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                # The mask is rounded to whole pixels twice: at 24 pixels, by up to half a pixel,
                # which the mosaic doubles at most, and in the mosaic by another half.
                np.testing.assert_allclose(box, around, atol=1.5 + 1e-4)
    assert several


class Numbers:
    """Samples whose images are of one value, their index and 1."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), index + 1, np.uint8), "boxes": np.zeros((0, 4))}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_mosaic_of_few_samples_has_each_once_if_there_are_four(count):
    fields = {"image": Image(), "boxes": Boxes()}
    mosaic = Compose([Mosaic(16, center=(0.5, 0.5), interpolation="nearest", fill=0)])
    drawn = set()
    for epoch in range(20):
        loader = DataLoader(
            Numbers(count), count, transform=mosaic, fields=fields, output="numpy", seed=epoch
        )
        for number, image in enumerate(next(iter(loader))["image"], 1):
            quarters = [int(image[0, y, x]) for y in (7, 8) for x in (7, 8)]
            assert quarters[0] == number
            if count > 1:
                assert number not in quarters[1:]
            if count >= 4:
                assert len(set(quarters)) == 4
            drawn.update(quarters)
    assert drawn == set(range(1, count + 1))


def test_pairs_are_mixed_with_samples_of_the_epoch_by_their_keys_only():
    pairs = Rows((np.full((8, 8, 3), 40 * i, np.uint8), i) for i in range(5))
    options = {
        "transform": Compose([MixUp(num_classes=5), ToTensor()]),
        "output": "numpy",
        "seed": 1,
    }
    images, labels = next(iter(DataLoader(pairs, 5, **options)))
    assert labels.shape == (5, 5)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    # An image is as bright as its label says.
    bright = images.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(bright, labels @ (40 * np.arange(5)), atol=1)
    assert any(sorted(row)[-2] > 0.01 for row in labels.tolist())
    again = [
        (image, label)
        for batch in DataLoader(pairs, 2, num_workers=0, **options)
        for image, label in zip(*batch)
    ]
    for (image, label), image_2, label_2 in zip(again, images, labels, strict=True):
        np.testing.assert_array_equal(image, image_2)
        np.testing.assert_array_equal(label, label_2)
