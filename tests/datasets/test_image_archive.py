"""ImageArchive: what its users rely on, in threads and under every start method."""

import copy
import hashlib
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.archives import encoded, write_tar
from torch.utils.data import DataLoader

import imagearchive
from imagearchive import ImageArchive, pil_loader
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    DecodeError,
    LabelError,
    MemberNotFoundError,
    OptionError,
    SampleIndexError,
    StaleIndexError,
)


def pixels(dataset, index):
    return np.asarray(dataset[index][0])


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- classes and selection ----------------------------------------------------------------------


def test_images_and_classes(image_tar, pictures):
    dataset = ImageArchive(image_tar)
    assert len(dataset) == 12
    assert dataset.classes == ["cat", "cat-b", "dog"]
    assert dataset.class_to_idx == {"cat": 0, "cat-b": 1, "dog": 2}
    for index, (name, data) in enumerate(pictures.items()):
        image, label = dataset[index]
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), decoded(data))
        assert type(label) is int
        assert dataset.classes[label] == name.split("/")[0]
        assert dataset.name(index) == name
        assert bytes(dataset.read(index)) == data
        assert dataset.label(index) == label
        assert dataset.labels(index).tolist() == [label]
        assert dataset.samples[index] == (name, label)
    assert dataset.targets.tolist() == [2] * 4 + [0] * 4 + [1] * 4
    assert dataset.targets.dtype == np.int64
    assert list(dataset.samples)[-1] == dataset.samples[-1]
    assert len(dataset.samples[2:5]) == 3
    assert dataset.index_table["size"].tolist() == [len(data) for data in pictures.values()]


def test_as_torchvision_would_on_the_extracted_files(image_tar, tmp_path):
    with tarfile.open(image_tar) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    dataset = ImageArchive(image_tar)
    assert dataset.classes == sorted(os.listdir(tmp_path / "tree"))
    for index in range(len(dataset)):
        name, label = dataset.samples[index]
        assert label == dataset.classes.index(name.split("/")[0])
        expected = np.asarray(Image.open(tmp_path / "tree" / name).convert("RGB"))
        assert np.array_equal(pixels(dataset, index), expected)


def test_indices(image_tar):
    dataset = ImageArchive(image_tar)
    assert np.array_equal(pixels(dataset, -1), pixels(dataset, 11))
    assert np.array_equal(pixels(dataset, np.int64(3)), pixels(dataset, 3))
    for index in (12, -13):
        for access in (dataset.__getitem__, dataset.read, dataset.label, dataset.name):
            with pytest.raises(
                SampleIndexError, match=r"images\.tar: no sample -?1[23]; there are 12"
            ):
                access(index)
    assert len(list(dataset)) == 12
    assert [label for _, label in dataset.__getitems__([11, 0, 5])] == [1, 2, 0]


@pytest.fixture
def mixed_tar(tmp_path, pictures):
    members = {"README": b"read me", "docs/manual.txt": b"text"}
    for split in ("train", "test"):
        members |= {f"images/{split}/{name}": data for name, data in pictures.items()}
    members["images/train/notes.txt"] = b"notes"
    members["images/train/cat/x.JPG"] = encoded(np.zeros((4, 4, 3), np.uint8), "JPEG")
    return write_tar(tmp_path / "mixed.tar", members)


def test_root_and_extensions(mixed_tar):
    everything = ImageArchive(mixed_tar)
    assert everything.classes == ["docs", "images"]
    train = ImageArchive(mixed_tar, root="images/train/")
    assert train.classes == ["cat", "cat-b", "dog"]
    assert len(train) == 13
    for extensions in ((".jpg", ".jpeg"), ["jpg"], ".jpg", (".JPG",)):
        jpegs = ImageArchive(mixed_tar, root="images/train", extensions=extensions)
        assert [name for name, _ in jpegs.samples] == ["images/train/cat/x.JPG"]
        assert jpegs.classes == ["cat"]
    assert len(ImageArchive(mixed_tar, extensions=(".png",))) == 24
    # Several datasets over one archive use one index and do not mix.
    assert len(ImageArchive(mixed_tar, root="images/test")) == 12
    assert len(ImageArchive(mixed_tar)) == len(everything)
    with pytest.raises(MemberNotFoundError, match="images/tarin"):
        ImageArchive(mixed_tar, root="images/tarin")


