"""Numbers of classes: given by `class_to_idx`, by archives, and by label files."""

import numpy as np
import pytest
from support.archives import encoded, write_tar

from imagearchive import DataLoader, ImageArchive
from imagearchive.errors import LabelError

GIVEN = {"dog": 5, "cat": 1, "cat-b": 0, "bird": 7}


def labels_of(dataset):
    """The labels, which all ways to ask for them must give."""
    labels = dataset.targets.tolist()
    assert [label for _, label in dataset.samples] == labels
    values = [dataset.labels(i).tolist() for i in range(len(dataset))]
    assert values == [[label] if label >= 0 else [] for label in labels]
    assert {type(label) for _, label in dataset.samples} == {int}
    assert dataset.targets.dtype == np.int64
    return labels


def test_class_to_idx_numbers_directories(image_tar):
    dataset = ImageArchive(image_tar, class_to_idx=GIVEN)
    assert labels_of(dataset) == [5] * 4 + [1] * 4 + [0] * 4
    assert dataset.class_to_idx == GIVEN
    assert dataset.classes == ["cat-b", "cat", "dog", "bird"]
    with pytest.raises(LabelError, match="no number for 1 of 3 classes: 'dog'"):
        ImageArchive(image_tar, class_to_idx={"cat": 0, "cat-b": 1})
    # A class without samples needs no number.
    part = ImageArchive(image_tar, class_to_idx={"cat": 3}, members=["cat/0", "cat/1"])
    assert labels_of(part) == [3, 3]
    part = ImageArchive(image_tar, class_to_idx=GIVEN, split_mask=[0, 1] * 6)
    assert labels_of(part) == [5, 5, 1, 1, 0, 0]


def test_class_to_idx_numbers_a_table(image_tar):
    table = {"id": ["dog/0", "cat/0"], "name": ["dog", "cat"], "number": [30, 10]}
    named = ImageArchive(image_tar, table=table, image="id", label="name", class_to_idx=GIVEN)
    assert labels_of(named) == [5, 1]
    assert named.class_to_idx == GIVEN
    for mapping in ({30: 3, 10: 1}, {"30": 3, "10": 1}):
        dataset = ImageArchive(
            image_tar, table=table, image="id", label="number", class_to_idx=mapping
        )
        assert labels_of(dataset) == [3, 1]
    for label in ("name", "number"):
        with pytest.raises(LabelError, match="class_to_idx has no number for 1 of 2 classes"):
            ImageArchive(
                image_tar, table=table, image="id", label=label, class_to_idx={"dog": 1, 30: 0}
            )


