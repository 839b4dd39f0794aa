"""Transforms that move pixels, and labels that say where something is."""

import logging

import numpy as np
import pytest
from PIL import Image
from support.files import make_tar
from support.images import encode, noise
from support.transform_cases import FOR_SAMPLES

from imagearchive import DataLoader, ImageArchive
from imagearchive import transforms as T
from imagearchive.errors import OptionError

FLIP = T.RandomHorizontalFlip()
BOXES = np.array([[3, 4, 9, 9], [0, 0, 5, 6]])

#: Transforms, and whether they move pixels.
TRANSFORMS = [
    (T.Resize(8, 8), True), (T.RandomResizedCrop(8), True), (T.RandomCrop(8), True),
    (T.CenterCrop(8), True), (T.Pad(1), True), (FLIP, True), (T.RandomVerticalFlip(), True),
    (T.RandomRotation(9), True), (T.RandomPerspective(), True), (T.RandAugment(), True),
    (T.TrivialAugmentWide(), True), (T.RandomAffine(9), True), (T.Letterbox(9), True),
    (T.LongestMaxSize(9), True), (T.ScaleJitter(9, scale=(1, 1)), True),
    (T.Compose([T.Normalize(0, 1), T.Compose([FLIP])]), True),
    (T.ColorJitter(0.5), False), (T.GaussianBlur(3), False), (T.RandomErasing(), False),
    (T.Compose([T.Grayscale(), T.ToTensor()]), False), (T.ToDtype("float32"), False),
    (T.Lambda(np.flip), False), (np.flip, False), (T.ImageNetNormalize(), False),
]  # fmt: skip


class Pairs:
    """Images of 12 x 10 pixels, all with one label."""

    def __init__(self, label):
        self.label = label

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return noise(12, 10), self.label


class Dicts(Pairs):
    def __init__(self, column, label):
        self.column, self.label = column, label

    def __getitem__(self, index):
        return {"image": noise(12, 10), self.column: self.label}


def epoch(dataset, transform=FLIP, **options):
    return list(DataLoader(dataset, 3, transform=transform, num_workers=0, **options))


def test_transforms_that_move_pixels_are_known():
    known = {type(step) for step, _ in TRANSFORMS} | {T.ToTensor, T.Normalize, T.Grayscale}
    known |= {type(step) for step in FOR_SAMPLES}
    bases = {T.Transform, T.base.GeometricTransform}
    kinds = {kind for kind in vars(T).values() if isinstance(kind, type)}
    assert {kind for kind in kinds if issubclass(kind, T.Transform)} - bases <= known


@pytest.mark.parametrize(("transform", "moves"), TRANSFORMS)
def test_loader_refuses_masks_where_a_transform_moves_pixels(transform, moves):
    dataset = Pairs(np.zeros((10, 12), np.uint8))
    if moves:
        with pytest.raises(OptionError, match=r"moves the pixels.*label_kind='values'"):
            epoch(dataset, transform)
        epoch(dataset, transform, label_kind="values")
    else:
        epoch(dataset, transform)
        epoch(dataset, transform, label_kind="places")


@pytest.mark.parametrize(
    "dataset",
    [
        Pairs(np.zeros((10, 12, 1))),
        Pairs(np.zeros((2, 10, 12), bool)),
        Pairs(Image.new("L", (5, 4))),
        Pairs({"boxes": BOXES, "labels": [1, 2]}),
        Dicts("bboxes", BOXES),
        Dicts("keypoints", [[1, 2]]),
    ],
)
def test_loader_refuses_labels_that_are_certainly_places(dataset):
    for num_workers in (0, 2):
        with pytest.raises(OptionError, match="moves the pixels"):
            list(DataLoader(dataset, 3, transform=FLIP, num_workers=num_workers))
        with pytest.raises(OptionError, match="moves the pixels"):
            list(DataLoader(dataset, 3, transform=FLIP, collate_fn=list, num_workers=num_workers))
    epoch(dataset, label_kind="values", collate_fn=list)
    # Samples without a transform are what they are.
    epoch(dataset, None)


