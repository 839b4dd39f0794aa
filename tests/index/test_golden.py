"""Index files that earlier releases wrote stay readable, and mean the same."""

import shutil

import pytest
from support.paths import GOLDEN

from imagearchive import Archive, ImageArchive, IndexTable

MEMBERS = {
    "dog/0.png": b"zero",
    "cat/1.png": b"one",
    "cat/\udcff.png": b"two",
    "n" * 120 + "/3.png": b"three",
    "cat/link.png": b"one",
}


@pytest.fixture
def archive(tmp_path):
    # A checkout gives the archive a time of its own, so the sampled headers decide.
    shutil.copyfile(GOLDEN / "members.tar", tmp_path / "members.tar")
    return tmp_path / "members.tar"


@pytest.mark.parametrize("index", sorted(path.name for path in GOLDEN.glob("*.idx.npy")))
def test_golden_index_of_an_earlier_format_loads(archive, index):
    before = (GOLDEN / index).read_bytes()
    table = IndexTable.load(str(GOLDEN / index), archive)
    table.check()
    assert table.staleness() is None
    opened = Archive(archive, GOLDEN / index)
    assert dict(opened) == MEMBERS
    assert opened.isdir("empty")
    dataset = ImageArchive(archive, ipath=GOLDEN / index)
    assert dataset.classes == ["cat", "dog", "n" * 120]
    assert dataset.targets.tolist() == [1, 0, 0, 2, 0]
    assert (GOLDEN / index).read_bytes() == before


def test_golden_present_format_is_among_them(archive, tmp_path):
    built = IndexTable.build(archive)
    golden = IndexTable.load(str(GOLDEN / "format-1.idx.npy"), archive)
    assert built.entries.tobytes() == golden.entries.tobytes()
    assert built.names.tobytes() == golden.names.tobytes()


def test_golden_index_of_the_original_image_archive_loads(archive):
    dataset = ImageArchive(archive, ipath=GOLDEN / "original.npy")
    assert [bytes(dataset.read(i)) for i in range(4)] == list(MEMBERS.values())[:4]
    assert [label.tolist() for _, label in dataset.samples] == [[0], [1], [0], [1]]
