"""`ImageArchive`: classes, selection, loading and transforms."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.archives import encoded, write_tar

import imagearchive
from imagearchive import ImageArchive, pil_loader
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    DecodeError,
    LimitError,
    MemberNotFoundError,
    OptionError,
    SampleIndexError,
    StaleIndexError,
)


def pixels(dataset, index):
    return np.asarray(dataset[index][0])


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_image_archive_class_directories_become_labels(image_tar, pictures):
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


def test_image_archive_agrees_with_the_extracted_files(image_tar, tmp_path):
    with tarfile.open(image_tar) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    dataset = ImageArchive(image_tar)
    assert dataset.classes == sorted(os.listdir(tmp_path / "tree"))
    for index in range(len(dataset)):
        name, label = dataset.samples[index]
        assert label == dataset.classes.index(name.split("/")[0])
        expected = np.asarray(Image.open(tmp_path / "tree" / name).convert("RGB"))
        assert np.array_equal(pixels(dataset, index), expected)


def test_image_archive_index_negative_and_out_of_range(image_tar):
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


@pytest.mark.parametrize("index", [slice(0, 2), "x", 2.0, None])
def test_image_archive_index_of_other_type_raises(image_tar, index):
    with pytest.raises(TypeError, match="index of a sample must be an integer"):
        ImageArchive(image_tar)[index]


def test_image_archive_root_and_extensions_select_members(mixed_tar):
    everything = ImageArchive(mixed_tar)
    assert everything.classes == ["docs", "images"]
    train = ImageArchive(mixed_tar, root="images/train/")
    assert train.classes == ["cat", "cat-b", "dog"]
    assert len(train) == 13
    for extensions in ((".jpg", ".jpeg"), ["jpg"], ".jpg", (".JPG",)):
        jpegs = ImageArchive(mixed_tar, root="images/train", extensions=extensions)
        assert [name for name, _ in jpegs.samples] == ["images/train/cat/x.JPG"]
        assert jpegs.classes == train.classes
    assert len(ImageArchive(mixed_tar, extensions=(".png",))) == 24
    # Several datasets over one archive use one index and do not mix.
    assert len(ImageArchive(mixed_tar, root="images/test")) == 12
    assert len(ImageArchive(mixed_tar)) == len(everything)
    with pytest.raises(MemberNotFoundError, match="images/tarin"):
        ImageArchive(mixed_tar, root="images/tarin")


@pytest.mark.parametrize("mode", ["single", "multi"])
@pytest.mark.parametrize("root", ["", "photos"])
def test_image_archive_selection_keeps_numbers_of_classes(tmp_path, caplog, root, mode):
    image = encoded(np.zeros((2, 2, 3), np.uint8))
    names = ["a/1.png", "b/1.webp", "c/1.png"]
    path = write_tar(tmp_path / "x.tar", {os.path.join(root, name): image for name in names})
    listing = tmp_path / "list.txt"
    listing.write_text("5 c\n8 a\n" if mode == "multi" else "5 c/1.png\n8 a/1.png\n")
    assert ImageArchive(path, root=root, mode=mode).classes == ["a", "b", "c"]
    assert not caplog.records
    for options, labels in (
        ({"extensions": (".png",)}, [0, 2]),
        ({"is_valid_file": lambda name: not name.endswith(".webp")}, [0, 2]),
        ({"index_file": listing}, [2, 0]),
    ):
        caplog.clear()
        dataset = ImageArchive(path, root=root, mode=mode, **options)
        assert dataset.classes == ["a", "b", "c"]
        assert dataset.targets.tolist() == labels
        assert [dataset[i][1] for i in range(2)] == labels
        (warning,) = [record.getMessage() for record in caplog.records]
        assert "no samples in 1 of 3 classes: 'b';" in warning


def test_image_archive_selection_beside_directories_has_no_classes(tmp_path, caplog):
    image = encoded(np.zeros((2, 2, 3), np.uint8))
    path = write_tar(tmp_path / "x.tar", {"1.png": image, "2.png": image, "docs/a.txt": b"text"})
    dataset = ImageArchive(path, extensions=(".png",))
    assert (dataset.classes, dataset.targets.tolist()) == ([], [-1, -1])
    [record] = caplog.records
    assert "all 2 have the label -1" in record.getMessage()


def test_image_archive_files_beside_classes_are_not_samples(mixed_tar, tmp_path):
    assert "README" not in [name for name, _ in ImageArchive(mixed_tar).samples]
    flat = write_tar(
        tmp_path / "flat.tar",
        {f"{i}.png": encoded(np.zeros((2, 2, 3), np.uint8)) for i in range(3)},
    )
    dataset = ImageArchive(flat)
    assert (len(dataset), dataset.classes, dataset.targets.tolist()) == (3, [], [-1, -1, -1])


def test_image_archive_is_valid_file_selects_members(image_tar):
    dataset = ImageArchive(image_tar, is_valid_file=lambda name: "2" in name)
    assert [name for name, _ in dataset.samples] == ["dog/2.png", "cat/2.png", "cat-b/2.png"]


def test_image_archive_split_mask_keeps_numbers_of_classes(image_tar):
    mask = np.arange(12) % 3 == 1
    kept, rest = ImageArchive(image_tar, split_mask=mask), ImageArchive(image_tar, split_mask=~mask)
    whole = ImageArchive(image_tar)
    assert list(kept.samples) == list(whole.samples)[1::3]
    assert len(kept) + len(rest) == 12
    # A class without a sample in this split keeps its number.
    cats = ImageArchive(image_tar, split_mask=[0] * 4 + [1] * 4 + [0] * 4)
    assert cats.classes == whole.classes
    assert set(cats.targets.tolist()) == {0}
    with pytest.raises(OptionError, match="12 values"):
        ImageArchive(image_tar, split_mask=[True])


def test_image_archive_links_and_duplicates_are_resolved(tmp_path, pictures):
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
        "linked/file.png": second,
        "linked/hard.png": first,
    }


def test_image_archive_loader_gets_binary_file(image_tar, pictures):
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


def test_image_archive_target_transform_runs_before_transform(image_tar):
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


def test_image_archive_index_transform_gets_index(image_tar):
    dataset = ImageArchive(
        image_tar, index_transform=lambda image, index: (image.size, index), transform=list
    )
    assert dataset[-1][0] == [(7, 9), 11]


def test_image_archive_cache_returns_copies(image_tar):
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


def test_image_archive_broken_image_error_names_member(tmp_path):
    path = write_tar(tmp_path / "bad.tar", {"a/ok.png": b"x", "a/no.png": b"not an image"})
    with pytest.raises(DecodeError, match=r"bad\.tar: member 'a/no\.png' at offset 1536"):
        ImageArchive(path)[1]
    with pytest.raises(ValueError, match=r"'a/ok\.png'.*not an image of a known format"):
        ImageArchive(path)[0]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_image_archive_loader_error_gets_note(image_tar):
    def loader(file):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        ImageArchive(image_tar, loader=loader)[3]
    assert "dog/3.png" in caught.value.__notes__[0]


def test_pil_loader_starts_no_program(tmp_path, monkeypatch):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    path = write_tar(tmp_path / "bad.tar", {"a/x.png": eps})

    def started(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(DecodeError, match="not an image of a known format"):
        ImageArchive(path)[0]


def test_pil_loader_gives_the_pixels_of_data_loader(tmp_path):
    rng = np.random.default_rng(0)
    images = {
        "gray16.png": Image.fromarray(rng.integers(0, 65536, (6, 7), np.uint16)),
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


def test_image_archive_mode_multi_groups_directories(tmp_path, pictures):
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


def test_image_archive_zip_and_directory_give_the_same_samples(image_tar, tmp_path, pictures):
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


def test_image_archive_reads_index_of_the_original(image_tar, tmp_path):
    with tarfile.open(image_tar) as archive:
        rows = [[i, m.offset_data, m.size, i, i / 2] for i, m in enumerate(archive)]
    np.save(tmp_path / "old.npy", np.array(rows))
    dataset = ImageArchive(image_tar, ipath=tmp_path / "old.npy")
    assert np.array_equal(pixels(dataset, 5), pixels(ImageArchive(image_tar), 5))
    assert dataset[5][1].tolist() == [5, 2.5]


def test_image_archive_ipath_with_stale_index_raises(image_tar, tmp_path):
    ImageArchive(image_tar, ipath=tmp_path / "index")
    assert (tmp_path / "index").exists()
    with tarfile.open(image_tar, "a") as archive:
        archive.addfile(tarfile.TarInfo("dog/9.png"))
    with pytest.raises(StaleIndexError):
        ImageArchive(image_tar, ipath=tmp_path / "index")
    assert len(ImageArchive(image_tar, ipath=tmp_path / "index", overwrite_index=True)) == 13


def test_image_archive_missing_or_damaged_archive_raises(image_tar, tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=r"nothing\.tar"):
        ImageArchive(tmp_path / "nothing.tar")
    os.truncate(image_tar, 3000)
    with pytest.raises(CorruptArchiveError, match=r"images\.tar"):
        ImageArchive(image_tar)
    assert 0 < len(ImageArchive(image_tar, strict=False)) < 12


def test_image_archive_data_in_memory_needs_no_file(tmp_path, pictures):
    for number in range(3):
        write_tar(tmp_path / f"s-{number}.tar", pictures)
    dataset = ImageArchive(str(tmp_path / "s-{0..2}.tar"), data_in_memory=True)
    for number in range(3):
        os.unlink(tmp_path / f"s-{number}.tar")
    assert [bytes(dataset.read(i)) for i in range(36)] == list(pictures.values()) * 3


def test_image_archive_wrong_options_raise(image_tar):
    for options, message in [
        ({"split_mask": [4, 3, 2, 1, 0]}, "true or false"),
        (
            {"extensions": ".webp"},
            r"images\.tar: extensions='\.webp' leaves none of its 12 members; the first is 'dog/0",
        ),
        ({"root": "horse"}, r"images\.tar: root='horse' is not a directory"),
        ({"loader": None}, "loader must be callable"),
        ({"cache_size": None}, "cache_size"),
        ({"storage": "mmpa"}, "mmpa"),
    ]:
        with pytest.raises((ValueError, TypeError, KeyError), match=message):
            ImageArchive(image_tar, **options)
    assert len(ImageArchive(image_tar, root=Path("cat"))) == 4


def test_image_archive_closed_raises_and_views_stay_valid(image_tar):
    with ImageArchive(image_tar) as dataset:
        view = dataset.read(0)
    dataset.close()
    assert bytes(view)[:4] == b"\x89PNG"
    with pytest.raises(ClosedError):
        dataset[0]
    assert "12 samples, 3 classes" in repr(dataset)


def test_image_archive_repr_of_one_class_is_singular(tmp_path, pictures):
    archive = write_tar(tmp_path / "one.tar", {"cat/0.png": pictures["cat/0.png"]})
    assert "1 sample, 1 class)" in repr(ImageArchive(archive))


def test_samples_repr_shows_the_first_names_and_labels(tmp_path):
    path = write_tar(tmp_path / "few.tar", {f"c{k % 2}/{k}.jpg": b"x" for k in range(5)})
    with ImageArchive(path) as dataset:
        samples = dataset.samples
        items = ", ".join(repr(samples[k]) for k in range(3))
        assert repr(samples) == f"SampleNames([{items}, ...], 5 samples)"


def test_image_archive_too_many_pixels_advises_another_loader(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "ppm")
    data = image.getvalue().replace(b"1 1", b"99999 99999")
    dataset = ImageArchive(write_tar(tmp_path / "x.tar", {"x.ppm": data}))
    with pytest.raises(LimitError, match=r"'x\.ppm' .* pixels; pass another loader that") as error:
        dataset[0]
    assert "max_pixels" not in str(error.value)