@pytest.mark.parametrize(
    "label",
    [
        7, -1, 2.5, "cat", True, np.int64(7), np.array(7), np.array([3]), np.eye(10)[3],
        np.eye(10, dtype=np.uint8)[3], np.full(4, 0.25), np.array([0.0, 1, 1, 0]),
        np.array([1.0, -1, 1, 1]), np.array([2.5, 3.5]), [1, 0, 0, 1], np.array([500.0, 1, 2, 3]),
        np.random.default_rng(0).standard_normal(128), np.zeros((3, 20)), {"label": 3},
    ],
)  # fmt: skip
def test_loader_does_not_mind_labels_that_are_values(label, caplog):
    with caplog.at_level(logging.WARNING):
        epoch(Pairs(label))
        epoch(Dicts("label", label))
    assert not caplog.records


@pytest.mark.parametrize("label", [BOXES, BOXES[:, :2], [3, 4, 9, 9], np.array([1.0, 3, 4, 9, 9])])
def test_loader_warns_once_of_labels_that_may_be_places(label, caplog):
    loader = DataLoader(Pairs(label), 1, transform=FLIP, num_workers=0)
    for _ in range(2):
        list(loader)
    (record,) = caplog.records
    assert "label_kind='values'" in record.getMessage()
    caplog.clear()
    epoch(Pairs(label), label_kind="values")
    epoch(Pairs(label), T.ToTensor())
    assert not caplog.records


def test_label_kind_places_is_refused_at_once():
    with pytest.raises(OptionError, match="RandomHorizontalFlip moves"):
        DataLoader(Pairs(3), 3, transform=FLIP, label_kind="places")
    with pytest.raises(OptionError, match="label_kind must be"):
        DataLoader(Pairs(3), 3, transform=FLIP, label_kind="boxes")


@pytest.fixture
def archive(tmp_path):
    image = encode(noise(12, 10), "PNG")
    path = tmp_path / "a.tar"
    make_tar(path, {f"{number}.png": image for number in range(4)})

    def labeled(lines, **options):
        (tmp_path / "labels.txt").write_text("\n".join(lines))
        return ImageArchive(path, label_file=tmp_path / "labels.txt", **options)

    return labeled


LISTS_OF_BOXES = ["0 1 2 3 4", "1 1 2 3 4 5 6 7 8", "3 5 5 6 6"]


def test_image_archive_refuses_lists_of_boxes_at_once(archive):
    dataset = archive(LISTS_OF_BOXES)
    with pytest.raises(OptionError, match="the samples have 4, 8 values"):
        DataLoader(dataset, 2, transform=FLIP)
    with pytest.raises(OptionError, match="label_kind='values'"):
        archive(LISTS_OF_BOXES, transform=FLIP)
    # A transform that is set later is found at the first sample.
    dataset.transform = FLIP
    with pytest.raises(OptionError, match="moves"):
        dataset[0]
    dataset.transform = np.array
    assert dataset[0][0].shape == (10, 12, 3)


def test_image_archive_label_kind_holds_for_its_loaders(archive):
    dataset = archive(LISTS_OF_BOXES, label_kind="values", transform=FLIP)
    assert dataset[0][0].shape == (10, 12, 3)
    epoch(archive(LISTS_OF_BOXES, label_kind="values"), collate_fn=list)
    with pytest.raises(OptionError, match="'places'"):
        DataLoader(archive(["0 1", "1 2"], label_kind="places"), 2, transform=FLIP)
    # What is said to the loader comes first.
    epoch(archive(["0 1", "1 2"], label_kind="places"), label_kind="values", collate_fn=list)


def test_image_archive_with_class_labels_takes_any_transform(archive, caplog):
    """Lists of classes, of varying length, and regression targets."""
    with caplog.at_level(logging.WARNING):
        for lines in (["0 1", "1 2", "2 0", "3 1"], ["0 1", "1 2 3", "2 0 4 1", "3 1"]):
            epoch(archive(lines), collate_fn=list)
            archive(lines, transform=FLIP)[0]
    assert not caplog.records


def test_image_archive_refuses_masks_of_a_target_transform(archive):
    lines = [f"{number} 1" for number in range(4)]

    def mask(image, labels):
        return np.zeros((image.height, image.width))

    with pytest.raises(OptionError, match="12 x 10"):
        archive(lines, target_transform=mask, transform=FLIP)[0]
    assert archive(lines, target_transform=mask, transform=FLIP, label_kind="values")[0]