def test_files_beside_the_classes_are_no_samples(mixed_tar, tmp_path):
    assert "README" not in [name for name, _ in ImageArchive(mixed_tar).samples]
    flat = write_tar(
        tmp_path / "flat.tar",
        {f"{i}.png": encoded(np.zeros((2, 2, 3), np.uint8)) for i in range(3)},
    )
    dataset = ImageArchive(flat)
    assert (len(dataset), dataset.classes, dataset.targets.tolist()) == (3, [], [-1, -1, -1])


def test_is_valid_file(image_tar):
    dataset = ImageArchive(image_tar, is_valid_file=lambda name: "2" in name)
    assert [name for name, _ in dataset.samples] == ["dog/2.png", "cat/2.png", "cat-b/2.png"]


def test_split_mask(image_tar):
    mask = np.arange(12) % 3 == 1
    kept, rest = ImageArchive(image_tar, split_mask=mask), ImageArchive(image_tar, split_mask=~mask)
    whole = ImageArchive(image_tar)
    assert list(kept.samples) == list(whole.samples)[1::3]
    assert len(kept) + len(rest) == 12
    # A class without a sample in this split keeps its number.
    cats = ImageArchive(image_tar, split_mask=[0] * 4 + [1] * 4 + [0] * 4)
    assert cats.classes == whole.classes
    assert set(cats.targets.tolist()) == {0}
    with pytest.raises(OptionError, match="12 samples"):
        ImageArchive(image_tar, split_mask=[True])


