"""Identical images of archives of which only some images are measured."""

import zipfile

import pytest
from support.archives import write_tar
from support.images import encode, photo

import imagearchive
from imagearchive.archive.archive import Archive


@pytest.fixture(autouse=True)
def sample(monkeypatch):
    """Have three images of each archive measured, the first and the last among them."""
    monkeypatch.setattr("imagearchive.processing.report.report.SAMPLE", 3)


def different(count, size=(16, 12)):
    return {f"{n:02}.png": encode(photo(*size, n), "PNG") for n in range(count)}


def groups(duplicates):
    return [[one.name for one in group] for group in duplicates.listed]


def test_report_identical_images_are_found_among_those_that_are_not_measured(tmp_path):
    members = different(20)
    members |= {"copy.png": members["03.png"], "again.png": members["03.png"], "z.png": b"end"}
    # Of equal size, and different only at the beginning.
    members |= {"x.jpg": b"x" + bytes(5000), "y.jpg": b"y" + bytes(5000)}
    path = write_tar(tmp_path / "a.tar", members)
    (facts,) = imagearchive.report(path, tmp_path / "page.html").archives
    assert (facts.images.measured, facts.images.compared) == (3, 25)
    assert groups(facts.images.identical) == [["03.png", "copy.png", "again.png"]]
    assert "identical files" in (tmp_path / "page.html").read_text()


def test_report_identical_images_of_two_archives_are_found_among_all(tmp_path):
    train = different(20)
    val = {"v/1.png": train["07.png"], "v/2.png": train["08.png"], "w.png": encode(photo(9, 9, 99))}
    paths = [write_tar(tmp_path / "t.tar", train), write_tar(tmp_path / "v.tar", val)]
    (common,) = imagearchive.report(paths).common
    assert common.identical == 2
    assert [(one.name, other.name) for one, other in common.pairs[:2]] == [
        ("07.png", "v/1.png"),
        ("08.png", "v/2.png"),
    ]


def test_report_reads_only_images_of_equal_size_for_this(tmp_path, monkeypatch):
    members = {f"{n:03}.jpg": bytes(100 + n) for n in range(200)} | {"a.jpg": bytes(150)}
    path = write_tar(tmp_path / "a.tar", members)
    read = []
    for name in ("read", "member"):
        real = getattr(Archive, name)

        def count(self, position, *arguments, real=real, name=name):
            read.append((name, position))
            return real(self, position, *arguments)

        monkeypatch.setattr(Archive, name, count)
    (facts,) = imagearchive.report(path).archives
    assert groups(facts.images.identical) == [["050.jpg", "a.jpg"]]
    # Three are measured, the last of which is one of the two that are equal.
    assert len(read) <= 3 + 2 + 1


def test_report_compressed_archive_compares_the_measured_images(tmp_path):
    members = different(9)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in [*members.items(), ("copy.png", members["03.png"])]:
            packed.writestr(name, data)
    (facts,) = imagearchive.report(tmp_path / "a.zip", tmp_path / "page.html").archives
    assert (facts.images.compared, facts.images.identical.groups) == (3, 0)
    assert "among the 3 images that were read" in (tmp_path / "page.html").read_text()
    (facts,) = imagearchive.report(tmp_path / "a.zip", all=True).archives
    assert (facts.images.compared, facts.images.identical.groups) == (10, 1)


def test_report_too_many_images_of_equal_size_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("imagearchive.processing.report.report._MOST_COMPARED", 1)
    path = write_tar(tmp_path / "a.tar", {f"{n}.jpg": bytes(50) for n in range(5)})
    (facts,) = imagearchive.report(path).archives
    assert (facts.images.compared, facts.images.identical.images) == (3, 3)
