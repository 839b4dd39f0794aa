"""What notebooks show of archives, indexes, and datasets."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.images import noise, photo

import imagearchive
from imagearchive import (
    Boxes,
    CombinedLazyDataset,
    DataLoader,
    ImageArchive,
    IndexTable,
    LazyNPZDataset,
    Mixture,
    SampleArchive,
    SplitDataLoader,
    write_split_data,
)
from imagearchive.images import notebook
from imagearchive.images.notebook import count_classes
from imagearchive.transforms import RandomHorizontalFlip

IMAGE = "data:image/jpeg;base64,"
HOSTILE = '<script>alert("1")</script>'


def html_of(shown):
    return shown._repr_html_()


def thumbnails(text):
    return text.count(IMAGE)


def counts(text):
    return re.findall(r">(?:about )?(\d+)</td>", text)


@pytest.fixture(autouse=True)
def no_time_limit(monkeypatch):
    monkeypatch.setattr(notebook, "SECONDS", float("inf"))


@pytest.fixture
def pets(tmp_path):
    sizes = {"bird": 4, "cat": 8, "dog": 12}
    members = {
        f"{name}/{number}.png": encoded(noise(9, 9, seed=number))
        for name, size in sizes.items()
        for number in range(size)
    }
    return write_tar(tmp_path / "pets.tar", members)


def test_html_of_archive_shows_facts_directories_and_twelve_images(pets):
    with imagearchive.open(pets) as archive:
        text = html_of(archive)
    assert "members: 24" in text
    assert "pets.tar" in text
    assert thumbnails(text) == 12
    assert counts(text) == ["12", "8", "4"]
    assert text.index("dog") < text.index("cat") < text.index("bird")


def test_html_of_index_shows_facts_and_directories(pets):
    text = html_of(IndexTable.open(pets))
    assert "members: 24" in text
    assert counts(text) == ["12", "8", "4"]
    assert thumbnails(text) == 0


def test_html_of_archive_without_directories_has_no_chart(tmp_path):
    with imagearchive.open(write_tar(tmp_path / "a.tar", {"a.txt": b"1"})) as archive:
        text = html_of(archive)
    assert "members: 1" in text
    assert "<table" not in text
    assert thumbnails(text) == 0


def test_html_of_image_archive_shows_classes_and_thumbnails(pets):
    dataset = ImageArchive(pets)
    text = html_of(dataset)
    assert "samples: 24" in text
    assert "classes: 3" in text
    assert counts(text) == ["12", "8", "4"]
    assert thumbnails(text) == 12
    assert thumbnails(html_of(CombinedLazyDataset([dataset, dataset]))) == 12
    assert thumbnails(html_of(Mixture([dataset, dataset], [1, 1]))) == 12


def test_html_of_many_classes_folds_the_small_ones(tmp_path):
    members = {f"c{n:02}/{k}": b"" for n in range(15) for k in range(20 - n)}
    with imagearchive.open(write_tar(tmp_path / "a.tar", members)) as archive:
        text = html_of(archive)
    assert counts(text) == [str(20 - n) for n in range(10)]
    assert "and 5 more, with 40" in text


def test_count_classes_of_many_labels_estimates_their_numbers():
    labels = np.repeat([0, 1, 7], 2_000_000)
    counts, is_estimate = count_classes(labels, ["cat", "dog"])
    assert is_estimate
    assert [name for name, _ in counts] == ["cat", "dog"]
    assert all(abs(count - 2_000_000) < 10 for _, count in counts)
    assert count_classes(labels[::1000], ["cat", "dog"]) == ([("cat", 2000), ("dog", 2000)], False)


def test_html_of_samples_and_arrays_shows_thumbnails(tmp_path, pets):
    samples = SampleArchive(pets, {"image": "{key}.png"})
    assert thumbnails(html_of(samples)) == 12
    np.savez(tmp_path / "a.npz", images=noise(20, 20)[None].repeat(5, 0), labels=np.arange(5))
    with LazyNPZDataset(tmp_path / "a.npz") as dataset:
        assert thumbnails(html_of(dataset)) == 5
    np.savez(tmp_path / "b.npz", x=np.arange(5.0))
    with LazyNPZDataset(tmp_path / "b.npz") as dataset:
        text = html_of(dataset)
    assert "samples: 5" in text
    assert thumbnails(text) == 0
    assert "<span" not in text


def test_html_of_packets_shows_those_that_are_images(tmp_path):
    for name, packets in {"text": [b"abc"] * 3, "images": [encoded(noise(9, 9))] * 3}.items():
        write_split_data(tmp_path / name, packets)
        with SplitDataLoader(tmp_path / name) as dataset:
            text = html_of(dataset)
        assert "samples: 3" in text
        assert thumbnails(text) == (3 if name == "images" else 0)
        assert "Error" not in text


@pytest.mark.parametrize("count", [0, 1])
def test_html_of_dataset_of_no_and_of_one_sample(tmp_path, count):
    members = {f"a/{number}.png": encoded(noise(9, 9)) for number in range(count)}
    path = write_tar(tmp_path / "a.tar", members)
    with imagearchive.open(path) as archive:
        assert thumbnails(html_of(archive)) == count
    text = html_of(ImageArchive(path))
    assert f"samples: {count}" in text
    assert thumbnails(text) == count


def test_html_with_broken_image_shows_its_error_in_its_place(tmp_path):
    members = {"a/0.png": encoded(noise(9, 9)), "a/1.png": b"nothing"}
    path = write_tar(tmp_path / "a.tar", members)
    with imagearchive.open(path) as archive:
        for text in (html_of(archive), html_of(ImageArchive(path))):
            assert thumbnails(text) == 1
            assert text.count("DecodeError") == 1


def test_html_escapes_hostile_names(tmp_path):
    members = {f"{HOSTILE}/{HOSTILE}.png": encoded(noise(9, 9)), f"{HOSTILE}/x.png": b"<script>"}
    path = write_tar(tmp_path / f"{HOSTILE.replace('/', '')}.tar", members)
    archive = imagearchive.open(path)
    dataset = ImageArchive(path)
    for shown in (archive, archive.table, dataset, SampleArchive(path, {"image": "{key}.png"})):
        text = html_of(shown)
        assert "<script" not in text
        assert "alert(&quot;1&quot;)" in text
        text.encode("utf-8")


def test_html_of_names_that_are_not_utf8_can_be_encoded(tmp_path):
    members = {"\udcff/\udcff.png": encoded(noise(9, 9))}
    with imagearchive.open(write_tar(tmp_path / "a.tar", members)) as archive:
        text = html_of(archive)
    assert thumbnails(text) == 1
    text.encode("utf-8")


def test_html_of_huge_image_does_not_decode_it(tmp_path):
    members = {"a/0.png": encoded(np.zeros((3000, 3000, 1), np.uint8)[:, :, 0])}
    with imagearchive.open(write_tar(tmp_path / "a.tar", members)) as archive:
        text = html_of(archive)
    assert thumbnails(text) == 0
    assert "3000 x 3000 pixels are too many" in text


def test_html_of_packets_decodes_no_huge_image(tmp_path):
    large = encoded(np.zeros((2100, 2100), np.uint8))
    write_split_data(tmp_path / "bins", [large, encoded(noise(9, 9))])
    with SplitDataLoader(tmp_path / "bins") as dataset:
        text = html_of(dataset)
    assert thumbnails(text) == 1
    assert "2100 x 2100 pixels are too many" in text


@pytest.mark.parametrize("end", ["png", "jpg"])
def test_html_of_samples_decodes_no_huge_image(tmp_path, end):
    """At an eighth of its size, a JPEG is decoded soon enough, unless boxes refer to its pixels."""
    format = {"png": "PNG", "jpg": "JPEG"}[end]
    large = encoded(np.zeros((2100, 2100, 3), np.uint8), format)
    path = write_tar(tmp_path / "a.tar", {f"0.{end}": large, "0.txt": b"1 2 30 40"})
    fields = {"image": f"{{key}}.{end}", "boxes": Boxes("{key}.txt")}
    with SampleArchive(path, {"image": f"{{key}}.{end}"}) as plain:
        assert thumbnails(html_of(plain)) == (end == "jpg")
    with SampleArchive(path, fields) as boxed:
        text = html_of(boxed)
    assert thumbnails(text) == 0
    assert "2100 x 2100 pixels are too many" in text


def test_html_of_large_noisy_images_is_small(tmp_path):
    members = {
        f"{number:03}/{number}.jpg": encoded(noise(400, 400, seed=number), "JPEG")
        for number in range(30)
    }
    path = write_tar(tmp_path / "a.tar", members)
    with imagearchive.open(path) as archive:
        assert 0 < len(html_of(archive)) < 200_000
    assert 0 < len(html_of(ImageArchive(path))) < 200_000


def test_html_reads_no_more_samples_than_it_shows(tmp_path):
    read = []

    class Counting(ImageArchive):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    members = {f"a/{number}.png": encoded(photo(20, 20)) for number in range(100)}
    text = html_of(Counting(write_tar(tmp_path / "a.tar", members)))
    assert len(read) == thumbnails(text) == 12


def test_html_of_dataset_with_a_loader_shows_what_it_loads(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/0.raw": b"\x50" * 300})

    def load(file):
        return np.frombuffer(file.read(), np.uint8).reshape(10, 10, 3)

    text = html_of(ImageArchive(path, loader=load))
    assert thumbnails(text) == 1
    assert "Error" not in text


def test_html_does_not_advance_the_random_stream_of_the_transform(pets):
    def drawn(look):
        dataset = ImageArchive(pets, transform=RandomHorizontalFlip(seed=3))
        if look:
            assert thumbnails(html_of(dataset)) == 12
        return [np.asarray(dataset[0][0]).tolist() for _ in range(20)]

    assert drawn(True) == drawn(False)


def test_html_of_object_that_cannot_be_summarized_is_its_repr(pets):
    class Broken(ImageArchive):
        def __len__(self):
            raise RuntimeError("no length")

        def __repr__(self):
            return "<b>broken</b>"

    assert html_of(Broken(pets)) == "<pre>&lt;b&gt;broken&lt;/b&gt;</pre>"


def test_html_of_closed_archive_shows_errors_in_place_of_images(pets):
    archive = imagearchive.open(pets)
    archive.close()
    text = html_of(archive)
    assert "members: 24" in text
    assert "closed" in text


def test_html_of_remote_archive_sends_no_requests(pets, faulty_server):
    faulty_server.put({"pets.tar": Path(pets).read_bytes()})
    url = faulty_server.url("pets.tar")
    with imagearchive.open(url) as archive, ImageArchive(url) as dataset:
        sent = len(faulty_server.requests)
        for text in (html_of(archive), html_of(dataset)):
            assert "24" in text
            assert thumbnails(text) == 0
        assert len(faulty_server.requests) == sent


class Shell:
    """What an extension of IPython uses of it."""

    def __init__(self):
        self.functions = {}
        self.display_formatter = self
        self.formatters = {"text/html": self}

    def for_type(self, kind, function):
        self.functions[kind] = function

    def pop(self, kind, default):
        return self.functions.pop(kind, default)

    def html_of(self, value):
        function = self.functions.get(type(value))
        return None if function is None else function(value)


@pytest.fixture
def shell():
    shell = Shell()
    imagearchive.load_ipython_extension(shell)
    return shell


@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("transform", [None, RandomHorizontalFlip()])
def test_extension_shows_batches_of_a_loader(shell, pets, size, transform):
    with ImageArchive(pets) as pairs, SampleArchive(pets, {"image": "{key}.png"}) as samples:
        for dataset in (pairs, samples):
            batch = next(iter(DataLoader(dataset, batch_size=size, transform=transform)))
            text = shell.html_of(batch)
            assert f"batch of {size} samples" in text
            assert thumbnails(text) == min(size, 12)
            assert "image: " in text


def test_extension_shows_dict_of_images_of_several_sizes(shell):
    batch = {"image": [noise(9, 9), noise(5, 7)], "label": np.arange(2)}
    text = shell.html_of(batch)
    assert thumbnails(text) == 2
    assert "label: int64 (2,)" in text


@pytest.mark.parametrize(
    "value",
    [
        (),
        {},
        (1, 2),
        ("a", [1]),
        {"a": np.arange(3)},
        {"a": "text"},
        (np.zeros((2, 3)), 1),
        [],
        [1],
        [{"a": 1}],
    ],
)
def test_extension_leaves_other_values_alone(shell, value):
    assert shell.html_of(value) is None


def test_extension_that_is_unloaded_shows_nothing(shell):
    imagearchive.unload_ipython_extension(shell)
    assert shell.html_of((np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))) is None