def test_links_and_duplicates(tmp_path, pictures):
    first, second = list(pictures.values())[:2]
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        for name, data, kind, link in [
            ("a/file.png", first, tarfile.REGTYPE, ""),
            ("a/hard.png", b"", tarfile.LNKTYPE, "a/file.png"),
            ("b/soft.png", b"", tarfile.SYMTYPE, "../a/file.png"),
            ("b/dangling.png", b"", tarfile.SYMTYPE, "../a/nothing.png"),
            ("b/outside.png", b"", tarfile.SYMTYPE, "../../etc/passwd"),
            ("b/fifo", b"", tarfile.FIFOTYPE, ""),
            ("b/loop", b"", tarfile.SYMTYPE, "loop"),
            ("linked", b"", tarfile.SYMTYPE, "a"),
            ("b/through.png", b"", tarfile.SYMTYPE, "../linked/file.png"),
            ("a/file.png", second, tarfile.REGTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            archive.addfile(info, io.BytesIO(data))
    dataset = ImageArchive(path)
    assert {name: bytes(dataset.read(i)) for i, (name, _) in enumerate(dataset.samples)} == {
        "a/hard.png": first,  # what stood there when it was linked
        "b/soft.png": second,
        "b/through.png": second,
        "a/file.png": second,
    }


# --- loading ------------------------------------------------------------------------------------


def test_loaders(image_tar, pictures):
    seen = []

    def my_loader(file):
        seen.append(file)
        return file.read()

    dataset = ImageArchive(image_tar, loader=my_loader)
    assert dataset[3][0] == list(pictures.values())[3]
    assert isinstance(seen[0], io.BufferedIOBase)
    lazily = ImageArchive(image_tar, loader=Image.open)
    image, _ = lazily[3]
    lazily.close()
    assert np.array_equal(np.asarray(image.convert("RGB")), decoded(list(pictures.values())[3]))


def test_target_transform_comes_before_transform(image_tar):
    calls = []

    def target_transform(image, labels):
        calls.append(("target", image.size, labels))
        return labels[0] * 10

    def transform(image):
        calls.append(("image", image.size))
        return image.resize((3, 2))

    dataset = ImageArchive(image_tar, transform=transform, target_transform=target_transform)
    image, target = dataset[0]
    assert calls == [("target", (7, 9), [2.0]), ("image", (7, 9))]
    assert all(type(value) is float for value in calls[0][2])
    assert (image.size, target) == ((3, 2), 20.0)


def test_index_transform(image_tar):
    dataset = ImageArchive(
        image_tar, index_transform=lambda image, index: (image.size, index), transform=list
    )
    assert dataset[-1][0] == [(7, 9), 11]


def test_the_cache_cannot_be_corrupted(image_tar):
    loads = []

    def loader(file):
        loads.append(1)
        return np.asarray(pil_loader(file)).copy()

    dataset = ImageArchive(image_tar, loader=loader, cache_size=2)
    before = dataset[0][0].copy()
    dataset[0][0][:] = 0
    dataset[0][0][:] = 1
    assert np.array_equal(dataset[0][0], before)
    assert len(loads) == 1
    dataset[1], dataset[2], dataset[0]
    assert len(loads) == 4
    pictures = ImageArchive(image_tar, cache_size=5)
    pictures[0][0].putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(pictures[0][0]), np.asarray(ImageArchive(image_tar)[0][0]))


def test_broken_images_say_where(tmp_path):
    path = write_tar(tmp_path / "bad.tar", {"a/ok.png": b"x", "a/no.png": b"not an image"})
    with pytest.raises(DecodeError, match=r"bad\.tar: member 'a/no\.png' at offset 1536"):
        ImageArchive(path)[1]
    with pytest.raises(ValueError, match=r"'a/ok\.png'.*not an image of a known format"):
        ImageArchive(path)[0]


def test_no_program_is_started_to_decode(tmp_path, monkeypatch):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    path = write_tar(tmp_path / "bad.tar", {"a/x.png": eps})

    def started(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(DecodeError, match="not an image of a known format"):
        ImageArchive(path)[0]


def test_all_ways_of_decoding_give_the_same_pixels(tmp_path):
    rng = np.random.default_rng(0)
    images = {
        "grey16.png": Image.fromarray(rng.integers(0, 65536, (6, 7), np.uint16)),
        "palette.png": Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).quantize(9),
        "alpha.webp": Image.fromarray(rng.integers(0, 256, (6, 7, 4), np.uint8)),
        "one.tif": Image.fromarray(rng.integers(0, 2, (6, 7), np.uint8) * 255).convert("1"),
        "wave.jp2": Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)),
        "odd.avif": Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)),
        "cmyk.jpg": Image.fromarray(rng.integers(0, 256, (6, 7, 4), np.uint8), "CMYK"),
    }
    members = {}
    for name, image in images.items():
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()["." + name.partition(".")[2]])
        members[f"a/{name}"] = buffer.getvalue()
    dataset = ImageArchive(write_tar(tmp_path / "kinds.tar", members))
    for index, sample in enumerate(batch[0] for batch in imagearchive.DataLoader(dataset, 1)):
        image = dataset[index][0]
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), sample["image"], dataset.name(index))


# --- label files --------------------------------------------------------------------------------


@pytest.fixture
def birds(tmp_path, pictures):
    """An archive as CUB-200 lays it out: its text files inside."""
    names = list(pictures)
    members = {f"images/{name}": data for name, data in pictures.items()}
    order = [5, 0, 7, 3, 1, 2, 4, 6, 8, 9, 10, 11]
    members["images.txt"] = "".join(
        f"{number} {names[i]}\n" for number, i in enumerate(order, 100)
    ).encode()
    members["boxes.txt"] = "".join(
        f"{number} {number}.5 {number + 1} 3 4\n" for number in reversed(range(100, 112))
    ).encode()
    members["parts.txt"] = b"100 1 2\n101 9\n100 3\n\n"
    return write_tar(tmp_path / "birds.tar", members), [names[i] for i in order]


