"""The report of samples of several fields."""

import io

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.images import encode, photo

import imagearchive
from imagearchive import Boxes, Image, Keypoints, Label, Mask, SampleArchive, Text

FIELDS = {
    "image": Image("img/{key}.jpg"),
    "mask": Mask("seg/{key}.png"),
    "boxes": Boxes("box/{key}.txt", labels="kinds"),
    "points": Keypoints("pts/{key}.json"),
    "caption": Text("txt/{key}.txt"),
    "label": Label("cls/{key}.cls"),
}


def mask(rows):
    pixels = np.zeros((30, 40), np.uint8)
    pixels[:rows] = 3
    return encoded(pixels, "PNG")


@pytest.fixture
def archive(tmp_path):
    members = {}
    for number in range(6):
        members |= {
            f"img/{number}.jpg": encode(photo(40, 30, number)),
            f"seg/{number}.png": mask(10 * (number % 2)),
            f"box/{number}.txt": b"1 0 0 20 15\n" * number + b"2 10 10 14 30",
            f"pts/{number}.json": b"[[8, 10], [3, 4]]",
            f"txt/{number}.txt": b"a" * (number + 1),
            f"cls/{number}.cls": b"%d" % (number % 2),
        }
    return write_tar(tmp_path / "a.tar", members)


def test_report_fields_equal_those_of_the_samples(archive, tmp_path):
    with SampleArchive(archive, FIELDS) as dataset:
        (facts,) = imagearchive.report(dataset, tmp_path / "page.html").archives
        samples = list(dataset)
    # Masks are images, too, but not those that `Normalize` is for.
    assert (facts.images.count, facts.images.width[:4]) == (6, (40, 40, 40, 40))
    assert (facts.samples.count, facts.samples.incomplete, facts.samples.broken) == (6, 0, 0)
    found = {one.name: one for one in facts.samples.fields}
    assert [one.kind for one in found.values()] == [
        *("image", "mask", "boxes", "label", "keypoints", "text", "label"),
    ]
    boxes = np.concatenate([one["boxes"] for one in samples])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    for distribution, values in (
        (found["boxes"].width, widths),
        (found["boxes"].height, heights),
        (found["boxes"].area, widths * heights / (40 * 30)),
        (found["boxes"].amount, [len(one["boxes"]) for one in samples]),
        (found["points"].amount, [2] * 6),
        (found["caption"].amount, range(1, 7)),
    ):
        expected = (min(values), np.median(values), np.mean(values), max(values))
        assert distribution[:4] == pytest.approx(expected)
    assert found["kinds"].labels == {"1": 15, "2": 6}
    assert found["label"].labels == {"0": 3, "1": 3}
    assert found["mask"].labels == {"0": 6, "3": 3}
    assert found["mask"].pixels == pytest.approx({"0": 5 / 6, "3": 1 / 6})
    page = (tmp_path / "page.html").read_text()
    for text in ("Width of boxes in pixels", "Classes in mask", "16.67%", "Points in points"):
        assert text in page


def test_report_missing_and_broken_fields_are_listed(archive, tmp_path):
    members = dict(imagearchive.open(archive))
    del members["seg/2.png"]
    members["box/4.txt"] = b"not a box"
    path = write_tar(tmp_path / "b.tar", members)
    with SampleArchive(path, FIELDS, missing="none") as dataset:
        (facts,) = imagearchive.report(dataset, tmp_path / "page.html").archives
    assert (facts.samples.incomplete, facts.samples.missing) == (1, [("2", "mask")])
    assert [key for key, _ in facts.samples.broken_samples] == ["4"]
    assert facts.samples.extensions["mask"] == 4
    page = (tmp_path / "page.html").read_text()
    assert "1 sample lacks a field" in page
    assert "1 sample contains a field that cannot be decoded" in page


def test_report_labels_of_one_name_are_counted_together(tmp_path):
    members = {"cls/0.cls": b"1", "cls/1.cls": b"1"}
    for number in (2, 3, 4):
        with io.BytesIO() as file:
            np.save(file, np.array("1"))
            members[f"cls/{number}.npy"] = file.getvalue()
    path = write_tar(tmp_path / "labels.tar", members)
    with SampleArchive(path, {"label": Label("cls/{key}.cls|npy")}) as dataset:
        (facts,) = imagearchive.report(dataset).archives
    assert facts.samples.broken == 0
    assert facts.samples.fields[0].labels == {"1": 5}


def test_report_fields_in_archives_of_their_own_measures_the_images(archive, tmp_path):
    members = imagearchive.open(archive)
    pictures = {name: data for name, data in members.items() if name.startswith("img")}
    write_tar(tmp_path / "i.tar", pictures)
    fields = {"mask": Mask("seg/{key}.png"), "image": Image(tmp_path / "i.tar", "img/{key}.jpg")}
    with SampleArchive(archive, fields) as dataset:
        (facts,) = imagearchive.report(dataset).archives
    assert facts.images.count == 6
    assert facts.container["members"] == 6


def test_report_samples_and_archives_are_compared_with_each_other(archive, tmp_path):
    data = imagearchive.open(archive)["img/3.jpg"]
    other = write_tar(tmp_path / "val.tar", {"x.jpg": bytes(data)})
    with SampleArchive(archive, {"image": "img/{key}.jpg"}) as dataset:
        (common,) = imagearchive.report([dataset, other]).common
        # It is still open.
        assert dataset[0]["__key__"] == "0"
    assert [(one.name, two.name) for one, two in common.pairs] == [("img/3.jpg", "x.jpg")]
