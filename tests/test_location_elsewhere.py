"""Everything that takes a path, on locations that are not files of this machine."""

import json
import os
import pickle
import threading

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.memory_location import FILES, OPENED, SCHEME, MemoryLocation

import imagearchive
from imagearchive import DataLoader, ImageArchive, IndexTable, LazyNPZDataset, Resize
from imagearchive.archive.verify import verify
from imagearchive.cli import main
from imagearchive.compat.barecat import Barecat
from imagearchive.errors import ArchiveNotFoundError, OptionError, StaleIndexError
from imagearchive.storage.location import register_scheme, unregister_scheme


@pytest.fixture(autouse=True)
def memory():
    register_scheme(SCHEME, MemoryLocation)
    yield FILES
    unregister_scheme(SCHEME)
    FILES.clear()
    OPENED.clear()


@pytest.fixture
def put(tmp_path):
    """Move the files below a directory into memory, and return the URL of one of them."""

    def move(path):
        folder = path if path.is_dir() else path.parent
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                FILES[f"bucket/{file.relative_to(folder)}"] = file.read_bytes()
                file.unlink()
        return f"{SCHEME}://bucket" if path.is_dir() else f"{SCHEME}://bucket/{path.name}"

    return move


@pytest.fixture
def shards(tmp_path, put, pictures):
    names = list(pictures)
    for number in range(3):
        write_tar(tmp_path / f"s-{number}.tar", {n: pictures[n] for n in names[number::3]})
    put(tmp_path / "s-0.tar")
    return f"{SCHEME}://bucket/s-{{0..2}}.tar"


def test_archive_of_a_url_reads_as_that_of_a_file(image_tar, put, pictures):
    url = put(image_tar)
    archive = imagearchive.open(url)
    assert dict(archive) == pictures
    assert archive.info(0).archive == url
    again = pickle.loads(pickle.dumps(archive))
    assert again["cat/0.png"] == pictures["cat/0.png"]
    with archive.open("dog/1.png") as file:
        assert file.read() == pictures["dog/1.png"]


def test_archive_of_a_directory_url_lists_its_files(tmp_path, put, pictures):
    for name, data in pictures.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
    url = put(tmp_path / "tree")
    assert dict(imagearchive.open(url)) == pictures


def test_index_of_a_url_is_saved_in_the_cache_and_found_again(image_tar, put):
    url = put(image_tar)
    built = IndexTable.open(url)
    assert built.path.startswith(os.environ["XDG_CACHE_HOME"])
    OPENED.clear()
    again = IndexTable.open(url)
    assert again.path == built.path
    # It is fresh by size and identity, so the archive itself is not read.
    assert [kind for path, kind in OPENED if path == url] == []


def test_index_beside_a_url_is_used(image_tar, put, pictures, tmp_path, monkeypatch):
    # One that was saved on this machine would be preferred.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    IndexTable.open(image_tar)
    url = put(image_tar)
    assert IndexTable.open(url).path == f"{SCHEME}://bucket/images.idx.npy"
    assert dict(imagearchive.open(url)) == pictures


def test_changed_url_is_indexed_again_and_never_mixed(image_tar, put, pictures, tmp_path):
    url = put(image_tar)
    opened = imagearchive.open(url)
    write_tar(tmp_path / "other.tar", {"x/1.png": b"other"})
    FILES["bucket/images.tar"] = (tmp_path / "other.tar").read_bytes()
    assert dict(imagearchive.open(url)) == {"x/1.png": b"other"}
    with pytest.raises(StaleIndexError, match=url):
        opened.read(0)


def test_joined_index_of_urls_is_kept(shards, pictures):
    first = imagearchive.open(shards)
    assert dict(first) == pictures
    OPENED.clear()
    assert dict(imagearchive.open(shards)) == pictures
    opened = [path for path, _ in OPENED]
    assert len(opened) == len(set(opened)) == 3, "a shard was opened to look at its index"
    with pytest.raises(ArchiveNotFoundError, match=r"s-3\.tar"):
        imagearchive.open(shards.replace("0..2", "0..3"))


def test_pattern_of_urls_matches_what_is_listed(shards, pictures):
    assert dict(imagearchive.open(f"{SCHEME}://bucket/s-*.tar")) == pictures
    with pytest.raises(ArchiveNotFoundError, match="no archive matches"):
        imagearchive.open(f"{SCHEME}://bucket/t-*.tar")


def test_given_index_that_cannot_be_written_is_an_error(image_tar, put):
    url = put(image_tar)
    with pytest.raises(OptionError, match="Read-only file system"):
        IndexTable.open(url, f"{SCHEME}://bucket/mine")