def test_index_and_label_files_inside_the_archive(birds):
    path, names = birds
    dataset = ImageArchive(
        path, root="images", index_file=f"{path}/images.txt", label_file=f"{path}/boxes.txt"
    )
    assert [name for name, _ in dataset.samples] == ["images/" + name for name in names]
    assert dataset.classes == []
    for index in range(12):
        label = dataset[index][1]
        assert label.dtype == np.float64
        assert label.tolist() == [100.5 + index, 101 + index, 3, 4]
    assert dataset.targets.shape == (12, 4)
    # The index file alone: classes come from directories, samples from the file.
    by_class = ImageArchive(path, root="images", index_file=f"{path}/images.txt")
    assert by_class.classes == ["cat", "cat-b", "dog"]
    assert [by_class.classes[label] for _, label in by_class.samples] == [
        name.split("/")[0] for name in names
    ]


def test_several_lines_for_one_image_append(birds):
    path, _ = birds
    dataset = ImageArchive(
        path, root="images", index_file=f"{path}/images.txt", label_file=f"{path}/parts.txt"
    )
    assert dataset[0][1].tolist() == [1, 2, 3]
    assert dataset[1][1].tolist() == [9]
    assert dataset[2][1].tolist() == []
    assert dataset.targets.dtype == object
    got = ImageArchive(
        path,
        root="images",
        index_file=f"{path}/images.txt",
        label_file=f"{path}/parts.txt",
        target_transform=lambda image, labels: labels,
        split_mask=[1, 0] * 6,
    )
    assert (got[0][1], got[1][1]) == ([1.0, 2.0, 3.0], [])


def test_label_files_on_disk(image_tar, tmp_path, caplog):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{i} {i / 4}\n" for i in range(12)))
    dataset = ImageArchive(image_tar, label_file=labels)
    assert dataset.targets.tolist() == [i / 4 for i in range(12)]
    assert not caplog.records
    labels.write_text("cat/0.png 0.5\ndog/3.png 1 2\n")
    dataset = ImageArchive(image_tar, label_file=labels)
    assert dataset.labels(4).tolist() == [0.5]
    assert dataset.labels(3).tolist() == [1, 2]
    assert dataset.labels(0).tolist() == []
    assert "10 of 12 samples are not labelled" in caplog.text
    labels.write_text("")
    with pytest.raises(LabelError, match="none of the 12 samples is labelled"):
        ImageArchive(image_tar, label_file=labels)

    def parser(line):
        if line.startswith("#"):
            return None
        name, value = line.split(",")
        return name, [value == "yes"]

    labels.write_text("# name,defect\ndog/0.png,yes\ncat/0.png,no\n")
    dataset = ImageArchive(image_tar, label_file=labels, label_parser=parser, root="")
    assert (dataset[0][1].tolist(), dataset[4][1].tolist()) == ([1.0], [0.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n1 one\n", r"labels\.txt: line 2: .* got '1 one'"),
        ("12 1\n", r"labels\.txt: line 1: image 12: there are 12"),
        ("\n\ncat/9.png 1\n", r"labels\.txt: line 3: no member 'cat/9\.png'"),
    ],
)
def test_label_files_that_do_not_fit(image_tar, tmp_path, text, message):
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    with pytest.raises(LabelError, match=message):
        ImageArchive(image_tar, label_file=labels)
    with pytest.raises(LabelError, match="neither on disk nor"):
        ImageArchive(image_tar, label_file=tmp_path / "nothing.txt")
    with pytest.raises(LabelError, match=r"inner\.txt"):
        ImageArchive(image_tar, label_file=f"{image_tar}/inner.txt")
    labels.write_text("0 dog/0.png\nx dog/1.png\n")
    with pytest.raises(LabelError, match="line 2: expected 'number path'"):
        ImageArchive(image_tar, index_file=labels)
    labels.write_text("0 dog/0.png\n0 dog/1.png\n")
    with pytest.raises(LabelError, match="two lines have the same image number"):
        ImageArchive(image_tar, index_file=labels)


