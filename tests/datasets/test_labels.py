"""The labels of `ImageArchive` from index and label files, and from members beside the images."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from support.archives import write_tar

from imagearchive import ImageArchive, SampleArchive
from imagearchive.errors import (
    LabelError,
    OptionError,
)
from imagearchive.loader.data_loader import DataLoader


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


def test_labels_from_files_inside_the_archive(birds):
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


def test_labels_several_lines_for_one_image_append(birds):
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


def test_labels_from_file_on_disk(image_tar, tmp_path, caplog):
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
    assert "no labels in this file for 10 of 12 samples" in caplog.text
    labels.write_text("")
    with pytest.raises(LabelError, match="none of the 12 samples is labeled"):
        ImageArchive(image_tar, label_file=labels)

    def parser(line):
        if line.startswith("#"):
            return None
        name, value = line.split(",")
        return name, [value == "yes"]

    labels.write_text("# name,defect\ndog/0.png,yes\ncat/0.png,no\n")
    dataset = ImageArchive(image_tar, label_file=labels, label_parser=parser, root="")
    assert (dataset[0][1], dataset[4][1], dataset[1][1]) == (1, 0, -1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n1 one\n", r"labels\.txt: line 2: .* got '1 one'"),
        ("12 1\n", r"labels\.txt: line 1: image 12: there are 12"),
        ("\n\ncat/9.png 1\n", r"labels\.txt: line 3: no member 'cat/9\.png' below root=''$"),
        ("cat/0.png,1\n", r"line 1: no member 'cat/0\.png,1' .*; expected .* label_parser=.* CSV"),
        ("cat/0.png, 1\n", r"line 1: no member 'cat/0\.png,' .* label_parser=.* CSV"),
        ("filename,label\n", r"line 1: .* label_parser=.* CSV"),
    ],
)
def test_labels_from_file_that_does_not_fit_raise(image_tar, tmp_path, text, message):
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


def test_labels_from_members_beside_the_images(tmp_path, pictures):
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


def test_labels_beside_the_images_that_are_arrays_name_the_way_to_read_them(tmp_path, pictures):
    array = io.BytesIO()
    np.save(array, 1.5)
    members = {"0.png": pictures["cat/0.png"], "0.npy": array.getvalue()}
    dataset = ImageArchive(write_tar(tmp_path / "web.tar", members), label_extension="npy")
    with pytest.raises(LabelError, match=r"'0\.npy' is an array, .*use SampleArchive") as caught:
        dataset[0]
    assert "NUMPY" not in str(caught.value)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e30", "-9223372036854775809"])
def test_labels_beside_the_images_that_int64_cannot_hold_stay_floats(tmp_path, text):
    members = {"a.png": b"", "a.cls": text.encode(), "b.png": b"", "b.cls": b"3"}
    path = write_tar(tmp_path / "x.tar", members)
    targets = ImageArchive(path, label_extension="cls", extensions=(".png",)).targets
    np.testing.assert_array_equal(targets, np.array([float(text), 3.0]))
    assert targets.dtype == np.float64


def test_labels_file_inside_the_archive_is_not_a_sample(tmp_path, pictures, monkeypatch):
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


def test_image_archive_without_samples_or_classes_warns(tmp_path, caplog):
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert len(ImageArchive(tmp_path / "empty.tar")) == 0
    assert "empty.tar: the dataset has no samples" in caplog.text
    caplog.clear()
    for name in ("x.tar", "y.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(tmp_path / "empty.tar", "inner.tar")
    dataset = ImageArchive([tmp_path / "x.tar", tmp_path / "y.tar"])
    assert dataset.targets.tolist() == [-1, -1]
    assert "all 2 have the label -1, the first is 'inner.tar'" in caplog.text
    caplog.clear()
    pickle.loads(pickle.dumps(dataset)).close()
    with tarfile.open(tmp_path / "good.tar", "w") as archive:
        archive.add(tmp_path / "empty.tar", "class/image.png")
    ImageArchive(tmp_path / "good.tar").close()
    assert not caplog.records


@pytest.fixture
def same_names(tmp_path, pictures):
    """Two archives of the same two names, each with its own labels inside."""
    images = list(pictures.values())
    for number in range(2):
        members = {"x/0.png": images[2 * number], "x/1.png": images[2 * number + 1]}
        labels = f"x/0.png {10 * number}\nx/1.png {10 * number + 1}\n".encode()
        write_tar(tmp_path / f"{number}.tar", {**members, "labels.txt": labels})
    return [str(tmp_path / "0.tar"), str(tmp_path / "1.tar")]


def test_labels_of_a_name_in_two_archives_raise(same_names, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("x/0.png 1\n")
    with pytest.raises(LabelError, match=r"line 1: 'x/0\.png' is in \S+0\.tar and in \S+1\.tar"):
        ImageArchive(same_names, label_file=labels)
    labels.write_text("5 x/0.png\n")
    with pytest.raises(LabelError, match=r"line 1: 'x/0\.png' is in \S+0\.tar and in \S+1\.tar"):
        ImageArchive(same_names, index_file=labels)


def test_labels_by_number_tell_equal_names_in_two_archives_apart(same_names, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("0 5\n1 6\n2 7\n3 8\n")
    dataset = ImageArchive(same_names, extensions=".png", label_file=labels)
    assert dataset.targets.tolist() == [5, 6, 7, 8]
    assert dataset.archive.info(3).archive == same_names[1]


def test_labels_file_inside_an_archive_is_that_of_this_archive(same_names):
    for number, path in enumerate(same_names):
        parser = {
            f"x/{k}.png {10 * number + k}": (2 * number + k, [10 * number + k]) for k in range(2)
        }
        dataset = ImageArchive(
            same_names, extensions=".png", label_file=f"{path}/labels.txt", label_parser=parser.get
        )
        assert dataset.labels(2 * number).tolist() == [10 * number]
        assert dataset.labels(2 - 2 * number).tolist() == []


def test_labels_of_concatenated_datasets_come_from_a_file_each(same_names):
    torch_data = pytest.importorskip("torch.utils.data")
    parts = [
        ImageArchive(path, extensions=".png", label_file=f"{path}/labels.txt")
        for path in same_names
    ]
    with DataLoader(torch_data.ConcatDataset(parts), 4, image_size=8) as loader:
        ((_, labels),) = loader
    assert labels.ravel().tolist() == [0, 1, 10, 11]


def test_image_archive_multi_with_two_views_of_one_name_raises(same_names):
    with pytest.raises(LabelError, match=r"'x/0\.png' is in \S+0\.tar and in \S+1\.tar"):
        ImageArchive(same_names, extensions=".png", mode="multi")


def test_image_archive_multi_takes_the_views_of_a_directory_in_two_archives(tmp_path, pictures):
    images = list(pictures.values())
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {f"x/{number}.png": images[number]})
    dataset = ImageArchive(str(tmp_path / "*.tar"), mode="multi")
    assert [len(views) for views, _ in dataset] == [2]


def test_labels_file_of_a_name_in_two_archives_raises(same_names):
    with pytest.raises(
        LabelError, match=r"is in \S+0\.tar and in \S+1\.tar; write .*0\.tar/labels"
    ):
        ImageArchive(same_names, extensions=".png", label_file="labels.txt")
    with pytest.raises(LabelError, match=r"is in \S+0\.tar and in \S+1\.tar"):
        SampleArchive(same_names, fields={"image": "{key}.png"}, keys="labels.txt")