def test_class_to_idx_numbers_a_label_file(image_tar, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("dog/0.png\tgreat dane\ncat/0.png  manx cat\ncat/1.png 7\n")
    dataset = ImageArchive(
        image_tar,
        label_file=path,
        members=["cat/0", "dog/0", "cat/1"],
        class_to_idx={"great dane": 4, "manx cat": 2, 7: 9},
    )
    assert labels_of(dataset) == [2, 4, 9]
    with pytest.raises(LabelError, match=r"line 3: class_to_idx has no number for .*: '7'"):
        ImageArchive(image_tar, label_file=path, class_to_idx={"great dane": 4, "manx cat": 2})

    def parser(line):
        return line.split()[0], [line.split()[1]]

    dataset = ImageArchive(
        image_tar,
        label_file=path,
        label_parser=parser,
        members=["dog/0"],
        class_to_idx={"great": 1, "manx": 2, "7": 3},
    )
    assert labels_of(dataset) == [1]


def test_class_to_idx_numbers_members_beside_the_images(tmp_path, pictures):
    image = next(iter(pictures.values()))
    members = {"0.png": image, "0.cls": b"dog\n", "1.png": image, "1.cls": b"12"}
    path = write_tar(tmp_path / "web.tar", members)
    dataset = ImageArchive(path, label_extension="cls", class_to_idx={"dog": 3, 12: 4})
    assert labels_of(dataset) == [3, 4]
    dataset = ImageArchive(path, label_extension="cls", class_to_idx={"cat": 3})
    with pytest.raises(LabelError, match=r"'0\.cls': class_to_idx has no number for 1 of 1"):
        dataset[0]


def test_classes_from_archive_makes_a_class_of_each_file(tmp_path, pictures):
    images = list(pictures.values())
    paths = [
        write_tar(tmp_path / f"{name}.tar", {f"{name}_{i}.png": images[i] for i in range(count)})
        for name, count in (("n02", 3), ("n01", 2), ("n10.v2", 1))
    ]
    dataset = ImageArchive(paths, classes_from="archive")
    assert dataset.classes == ["n01", "n02", "n10.v2"]
    assert labels_of(dataset) == [1, 1, 1, 0, 0, 2]
    dataset = ImageArchive(
        paths, classes_from="archive", class_to_idx={"n01": 7, "n02": 8, "n10.v2": 9}
    )
    assert labels_of(dataset) == [8, 8, 8, 7, 7, 9]
    dataset = ImageArchive(paths, classes_from="archive", members=["n01_1", "n02_2"])
    assert labels_of(dataset) == [0, 1]
    single = ImageArchive(paths[0], classes_from="archive")
    assert (single.classes, labels_of(single)) == (["n02"], [0, 0, 0])


def test_classes_from_archive_inside_the_archive(tmp_path, pictures):
    inner = {}
    for name in ("n02", "n01"):
        path = write_tar(tmp_path / f"{name}.tar", {f"{name}.png": next(iter(pictures.values()))})
        inner[path.name] = path.read_bytes()
    path = write_tar(tmp_path / "train.tar", inner)
    for classes_from in ("archive", "directory"):
        dataset = ImageArchive(path, classes_from=classes_from)
        assert (dataset.classes, labels_of(dataset)) == (["n01", "n02"], [1, 0])
    both = ImageArchive([path, path], classes_from="archive")
    assert (both.classes, labels_of(both)) == (["train"], [0] * 4)


def test_classes_from_archive_of_several_files_is_one_class(tmp_path, pictures):
    from support.barecat_archives import write_barecat

    images = list(pictures.values())
    paths = [write_barecat(tmp_path / name, {"x.png": images[0]}) for name in ("a", "b")]
    dataset = ImageArchive(paths, classes_from="archive")
    assert (dataset.classes, labels_of(dataset)) == (["a", "b"], [0, 1])


def test_label_file_of_single_integers_gives_integers(image_tar, tmp_path, caplog):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{i} {i % 3}\n" for i in range(12)))
    dataset = ImageArchive(image_tar, label_file=path)
    assert labels_of(dataset) == [i % 3 for i in range(12)]
    assert dataset.classes == []
    (batch,) = DataLoader(dataset, 12, image_size=8, output="numpy")
    assert batch[1].dtype == np.int64
    # The documented argument of target_transform stays a list of floats.
    seen = []
    dataset.target_transform = lambda image, labels: seen.append(labels)
    dataset[4]
    assert seen == [[1.0]]
    assert not caplog.records
    path.write_text("0 3\n1 4\n")
    assert labels_of(ImageArchive(image_tar, label_file=path)) == [3, 4] + [-1] * 10
    assert "no labels in this file for 10 of 12 samples" in caplog.text


@pytest.mark.parametrize(
    "text", ["0 3.0\n1 4\n", "0 1 2\n1 3\n", "0 1\n0 2\n1 3\n", f"0 {1 << 70}\n1 3\n"]
)
def test_label_file_of_other_values_gives_floats(image_tar, tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    dataset = ImageArchive(image_tar, label_file=path)
    assert dataset[0][1].dtype == np.float64


def image_members(names):
    image = encoded(np.zeros((2, 2, 3), np.uint8))
    return dict.fromkeys(names, image)


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (["food/images/pie/1.jpg", "food/images/egg/1.jpg"], {}, "'food/images'"),
        (["food/images/pie/1.jpg", "food/images/egg/1.jpg"], {"root": "food"}, "'food/images'"),
        (["photos/a/1.jpg", "photos/b/1.png", "photos/meta/x.txt"], {}, "'photos'"),
        (["a/1.jpg", "b/1.jpg", "3.jpg"], {"members": ["3"]}, ""),
        (["x/a/1.jpg", "x/b/1.jpg"], {"root": "x/a"}, "'x'"),
        (["only/1.jpg", "only/2.jpg"], {}, None),
        (["only/deep/1.jpg", "only/deep/2.jpg"], {}, None),
        (["a/x/1.jpg", "a/y/1.jpg", "b/1.jpg"], {}, None),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg"], {}, "'train'"),
        (["d/Test/a/1.jpg", "d/Train/a/1.jpg", "d/Train/b/2.jpg"], {"root": "d"}, "'d/Train'"),
        (["train/1.jpg", "test/1.jpg"], {}, None),
    ],
)
def test_image_archive_names_the_likely_root(tmp_path, caplog, names, options, expected):
    path = write_tar(tmp_path / "x.tar", image_members(names))
    dataset = ImageArchive(path, **options)
    records = [record.getMessage() for record in caplog.records]
    roots = [text for text in records if "root=" in text]
    if expected is None:
        assert roots == []
    else:
        (text,) = roots
        assert f"root={expected}" in text
    if expected:
        assert len(ImageArchive(path, root=expected.strip("'")).classes) > 1
    assert len(dataset) > 0


def test_class_to_idx_warns_only_if_no_sample_has_a_class(tmp_path, caplog):
    path = write_tar(tmp_path / "x.tar", image_members(["a/1.jpg", "b/1.jpg", "c.jpg"]))
    ImageArchive(path, class_to_idx={"a": 0, "b": 1})
    ImageArchive(path, class_to_idx={"a": 0, "b": 0}, members=["a/1"])
    assert not caplog.records
    ImageArchive(path, class_to_idx={"a": 0, "b": 1}, members=["c"])
    assert "all 1 have the label -1" in caplog.text