def test_labels_beside_the_images(tmp_path, pictures):
    members = {}
    for number, data in enumerate(pictures.values()):
        members[f"{number:04d}.png"] = data
        members[f"{number:04d}.cls"] = b"%d\n" % (number % 5)
        members[f"{number:04d}.box"] = b"%d 0.5" % number
        members[f"{number:04d}.json"] = b"{}"
    path = write_tar(tmp_path / "web.tar", members)
    dataset = ImageArchive(path, label_extension="cls")
    assert len(dataset) == 12
    assert [dataset[i][1] for i in range(12)] == [i % 5 for i in range(12)]
    assert dataset.targets.tolist() == [i % 5 for i in range(12)]
    boxes = ImageArchive(path, label_extension=".box", extensions=".png")
    assert boxes[3][1].tolist() == [3, 0.5]
    with pytest.raises(OptionError):
        ImageArchive(path, label_extension="cls", label_file="x")


# --- several views ------------------------------------------------------------------------------


def test_directories_of_views(tmp_path, pictures):
    data = list(pictures.values())
    members = {
        f"{kind}/{item}/P{view}.png": data[(item * 3 + view) % 12]
        for kind in ("chair", "table")
        for item in (1, 0)
        for view in (2, 0, 1)
    }
    path = write_tar(tmp_path / "views.tar", members)
    dataset = ImageArchive(path, mode="multi")
    assert len(dataset) == 4
    assert [dataset.name(i) for i in range(4)] == ["chair/0", "chair/1", "table/0", "table/1"]
    images, label = dataset[1]
    assert label == 0
    assert [np.array_equal(np.asarray(a), decoded(data[3 + v])) for v, a in enumerate(images)] == [
        True
    ] * 3
    assert list(map(bytes, dataset.read(1))) == data[3:6]
    assert dataset.classes == ["chair", "table"]
    halves = ImageArchive(path, mode="multi", split_mask=[0, 1, 0, 1], transform=lambda x: x.size)
    assert halves[0][0] == [(7, 9)] * 3
    assert halves.targets.tolist() == [0, 1]
    listing, labels = tmp_path / "list.txt", tmp_path / "labels.txt"
    listing.write_text("7 table/1\n9 chair/0\n")
    labels.write_text("9 0.5\n7 1.5\n")
    listed = ImageArchive(path, mode="multi", index_file=listing, label_file=labels)
    assert [name for name, _ in listed.samples] == ["table/1", "chair/0"]
    assert listed.targets.tolist() == [1.5, 0.5]
    with pytest.raises(OptionError, match="multi"):
        ImageArchive(path, mode="many")


# --- other containers and the original index ----------------------------------------------------


def test_zip_and_directory(image_tar, tmp_path, pictures):
    import zipfile

    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    with tarfile.open(image_tar) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    for path in (tmp_path / "images.zip", tmp_path / "tree"):
        dataset = ImageArchive(path)
        assert {
            name: bytes(dataset.read(i)) for i, (name, _) in enumerate(dataset.samples)
        } == pictures
        assert dataset.classes == ["cat", "cat-b", "dog"]


def test_the_original_index(image_tar, tmp_path):
    with tarfile.open(image_tar) as archive:
        rows = [[i, m.offset_data, m.size, i, i / 2] for i, m in enumerate(archive)]
    np.save(tmp_path / "old.npy", np.array(rows))
    dataset = ImageArchive(image_tar, ipath=tmp_path / "old.npy")
    assert np.array_equal(pixels(dataset, 5), pixels(ImageArchive(image_tar), 5))
    assert dataset[5][1].tolist() == [5, 2.5]


def test_ipath(image_tar, tmp_path):
    ImageArchive(image_tar, ipath=tmp_path / "index")
    assert (tmp_path / "index").exists()
    with tarfile.open(image_tar, "a") as archive:
        archive.addfile(tarfile.TarInfo("dog/9.png"))
    with pytest.raises(StaleIndexError):
        ImageArchive(image_tar, ipath=tmp_path / "index")
    assert len(ImageArchive(image_tar, ipath=tmp_path / "index", overwrite_index=True)) == 13


def test_missing_and_damaged_archives(image_tar, tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=r"nothing\.tar"):
        ImageArchive(tmp_path / "nothing.tar")
    os.truncate(image_tar, 3000)
    with pytest.raises(CorruptArchiveError, match=r"images\.tar"):
        ImageArchive(image_tar)
    assert 0 < len(ImageArchive(image_tar, strict=False)) < 12


