"""What `ImageArchive` reads of many samples at once is what it reads of one."""

import zipfile

import numpy as np
import pytest
from support.archives import write_tar, zip_bytes

from imagearchive import ImageArchive
from imagearchive.errors import SampleIndexError


def check_views(dataset, indices):
    views = dataset.read_views(indices)
    assert all(view.readonly for view in views)
    assert [bytes(view) for view in views] == [bytes(dataset.read(index)) for index in indices]


def test_read_views_of_a_mapped_tar_equal_single_reads(image_tar):
    with ImageArchive(image_tar, storage="mmap") as dataset:
        check_views(dataset, range(len(dataset)))
        check_views(dataset, [7, 0, -1, 7])
        assert dataset.read_views([]) == []
        with pytest.raises(SampleIndexError):
            dataset.read_views([0, len(dataset)])


def test_read_views_of_a_selection_and_of_several_archives_equal_single_reads(tmp_path, pictures):
    paths = []
    for number in range(3):
        members = {f"{name}": data for name, data in pictures.items()} | {"a.txt": b"x"}
        paths.append(str(write_tar(tmp_path / f"{number}.tar", members)))
    with ImageArchive(paths, root="dog", storage="mmap") as dataset:
        order = np.random.default_rng(0).permutation(len(dataset))
        check_views(dataset, order.tolist())


def test_read_views_of_what_must_be_copied_are_none(tmp_path, image_tar, pictures):
    with ImageArchive(image_tar, storage="pread") as dataset:
        assert dataset.read_views([0, 1]) is None
    deflated = tmp_path / "deflated.zip"
    deflated.write_bytes(zip_bytes(pictures, zipfile.ZIP_DEFLATED))
    with ImageArchive(deflated, storage="mmap") as dataset:
        assert dataset.read_views([0]) is None


def test_read_views_of_members_with_checksums_follow_the_first_read(tmp_path, pictures):
    path = tmp_path / "stored.zip"
    path.write_bytes(zip_bytes(pictures))
    with ImageArchive(path, storage="mmap") as dataset:
        assert dataset.read_views([0, 1]) is None
        dataset.read(0), dataset.read(1)
        check_views(dataset, [1, 0])
        assert dataset.read_views([0, 2]) is None


class Rotated(ImageArchive):
    """Reads and labels something else, without another ``[i]``."""

    def read(self, index):
        return super().read((index + 1) % len(self))

    def label(self, index):
        return -super().label(index)


def test_read_views_respect_a_subclass_that_reads_otherwise(image_tar):
    with Rotated(image_tar) as dataset:
        assert dataset.read_views([0]) is None
        assert dataset.label_list([5, 6]) == [dataset.label(5), dataset.label(6)]


@pytest.mark.parametrize("values", [None, 1, 3, "ragged"])
def test_label_list_equals_single_labels(tmp_path, image_tar, values):
    options = {}
    if values is not None:
        counts = [values if values != "ragged" else index % 3 for index in range(12)]
        lines = (
            " ".join([str(index), *(str(index + k / 2) for k in range(count))])
            for index, count in enumerate(counts)
        )
        options["label_file"] = tmp_path / "labels.txt"
        options["label_file"].write_text("\n".join(lines) + "\n")
    with ImageArchive(image_tar, **options) as dataset:
        order = [3, 0, 11, 7, 3]
        singles = [dataset.label(index) for index in order]
        for found, expected in zip(dataset.label_list(order), singles, strict=True):
            assert type(found) is type(expected)
            assert np.array_equal(found, expected)


def test_label_list_without_class_directories_has_no_classes(tmp_path, pictures):
    members = {name.replace("/", "-"): data for name, data in pictures.items()}
    with ImageArchive(write_tar(tmp_path / "flat.tar", members)) as dataset:
        assert dataset.label_list([0, 2]) == [dataset.label(0), dataset.label(2)] == [-1, -1]
