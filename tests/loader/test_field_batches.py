"""Batches of samples of several fields: what becomes of each kind, and never of the batch."""

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.sample_archives import npy
from support.samples import FILES

from imagearchive import (
    Array,
    Boxes,
    ColorJitter,
    CombinedLazyDataset,
    Compose,
    DataLoader,
    ImageArchive,
    Keypoints,
    Label,
    Mask,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    SampleArchive,
    ToTensor,
)
from imagearchive.errors import DecodeError, OptionError

COUNT = 12
RESIZE = Compose([Resize(8, 8), ToTensor()])
# Moves no pixels, so it suits boxes and masks.
COLOR = Compose([ColorJitter(0.4), ToTensor()])
FIELDS = {
    "image": "{key}.jpg",
    "caption": "{key}.txt",
    "label": "{key}.cls",
    "array": "{key}.npy",
    "vector": Array("{key}.vec.npy", ragged=True),
    "meta": "{key}.json",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_field_batch_of_sample_archive_has_a_column_for_each_field(web, workers):
    dataset = SampleArchive(web, fields=FIELDS)
    loader = DataLoader(
        dataset, 5, transform=RESIZE, output="numpy", num_workers=workers, return_indices=True
    )
    plain = DataLoader(ImageArchive(web, extensions=[".jpg"]), 5, transform=RESIZE, output="numpy")
    batches = list(loader)
    assert [len(batch["image"]) for batch in batches] == [5, 5, 2]
    for batch, (images, _) in zip(batches, plain, strict=True):
        assert list(batch) == ["__key__", *FIELDS, "__index__"]
        np.testing.assert_array_equal(batch["image"], images)
        indices = batch["__index__"]
        assert batch["__key__"] == [f"{i:02}" for i in indices]
        assert batch["caption"] == ["text" if i % 2 else "longer text" for i in indices]
        assert (batch["label"].dtype, batch["label"].tolist()) == (np.int64, indices.tolist())
        np.testing.assert_array_equal(batch["array"][:, 1, 2], indices.astype(np.float32))
        assert type(batch["vector"]) is list
        assert [len(vector) for vector in batch["vector"]] == [1 + i // 6 for i in indices]
        assert batch["meta"] == [{"i": i} for i in indices]


def test_field_batch_of_torch_holds_tensors(web):
    torch = pytest.importorskip("torch")
    loader = DataLoader(
        SampleArchive(web, fields=FIELDS), 4, transform=RESIZE, channels_last=True, dtype="float16"
    )
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 3, 8, 8)
    assert batch["image"].dtype == torch.float16
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["label"].dtype == torch.int64
    assert batch["array"].shape == (4, 2, 3)
    assert all(isinstance(vector, torch.Tensor) for vector in batch["vector"])


def test_field_batch_ragged_pad_and_nested(web):
    dataset = SampleArchive(web, fields=FIELDS)
    padded = list(DataLoader(dataset, 8, transform=RESIZE, output="numpy", ragged="pad"))
    assert padded[0]["vector"].tolist() == [[0, -1]] * 6 + [[0, 1]] * 2
    assert padded[0]["vector_lengths"].tolist() == [1] * 6 + [2] * 2
    # Also where all lengths agree.
    assert padded[1]["vector_lengths"].tolist() == [2] * 4
    torch = pytest.importorskip("torch")
    batch = next(iter(DataLoader(dataset, 8, transform=RESIZE, ragged="nested")))
    assert batch["vector"].is_nested
    assert [len(vector) for vector in batch["vector"].unbind()] == [1] * 6 + [2] * 2
    assert batch["vector"].layout is torch.jagged


def test_field_batch_types_do_not_depend_on_the_batch(tmp_path):
    members = {}
    for i, boxes in enumerate([1, 1, 2, 0]):
        members |= {f"{i}.jpg": FILES[0], f"{i}.txt": b"2 1 2 3 4\n" * boxes}
    path = write_tar(tmp_path / "boxes.tar", members)
    fields = {"image": "{key}.jpg", "boxes": Boxes("{key}.txt", labels="classes")}
    for batch in DataLoader(SampleArchive(path, fields=fields), 2, transform=COLOR, output="numpy"):
        assert type(batch["boxes"]) is type(batch["classes"]) is list
        assert [boxes.shape[1] for boxes in batch["boxes"]] == [4, 4]
        assert all(classes.dtype == np.int64 for classes in batch["classes"])


def test_field_batch_of_points_is_stacked_if_declared(tmp_path):
    members = {f"{i}.jpg": FILES[0] for i in range(2)}
    members |= {f"{i}.json": b"[[1, 2], [3, 4]]" for i in range(2)}
    path = write_tar(tmp_path / "points.tar", members)
    for ragged in (True, False):
        points = Keypoints("{key}.json", ragged=ragged)
        dataset = SampleArchive(path, fields={"image": "{key}.jpg", "points": points})
        batch = next(iter(DataLoader(dataset, 2, transform=COLOR, output="numpy")))
        assert (type(batch["points"]) is list) is ragged
    assert batch["points"].shape == (2, 2, 2)


def test_field_batch_of_unequal_arrays_raises_with_the_way_out(web):
    fields = {"image": "{key}.jpg", "vector": "{key}.vec.npy"}
    loader = DataLoader(SampleArchive(web, fields=fields), 12, transform=RESIZE)
    with pytest.raises(OptionError, match=r"'vector'.*different shapes.*ragged=True"):
        next(iter(loader))


def test_field_batch_of_mixed_label_types_raises(tmp_path):
    members = {f"{i}.jpg": FILES[0] for i in range(2)} | {"0.txt": b"1", "1.txt": b"2.5"}
    path = write_tar(tmp_path / "a.tar", members)
    fields = {"image": "{key}.jpg", "label": Label("{key}.txt")}
    with pytest.raises(OptionError, match="int64 in the first sample and float64 in others"):
        list(DataLoader(SampleArchive(path, fields=fields), 1, transform=RESIZE))


def test_field_batch_of_parts_that_may_be_missing_is_a_list(tmp_path):
    members = {f"{i}.jpg": FILES[i] for i in range(4)} | {"1.cls": b"7"}
    path = write_tar(tmp_path / "a.tar", members)
    fields = {"image": "{key}.jpg", "label": "{key}.cls"}
    # The second time, from the saved pairing.
    for _ in range(2):
        dataset = SampleArchive(path, fields=fields, missing="none")
        batches = DataLoader(dataset, 2, transform=RESIZE, output="numpy")
        assert [batch["label"] for batch in batches] == [[None, 7], [None, None]]


@pytest.fixture
def detection(tmp_path):
    """Images of one bright rectangle, with its mask, its box, its class, and a corner."""
    members = {}
    for i in range(6):
        mask = np.zeros((32, 40), np.uint8)
        left, top = 2 + 3 * i, 4 + 2 * i
        mask[top : top + 10, left : left + 12] = 1 + i
        members[f"{i}.png"] = encoded(np.stack([40 * mask] * 3, -1))
        members[f"{i}.seg.png"] = encoded(mask)
        members[f"{i}.txt"] = f"{i} {left} {top} {left + 12} {top + 10}".encode()
        members[f"{i}.pts.txt"] = f"{left} {top}".encode()
    return write_tar(tmp_path / "detection.tar", members)


DETECTION = {
    "image": "{key}.png",
    "mask": Mask("{key}.seg.png"),
    "boxes": Boxes("{key}.txt", labels="classes"),
    "points": Keypoints("{key}.pts.txt"),
}


def test_field_batch_geometry_moves_masks_boxes_and_points_with_the_image(detection):
    dataset = SampleArchive(detection, fields=DETECTION)
    transform = Compose([RandomCrop(28, 28), RandomHorizontalFlip()])
    loader = DataLoader(dataset, 6, transform=transform, output="numpy", dtype="uint8", seed=4)
    batches = [next(iter(loader)) for _ in range(3)]
    for batch in batches:
        assert batch["image"].shape == (6, 3, 28, 28)
        assert batch["mask"].shape == (6, 28, 28)
        np.testing.assert_array_equal(batch["image"][:, 0], 40 * batch["mask"])
        for mask, boxes, classes in zip(batch["mask"], batch["boxes"], batch["classes"]):
            rows, columns = np.nonzero(mask)
            wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(boxes, [wanted])
            assert mask.max() == classes[0] + 1
    assert not np.array_equal(batches[0]["image"], batches[1]["image"])
    again = DataLoader(
        dataset, 6, transform=transform, output="numpy", dtype="uint8", seed=4, num_workers=0
    )
    np.testing.assert_array_equal(next(iter(again))["image"], batches[0]["image"])


def test_field_batch_with_label_kind_values_moves_images_only(detection):
    dataset = SampleArchive(detection, fields=DETECTION)
    loader = DataLoader(
        dataset,
        6,
        transform=Compose([RandomHorizontalFlip(1.0)]),
        label_kind="values",
        output="numpy",
    )
    batch = next(iter(loader))
    np.testing.assert_allclose(batch["boxes"][0], [[2, 4, 14, 14]])


def test_field_batch_geometry_with_an_array_of_the_image_size_raises(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", {"0.jpg": FILES[0], "0.npy": npy(np.zeros((30, 40), np.uint8))}
    )
    dataset = SampleArchive(path, fields={"image": "{key}.jpg", "depth": "{key}.npy"})
    transform = Compose([RandomHorizontalFlip(), Resize(8, 8)])
    with pytest.raises(OptionError, match="array of the image's size"):
        next(iter(DataLoader(dataset, 1, transform=transform)))


@pytest.fixture
def broken(tmp_path):
    members = {}
    for i in range(6):
        members |= {f"{i}.jpg": FILES[i], f"{i}.cls": b"7"}
    members |= {"1.jpg": b"no image", "3.cls": b"no number"}
    return write_tar(tmp_path / "broken.tar", members)


BROKEN = {"image": "{key}.jpg", "label": "{key}.cls"}


def test_field_batch_on_error_names_key_and_field(broken):
    dataset = SampleArchive(broken, fields=BROKEN)
    with pytest.raises(DecodeError, match=r"sample 1 \(1\): field 'image'"):
        list(DataLoader(dataset, 6, transform=RESIZE))
    loader = DataLoader(dataset, 6, transform=RESIZE, output="numpy", on_error="skip")
    (batch,) = loader
    assert batch["__key__"] == ["0", "2", "4", "5"]
    assert len(batch["image"]) == len(batch["label"]) == 4
    assert [(bad.index, bad.member) for bad in loader.errors] == [(1, "1"), (3, "3")]
    assert "field 'image'" in loader.errors[0].reason
    assert "field 'label'" in loader.errors[1].reason
    replaced = DataLoader(dataset, 6, transform=RESIZE, output="numpy", on_error="replace")
    assert next(iter(replaced))["__key__"] == ["0", "2", "2", "4", "4", "5"]


def test_field_batch_whose_first_sample_is_broken_has_the_fields_of_the_next(tmp_path):
    members = {"0.jpg": b"", "1.jpg": FILES[0], "0.cls": b"x", "1.cls": b"1"}
    dataset = SampleArchive(write_tar(tmp_path / "a.tar", members), fields=BROKEN)
    (batch,) = DataLoader(dataset, 2, transform=RESIZE, output="numpy", on_error="skip")
    assert batch["label"].tolist() == [1]


def test_field_batches_of_ranks_and_after_resuming_hold_every_sample_once(web):
    dataset = SampleArchive(web, fields=FIELDS)
    options = {"transform": RESIZE, "shuffle": True, "output": "numpy", "seed": 3}
    seen = []
    for rank in range(2):
        loader = DataLoader(dataset, 2, rank=rank, world_size=2, **options)
        iterator = iter(loader)
        seen += next(iterator)["__key__"]
    state = loader.state_dict()
    resumed = DataLoader(dataset, 5, **options)
    resumed.load_state_dict(state)
    seen += [key for batch in resumed for key in batch["__key__"]]
    assert sorted(seen) == [f"{i:02}" for i in range(COUNT)]


def test_field_batches_drop_last_and_collate_fn(web):
    dataset = SampleArchive(web, fields=FIELDS)
    assert len(list(DataLoader(dataset, 5, transform=RESIZE, drop_last=True))) == 2

    def collate(samples):
        return [(s["__key__"], s["image"].shape, s["caption"], s["__index__"]) for s in samples]

    loader = DataLoader(dataset, 2, transform=RESIZE, collate_fn=collate, return_indices=True)
    assert next(iter(loader)) == [
        ("00", (3, 8, 8), "longer text", 0), ("01", (3, 8, 8), "text", 1),
    ]  # fmt: skip


def test_sample_archive_without_a_transform_gives_sample_dicts(web):
    (first, *_), *_ = DataLoader(SampleArchive(web, fields=FIELDS), 4)
    assert (first["__key__"], first["index"], first["caption"]) == ("00", 0, "longer text")


def test_field_batches_of_subsets_and_combinations(web, tmp_path):
    dataset = SampleArchive(web, fields=FIELDS)
    combined = CombinedLazyDataset([dataset, dataset])
    batches = DataLoader(combined, 24, transform=RESIZE, output="numpy")
    assert next(iter(batches))["__key__"] == [f"{i:02}" for i in range(COUNT)] * 2
    other = SampleArchive(web, fields={"image": "{key}.jpg"})
    with pytest.raises(OptionError, match="samples of different fields"):
        next(iter(DataLoader(CombinedLazyDataset([dataset, other]), 2, transform=RESIZE)))
    with pytest.raises(OptionError, match="pairs of an image and a label"):
        pairs = ImageArchive(web, extensions=[".jpg"])
        next(iter(DataLoader(CombinedLazyDataset([dataset, pairs]), 2, transform=RESIZE)))
    data = pytest.importorskip("torch.utils.data")
    subset = data.Subset(dataset, [7, -1])
    assert next(iter(DataLoader(subset, 2, transform=RESIZE)))["__key__"] == ["07", "11"]
