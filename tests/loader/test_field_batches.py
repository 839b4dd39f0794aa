"""Batches of samples of several fields: what becomes of each kind, and never of the batch."""

import io
import itertools
import json

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.samples import FILES

import imagearchive
from imagearchive import (
    Array,
    Boxes,
    ColorJitter,
    CombinedLazyDataset,
    Compose,
    DataLoader,
    Image,
    ImageArchive,
    Keypoints,
    Label,
    Mask,
    Mixture,
    MixUp,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    SampleArchive,
    ToTensor,
)
from imagearchive.errors import DecodeError, OptionError, OptionTypeError

COUNT = 12
RESIZE = Compose([Resize(8, 8), ToTensor()])
# Moves no pixels, so it suits boxes and masks.
COLOR = Compose([ColorJitter(0.4), ToTensor()])


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def web(tmp_path):
    """Samples with a caption, a label, an array, a vector of its own length, and a document."""
    members = {}
    for i in range(COUNT):
        members[f"{i:02}.jpg"] = FILES[5 * (i // 4) + i % 4]
        members[f"{i:02}.txt"] = b"text" if i % 2 else b"longer text"
        members[f"{i:02}.cls"] = str(i).encode()
        members[f"{i:02}.npy"] = npy(np.full((2, 3), i, np.float32))
        members[f"{i:02}.vec.npy"] = npy(np.arange(1 + i // 6))
        members[f"{i:02}.json"] = json.dumps({"i": i}).encode()
    return write_tar(tmp_path / "web.tar", members)


SOME = ["03", "05", "07"]
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


# --- other datasets -----------------------------------------------------------------------------


class Rows(list):
    """A dataset of the samples in a list."""


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


# --- mixtures -----------------------------------------------------------------------------------


def test_mixture_in_the_loader_reads_each_dataset_natively_and_keeps_the_ratio(web, tmp_path):
    other = write_tar(tmp_path / "b.tar", {f"b{i}.jpg": FILES[i] for i in range(3)})
    fields = {"image": "{key}.jpg"}
    mixture = Mixture(
        [SampleArchive(web, fields=fields), SampleArchive(other, fields=fields)], [3, 1]
    )
    batches = list(DataLoader(mixture, 4, transform=RESIZE, output="numpy"))
    for batch in batches:
        assert sum(key.startswith("b") for key in batch["__key__"]) == 1
    ranks = [
        key
        for rank in range(2)
        for batch in DataLoader(mixture, 4, transform=RESIZE, rank=rank, world_size=2)
        for key in batch["__key__"]
    ]
    assert sorted(ranks) == sorted(key for batch in batches for key in batch["__key__"])
    keys = [mixture[i]["__key__"] for i in range(len(mixture))]
    assert keys == [key for batch in batches for key in batch["__key__"]]


@pytest.mark.parametrize("ranks", [1, 3])
def test_mixture_resumes_in_the_middle_on_another_number_of_ranks(web, ranks):
    """What one pass of the mixture has left is divided among the new ranks, and nothing twice."""
    parts = [SampleArchive(web, fields=FIELDS), SampleArchive(web, fields=FIELDS, keys=SOME)]
    mixture = Mixture(parts, [2, 1], length=48, seed=5)

    def made(world_size, rank):
        return DataLoader(
            mixture, 4, transform=RESIZE, shuffle=False, world_size=world_size, rank=rank,
            num_workers=2,
        )  # fmt: skip

    def keys(batches):
        pairs = (zip(batch["__key__"], batch["label"].tolist()) for batch in batches)
        return list(itertools.chain.from_iterable(pairs))

    expected = [mixture[index] for index in range(48)]
    expected = [(sample["__key__"], sample["label"]) for sample in expected]
    before = [made(2, rank) for rank in range(2)]
    received, states = [], []
    for loader in before:
        batches = iter(loader)
        received += keys([next(batches), next(batches)])
        states.append(loader.state_dict())
        batches.close()
    assert sorted(received) == sorted(expected[:16])
    assert states[0] == states[1]
    after = [made(ranks, rank) for rank in range(ranks)]
    for loader in after:
        loader.load_state_dict(states[0])
    rest = [keys(loader) for loader in after]
    assert sorted(itertools.chain(*rest)) == sorted(expected[16:])
    if ranks == 1:
        assert rest[0] == expected[16:]
    # The next epoch is whole again.
    assert sum(len(keys(loader)) for loader in after) == 48


def test_mixture_of_pairs_in_the_loader_gives_pairs():
    rows = [Rows((image(i), k) for i in range(4)) for k in range(2)]
    _, labels = next(iter(DataLoader(Mixture(rows, [1, 1]), 8, transform=RESIZE)))
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