def test_what_is_in_memory_is_not_read_again(tmp_path, pictures):
    for number in range(3):
        write_tar(tmp_path / f"s-{number}.tar", pictures)
    dataset = ImageArchive(str(tmp_path / "s-{0..2}.tar"), data_in_memory=True)
    for number in range(3):
        os.unlink(tmp_path / f"s-{number}.tar")
    assert [bytes(dataset.read(i)) for i in range(36)] == list(pictures.values()) * 3


def open_files(path):
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    return [link for link in links if os.path.exists(link) and os.path.samefile(link, path)]


def test_open_after_fork_opens_late(image_tar):
    ImageArchive(image_tar)
    dataset = ImageArchive(image_tar, open_after_fork=True, storage="pread")
    assert not open_files(image_tar)
    dataset.worker_open_archive(0)
    assert open_files(image_tar)
    late = ImageArchive(image_tar, open_after_fork=True, storage="pread")
    before = len(open_files(image_tar))
    late[0]
    assert len(open_files(image_tar)) == before + 1
    assert len(open_files(image_tar)) > 0
    early = ImageArchive(image_tar, storage="pread")
    assert len(open_files(image_tar)) == before + 2
    early.close()


class Widened(ImageArchive):
    """A subclass with arguments of its own."""

    def __init__(self, folder, factor):
        super().__init__(os.path.join(folder, "images.tar"))
        self.factor = factor

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label * self.factor


