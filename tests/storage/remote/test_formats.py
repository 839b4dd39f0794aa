"""Archives of every kind give the same samples from a server as from a file."""

import io

import numpy as np
import pytest
from support.archives import tar_bytes
from support.nested import PACK, below

import imagearchive
from imagearchive import DataLoader, ImageArchive, LazyNPZDataset, Resize


@pytest.fixture(params=["faulty", "nginx"])
def publish(request, tmp_path):
    """Return a function that writes bytes as a file and on a server: its path and its URL."""
    (tmp_path / "here").mkdir()

    def put(name, data):
        path = tmp_path / "here" / name
        path.write_bytes(data)
        if request.param == "faulty":
            server = request.getfixturevalue("faulty_server")
            server.put({name: path})
            return path, server.url(name)
        server = request.getfixturevalue("nginx")
        (server.files / name).write_bytes(data)
        return path, f"{server.url}/{name}"

    return put


def batches(source, **options):
    loader = DataLoader(
        source, batch_size=5, num_workers=2, output="numpy", transform=Resize(8, 8), **options
    )
    return [(images.copy(), np.array(labels)) for images, labels in loader]


def assert_same_batches(found, expected, count):
    assert len(found) == len(expected) == count
    for one, other in zip(found, expected):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize("suffix", PACK)
def test_archive_of_every_format_gives_the_batches_of_the_file(publish, pictures, suffix):
    path, url = publish(f"images{suffix}", PACK[suffix](pictures))
    with imagearchive.open(url) as archive:
        assert dict(archive) == pictures
    for shuffle in (False, "blocks"):
        found = batches(url, shuffle=shuffle, seed=1)
        assert_same_batches(found, batches(path, shuffle=shuffle, seed=1), 3)


@pytest.mark.parametrize("suffix", [".tar", ".zip", "-deflated.zip", ".tar.gz"])
def test_archive_of_archives_gives_the_batches_of_the_file(publish, pictures, suffix):
    inner = {}
    for name in ("cat", "cat-b", "dog"):
        members = {f"{number}.png": pictures[f"{name}/{number}.png"] for number in range(4)}
        inner[f"{name}.tar"] = tar_bytes(members)
    path, url = publish(f"classes{suffix}", PACK[suffix](inner))
    with imagearchive.open(url, nested=True) as archive:
        assert dict(archive) == pictures
    with ImageArchive(url) as found, ImageArchive(path) as expected:
        assert found.classes == expected.classes == ["cat", "cat-b", "dog"]
    assert_same_batches(batches(url, shuffle=True, seed=1), batches(path, shuffle=True, seed=1), 3)


def test_archives_of_several_levels_are_those_of_the_file(publish, pictures):
    deep = tar_bytes({"one.zip": PACK["-deflated.zip"]({"two.tar.gz": PACK[".tar.gz"](pictures)})})
    _, url = publish("deep.tar", deep)
    with imagearchive.open(url, nested=True) as archive:
        assert dict(archive) == below("one/two", pictures)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_the_rows_of_the_file(publish, save):
    random = np.random.default_rng(0)
    ragged = np.empty(20, object)
    ragged[:] = [random.integers(0, 9, (number % 4, 4)) for number in range(20)]
    file = io.BytesIO()
    save(
        file,
        images=random.integers(0, 256, (20, 9, 7, 3), np.uint8),
        labels=np.arange(20),
        boxes=ragged,
    )
    path, url = publish("rows.npz", file.getvalue())
    with LazyNPZDataset(url) as found, LazyNPZDataset(path) as expected:
        assert len(found) == len(expected) == 20
        for row in (0, 7, 19):
            np.testing.assert_equal(found[row], expected[row])
