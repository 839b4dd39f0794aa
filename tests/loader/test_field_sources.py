"""Batches of samples of several fields that are not those of a `SampleArchive`."""

import numpy as np
import pytest
from support.archives import write_tar
from support.samples import FILES, Rows

import imagearchive
from imagearchive import (
    Array,
    Boxes,
    ColorJitter,
    Compose,
    DataLoader,
    Image,
    ImageArchive,
    Label,
    Mask,
    Resize,
    ToTensor,
)
from imagearchive.errors import OptionError, OptionTypeError

RESIZE = Compose([Resize(8, 8), ToTensor()])
# Moves no pixels, so it suits boxes and masks.
COLOR = Compose([ColorJitter(0.4), ToTensor()])


def image(i):
    return np.full((8, 8, 3), i, np.uint8)


def test_dict_of_an_image_and_a_label_stays_a_pair():
    rows = Rows({"image": image(i), "label": i} for i in range(4))
    _, labels = next(iter(DataLoader(rows, 4, transform=RESIZE, output="numpy")))
    assert labels.tolist() == [0, 1, 2, 3]


def test_dict_of_more_entries_is_a_dict_of_columns():
    rows = Rows(
        {"image": image(i), "label": i, "name": "ab", "raw": b"xy", "size": np.float32(i)}
        for i in range(3)
    )
    batch = next(iter(DataLoader(rows, 3, transform=RESIZE, output="numpy")))
    assert list(batch) == ["image", "label", "name", "raw", "size"]
    assert (batch["name"], batch["raw"]) == (["ab"] * 3, [b"xy"] * 3)
    assert batch["label"].tolist() == [0, 1, 2]
    assert batch["image"].shape == (3, 3, 8, 8)
    pair = next(iter(DataLoader(rows, 3, transform=RESIZE, columns=("image", "name"))))
    assert pair[1] == ["ab"] * 3


def test_tuple_of_three_is_a_tuple_of_columns():
    rows = Rows((image(i), i, "text") for i in range(2))
    images, labels, texts, indices = next(
        iter(DataLoader(rows, 2, transform=RESIZE, output="numpy", return_indices=True))
    )
    assert (images.shape, labels.tolist(), texts) == ((2, 3, 8, 8), [0, 1], ["text"] * 2)
    assert indices.tolist() == [0, 1]


def test_npz_of_more_columns_keeps_them_and_knows_which_are_ragged(boxes_npz):
    batch = next(iter(DataLoader(boxes_npz, 3, transform=ToTensor(), output="numpy")))
    assert set(batch) == {"image", "labels", "extra", "bboxes"}
    assert [len(boxes) for boxes in batch["bboxes"]] == [0, 1, 2]
    assert batch["extra"].tolist() == [0, 1, 2]


def test_pairs_of_ragged_labels_are_lists_whatever_the_batch(boxes_npz, tmp_path):
    options = {"columns": ("image", "bboxes"), "label_kind": "values", "output": "numpy"}
    for size in (1, 3):
        _, boxes = next(iter(DataLoader(boxes_npz, size, image_size=8, **options)))
        assert type(boxes) is list
        assert boxes[0].shape == (0, 4)
    path = write_tar(tmp_path / "a.tar", {f"{i}.jpg": FILES[i] for i in range(2)})
    (tmp_path / "labels.txt").write_text("0.jpg 1.5\n1.jpg 2.5 3.5\n")
    dataset = ImageArchive(path, label_file=tmp_path / "labels.txt", label_kind="values")
    for size in (1, 2):
        for _, labels in DataLoader(dataset, size, image_size=8, output="numpy"):
            assert type(labels) is list


def test_fields_of_the_loader_declare_the_kinds_of_a_dataset():
    rows = Rows(
        {"picture": image(i), "boxes": np.zeros((i, 4), np.float32), "mask": np.zeros((8, 8), int)}
        for i in range(3)
    )
    fields = {"picture": Image(), "boxes": Boxes(), "mask": Mask()}
    batch = next(iter(DataLoader(rows, 3, transform=COLOR, output="numpy", fields=fields)))
    assert [len(boxes) for boxes in batch["boxes"]] == [0, 1, 2]
    assert batch["mask"].shape == (3, 8, 8)
    small = next(iter(DataLoader(rows, 3, image_size=4, output="numpy", fields=fields)))
    assert small["mask"].shape == (3, 4, 4)


