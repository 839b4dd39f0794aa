"""Numbers with their nouns in messages, reprs, and the output of commands."""

import re

import numpy as np
import pytest
from support.archives import encoded, write_tar

import imagearchive
from imagearchive import ImageArchive, LazyNPZDataset, Mixture, SampleArchive, pack
from imagearchive.cli import main
from imagearchive.errors import ImageArchiveError
from imagearchive.errors.plurals import pluralize

# As in "1 samples"; not "1 class", and not "1.50 seconds".
WRONG = re.compile(r"\b1 (?!class\b)[a-z]+s\b")


def test_pluralize_adds_the_noun_that_fits_the_number():
    assert [pluralize(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    nouns = ("class", "box", "batch", "directory", "array", "row")
    plurals = ["2 classes", "2 boxes", "2 batches", "2 directories", "2 arrays", "2 rows"]
    assert [pluralize(2, noun) for noun in nouns] == plurals
    assert pluralize(12_345, "image", grouped=True) == "12,345 images"
    assert pluralize(1, "image was", "images were", grouped=True) == "1 image was"


@pytest.fixture
def one(tmp_path):
    """An archive of one image, and an NPZ of one row."""
    write_tar(tmp_path / "one.tar", {"cat/a.png": encoded(np.zeros((4, 4, 3), np.uint8))})
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 4, 4, 3), np.uint8))
    return tmp_path


def test_repr_of_what_has_one_sample_is_in_the_singular(one):
    images = ImageArchive(one / "one.tar")
    archive = imagearchive.open(one / "one.tar")
    rows = LazyNPZDataset(one / "one.npz")
    len(rows)
    shown = [
        *map(repr, (images, archive, archive.table, archive.samples(), rows)),
        repr(Mixture([images], [1.0])),
        repr(SampleArchive(one / "one.tar", {"image": "{key}.png"})),
        repr(imagearchive.ShardedSampler(1)),
    ]
    for text in shown:
        assert re.search(r"\b1 (sample|member)\b", text), text
        assert not WRONG.search(text), text


def test_errors_about_one_of_something_are_in_the_singular(one):
    archive, images = imagearchive.open(one / "one.tar"), ImageArchive(one / "one.tar")
    table = {"id": ["a.png", None]}
    for call in (
        lambda: archive.name(5),
        lambda: images[5],
        lambda: pack(one, one / "x.tar", shards=9),
        lambda: ImageArchive(one / "one.tar", extensions=("gif",)),
        lambda: ImageArchive(one / "one.tar", split_mask=[True, False]),
        lambda: ImageArchive(one / "one.tar", table=table, image="id"),
        lambda: ImageArchive(one / "one.tar", members=["cat/a", "cat/a.png"]),
        lambda: SampleArchive(one / "one.tar", {"image": "{key}.png", "text": "{key}.txt"}),
        lambda: Mixture([images], [1, 2]),
    ):
        with pytest.raises((ImageArchiveError, IndexError)) as caught:
            call()
        assert not WRONG.search(str(caught.value).replace("1 rows of", "")), caught.value


def test_commands_about_one_file_answer_in_the_singular(one, capsys):
    path = str(one / "one.tar")
    for arguments in (
        ["index", path],
        ["info", path],
        ["verify", path],
        ["tree", path],
        ["extract", path, str(one / "out")],
        ["convert", path, str(one / "one.zip")],
        ["repack", path, str(one / "again-{}.tar")],
        ["report", path, "-o", str(one / "report.html")],
    ):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert not WRONG.search(out + err), out + err
    text = re.sub(r"<[^>]*>", " ", (one / "report.html").read_text())
    assert not re.search(r"\b1 (images|samples|members|files|groups|pairs)\b", text)