def test_image_archive_of_urls_has_its_classes_and_labels(shards):
    dataset = ImageArchive(shards)
    assert dataset.classes == ["cat", "cat-b", "dog"]
    assert len(dataset) == 12
    image, label = pickle.loads(pickle.dumps(dataset))[3]
    assert image.size == (7, 9)
    assert label in (0, 1, 2)


def test_image_archive_label_files_of_a_url_are_read(image_tar, put):
    url = put(image_tar)
    FILES["bucket/index.txt"] = b"7 dog/0.png\n9 cat/1.png\n"
    FILES["bucket/labels.txt"] = b"7 1.5\n9 2.5\n"
    dataset = ImageArchive(
        url,
        index_file=f"{SCHEME}://bucket/index.txt",
        label_file=f"{SCHEME}://bucket/labels.txt",
    )
    assert [dataset.name(0), dataset.name(1)] == ["dog/0.png", "cat/1.png"]
    assert [float(dataset.label(i)[0]) for i in range(2)] == [1.5, 2.5]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_a_url_gives_the_rows_of_the_arrays(tmp_path, put, save):
    images = np.arange(5 * 4 * 3 * 3, dtype=np.uint8).reshape(5, 4, 3, 3)
    save(tmp_path / "train.npz", images=images, labels=np.arange(5))
    dataset = LazyNPZDataset(put(tmp_path / "train.npz"))
    again = pickle.loads(pickle.dumps(dataset))
    for i in range(5):
        assert np.array_equal(dataset[i]["image"], images[i])
        assert int(again[i]["labels"]) == i


def test_npy_of_a_url_gives_its_rows(tmp_path, put):
    np.save(tmp_path / "x.npy", np.arange(12).reshape(4, 3))
    dataset = LazyNPZDataset(put(tmp_path / "x.npy"))
    assert dataset[2]["x"].tolist() == [6, 7, 8]


def test_loader_of_urls_gives_the_batches_of_files(shards):
    def batches(source):
        loader = DataLoader(
            source, batch_size=4, num_workers=2, transform=Resize(8, 8), output="numpy"
        )
        return [(images.copy(), np.array(labels)) for images, labels in loader]

    found = batches(shards)
    assert [len(labels) for _, labels in found] == [4, 4, 4]
    expected = batches(ImageArchive(shards))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(found, expected))


def test_verify_of_a_url_finds_damage(tmp_path, put):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"good")
        archive.writestr("bad", b"content that is about to be damaged")
    url = put(tmp_path / "a.zip")
    assert verify(imagearchive.open(url)).failures == []
    FILES["bucket/a.zip"] = FILES["bucket/a.zip"].replace(b"about", b"ABOUT")
    failures = verify(imagearchive.open(url)).failures
    assert [failure.name for failure in failures] == ["bad"]


def test_barecat_of_a_url_is_read_through_a_copy_of_its_database(tmp_path, put):
    import barecat

    with barecat.Barecat(str(tmp_path / "data.barecat"), readonly=False) as archive:
        for number in range(20):
            archive[f"a/{number}"] = b"x" * number
    url = put(tmp_path / "data.barecat")
    with Barecat(url) as archive:
        assert archive["a/7"] == b"x" * 7
        assert len(archive) == 20


def test_bins_of_a_url_are_read(tmp_path, put):
    packets = [b"x" * number for number in range(50)]
    imagearchive.write_split_data(tmp_path / "set", packets, splits=4)
    url = put(tmp_path / "set")
    assert [bytes(data) for data in imagearchive.open(url).values()] == packets


@pytest.mark.parametrize("command", ["ls", "info", "verify", "tree"])
def test_command_on_a_url_prints_what_it_prints_of_a_file(image_tar, put, capsys, command):
    url = put(image_tar)
    assert main([command, url]) == 0
    printed = capsys.readouterr().out
    assert printed
    if command == "info":
        assert main([command, "--json", url]) == 0
        assert json.loads(capsys.readouterr().out)["members"] == 12


def test_extract_from_a_url_writes_the_files(image_tar, put, pictures, tmp_path):
    url = put(image_tar)
    assert main(["extract", "-q", url, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "cat" / "0.png").read_bytes() == pictures["cat/0.png"]


def test_threads_read_one_archive_of_a_url(shards, pictures):
    archive, wrong = imagearchive.open(shards, max_open=1), []

    def read():
        wrong.extend(name for name in pictures if archive[name] != pictures[name])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_path_that_looks_like_a_url_is_a_path_unless_its_scheme_is_registered(
    tmp_path, monkeypatch
):
    unregister_scheme(SCHEME)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    write_tar(tmp_path / "memory:" / "a.tar", {"x": encoded(np.zeros((2, 2, 3), np.uint8))})
    assert list(imagearchive.open("memory://a.tar")) == ["x"]