def test_pickles_keep_what_was_set(image_tar, tmp_path, monkeypatch):
    options = {
        "root": "", "extensions": ".png", "split_mask": [1, 0] * 6, "cache_size": 3,
        "storage": "pread", "strict": False, "mode": "single",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    dataset = ImageArchive(image_tar.name, **options)
    dataset.transform = to_tensor
    dataset.note = "set later"
    data = pickle.dumps(dataset)
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert list(again.samples) == list(dataset.samples)
    assert torch.equal(again[1][0], dataset[1][0])
    assert again.note == "set later"
    assert copy.deepcopy(dataset)[0][1] == dataset[0][1]
    widened = pickle.loads(pickle.dumps(Widened(str(tmp_path), 10)))
    assert widened[0][1] == 20
    assert widened.factor == 10


def test_a_pickle_of_a_changed_archive_is_refused(image_tar):
    data = pickle.dumps(ImageArchive(image_tar))
    with tarfile.open(image_tar, "a") as archive:
        archive.addfile(tarfile.TarInfo("ant/1.png"))
    with pytest.raises(StaleIndexError):
        pickle.loads(data)


@pytest.mark.parametrize("index", [slice(0, 2), "x", 2.0, None])
def test_other_indices(image_tar, index):
    with pytest.raises(TypeError, match="index of a sample must be an integer"):
        ImageArchive(image_tar)[index]


def test_wrong_options(image_tar):
    for options, message in [
        ({"split_mask": [4, 3, 2, 1, 0]}, "true or false"),
        ({"extensions": ".webp"}, "select none of its 12 members"),
        ({"loader": None}, "loader must be callable"),
        ({"cache_size": None}, "cache_size"),
        ({"storage": "mmpa"}, "mmpa"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            ImageArchive(image_tar, **options)
    assert len(ImageArchive(image_tar, root=Path("cat"))) == 4


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_errors_of_a_loader_say_where(image_tar):
    def loader(file):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        ImageArchive(image_tar, loader=loader)[3]
    assert "dog/3.png" in caught.value.__notes__[0]


def test_label_files_inside_are_no_samples(tmp_path, pictures, monkeypatch):
    names = list(pictures)
    text = "".join(f"./{name} {i}.5\r\n" for i, name in enumerate(names)).encode()
    write_tar(tmp_path / "lab.tar", {"labels.txt": text, **pictures})
    monkeypatch.chdir(tmp_path)
    for apath, label_file in [
        ("lab.tar", "lab.tar/labels.txt"),
        ("./lab.tar", tmp_path / "lab.tar/labels.txt"),
        (tmp_path / "lab.tar", "./lab.tar/labels.txt"),
    ]:
        dataset = ImageArchive(apath, label_file=label_file)
        assert dataset.targets.tolist() == [i + 0.5 for i in range(12)]
        assert [name for name, _ in dataset.samples] == names


# --- processes and threads ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3,000 members of random bytes, and the digest that each must have."""
    random = np.random.default_rng(3)
    members = {
        f"{i % 7}/{i:05d}.bin": random.bytes(int(random.integers(10, 4000))) for i in range(3000)
    }
    path = write_tar(tmp_path_factory.mktemp("large") / "large.tar", members)
    return str(path), [hashlib.sha256(data).digest() for data in members.values()]


def wrong_reads(dataset, digests, seed, count=10_000):
    random = np.random.default_rng(seed)
    return sum(
        hashlib.sha256(dataset.read(i)).digest() != digests[i]
        for i in random.integers(0, len(digests), count).tolist()
    )


def read_in_child(dataset, digests, seed, results):
    results.put(wrong_reads(dataset, digests, seed))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "options", [{}, {"open_after_fork": True, "storage": "pread"}, {"data_in_memory": True}]
)
def test_processes_read_the_right_bytes(large, method, options):
    path, digests = large
    dataset = ImageArchive(path, **options)
    dataset.read(0)
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [
        context.Process(target=read_in_child, args=(dataset, digests, seed, results))
        for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    assert wrong_reads(dataset, digests, 9, 3000) == 0
    assert [results.get(timeout=120) for _ in workers] == [0, 0]
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("storage", ["mmap", "pread", "memory"])
def test_threads_read_the_right_bytes(large, storage):
    path, digests = large
    dataset = ImageArchive(path, storage=storage)
    wrong = []
    threads = [
        threading.Thread(target=lambda s=seed: wrong.append(wrong_reads(dataset, digests, s)))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 4


def to_tensor(image):
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("hook", [True, False])
def test_data_loader_workers(image_tar, method, hook):
    dataset = ImageArchive(image_tar, transform=to_tensor, open_after_fork=True)
    loader = DataLoader(
        dataset,
        batch_size=5,
        num_workers=2,
        multiprocessing_context=method,
        worker_init_fn=dataset.worker_open_archive if hook else None,
    )
    images = torch.cat([images for images, _ in loader])
    expected = torch.stack([to_tensor(image) for image, _ in ImageArchive(image_tar)])
    assert torch.equal(images, expected)


def test_pickles_are_small(tmp_path):
    path = tmp_path / "million.tar"
    header = bytearray(tarfile.TarInfo("0000000").tobuf(tarfile.USTAR_FORMAT))
    with open(path, "wb") as file:
        for number in range(1_000_000):
            header[0:7] = b"%07d" % number
            header[148:156] = b"        "
            header[148:156] = b"%06o\0 " % sum(header)
            file.write(header)
    dataset = ImageArchive(path)
    assert len(dataset) == 1_000_000
    data = pickle.dumps(dataset)
    assert len(data) < 4096
    assert len(pickle.loads(data)) == 1_000_000


def test_the_bytes_in_memory_are_not_pickled(large):
    path, _ = large
    assert len(pickle.dumps(ImageArchive(path, data_in_memory=True, open_after_fork=True))) < 4096


def test_closing(image_tar):
    with ImageArchive(image_tar) as dataset:
        view = dataset.read(0)
    dataset.close()
    assert bytes(view)[:4] == b"\x89PNG"
    with pytest.raises(ClosedError):
        dataset[0]
    assert "12 samples" in repr(dataset)


# --- the guide's code ---------------------------------------------------------------------------


@pytest.fixture
def _stand_in_torchvision(monkeypatch):
    """The names of torchvision that the guide uses; it has no build for every machine."""
    transforms = types.ModuleType("torchvision.transforms")

    class Compose:
        def __init__(self, steps):
            self.steps = steps

        def __call__(self, image):
            for step in self.steps:
                image = step(image)
            return image

    class Resize:
        def __init__(self, size):
            self.size = size

        def __call__(self, image):
            return image.resize((self.size, self.size))

    class Nothing:
        def __call__(self, image):
            return image

    class ToTensor:
        def __call__(self, image):
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    transforms.Compose, transforms.RandomResizedCrop = Compose, Resize
    transforms.RandomHorizontalFlip, transforms.ToTensor = Nothing, ToTensor
    package = types.ModuleType("torchvision")
    package.transforms = transforms
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", transforms)


GUIDE = [
    """
dataset = ImageArchive(apath='path/to/my/archive.tar')
assert len(dataset) == 13
""",
    """
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  extensions=('.jpg','.jpeg')
)
assert len(dataset) == 1
""",
    """
dataset = ImageArchive(
  apath='path/to/other/archive.tar',
  root='images/train/'
)
assert dataset.classes == ['cat', 'cat-b', 'dog']
""",
    """
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  ipath='path/to/my/index'
)
assert os.path.exists('path/to/my/index')
""",
    """
def my_loader(file: BinaryIO):
  img = my_module.open(file)
  ...
  return img

dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  loader = my_loader
)
assert dataset[0][0].size == (7, 9)
""",
    """
import torchvision.transforms as transforms
import torch
from PIL import Image
import numpy as np

def rescale_bbox(
  img:Image.Image,
  labels:List
):
  \"\"\"
  Rescale bounding box to range [0,1] with respect to image
  original dimensions
  \"\"\"
  src_width  = img.size[0]
  src_height = img.size[1]
  return np.array([
    labels[0]/src_width,
    labels[1]/src_height,
    labels[2]/src_width,
    labels[3]/src_height])

transform = transforms.Compose([
 transforms.RandomResizedCrop(224),
 transforms.RandomHorizontalFlip(),
 transforms.ToTensor()])

dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  transform=transform,
  target_transform=index_to_one_hot
)
image, target = dataset[0]
assert image.shape == (3, 224, 224)
assert target == [0.0, 0.0, 1.0]
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  label_file='path/to/my/boxes.txt',
  target_transform=rescale_bbox
)
assert dataset[0][1].tolist() == [1 / 7, 2 / 9, 3 / 7, 4 / 9]
""",
    """
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  data_in_memory=True
)
assert dataset[0][1] == 2
""",
    """
import torch.utils.data
import torchvision.transforms as transforms

open_after_fork = True
transform = transforms.Compose([
  transforms.RandomResizedCrop(224),
  transforms.RandomHorizontalFlip(),
  transforms.ToTensor()
])

train_dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  transform = transform,
  data_in_memory = False,
  open_after_fork = True)

worker_init_fn = train_dataset.worker_open_archive if open_after_fork else None

train_loader = torch.utils.data.DataLoader(
  train_dataset, batch_size=64, shuffle=False,
  num_workers=10, worker_init_fn=train_dataset.worker_open_archive,
  pin_memory=True
)
images, labels = next(iter(train_loader))
assert images.shape == (13, 3, 224, 224)
assert labels.tolist() == list(train_dataset.targets)
""",
]


@pytest.mark.usefixtures("_stand_in_torchvision")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore:.*will create 10 worker.*")
@pytest.mark.parametrize("code", GUIDE)
def test_the_guide(code, tmp_path, monkeypatch, pictures, mixed_tar):
    from typing import BinaryIO

    monkeypatch.chdir(tmp_path)
    os.makedirs("path/to/my")
    os.makedirs("path/to/other")
    jpeg = encoded(np.zeros((9, 7, 3), np.uint8), "JPEG")
    write_tar("path/to/my/archive.tar", {**pictures, "dog/last.jpg": jpeg})
    os.rename(mixed_tar, "path/to/other/archive.tar")
    with open("path/to/my/boxes.txt", "w") as file:
        file.write("0 1 2 3 4\n")
    exec(
        code,
        {
            "ImageArchive": imagearchive.ImageArchive,
            "BinaryIO": BinaryIO,
            "List": list,
            "my_module": Image,
            "os": os,
            "index_to_one_hot": lambda image, labels: [float(labels[0] == i) for i in range(3)],
        },
    )