def test_extra_boxes_of_a_dict_with_geometry_raise():
    rows = Rows({"image": image(i), "boxes": np.zeros((2, 4)), "label": i} for i in range(2))
    with pytest.raises(OptionError, match="boxes"):
        next(iter(DataLoader(rows, 2, image_size=4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": {"image": "{key}.jpg"}}, "fields must map names to kinds"),
        ({"fields": {"image": Image()}, "columns": ("a", "b")}, "pass one of them"),
        ({"fields": {"other": Image()}}, "fields= names 'other'"),
        ({"fields": {"image": Array(), "label": Label()}}, "none of them is an image"),
        ({"ragged": "sometimes"}, "ragged"),
        ({"ragged": "nested", "output": "numpy"}, "nested"),
    ],
)
def test_wrong_fields_or_ragged_raise(options, message):
    rows = Rows({"image": image(i), "label": i} for i in range(2))
    with pytest.raises((OptionError, OptionTypeError), match=message):
        next(iter(DataLoader(rows, 2, transform=RESIZE, **options)))


def test_samples_of_other_fields_than_the_first_raise():
    rows = Rows([{"image": image(0), "a": 1, "b": 2}, {"image": image(1), "a": 1}])
    with pytest.raises(OptionError, match="sample 1 has the fields image, a, but the first sample"):
        list(DataLoader(rows, 1, transform=RESIZE))


def test_pillow_image_beside_the_image_needs_a_kind():
    from PIL import Image as PillowImage

    rows = Rows([{"image": image(0), "label": 1, "x": PillowImage.new("L", (8, 8))}])
    with pytest.raises(OptionError, match="may be an image or a mask"):
        next(iter(DataLoader(rows, 1, transform=RESIZE)))


# --- samples of an archive, by extension --------------------------------------------------------


def test_archive_samples_are_decoded_by_their_extension(web):
    archive = imagearchive.open(web)
    _, labels = next(
        iter(DataLoader(archive.samples("jpg", "cls"), 8, transform=RESIZE, output="numpy"))
    )
    assert (labels.dtype, labels.tolist()) == (np.int64, list(range(8)))
    _, texts, arrays = next(
        iter(DataLoader(archive.samples("png;jpg", "txt", "npy"), 2, image_size=8, output="numpy"))
    )
    assert texts == ["longer text", "text"]
    assert arrays.shape == (2, 2, 3)


def test_archive_samples_without_transform_are_named_by_their_extensions(web):
    archive = imagearchive.open(web)
    [sample] = next(iter(DataLoader(archive.samples("png;jpg", ".cls"))))
    assert list(sample) == ["index", "__key__", "png;jpg", "cls"]
    [sample] = next(iter(DataLoader(archive.samples("jpg", "cls", "cls"))))
    assert list(sample)[2:] == ["jpg", "cls (1)", "cls (2)"]


def test_archive_samples_without_extensions_are_dicts(tmp_path):
    members = {"0.jpg": FILES[0], "0.cls": b"5", "1.cls": b"6", "1.jpg": FILES[1]}
    samples = imagearchive.open(write_tar(tmp_path / "a.tar", members)).samples()
    batch = next(iter(DataLoader(samples, 2, image_size=8, output="numpy")))
    assert (batch["__key__"], batch["cls"].tolist()) == (["0", "1"], [5, 6])
    assert batch["jpg"].shape == (2, 3, 8, 8)


def test_archive_samples_of_an_unknown_extension_raise(tmp_path):
    samples = imagearchive.open(write_tar(tmp_path / "a.tar", {"0.jpg": b"", "0.q": b""}))
    with pytest.raises(OptionError, match="there is no codec"):
        DataLoader(samples.samples("jpg", "q"), 2, image_size=8)
